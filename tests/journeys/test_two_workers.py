"""Two workers are one kernel: what one of them did, both of them know."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from plugin_api.testing import Answer, Client, KernelProcess, Tenant, until
from plugin_api.testing.people import IAM
from plugin_api.testing.plugin import FreshKernel

ASKED = 24
"""Connections that one question is asked on: with two workers, that one of them takes all has a chance of 2**-23."""


@pytest.fixture
async def pair(fresh_kernel: FreshKernel) -> KernelProcess:
    return await fresh_kernel("--workers", "2")


async def everywhere(client: Client, path: str) -> set[int]:
    """The statuses of many new connections, whichever worker takes each."""
    answers = await asyncio.gather(*(client.get(path) for _ in range(ASKED)))
    return {answer.status for answer in answers}


async def test_revocations_and_changes_are_felt_by_both_at_once(pair: KernelProcess) -> None:
    tenant = await pair.sign_up()
    owner = tenant.owner
    for _ in range(5):
        other = await owner.log_in_again()
        assert await everywhere(other, f"{IAM}/me") == {200}
        (await owner.delete(f"{IAM}/sessions/{other.session['session_id']}")).expect(204)
        assert await everywhere(other, f"{IAM}/me") == {401}

    key = (await owner.post(f"{IAM}/api-keys", {"name": "robot", "permissions": ["iam.user.read"]})).expect(201)
    robot = pair.client(key["secret"])
    assert await everywhere(robot, f"{IAM}/users") == {200}
    (await owner.delete(f"{IAM}/api-keys/{key['id']}", etag=key.etag)).expect(204)
    assert await everywhere(robot, f"{IAM}/users") == {401}

    await narrow(tenant)


async def narrow(tenant: Tenant) -> None:
    name = await tenant.add_role("iam.user.read")
    reader = await tenant.add_user(name)
    assert await everywhere(reader, f"{IAM}/users") == {200}
    roles = (await tenant.owner.get(f"{IAM}/roles?limit=200")).expect(200)["items"]
    path = f"{IAM}/roles/{next(role['id'] for role in roles if role['name'] == name)}"
    etag = (await tenant.owner.get(path)).etag
    (await tenant.owner.patch(path, {"permissions": []}, etag=etag)).expect(200)
    assert await everywhere(reader, f"{IAM}/users") == {403}


async def test_of_many_changes_to_one_version_one_wins(pair: KernelProcess) -> None:
    tenant = await pair.sign_up()
    user = await tenant.add_user("member")
    path = f"{IAM}/users/{user.id}"
    for turn in range(5):
        etag = (await tenant.owner.get(path)).etag
        names = [f"Turn {turn} of {n}" for n in range(16)]
        answers = await asyncio.gather(*(tenant.owner.patch(path, {"name": name}, etag=etag) for name in names))

        assert Counter(answer.status for answer in answers) == {200: 1, 412: 15}
        winner = next(answer for answer in answers if answer.status == 200)
        assert (await tenant.owner.get(path))["name"] == winner["name"]


async def test_of_many_sign_ups_of_one_name_one_wins(pair: KernelProcess) -> None:
    tenant = await pair.sign_up()
    body = {"email": "same@person.example.com", "name": "Same", "roles": []}
    answers = await asyncio.gather(*(tenant.owner.post(f"{IAM}/users", body) for _ in range(16)))

    assert Counter(answer.status for answer in answers) == {201: 1, 409: 15}


async def test_one_worker_serves_while_the_other_is_replaced(pair: KernelProcess) -> None:
    tenant = await pair.sign_up()
    before = pair.pids()
    pair.kill("worker1")
    answers: list[Answer] = []

    async def is_replaced() -> bool:
        answers.append(await tenant.owner.get(f"{IAM}/me"))
        return len(pair.pids().keys() & {"worker0", "worker1"}) == 2 and before["worker1"] not in pair.pids().values()

    await until(is_replaced, "the worker was replaced", 30)

    assert {answer.status for answer in answers} == {200}
    assert pair.pids()["parent"] == before["parent"]
