"""The answer to who may do what, and why."""

from __future__ import annotations

from dataclasses import replace

import pytest

from host.discovery import discover
from host.pipeline import Checks
from plugin_api import hookimpl
from plugin_api.call import Actor, Identity
from plugin_api.contracts.iam import Check, NewRole, RoleList, RoleRef, UserPatch
from plugin_api.errors import NotAllowed, NotFound
from plugin_api.ids import PLATFORM_TENANT_ID, uuid7
from plugin_api.manifest import Manifest


async def why(person, permission: str, user_id=None) -> tuple[bool, str, str | None, str | None]:
    answer = await person("check", Check(permission, None, user_id))
    return answer.allowed, answer.why.reason, answer.why.role, answer.why.grant


async def test_the_reason_names_the_role_and_its_grant(tenant):
    admin, member = await tenant.add("admin"), await tenant.add("member")

    assert await why(tenant.owner, "iam.user.create") == (True, "granted", "owner", "*")
    assert await why(admin, "iam.user.create") == (True, "granted", "admin", "iam.*")
    assert await why(member, "iam.user.read") == (True, "granted", "member", "iam.user.read")
    assert await why(member, "iam.user.create") == (False, "no_grant", None, None)
    refused = await member("check", Check("iam.user.create"))
    assert "member" in refused.why.detail
    assert "iam.user.create" in refused.why.detail


async def test_what_nobody_registered_is_allowed_to_nobody(tenant):
    for permission in ("iam.userx.read", "iamx.user.read", "money.hold.nothing"):
        assert await why(tenant.owner, permission) == (False, "unknown_permission", None, None)


async def test_a_platform_permission_is_for_operators(iam, tenant, monkeypatch):
    names = {**iam.parts.access.names(), "platform.plugin.install": "Install plugins"}
    monkeypatch.setattr(iam.parts.access, "names", lambda: names)
    platform = await iam.tenant(PLATFORM_TENANT_ID)

    assert (await why(tenant.owner, "platform.plugin.install"))[:2] == (False, "operators_only")
    assert (await why(platform.owner, "platform.plugin.install"))[:2] == (True, "granted")


async def test_asking_about_others_needs_a_permission(tenant):
    member = await tenant.add("member")

    assert (await why(tenant.owner, "iam.user.create", member.id))[0] is False
    assert (await why(tenant.owner, "iam.user.read", member.id))[0] is True
    assert (await why(member, "iam.user.read", member.id))[0] is True
    with pytest.raises(NotAllowed, match=r"iam\.access\.check"):
        await why(member, "iam.user.read", tenant.owner.id)


async def test_somebody_elses_person_looks_like_nobody(iam, tenant):
    stranger = (await iam.tenant()).owner
    texts = set()

    for user_id in (stranger.id, uuid7()):
        for permission in ("iam.user.read", "no.such.permission"):
            with pytest.raises(NotFound) as raised:
                await why(tenant.owner, permission, user_id)
            texts.add(raised.value.detail)

    assert len(texts) == 1


async def test_a_suspended_person_may_do_nothing(tenant):
    person = await tenant.add("admin")
    await tenant.owner("update_user", UserPatch(person.id, status="suspended"), version=1)

    assert (await why(tenant.owner, "iam.user.read", person.id))[:2] == (False, "suspended")


async def test_a_key_hears_of_its_own_grants_and_not_of_its_makers(iam, tenant):
    keyed = await iam.show_key((await tenant.owner.key("iam.user.*")).secret)

    assert await why(keyed, "iam.user.create") == (True, "granted", None, "iam.user.*")
    assert (await why(keyed, "iam.role.create"))[:2] == (False, "no_grant")
    with pytest.raises(NotAllowed, match=r"iam\.access\.check"):
        await why(keyed, "iam.user.create", tenant.owner.id)


async def test_a_check_and_the_pipeline_agree(iam, tenant):
    role = await tenant.owner("create_role", NewRole("mixed", ["iam.user.*", "iam.role.read"]))
    people = [tenant.owner, await tenant.add(role.name)]
    people += [await tenant.add(name) for name in ("admin", "member", "viewer")]

    for person in people:
        identity = await person.recognised()
        for permission in iam.parts.access.names():
            assert (await why(person, permission))[0] == iam.parts.access.allows(identity, permission)


async def test_a_permission_that_is_new_is_held_by_owner_and_admin_at_once(iam, tenant):
    """Also by whoever was recognised before it was registered: the epoch says that the mask is of yesterday."""
    access = iam.parts.access
    people = [tenant.owner, await tenant.add("admin"), await tenant.add("member")]
    before, epoch = [await person.recognised() for person in people], access.epoch()

    allowed = access.check("acme.crm.lead.create")

    assert [allowed(identity) for identity in before] == [False, False, False]
    assert access.epoch() > epoch
    assert [allowed(await person.recognised()) for person in people] == [True, True, False]


class Silent:
    """A plugin without operations; its permission is asked for in code alone, by `call.allows`."""

    @hookimpl
    def pk_configure(self, settings: object) -> None:
        """Nothing to refuse."""


async def test_a_permission_that_no_operation_names_counts_from_its_installation_on(iam, tenant, tmp_path):
    manifest = Manifest(
        id="acme.crm", version="1.0.0", api=">=1.0,<2", summary="x", permissions={"lead.export": "Take leads away"}
    )
    epoch = iam.parts.access.epoch()

    await iam.lifecycle.activate(replace(discover()[0], manifest=manifest, folder=tmp_path), Silent(), None)

    assert iam.parts.access.epoch() == epoch + 1
    assert iam.parts.access.allows(await tenant.owner.recognised(), "acme.crm.lead.export")
    assert await why(await tenant.add("admin"), "acme.crm.lead.export") == (True, "granted", "admin", "acme.crm.*")
    role_id = next(role.id for role in (await tenant.owner("list_roles", RoleList())).items if role.name == "admin")
    assert (await tenant.owner("get_role", RoleRef(role_id))).permissions == ["acme.crm.*", "iam.*"]


async def test_a_name_that_nobody_registered_takes_no_bit(iam):
    """Or whoever chooses the names that are asked for could make every mask stale, again and again."""
    access = iam.parts.access
    checks, epoch = Checks(iam.kernel.table), access.epoch()
    everything = Identity(uuid7(), Actor("user", "x"), -1)

    assert not checks.allows(everything, "made.up.name")
    assert checks.allows(everything, "iam.user.read")
    assert access.epoch() == epoch


async def test_checking_what_is_known_changes_nothing(iam):
    access = iam.parts.access
    epoch = access.epoch()

    for name in access.names():
        access.check(name)

    assert access.epoch() == epoch
