"""Access as callers meet it: against a running kernel of two workers, each request on a connection of its own."""

from __future__ import annotations

import asyncio

import pytest

from plugin_api.testing.kernel import KernelProcess, run_apart
from plugin_api.testing.people import IAM, new_password, unique

TIMES = 12
"""How often something is asked, so that both workers have surely answered it."""


@pytest.fixture(scope="module")
def kernel_arguments() -> list[str]:
    return ["--no-demo", "--workers", "2"]


@pytest.fixture(scope="module")
def kernel_process(kernel_arguments):
    """A kernel of this module alone."""
    process = KernelProcess(kernel_arguments, {})
    try:
        run_apart(process.start())
        yield process
    finally:
        run_apart(process.close())


@pytest.fixture
async def firm(kernel):
    """A tenant of its own for the test, its owner logged in."""
    return await kernel.sign_up()


async def statuses(client, path: str) -> set[int]:
    """What so many requests at once are answered."""
    answers = await asyncio.gather(*(client.get(path) for _ in range(TIMES)))
    return {answer.status for answer in answers}


async def make_key(person, *permissions: str):
    body = {"name": "key", "permissions": list(permissions)}
    return (await person.post(f"{IAM}/api-keys", body)).expect(201)


async def test_who_accepts_an_invitation_is_told_where_the_new_person_is(kernel, firm):
    body = {"email": f"{unique()}@x.example.com", "roles": ["viewer"]}
    made = (await firm.owner.post(f"{IAM}/invitations", body)).expect(201)
    taken = {"token": made["token"], "name": "Ina", "password": new_password()}

    accepted = (await kernel.client().post(f"{IAM}/invitations/accept", taken)).expect(201)

    assert [f"{IAM}/users/{accepted['id']}"] == accepted.headers.get_all("Location")
    read = (await firm.owner.get(accepted.headers["Location"])).expect(200)
    assert (read.json, read.etag) == (accepted.json, accepted.etag)
    (await firm.owner.get(made.headers["Location"])).expect(200)


async def test_a_revoked_key_ends_on_every_worker(kernel, firm):
    made = await make_key(firm.owner, "iam.user.read")
    keyed = kernel.client(made["secret"])
    assert await statuses(keyed, f"{IAM}/users") == {200}

    (await firm.owner.delete(f"{IAM}/api-keys/{made['id']}")).expect(204)

    assert await statuses(keyed, f"{IAM}/users") == {401}


async def test_a_weaker_role_is_felt_on_every_worker(kernel, firm):
    role = (await firm.owner.post(f"{IAM}/roles", {"name": unique("r"), "permissions": ["iam.*"]})).expect(201)
    person = await firm.add_user(role["name"])
    keyed = kernel.client((await make_key(person, "iam.user.read"))["secret"])
    assert await statuses(person, f"{IAM}/users") == await statuses(keyed, f"{IAM}/users") == {200}

    patch = {"permissions": ["iam.role.read"]}
    (await firm.owner.patch(f"{IAM}/roles/{role['id']}", patch, etag=role.etag)).expect(200)

    assert await statuses(person, f"{IAM}/users") == await statuses(keyed, f"{IAM}/users") == {403}
    assert await statuses(person, f"{IAM}/roles") == {200}


@pytest.mark.parametrize("patch", [{"status": "suspended"}, {"password": "another-Horse-7-battery"}])
async def test_a_suspension_and_a_new_password_are_felt_on_every_worker(kernel, firm, patch):
    person = await firm.add_user("admin")
    keyed = kernel.client((await make_key(person, "iam.user.read"))["secret"])
    assert await statuses(person, f"{IAM}/me") == await statuses(keyed, f"{IAM}/me") == {200}
    read = await firm.owner.get(f"{IAM}/users/{person.id}")

    (await firm.owner.patch(f"{IAM}/users/{person.id}", patch, etag=read.etag)).expect(200)

    assert await statuses(person, f"{IAM}/me") == await statuses(keyed, f"{IAM}/me") == {401}


async def test_new_roles_are_felt_on_every_worker(firm):
    person = await firm.add_user("viewer")
    assert await statuses(person, f"{IAM}/users") == {403}
    read = await firm.owner.get(f"{IAM}/users/{person.id}")

    (await firm.owner.patch(f"{IAM}/users/{person.id}", {"roles": ["member"]}, etag=read.etag)).expect(200)

    assert await statuses(person, f"{IAM}/users") == {200}


async def test_two_owners_who_remove_each_other_leave_one(kernel, firm):
    second = await firm.add_user("owner")
    pair = [firm.owner, second]

    answers = await asyncio.gather(
        *(one.delete(f"{IAM}/users/{other.id}") for one, other in zip(pair, reversed(pair), strict=True))
    )

    alive = [(await person.get(f"{IAM}/me")).status for person in pair]
    assert sorted(alive) == [200, 401]
    assert sorted(answer.status for answer in answers)[0] == 204


async def test_what_admin_holds_is_shown_by_area(firm):
    admin = await firm.add_user("admin")

    me = (await admin.get(f"{IAM}/me")).expect(200)

    assert me["roles"] == ["admin"]
    assert "iam.*" in me["permissions"]
    assert not {"*", "*.*", "platform.*"} & set(me["permissions"])
