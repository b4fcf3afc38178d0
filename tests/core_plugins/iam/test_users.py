"""People: who may add, change and remove whom, and what ends with it."""

from __future__ import annotations

import asyncio

import pytest

from plugin_api.contracts.iam import NewUser, UserPatch, UserRef
from plugin_api.errors import (
    Conflict,
    InvalidRequest,
    NotAllowed,
    NotFound,
    PreconditionFailed,
)
from plugin_api.ids import uuid7

PASSWORD = "correct-Horse-7-battery"


def new_user(tenant, *roles: str, email: str = "", password: str | None = None) -> NewUser:
    return NewUser(email or f"{tenant.iam.unique('new')}@x.example.com", "Nina", list(roles), password)


async def living_sessions(tenant, person) -> int:
    rows = await tenant.fetch("select id from sessions where user_id = $1 and revoked_at is null", person.id)
    return len(rows)


async def test_a_person_is_added_with_roles_and_read_back(tenant):
    made = await tenant.owner("create_user", new_user(tenant, "viewer", "member", "viewer", password=PASSWORD))

    assert made.roles == ["member", "viewer"]
    assert (made.status, made.version) == ("active", 1)
    assert await tenant.owner("get_user", UserRef(made.id)) == made
    stored = (await tenant.fetch("select password_hash from users where id = $1", made.id))[0]["password_hash"]
    assert stored.startswith("$argon2id$")
    assert PASSWORD not in stored


async def test_an_address_is_unique_without_regard_to_case(tenant):
    await tenant.owner("create_user", new_user(tenant, email="ada@x.example.com"))

    with pytest.raises(Conflict, match="e-mail address"):
        await tenant.owner("create_user", new_user(tenant, email="ADA@x.example.com"))
    other = await tenant.add()
    with pytest.raises(Conflict, match="e-mail address"):
        await tenant.owner("update_user", UserPatch(other.id, email="Ada@X.example.com"), version=1)


async def test_the_same_address_may_be_in_two_tenants(iam, tenant):
    elsewhere = await iam.tenant()

    for one in (tenant, elsewhere):
        await one.owner("create_user", new_user(one, email="both@x.example.com"))


async def test_one_of_many_simultaneous_people_with_one_address_is_added(tenant):
    wanted = new_user(tenant, email="race@x.example.com")
    results = await asyncio.gather(*(tenant.owner("create_user", wanted) for _ in range(8)), return_exceptions=True)

    assert sorted(type(one).__name__ for one in results) == ["Conflict"] * 7 + ["UserView"]


async def test_everything_that_is_wrong_with_a_person_is_told_at_once(iam, tenant):
    foreign = await (await iam.tenant()).role("iam.user.read")

    with pytest.raises(InvalidRequest) as raised:
        await tenant.owner("create_user", new_user(tenant, "member", "nothing", foreign.name, password="password1234"))

    found = {one.pointer: one.code for one in raised.value.violations}
    assert found == {"/password": "weak_password", "/roles/1": "unknown_role", "/roles/2": "unknown_role"}
    details = {one.detail for one in raised.value.violations if one.code == "unknown_role"}
    assert len(details) == 1


async def test_a_role_that_grants_more_than_the_actor_holds_cannot_be_given(tenant):
    own = await tenant.role("iam.user.*", "iam.role.read")
    helper = await tenant.add(own.name)

    for strong, lacking in (("owner", r"\*"), ("admin", "every area"), ("member", r"iam\.tenant\.read")):
        with pytest.raises(NotAllowed, match=f"the role {strong} grants .*{lacking}"):
            await helper("create_user", new_user(tenant, strong))
        with pytest.raises(NotAllowed, match=lacking):
            await helper("update_user", UserPatch(helper.id, roles=[strong]), version=1)
    made = await helper("create_user", new_user(tenant, own.name))
    assert made.roles == [own.name]


@pytest.mark.parametrize(
    "patch",
    [{"password": PASSWORD}, {"roles": []}, {"status": "suspended"}, {"email": "mine@x.example.com"}, {"name": "X"}],
)
async def test_nobody_changes_somebody_who_holds_more(tenant, patch):
    await tenant.add("owner")  # so that the last owner is not the reason
    admin = await tenant.add("admin")

    with pytest.raises(NotAllowed, match=r"this person holds \*"):
        await admin("update_user", UserPatch(tenant.owner.id, **patch), version=1)
    with pytest.raises(NotAllowed, match=r"this person holds \*"):
        await admin("delete_user", UserRef(tenant.owner.id))


async def test_admins_change_and_remove_one_another(tenant):
    first, second, member = await tenant.add("admin"), await tenant.add("admin"), await tenant.add("member")

    changed = await first("update_user", UserPatch(second.id, roles=["member"]), version=1)
    await first("delete_user", UserRef(member.id))

    assert changed.roles == ["member"]


async def test_a_change_needs_the_version_that_is_there(tenant):
    person = await tenant.add("viewer")

    for ref in (UserPatch(person.id, name="A"), UserPatch(person.id)):
        with pytest.raises(PreconditionFailed):
            await tenant.owner("update_user", ref, version=7)
    with pytest.raises(PreconditionFailed):
        await tenant.owner("delete_user", UserRef(person.id), version=7)
    changed = await tenant.owner("update_user", UserPatch(person.id, name="Anna"), version=1)

    assert (changed.name, changed.version, changed.roles) == ("Anna", 2, ["viewer"])
    assert changed.email == person.email


async def test_one_version_is_won_once(tenant):
    person = await tenant.add()
    patches = [UserPatch(person.id, name=f"Racer {number}") for number in range(20)]

    results = await asyncio.gather(
        *(tenant.owner("update_user", patch, version=1) for patch in patches), return_exceptions=True
    )

    assert sorted(type(one).__name__ for one in results) == ["PreconditionFailed"] * 19 + ["UserView"]


async def test_somebody_elses_person_looks_like_nobody(iam, tenant):
    stranger = await (await iam.tenant()).add()
    texts = set()

    for user_id in (stranger.id, uuid7()):
        for name, request in (
            ("get_user", UserRef(user_id)),
            ("update_user", UserPatch(user_id, name="Mine")),
            ("delete_user", UserRef(user_id)),
        ):
            with pytest.raises(NotFound) as raised:
                await tenant.owner(name, request, version=9)
            texts.add(raised.value.detail)

    assert len(texts) == 1


@pytest.mark.parametrize("patch", [{"password": PASSWORD}, {"password": None}, {"status": "suspended"}])
async def test_a_new_password_and_a_suspension_end_sessions_and_keys(iam, tenant, patch):
    person = await tenant.add("admin")
    bystander = await tenant.add("admin")
    secret, other = (await person.key("iam.user.read")).secret, (await bystander.key("iam.user.read")).secret
    for one in (person, person, bystander):
        await one.log_in()

    await tenant.owner("update_user", UserPatch(person.id, **patch), version=1)

    assert await living_sessions(tenant, person) == 0
    assert await living_sessions(tenant, bystander) == 1
    assert await tenant.fetch("select id from api_keys where user_id = $1", person.id) == []
    with pytest.raises(Exception, match="do not hold"):
        await iam.show_key(secret)
    await iam.show_key(other)


async def test_other_changes_end_nothing(tenant):
    person = await tenant.add("admin")
    await person.key("iam.user.read")
    await person.log_in()

    changed = await tenant.owner("update_user", UserPatch(person.id, name="X", roles=["member"]), version=1)
    await tenant.owner("update_user", UserPatch(person.id, status="active"), version=changed.version)

    assert await living_sessions(tenant, person) == 1
    assert len(await tenant.fetch("select id from api_keys where user_id = $1", person.id)) == 1


async def test_a_removed_person_leaves_nothing_behind(tenant):
    person = await tenant.add("admin")
    await person.key("iam.user.read")
    await person.log_in()

    await tenant.owner("delete_user", UserRef(person.id))

    for table, column in (("users", "id"), ("user_roles", "user_id"), ("sessions", "user_id"), ("api_keys", "user_id")):
        assert await tenant.fetch(f"select * from {table} where {column} = $1", person.id) == []


async def test_a_change_is_felt_by_stamps_after_the_commit_only(iam, tenant):
    person, stamps = await tenant.add("viewer"), iam.parts.stamps
    slot = stamps.slot(f"iam:{tenant.id}:{person.id}")
    before = stamps.read(slot)

    with pytest.raises(Conflict):
        await tenant.owner("update_user", UserPatch(person.id, email=tenant.owner.email), version=1)
    assert stamps.read(slot) == before
    await tenant.owner("update_user", UserPatch(person.id, name="X"), version=1)
    assert stamps.read(slot) != before


# ------------------------------------------------------------------------------------------ owners


async def test_the_last_active_owner_stays(tenant):
    await tenant.add("admin")
    owner = tenant.owner

    for patch in ({"roles": []}, {"roles": ["member"]}, {"status": "suspended"}):
        with pytest.raises(Conflict, match="last active owner"):
            await owner("update_user", UserPatch(owner.id, **patch), version=1)
    with pytest.raises(Conflict, match="last active owner"):
        await owner("delete_user", UserRef(owner.id))
    kept = await owner("update_user", UserPatch(owner.id, roles=["owner", "member"], name="Still"), version=1)
    assert kept.roles == ["member", "owner"]


async def test_a_suspended_owner_does_not_count_and_may_go(tenant):
    second = await tenant.add("owner")
    await tenant.owner("update_user", UserPatch(second.id, status="suspended"), version=1)

    with pytest.raises(Conflict, match="last active owner"):
        await tenant.owner("delete_user", UserRef(tenant.owner.id))
    await tenant.owner("delete_user", UserRef(second.id))


async def test_the_tenants_record_names_an_owner_who_is_there(tenant):
    second = await tenant.add("owner")

    await second("delete_user", UserRef(tenant.owner.id))

    row = (await tenant.fetch("select owner_id, version from tenants"))[0]
    assert (row["owner_id"], row["version"]) == (second.id, 2)


@pytest.mark.parametrize("way", ["delete", "demote", "suspend"])
async def test_two_owners_who_remove_each_other_leave_one(iam, way):
    def blow(other) -> tuple[str, object, int | None]:
        if way == "delete":
            return "delete_user", UserRef(other.id), None
        patch = {"roles": []} if way == "demote" else {"status": "suspended"}
        return "update_user", UserPatch(other.id, **patch), 1

    for _ in range(5):
        tenant = await iam.tenant()
        pair = [tenant.owner, await tenant.add("owner")]
        for person in pair:  # both were recognised before either strikes
            person.identity = await person.recognised()
        blows = [(one, *blow(other)) for one, other in zip(pair, reversed(pair), strict=True)]

        results = await asyncio.gather(
            *(one(name, request, version=version) for one, name, request, version in blows), return_exceptions=True
        )

        owners = await tenant.fetch(
            """select u.id from users u join user_roles ur on ur.user_id = u.id
            join roles r on r.id = ur.role_id and r.name = 'owner' where u.status = 'active'"""
        )
        assert len(owners) == 1
        assert sum(isinstance(one, Exception) for one in results) == 1


async def test_a_key_of_the_owner_changes_only_whom_it_covers(iam, tenant):
    key = await iam.show_key((await tenant.owner.key("iam.*")).secret)
    member, admin = await tenant.add("member"), await tenant.add("admin")

    changed = await key("update_user", UserPatch(member.id, name="By key"), version=1)
    with pytest.raises(NotAllowed, match="every area"):
        await key("update_user", UserPatch(admin.id, name="By key"), version=1)

    assert changed.name == "By key"


async def test_somebody_who_was_removed_meanwhile_does_nothing_more(tenant):
    admin = await tenant.add("admin")
    admin.identity = await admin.recognised()
    await tenant.owner("delete_user", UserRef(admin.id))

    with pytest.raises(Exception, match="do not hold"):
        await admin("create_user", new_user(tenant))
