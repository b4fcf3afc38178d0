"""Kills under keyed writes: each key has one effect, one event and one record, and its answer is the same for ever.

Six writers send pledges under keys of their own to two workers and repeat what is not answered, while a worker, the parent of all
and PostgreSQL are killed in turn. 50 kills, or 1000 with PK_SOAK=1; PK_SEED repeats the moments of an earlier run.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from plugin_api.testing import Answer, KernelProcess, Tenant, Unreachable, unique, until
from plugin_api.testing.plugin import FreshKernel
from tests.plugins.conftest import Pk, Plant

KILLS = 1_000 if os.environ.get("PK_SOAK") else 50
VICTIMS = (
    "postgres",
    "worker0",
    "postgres",
    "postgres",
    "worker1",
    "postgres",
    "postgres",
    "worker0",
    "postgres",
    "parent",
)
"""After each round of them all is judged. PostgreSQL is back soonest."""
WRITERS = 6
WRITES_BEFORE_A_KILL = 8
BACK_S = 20.0
REFUSED = (429, 503, 504)

PLEDGES = """-- phase: expand
-- up
create table pledges (tenant_id uuid not null default pk.tenant_id(), id uuid not null, word text not null,
  primary key (tenant_id, id));
select pk.protect('pledges');
-- down
drop table pledges;
"""
MORE = '''
    @operation("POST /pledges", permission="word.read", status=201, idempotency="required")
    async def pledge(self, call: Call, request: Word) -> Pledge:
        """Keep a word; nothing but the key keeps it from being kept twice."""
        tx, pledge_id = await call.tx(), uuid4()
        await tx.execute("insert into pledges (id, word) values ($1, $2)", pledge_id, request.word)
        tx.emit(Event("word.pledged.v1", request.word, {"word": request.word}))
        return Pledge(id=pledge_id, word=request.word, serial=secrets.token_hex(16))
'''
TOP = """import secrets
from uuid import UUID, uuid4
from plugin_api import Event

class Word(Struct, frozen=True, forbid_unknown_fields=True):
    word: str

class Pledge(Struct, frozen=True):
    id: UUID
    word: str
    serial: str
    version: int = 1
"""
MANIFEST = 'requires = ["data >=1"]\n[events]\nemits = ["word.pledged.v1"]\n'
COUNTS = {
    "effects": "select word as key, count(*) as n from {schema}.pledges where tenant_id = $1 group by word",
    "events": """select subject as key, count(*) as n from (select subject from pk.outbox where tenant_id = $1
        union all select subject from eventbus.log where tenant_id = $1 and type like 'acme.%.word.pledged.v1') told group by 1""",
    "records": """select right(target, 36) as key, count(*) as n from pk.record
        where tenant_id = $1 and plugin like 'acme.%' group by 1""",
}


@dataclass
class Writers:
    """What was sent under which key, and each answer that came."""

    kernel: KernelProcess
    tenant: Tenant
    path: str
    answers: dict[str, list[Answer]] = field(default_factory=dict)
    acknowledged: int = 0
    wrong: list[str] = field(default_factory=list)
    _stopping: bool = False

    async def run(self) -> None:
        """All writers, until `stop`."""
        await asyncio.gather(*(self._write() for _ in range(WRITERS)))

    def stop(self) -> None:
        """Let each end the write that it is at."""
        self._stopping = True

    async def _write(self) -> None:
        while not self._stopping:
            key = unique("k")
            self.answers[key] = []
            for _ in range(random.choice((1, 1, 2))):  # some are repeated at once, as an impatient client would
                await self.send(key)
            await asyncio.sleep(0.02)  # as much as matters: each key is asked for again in the end

    async def send(self, key: str) -> bool:
        """Send one write; whether it was acknowledged."""
        client = self.kernel.client(self.tenant.owner.token, self.tenant.owner.source_address)
        try:
            answer = await client.post(self.path, {"word": key}, headers={"Idempotency-Key": key})
        except Unreachable:
            await asyncio.sleep(0.02)
            return False
        if answer.status == 201:
            self.answers[key].append(answer)
            self.acknowledged += 1
            return True
        if answer.status not in REFUSED:
            self.wrong.append(str(answer))
        await asyncio.sleep(0.05)
        return False

    async def replay_all(self) -> None:
        """Send every key again until it is acknowledged."""
        places = asyncio.Semaphore(WRITERS)

        async def replay(key: str) -> None:
            async with places:
                await until(lambda: self.send(key), f"the write with the key {key} is acknowledged", BACK_S)

        await asyncio.gather(*map(replay, self.answers))


def judge(
    answers: Mapping[str, list[bytes]], counts: Mapping[str, Mapping[str, int]], ids: Mapping[str, str]
) -> list[str]:
    """What is not exactly once. `ids` are those that the answers name, under which the records are counted."""
    wrong = [
        f"{key} was answered in {len(set(bodies))} ways" for key, bodies in answers.items() if len(set(bodies)) != 1
    ]
    names = {"effects": {key: key for key in answers}, "events": {key: key for key in answers}, "records": ids}
    for kind, found in counts.items():
        wanted = {names[kind].get(key, key): 1 for key in answers}
        if dict(found) != wanted:
            odd = {key: n for key, n in {**dict.fromkeys(wanted, 0), **found}.items() if n != wanted.get(key, 0)}
            wrong.append(f"{kind}: {len(odd)} keys without exactly one, {sorted(odd.items())[:3]}")
    return wrong


async def counted(kernel: KernelProcess, tenant: Tenant, schema: str) -> dict[str, dict[str, int]]:
    """How often each key has had its effect, its event and its record, in the tenant."""
    place = kernel.data_dir / "run" / "postgres"
    connection = await asyncpg.connect(f"postgresql://kernel@/postgres?host={place}&port=5432")
    try:
        found: dict[str, dict[str, int]] = {}
        for kind, sql in COUNTS.items():
            rows = await connection.fetch(sql.format(schema=schema), UUID(tenant.id))
            found[kind] = {row["key"]: row["n"] for row in rows}
        return found
    finally:
        await connection.close()


async def kill_amid(kernel: KernelProcess, victim: str, writers: Writers, chance: random.Random) -> None:
    """Kill one process in the middle of writes, and see writes acknowledged again."""
    before = writers.acknowledged
    await until(
        lambda: writers.acknowledged >= before + WRITES_BEFORE_A_KILL and victim in kernel.pids(),
        f"writes are acknowledged and {victim} is there",
        BACK_S,
    )
    await asyncio.sleep(chance.uniform(0, 0.03))
    kernel.kill(victim)
    if victim == "parent":
        await kernel.start()
    before = writers.acknowledged
    await until(lambda: writers.acknowledged >= before + WRITERS + 1, f"writes go on after {victim}", BACK_S)


@pytest.mark.timeout(3_600)
async def test_each_key_has_one_effect_whatever_is_killed(
    fresh_kernel: FreshKernel, pk: Pk, plant: Plant, tmp_path: Path
) -> None:
    seed = int(os.environ.get("PK_SEED") or random.randrange(2**32))
    chance, kernel = random.Random(seed), await fresh_kernel("--workers", "2")
    recipe = plant("once", manifest=MANIFEST, files={"migrations/0001_p.sql": PLEDGES}, operations_top=TOP, more=MORE)
    await pk(kernel, "plugins", "install", recipe.wheel(tmp_path))
    schema, totals = f"x_{recipe.plugin_id.replace('.', '_')}", Counter[str]()
    for number in range(0, KILLS, len(VICTIMS)):
        tenant = await kernel.sign_up()
        writers = Writers(kernel, tenant, f"/api/v1/x/{recipe.plugin_id}/pledges")
        running = asyncio.create_task(writers.run())
        told = f"kills {number + 1} to {number + len(VICTIMS)} of {KILLS}, PK_SEED={seed}"
        try:
            for victim in VICTIMS:
                await kill_amid(kernel, victim, writers, chance)
                await kernel.until_ready(BACK_S)
        finally:
            writers.stop()
            await running
        await writers.replay_all()

        assert writers.wrong == [], told
        bodies = {key: [answer.body for answer in answers] for key, answers in writers.answers.items()}
        ids = {key: str(answers[0]["id"]) for key, answers in writers.answers.items() if answers}
        assert judge(bodies, await counted(kernel, tenant, schema), ids) == [], told
        totals.update(keys=len(bodies), answers=sum(map(len, bodies.values())))
    print(f"{KILLS} kills, {dict(totals)}")


# ------------------------------------------------------------------------------------------------ the judge

KEYS = ("a", "b")
WELL: dict[str, Any] = {
    "answers": {key: [b"1" + key.encode()] * 2 for key in KEYS},
    "counts": {"effects": {"a": 1, "b": 1}, "events": {"a": 1, "b": 1}, "records": {"ida": 1, "idb": 1}},
    "ids": {"a": "ida", "b": "idb"},
}


def test_the_judge_lets_what_is_well_pass() -> None:
    assert judge(**WELL) == []


@pytest.mark.parametrize("kind", ["effects", "events", "records"])
@pytest.mark.parametrize("change", ["doubled", "lost", "foreign"])
def test_the_judge_finds_what_is_doubled_lost_or_foreign(kind: str, change: str) -> None:
    key = "ida" if kind == "records" else "a"
    found = dict(WELL["counts"][kind])
    if change == "lost":
        del found[key]
    else:
        found["zzz" if change == "foreign" else key] = 2
    (wrong,) = judge(WELL["answers"], {**WELL["counts"], kind: found}, WELL["ids"])
    assert wrong.startswith(f"{kind}: 1 keys")


@pytest.mark.parametrize("bodies", [[b"1a", b"2a"], []], ids=["other", "none"])
def test_the_judge_finds_another_answer_and_none(bodies: list[bytes]) -> None:
    assert judge({**WELL["answers"], "a": bodies}, WELL["counts"], WELL["ids"])[0].startswith("a was answered in")


async def test_the_judge_fails_a_twin_that_forgets_its_keys(
    fresh_kernel: FreshKernel, pk: Pk, plant: Plant, tmp_path: Path
) -> None:
    """The same plugin, which says that it takes no keys: what is repeated is done twice, and the judge sees it."""
    kernel = await fresh_kernel()
    forgetful = MORE.replace('"required"', '"none"')
    recipe = plant(
        "twin", manifest=MANIFEST, files={"migrations/0001_p.sql": PLEDGES}, operations_top=TOP, more=forgetful
    )
    await pk(kernel, "plugins", "install", recipe.wheel(tmp_path))
    tenant = await kernel.sign_up()
    writers = Writers(kernel, tenant, f"/api/v1/x/{recipe.plugin_id}/pledges", {"a" * 8: []})
    for _ in range(2):
        assert await writers.send("a" * 8)
    bodies = {key: [answer.body for answer in answers] for key, answers in writers.answers.items()}
    ids = {key: str(answers[0]["id"]) for key, answers in writers.answers.items()}
    counts = await counted(kernel, tenant, f"x_{recipe.plugin_id.replace('.', '_')}")

    assert len(judge(bodies, counts, ids)) == 4
