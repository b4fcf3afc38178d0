"""Somebody follows the events of their tenant over HTTP: iam tells when what people may do has changed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

from plugin_api.testing import KernelProcess, Person, Tenant, until

STREAM = "/api/v1/eventbus/stream"
CHANGED = "iam.access.changed.v1"
FOLLOW = "eventbus.event.read"


class Follower:
    """One connection that stays open; what came, by its `id:`."""

    def __init__(self) -> None:
        self.status = 0
        self.kind = ""
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.has_ended = False

    async def read(self, reader: asyncio.StreamReader) -> None:
        """Take events until the stream ends."""
        self.status = int((await reader.readline()).split()[1])
        while (line := (await reader.readline()).decode().strip()) != "":
            name, _, value = line.partition(":")
            if name.lower() == "content-type":
                self.kind = value.strip()
        last = ""
        async for raw in reader:
            name, _, value = raw.decode().strip().partition(": ")
            if name == "id":
                last = value
            elif name == "data":
                self.events.append((last, json.loads(value)))
            elif name == "0":
                break  # the last chunk
        self.has_ended = True


@asynccontextmanager
async def following(
    kernel: KernelProcess, person: Person, query: str = "", last_id: str | None = None
) -> AsyncIterator[Follower]:
    """Follow until the block ends; the answer's head has come."""
    where = urlsplit(kernel.url)
    reader, writer = await asyncio.open_connection(where.hostname, where.port)
    resumed = f"Last-Event-ID: {last_id}\r\n" if last_id is not None else ""
    head = f"GET {STREAM}{query} HTTP/1.1\r\nHost: k\r\nAuthorization: Bearer {person.token}\r\n{resumed}\r\n"
    writer.write(head.encode())
    follower = Follower()
    task = asyncio.create_task(follower.read(reader))
    try:
        await until(lambda: follower.status, "the stream answers")
        yield follower
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        writer.close()


async def changeable(tenant: Tenant) -> list[Any]:
    """Roles that nobody who follows needs."""
    roles = (await tenant.owner.get("/api/v1/iam/roles?limit=200")).expect(200)["items"]
    return [one for one in roles if not one["built_in"] and FOLLOW not in one["permissions"]]


async def change(tenant: Tenant, times: int) -> None:
    """Change a role so often: each time an event of the tenant."""
    mine = await changeable(tenant)
    if not mine:
        await tenant.add_role("iam.user.read")
        mine = await changeable(tenant)
    for number in range(times):
        granted = ["iam.user.read"] if number % 2 else ["iam.user.read", "iam.role.read"]
        answer = await tenant.owner.patch(
            f"/api/v1/iam/roles/{mine[0]['id']}", {"permissions": granted}, headers={"If-Match": "*"}
        )
        answer.expect(200)


def has(follower: Follower, number: int) -> Callable[[], bool]:
    """Whether so many events came."""
    return lambda: len(follower.events) >= number


async def test_events_come_as_they_happen_and_those_of_others_do_not(kernel: KernelProcess, tenant: Tenant) -> None:
    other = await kernel.sign_up()
    async with following(kernel, tenant.owner, f"?type={CHANGED}") as mine, following(kernel, other.owner) as theirs:
        await change(tenant, 3)
        await until(has(mine, 3), "three came")
        await change(other, 1)
        await until(has(theirs, 1), "theirs came")

    assert mine.kind.startswith("text/event-stream")
    sequences = [int(event["sequence"]) for _, event in mine.events]
    assert sequences == list(range(sequences[0], sequences[0] + 3))
    assert {event["tenantid"] for _, event in mine.events} == {str(tenant.id)}
    assert {event["tenantid"] for _, event in theirs.events} == {str(other.id)}
    _, event = mine.events[0]
    assert (event["type"], event["source"], event["specversion"]) == (CHANGED, "/plugins/kernel.iam", "1.0")


async def test_a_stream_goes_on_where_it_broke_off(kernel: KernelProcess, tenant: Tenant) -> None:
    async with following(kernel, tenant.owner, f"?type={CHANGED}") as first:
        await change(tenant, 2)
        await until(has(first, 2), "two came")
    await change(tenant, 2)
    async with following(kernel, tenant.owner, f"?type={CHANGED}", last_id=first.events[0][0]) as again:
        await until(has(again, 3), "the rest came")

    assert [event["id"] for _, event in first.events[1:]] == [event["id"] for _, event in again.events[:1]]
    assert len({event["id"] for _, event in again.events}) == len(again.events) == 3


async def test_who_may_not_follow_is_told_so(kernel: KernelProcess, tenant: Tenant) -> None:
    role = await tenant.add_role("iam.user.read")
    nobody = await tenant.add_user(role)

    assert (await kernel.client().get(STREAM)).expect(401).code == "not_authenticated"
    assert (await nobody.get(STREAM)).expect(403).code == "not_allowed"


async def test_who_is_signed_out_hears_nothing_more_of_what_happens(kernel: KernelProcess, tenant: Tenant) -> None:
    role = await tenant.add_role(FOLLOW)
    gone, stays = await tenant.add_user(role), await tenant.add_user(role)
    async with following(kernel, gone) as theirs, following(kernel, stays) as others:
        await change(tenant, 1)
        await until(has(theirs, 1), "an event came")
        heard = len(theirs.events)
        (await gone.delete("/api/v1/iam/sessions")).expect(200, 204)
        await change(tenant, 1)
        await until(lambda: theirs.has_ended, "the stream ends")
        await until(has(others, 2), "others hear it")

    assert len(theirs.events) == heard


async def test_rubbish_is_refused(tenant: Tenant) -> None:
    for last_id in ("garbage", "-1", "1e3", "9" * 19, "0x10"):
        answer = await tenant.owner.get(STREAM, headers={"Last-Event-ID": last_id})
        assert answer.expect(422).code == "bad_event_id"
    assert (await tenant.owner.get(f"{STREAM}?colour=red")).expect(422).code


async def test_operators_see_consumers_and_dead_letters_and_nobody_else_does(
    kernel: KernelProcess, tenant: Tenant
) -> None:
    operator = await kernel.operator()

    assert "items" in (await operator.get("/api/v1/eventbus/consumers")).expect(200).json
    assert (await operator.get("/api/v1/eventbus/dead-letters")).expect(200)["items"] == []
    unknown = {"letter_id": "01890a5d-ac96-774b-bcce-b302099a8057"}
    assert (await operator.post("/api/v1/eventbus/dead-letters/replay", unknown)).expect(404).code == "not_found"
    nobody = {"consumer": "acme.nobody.hear", "since": "2026-01-01T00:00:00Z"}
    assert (await operator.post("/api/v1/eventbus/consumers/rewind", nobody)).expect(404).code == "not_found"
    for path in ("consumers", "dead-letters"):
        assert (await tenant.owner.get(f"/api/v1/eventbus/{path}")).expect(403).code == "not_allowed"
