"""Lists: pages that survive comings and goings, filters, and the tenant wall."""

from __future__ import annotations

import asyncio

import pytest

from plugin_api.contracts.iam import (
    ApiKeyList,
    InvitationList,
    NewInvitation,
    NewUser,
    RoleList,
    UserList,
    UserPatch,
    UserRef,
)
from plugin_api.errors import Unreadable


async def walk(person, name: str, request_type, between=None, **given):
    """Every item of a list, page by page; `between` is awaited after each page."""
    items, cursor = [], None
    while True:
        page = await person(name, request_type(cursor=cursor, **given))
        assert len(page.items) <= given.get("limit", 50)
        items += page.items
        cursor = page.next_cursor
        if cursor is None:
            return items
        if between is not None:
            await between()


async def add_people(tenant, number: int):
    requests = [NewUser(f"{tenant.iam.unique('list')}@x.example.com", "Una", []) for _ in range(number)]
    return [await tenant.owner("create_user", request) for request in requests]


@pytest.mark.parametrize("sort", ["created_at", "-created_at", "email", "-email"])
async def test_pages_survive_comings_and_goings(tenant, sort):
    originals = [user.id for user in await add_people(tenant, 23)]
    doomed = originals[::6]

    async def churn():
        await add_people(tenant, 2)
        if doomed:
            await tenant.owner("delete_user", UserRef(gone := doomed.pop()))
            originals.remove(gone)

    pages_max = 8

    async def churn_a_while():
        nonlocal pages_max
        pages_max -= 1
        if pages_max > 0:
            await churn()

    seen = [user.id for user in await walk(tenant.owner, "list_users", UserList, churn_a_while, limit=5, sort=sort)]

    assert len(seen) == len(set(seen))
    assert set(originals) <= set(seen)


async def test_people_who_came_in_one_transaction_have_a_place_each(iam, tenant):
    async with iam.parts.calls.open(tenant.id, "add many") as call:
        await (await call.tx()).execute(
            """insert into users (id, email, email_key, name)
            select gen_random_uuid(), n || '@x.example.com', n || '@x.example.com', 'Una' from generate_series(1, 12) n"""
        )

    up = await walk(tenant.owner, "list_users", UserList, limit=5)
    down = await walk(tenant.owner, "list_users", UserList, limit=5, sort="-created_at")

    assert len({user.id for user in up}) == 13
    assert [user.id for user in up] == [user.id for user in reversed(down)]


async def test_addresses_are_sorted_without_regard_to_case(tenant):
    for email in ("bob@x.example.com", "Carl@x.example.com", "ANNA@x.example.com"):
        await tenant.owner("create_user", NewUser(email, "X", []))

    emails = [user.email for user in await walk(tenant.owner, "list_users", UserList, limit=2, sort="email")]

    assert emails == ["ANNA@x.example.com", "bob@x.example.com", "Carl@x.example.com", tenant.owner.email]


async def test_filters_select(tenant):
    member, viewer = await tenant.add("member"), await tenant.add("member", "viewer")
    await tenant.owner("update_user", UserPatch(viewer.id, status="suspended"), version=1)

    async def ids(**given) -> set:
        return {user.id for user in await walk(tenant.owner, "list_users", UserList, **given)}

    assert await ids(email=member.email.upper()) == {member.id}
    assert await ids(role="member") == {member.id, viewer.id}
    assert await ids(role="member", status="active") == {member.id}
    assert await ids(status="suspended") == {viewer.id}
    assert await ids(role="none") == set()
    assert [role.name for role in (await tenant.owner("list_roles", RoleList(name="viewer"))).items] == ["viewer"]


async def test_roles_are_listed_by_name_too(tenant):
    await tenant.role()

    names = [role.name for role in await walk(tenant.owner, "list_roles", RoleList, limit=2, sort="name")]

    assert names == sorted(names)
    assert len(names) == 5
    assert names[::-1] == [
        role.name for role in await walk(tenant.owner, "list_roles", RoleList, limit=2, sort="-name")
    ]


async def test_a_full_last_page_is_the_last_one(tenant):
    await add_people(tenant, 3)

    page = await tenant.owner("list_users", UserList(limit=4))

    assert (len(page.items), page.next_cursor) == (4, None)


async def test_a_cursor_belongs_to_its_tenant_list_order_and_filters(iam, tenant):
    other = await iam.tenant()
    for one in (tenant, other):
        await add_people(one, 3)
    cursor = (await tenant.owner("list_users", UserList(limit=2))).next_cursor
    foreign = (await other.owner("list_users", UserList(limit=2))).next_cursor

    for name, request in (
        ("list_users", UserList(cursor=foreign)),
        ("list_users", UserList(cursor=cursor, sort="-created_at")),
        ("list_users", UserList(cursor=cursor, sort="email")),
        ("list_users", UserList(cursor=cursor, status="active")),
        ("list_users", UserList(cursor=cursor[:-4])),
        ("list_roles", RoleList(cursor=cursor)),
    ):
        with pytest.raises(Unreadable) as raised:
            await tenant.owner(name, request)
        assert raised.value.code == "bad_cursor"
    assert (await tenant.owner("list_users", UserList(limit=100, cursor=cursor))).next_cursor is None


async def test_no_list_shows_anything_of_another_tenant(iam, tenant):
    other = await iam.tenant()
    await asyncio.gather(other.add("member"), other.role(), other.owner.key("*"))
    await other.owner("create_invitation", NewInvitation("i@x.example.com", ["viewer"]))

    people = await walk(tenant.owner, "list_users", UserList)
    roles = await walk(tenant.owner, "list_roles", RoleList)

    assert [user.id for user in people] == [tenant.owner.id]
    assert len(roles) == 4
    assert await walk(tenant.owner, "list_api_keys", ApiKeyList) == []
    assert await walk(tenant.owner, "list_invitations", InvitationList) == []
    assert await walk(tenant.owner, "list_users", UserList, role=(await other.role()).name) == []


async def test_keys_and_invitations_are_listed_newest_first_without_secrets(tenant):
    keys = [await tenant.owner.key("iam.user.read") for _ in range(3)]
    invited = [await tenant.owner("create_invitation", NewInvitation(f"{n}@x.example.com", [])) for n in range(3)]

    listed_keys = await walk(tenant.owner, "list_api_keys", ApiKeyList, limit=2)
    listed = await walk(tenant.owner, "list_invitations", InvitationList, limit=2)

    assert {key.id for key in listed_keys} == {key.id for key in keys}
    assert {one.id for one in listed} == {one.id for one in invited}
    assert all(key.secret not in str(listed_keys) for key in keys)
    assert all(one.token not in str(listed) for one in invited)
