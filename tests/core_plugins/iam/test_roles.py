"""Roles: what may go into them, and who feels a change."""

from __future__ import annotations

import asyncio

import pytest

from plugin_api.contracts.iam import (
    BUILT_IN_ROLES,
    NewInvitation,
    NewRole,
    RoleList,
    RolePatch,
    RoleRef,
    UserPatch,
    UserRef,
)
from plugin_api.errors import Conflict, InvalidRequest, NotAllowed, NotFound, PreconditionFailed
from plugin_api.ids import PLATFORM_TENANT_ID, uuid7


async def roles_of(tenant) -> dict:
    page = await tenant.owner("list_roles", RoleList())
    return {role.name: role for role in page.items}


async def test_a_role_is_made_changed_and_removed(tenant):
    made = await tenant.owner(
        "create_role", NewRole("support", ["iam.user.read", "iam.user.read", "not.installed.yet"])
    )
    assert made.permissions == ["iam.user.read", "not.installed.yet"]
    assert not made.built_in

    changed = await tenant.owner("update_role", RolePatch(made.id, name="helpers"), version=1)
    assert (changed.name, changed.permissions, changed.version) == ("helpers", made.permissions, 2)
    emptied = await tenant.owner("update_role", RolePatch(made.id, permissions=[]), version=2)
    assert emptied.permissions == []

    await tenant.owner("delete_role", RoleRef(made.id))
    with pytest.raises(NotFound):
        await tenant.owner("get_role", RoleRef(made.id))


async def test_every_tenant_has_the_four_roles_and_nobody_changes_them(tenant):
    roles = await roles_of(tenant)
    assert set(roles) == set(BUILT_IN_ROLES)
    assert roles["owner"].permissions == ["*"]
    assert roles["admin"].permissions == ["iam.*"]
    assert all(role.built_in for role in roles.values())

    for role in roles.values():
        with pytest.raises(Conflict, match="every tenant has this role"):
            await tenant.owner("delete_role", RoleRef(role.id))
        for patch in ({"permissions": []}, {"name": "other"}):
            with pytest.raises(Conflict, match="every tenant has this role"):
                await tenant.owner("update_role", RolePatch(role.id, **patch), version=1)


async def test_a_name_is_taken_once(tenant):
    await tenant.owner("create_role", NewRole("support", []))
    other = await tenant.role()

    for name in ("support", "owner"):
        with pytest.raises(Conflict, match="role of this name"):
            await tenant.owner("create_role", NewRole(name, []))
        with pytest.raises(Conflict, match="role of this name"):
            await tenant.owner("update_role", RolePatch(other.id, name=name), version=1)


async def test_nobody_puts_into_a_role_what_they_lack(tenant):
    own = await tenant.role("iam.role.*", "iam.user.read")
    helper = await tenant.add(own.name)

    for grant in ("*", "iam.*", "iam.user.*", "iam.user.delete", "money.hold.create"):
        with pytest.raises(NotAllowed, match="would grant"):
            await helper("create_role", NewRole("strong", [grant]))
        with pytest.raises(NotAllowed, match="would grant"):
            await helper("update_role", RolePatch(own.id, permissions=[grant]), version=1)
    made = await helper("create_role", NewRole("weak", ["iam.role.read", "iam.user.read"]))
    assert made.permissions == ["iam.role.read", "iam.user.read"]


async def test_nobody_touches_a_role_above_themselves(tenant):
    helper = await tenant.add((await tenant.role("iam.role.*")).name)
    strong = await tenant.role("money.*")

    for name, request in (
        ("update_role", RolePatch(strong.id, permissions=[])),
        ("update_role", RolePatch(strong.id, name="mine")),
        ("delete_role", RoleRef(strong.id)),
    ):
        with pytest.raises(NotAllowed, match=r"money\.\*"):
            await helper(name, request, version=1)


async def test_an_admin_handles_areas_that_are_not_installed_but_not_the_star(tenant):
    admin = await tenant.add("admin")

    made = await admin("create_role", NewRole("later", ["acme.crm.*"]))
    await admin("update_role", RolePatch(made.id, permissions=["acme.crm.lead.read"]), version=1)
    with pytest.raises(NotAllowed, match=r"would grant \*"):
        await admin("create_role", NewRole("strong", ["*"]))


async def test_platform_grants_exist_in_the_platform_tenant_only(iam, tenant):
    platform = await iam.tenant(PLATFORM_TENANT_ID)
    wanted = ["iam.user.read", "platform.*", "platform.plugin.install"]

    with pytest.raises(InvalidRequest) as raised:
        await tenant.owner("create_role", NewRole("ops", wanted))
    assert [one.pointer for one in raised.value.violations] == ["/permissions/1", "/permissions/2"]
    role = await tenant.role()
    with pytest.raises(InvalidRequest):
        await tenant.owner("update_role", RolePatch(role.id, permissions=wanted), version=1)
    made = await platform.owner("create_role", NewRole("ops", wanted))
    assert made.permissions == wanted


async def test_a_role_in_use_stays_until_nobody_has_it(tenant):
    role = await tenant.role("iam.user.read")
    person = await tenant.add(role.name)

    with pytest.raises(Conflict, match="somebody has this role"):
        await tenant.owner("delete_role", RoleRef(role.id))
    await tenant.owner("delete_user", UserRef(person.id))
    await tenant.owner("delete_role", RoleRef(role.id))


async def test_a_role_given_and_removed_at_once_ends_in_one_of_both(tenant):
    for _ in range(5):
        role, person = await tenant.role("iam.user.read"), await tenant.add()

        given, removed = await asyncio.gather(
            tenant.owner("update_user", UserPatch(person.id, roles=[role.name]), version=1),
            tenant.owner("delete_role", RoleRef(role.id)),
            return_exceptions=True,
        )

        left = await tenant.fetch("select id from roles where id = $1", role.id)
        assert bool(left) == (removed is not None)
        assert isinstance(given, Exception) != isinstance(removed, Exception)


async def test_a_change_is_felt_with_the_next_call(iam, tenant):
    role = await tenant.role("iam.user.read")
    reader = await tenant.add(role.name)
    await reader("get_user", UserRef(reader.id))
    slot = iam.parts.stamps.slot(f"iam:{tenant.id}")
    before = iam.parts.stamps.read(slot)

    await tenant.owner("update_role", RolePatch(role.id, permissions=[]), version=1)

    assert iam.parts.stamps.read(slot) != before
    with pytest.raises(NotAllowed, match=r"iam\.user\.read"):
        await reader("get_user", UserRef(reader.id))


async def test_a_change_needs_the_version_that_is_there(tenant):
    role = await tenant.role()

    with pytest.raises(PreconditionFailed):
        await tenant.owner("update_role", RolePatch(role.id, name="x"), version=3)
    with pytest.raises(PreconditionFailed):
        await tenant.owner("delete_role", RoleRef(role.id), version=3)


async def test_somebody_elses_role_looks_like_none(iam, tenant):
    foreign = await (await iam.tenant()).role()
    texts = set()

    for role_id in (foreign.id, uuid7()):
        for name, request in (
            ("get_role", RoleRef(role_id)),
            ("update_role", RolePatch(role_id, name="mine")),
            ("delete_role", RoleRef(role_id)),
        ):
            with pytest.raises(NotFound) as raised:
                await tenant.owner(name, request, version=9)
            texts.add(raised.value.detail)

    assert len(texts) == 1


async def test_an_open_invitation_follows_the_name_of_its_role(tenant):
    role = await tenant.role()
    invited = await tenant.owner("create_invitation", NewInvitation("i@x.example.com", [role.name, "viewer"]))

    await tenant.owner("update_role", RolePatch(role.id, name="renamed"), version=1)

    row = (await tenant.fetch("select roles, version from invitations where id = $1", invited.id))[0]
    assert (row["roles"], row["version"]) == (["renamed", "viewer"], 2)
