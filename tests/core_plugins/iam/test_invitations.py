"""Invitations: one use, exactly the roles that were given, nothing that the inviter lacks."""

from __future__ import annotations

import asyncio

import pytest

from plugin_api.contracts.iam import (
    AcceptInvitation,
    InvitationList,
    InvitationRef,
    NewInvitation,
    NewUser,
    RolePatch,
    RoleRef,
    UserPatch,
    UserRef,
)
from plugin_api.errors import Conflict, InvalidRequest, NotAllowed, NotFound, PreconditionFailed
from plugin_api.ids import uuid7

PASSWORD = "correct-Horse-7-battery"


def accepting(made, password: str = PASSWORD) -> AcceptInvitation:
    return AcceptInvitation(made.token, "Ina Invited", password)


async def invite(person, *roles: str, email: str = "ina@x.example.com", **given):
    return await person("create_invitation", NewInvitation(email, list(roles), **given))


async def test_an_invitation_lets_one_person_in_with_exactly_its_roles(iam, tenant):
    made = await invite(tenant.owner, "viewer", "viewer")

    user = await iam.anonymous("accept_invitation", accepting(made))

    assert (user.email, user.name, user.roles) == ("ina@x.example.com", "Ina Invited", ["viewer"])
    assert (await tenant.owner("get_invitation", InvitationRef(made.id))).accepted_at is not None
    with pytest.raises(NotFound):
        await iam.anonymous("accept_invitation", accepting(made))


async def test_the_token_is_shown_once_and_only_its_hash_is_kept(tenant):
    made = await invite(tenant.owner, "viewer")

    row = (await tenant.fetch("select * from invitations"))[0]
    page = await tenant.owner("list_invitations", InvitationList())

    assert made.token not in str(dict(row.items()))
    assert [one.id for one in page.items] == [made.id]
    assert "token" not in type(page.items[0]).__struct_fields__


async def test_of_many_who_accept_at_once_one_gets_in(iam, tenant):
    made = await invite(tenant.owner, "viewer")

    results = await asyncio.gather(
        *(iam.anonymous("accept_invitation", accepting(made)) for _ in range(5)), return_exceptions=True
    )

    assert sorted(type(one).__name__ for one in results) == ["NotFound"] * 4 + ["UserView"]
    assert len(await tenant.fetch("select id from users where email = 'ina@x.example.com'")) == 1


async def test_whatever_is_wrong_with_a_token_the_answer_is_the_same(iam, tenant):
    async def expired():
        made = await invite(tenant.owner, "viewer", email="1@x.example.com", expires_in_s=60)
        iam.clock.advance(61)
        return made.token

    async def withdrawn():
        made = await invite(tenant.owner, "viewer", email="2@x.example.com")
        await tenant.owner("delete_invitation", InvitationRef(made.id))
        return made.token

    good = (await invite(tenant.owner, "viewer", email="3@x.example.com")).token
    elsewhere = (await invite((await iam.tenant()).owner, "viewer")).token
    prefix, ours, secret = good.split("_", 2)
    bent = "B" if secret[40] != "B" else "C"
    texts = set()
    for token in (
        await expired(),
        await withdrawn(),
        "x",
        good + "A",
        good[:-1],
        f"{prefix}_{ours}_{secret[:40]}{bent}{secret[41:]}",
        f"{prefix}_{ours}_{elsewhere.split('_', 2)[2]}",
        f"{prefix}_{uuid7()}_{secret}",
        f"pkk_{ours}_{secret}",
    ):
        with pytest.raises(NotFound) as raised:
            await iam.anonymous("accept_invitation", AcceptInvitation(token, "X", PASSWORD))
        texts.add(raised.value.detail)

    assert len(texts) == 1
    await iam.anonymous("accept_invitation", AcceptInvitation(good, "X", PASSWORD))


async def test_a_weak_password_uses_nothing_up(iam, tenant):
    made = await invite(tenant.owner, "viewer", email="inainvited@x.example.com")

    for weak in ("password1234", "InaInvited12", f"{tenant.slug}{tenant.slug}"):
        with pytest.raises(InvalidRequest) as raised:
            await iam.anonymous("accept_invitation", accepting(made, weak))
        assert [one.pointer for one in raised.value.violations] == ["/password"]
    await iam.anonymous("accept_invitation", accepting(made))


async def test_nobody_invites_above_themselves(tenant):
    admin = await tenant.add("admin")

    with pytest.raises(NotAllowed, match=r"the role owner grants \*"):
        await invite(admin, "owner")
    with pytest.raises(InvalidRequest, match="contract"):
        await invite(admin, "no-such-role")
    assert (await invite(admin, "admin")).roles == ["admin"]


@pytest.mark.parametrize("change", ["weaker", "suspended", "removed"])
async def test_an_invitation_is_worth_what_its_inviter_may_still_give(iam, tenant, change):
    inviter = await tenant.add("admin")
    made = await invite(inviter, "admin")

    if change == "removed":
        await tenant.owner("delete_user", UserRef(inviter.id))
    else:
        patch = {"roles": ["member"]} if change == "weaker" else {"status": "suspended"}
        await tenant.owner("update_user", UserPatch(inviter.id, **patch), version=1)

    with pytest.raises(NotFound):
        await iam.anonymous("accept_invitation", accepting(made))


async def test_a_role_that_was_made_stronger_is_not_given_by_who_lacks_it(iam, tenant):
    inviter, role = await tenant.add("admin"), await tenant.role("iam.user.read")
    made = await invite(inviter, role.name)

    await tenant.owner("update_role", RolePatch(role.id, permissions=["*"]), version=1)

    with pytest.raises(NotFound):
        await iam.anonymous("accept_invitation", accepting(made))


async def test_an_invitation_whose_role_is_gone_lets_nobody_in(iam, tenant):
    role = await tenant.role()
    made = await invite(tenant.owner, role.name, "viewer")

    await tenant.owner("delete_role", RoleRef(role.id))

    with pytest.raises(NotFound):
        await iam.anonymous("accept_invitation", accepting(made))


async def test_nobody_is_invited_who_is_there_already(iam, tenant):
    made = await invite(tenant.owner, "viewer")
    await tenant.owner("create_user", NewUser("INA@x.example.com", "Ina", []))

    with pytest.raises(Conflict, match="e-mail address"):
        await invite(tenant.owner, "viewer")
    with pytest.raises(Conflict, match="e-mail address"):
        await iam.anonymous("accept_invitation", accepting(made))


async def test_a_suspended_tenant_lets_nobody_in(iam, tenant):
    made = await invite(tenant.owner, "viewer")
    async with iam.parts.calls.open(tenant.id, "suspend") as call:
        await (await call.tx()).execute("update tenants set status = 'suspended'")

    with pytest.raises(NotFound):
        await iam.anonymous("accept_invitation", accepting(made))


async def test_somebody_elses_invitation_looks_like_none(iam, tenant):
    foreign = await invite((await iam.tenant()).owner, "viewer")
    mine = await invite(tenant.owner, "viewer")

    for invitation_id in (foreign.id, uuid7()):
        for name in ("get_invitation", "delete_invitation"):
            with pytest.raises(NotFound, match="no such invitation in this tenant"):
                await tenant.owner(name, InvitationRef(invitation_id), version=9)
    with pytest.raises(PreconditionFailed):
        await tenant.owner("delete_invitation", InvitationRef(mine.id), version=9)
