"""Kills under load: every acknowledged write is there, every interrupted one is there whole or not at all, and each that is
there has its record.

Eight writers add people with two roles each and rename them, while PostgreSQL, Valkey, a worker, the parent of all and
one session of PostgreSQL (which then ends all others) are killed in turn. 20 kills, or 200 with PK_SOAK=1; PK_SEED repeats
the moments of an earlier run.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import pytest

from plugin_api.testing import Answer, Client, KernelProcess, Tenant, Unreachable, unique, until
from plugin_api.testing.people import IAM
from plugin_api.testing.plugin import FreshKernel
from plugin_api.testing.processes import Process, end, processes_within

KILLS = 200 if os.environ.get("PK_SOAK") else 20
VICTIMS = ("postgres", "valkey", "worker", "parent", "session")
WRITERS = 8
BACK_S = 10.0
"""Within so long after a kill writes are acknowledged again."""
WRITES_BEFORE_A_KILL = 60
REFUSED = (503, 504)
"""A write that is answered so has changed nothing; it may be repeated."""


@dataclass
class Person:
    """What one writer knows about one person that it added, or may have added."""

    email: str
    id: str = ""
    """Empty while the addition is not acknowledged."""
    maybe: bool = False
    """No answer came for the addition."""
    names: set[str] = field(default_factory=set)
    """What the name may be: the one that was acknowledged last, and those of renames without an answer since."""


class Writers:
    """Writes as fast as it can until it is stopped, and keeps what it was told."""

    def __init__(self, kernel: KernelProcess, tenant: Tenant) -> None:
        self.kernel = kernel
        self.tenant = tenant
        self.people: list[Person] = []
        self.acknowledged = 0
        self.statuses: Counter[int] = Counter()
        self.unanswered = 0
        self.wrong: list[str] = []
        self._stopping = False

    async def run(self) -> None:
        """All writers, until `stop`."""
        await asyncio.gather(*(self._write() for _ in range(WRITERS)))

    def stop(self) -> None:
        """Let each end the write that it is at."""
        self._stopping = True

    async def _write(self) -> None:
        while not self._stopping:
            person = Person(f"{unique('w')}@crash.example.com", names={"Una"})
            self.people.append(person)
            await self._add(person)
            for number in range(3):
                if person.id and not self._stopping:
                    await self._rename(person, f"Una {number}")

    async def _add(self, person: Person) -> None:
        body = {"email": person.email, "name": "Una", "roles": ["member", "viewer"]}
        answer = await self._send("POST", f"{IAM}/users", body, 201)
        if answer is None:
            person.maybe = True
        elif answer.status == 201:
            person.id = answer["id"]

    async def _rename(self, person: Person, name: str) -> None:
        answer = await self._send("PATCH", f"{IAM}/users/{person.id}", {"name": name}, 200)
        if answer is None:
            person.names.add(name)
        elif answer.status == 200:
            person.names = {name}

    async def _send(self, method: str, path: str, body: dict[str, Any], success: int) -> Answer | None:
        """The answer; None when there was none, or one that says that nobody knows."""
        client = self.kernel.client(self.tenant.owner.token, self.tenant.owner.source_address)
        try:
            answer = await client.request(method, path, body, headers={"If-Match": "*"})
        except Unreachable:
            self.unanswered += 1
            await asyncio.sleep(0.02)  # there may be nobody for a while
            return None
        self.statuses[answer.status] += 1
        if answer.status == success:
            self.acknowledged += 1
        elif answer.status not in REFUSED:
            self.wrong.append(str(answer))
        else:
            self._check_refusal(answer)
            await asyncio.sleep(0.02)
        unknown = (
            any(error["code"] == "commit_unknown" for error in answer.json.get("errors", ())) if answer.json else False
        )
        return None if unknown else answer

    def _check_refusal(self, answer: Answer) -> None:
        if answer.status == 503 and not answer.headers.get("Retry-After"):
            self.wrong.append(f"no Retry-After with {answer}")


async def patiently(client: Client, path: str) -> Answer:
    """What a client gets that does as it is told: it asks again after a 503 with Retry-After."""
    end = time.monotonic() + BACK_S
    while (answer := await client.get(path)).status == 503 and time.monotonic() < end:
        assert answer.headers.get("Retry-After"), f"no Retry-After with {answer}"
        await asyncio.sleep(0.02)
    return answer.expect(200)


async def read_people(kernel: KernelProcess, tenant: Tenant) -> dict[str, dict[str, Any]]:
    """Everybody in the tenant by e-mail address, over all pages."""
    client = kernel.client(tenant.owner.token, tenant.owner.source_address)
    found: dict[str, dict[str, Any]] = {}
    place = f"{IAM}/users?limit=200"
    while True:
        page = await patiently(client, place)
        for item in page["items"]:
            assert item["email"] not in found, f"{item['email']} stands on two pages"
            found[item["email"]] = item
        if page["next_cursor"] is None:
            return found
        place = f"{IAM}/users?limit=200&cursor={page['next_cursor']}"


async def read_records(kernel: KernelProcess, tenant: Tenant) -> Counter[tuple[str, str]]:
    """How often which operation was done to what, over all pages."""
    client = kernel.client(tenant.owner.token, tenant.owner.source_address)
    found: Counter[tuple[str, str]] = Counter()
    place = first = f"/api/v1/audit/records?limit=200&target={IAM}/users/"
    while True:
        page = await patiently(client, place)
        found.update((one["operation"], one["target"]) for one in page["items"] if one["outcome"] == "done")
        if page["next_cursor"] is None:
            return found
        place = f"{first}&cursor={page['next_cursor']}"


def recorded(found: dict[str, dict[str, Any]]) -> Counter[tuple[str, str]]:
    """The records that there must be: one for each addition, and one for each version since."""
    wanted: Counter[tuple[str, str]] = Counter()
    for item in found.values():
        target = f"{IAM}/users/{item['id']}"
        wanted["iam.create_user", target] = 1
        if item["version"] > 1:
            wanted["iam.update_user", target] = item["version"] - 1
    return wanted


def judge(people: list[Person], found: dict[str, dict[str, Any]]) -> list[str]:
    """What of the writers' knowledge is not so."""
    wrong: list[str] = []
    for person in people:
        item = found.pop(person.email, None)
        if item is None:
            if person.id:
                wrong.append(f"{person.email} was acknowledged and is lost")
        elif not person.id and not person.maybe:
            wrong.append(f"{person.email} was refused and is there")
        elif (person.id and item["id"] != person.id) or item["name"] not in person.names:
            wrong.append(f"{person.email} is {item['name']!r}, not one of {sorted(person.names)}")
        elif sorted(item["roles"]) != ["member", "viewer"]:
            wrong.append(f"{person.email} is half there: {item['roles']}")
    return wrong + [f"{email} was never asked for" for email in found]


def sessions(kernel: KernelProcess) -> list[Process]:
    """The server processes of PostgreSQL that serve a client each."""
    found = processes_within(kernel.data_dir / "postgres")
    return [process for process in found if process.command.startswith("postgres: pk_app ")]


async def kill_and_come_back(kernel: KernelProcess, victim: str, writers: Writers, chance: random.Random) -> float:
    """Kill, let the kernel come back, and see writes acknowledged again; how many seconds it was away at most."""
    before = writers.acknowledged
    await until(lambda: writers.acknowledged >= before + WRITES_BEFORE_A_KILL, "writes are acknowledged", BACK_S)
    await asyncio.sleep(chance.uniform(0, 0.05))  # anywhere in the middle of a write
    doomed = set(sessions(kernel)) if victim in ("postgres", "session", "parent") else set[Process]()
    if victim == "session":
        # One that has ended by itself meanwhile is not killed; then another one is.
        await until(lambda: end(chance.choice(sorted(sessions(kernel)))), "a session is killed", BACK_S)
    else:
        kernel.kill(victim)
    killed = time.monotonic()
    if victim == "parent":
        await kernel.start()
        killed = time.monotonic()
    # Until its last session has noticed, the database that was killed still serves; what counts is the next one.
    await until(lambda: not doomed & set(sessions(kernel)), f"sessions are gone after the {victim} was killed", BACK_S)
    before = writers.acknowledged
    await until(
        lambda: writers.acknowledged >= before + WRITERS + 1,  # one each may have been under way
        f"writes are acknowledged again after the {victim} was killed",
        BACK_S,
    )
    away_s = time.monotonic() - killed
    await kernel.until_ready(BACK_S)
    return away_s


@pytest.mark.timeout(1_800)
async def test_no_kill_loses_or_halves_a_write(fresh_kernel: FreshKernel) -> None:
    seed = int(os.environ.get("PK_SEED") or random.randrange(2**32))
    chance, kernel = random.Random(seed), await fresh_kernel()
    away: dict[str, float] = dict.fromkeys(VICTIMS, 0.0)
    totals: Counter[int] = Counter()
    for number in range(KILLS):
        victim = VICTIMS[number % len(VICTIMS)]
        told = f"kill {number + 1} of {KILLS} ({victim}), PK_SEED={seed}"
        tenant = await kernel.sign_up()
        writers = Writers(kernel, tenant)
        running = asyncio.create_task(writers.run())
        try:
            away_s = await kill_and_come_back(kernel, victim, writers, chance)
        finally:
            writers.stop()
            await running
        away[victim] = max(away[victim], away_s)
        found = await read_people(kernel, tenant)
        del found[tenant.owner.email]
        records = await read_records(kernel, tenant)

        assert recorded(found) == records, told
        assert writers.wrong == [], told
        assert judge(writers.people, found) == [], told
        if victim in ("postgres", "valkey", "session"):
            assert writers.unanswered == 0, f"{told}: every request is answered while only a store is away"
        totals += writers.statuses
    print(f"{KILLS} kills, {dict(totals)}; back after at most", {name: f"{s:.2f} s" for name, s in away.items()})
