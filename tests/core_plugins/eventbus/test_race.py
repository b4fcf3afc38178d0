"""The race: writers, two relays and two readers in processes of their own, and kill -9 of any of them and of PostgreSQL.

Nothing lost, nothing doubled, nothing reordered, no gap; and the same judge finds what is wrong with the two usual shortcuts.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from random import Random
from uuid import UUID, uuid4

import asyncpg
import pytest

from host.migrations import migrate
from plugin_api.errors import KernelError
from plugin_api.events import Event
from plugin_api.ports.migrations import MIGRATOR
from plugin_api.testing.waiting import until
from tests.core_plugins.eventbus.checker import Effect, Verdict, gaps, judge

EVENTS = 1_000_000 if os.environ.get("PK_SOAK") else 10_000
WRITERS = 8
ENTITIES = 60
KILL_EVERY_S = 2.0
PROGRAM = Path(__file__).parent / "programs" / "reader.py"
EFFECTS = """-- phase: expand
-- up
create table effects (
  tenant_id uuid not null default pk.tenant_id(),
  nr bigint generated always as identity,
  event_id uuid not null,
  subject text not null,
  sequence bigint not null,
  primary key (tenant_id, nr));
select pk.protect('effects');
-- down
drop table effects;
"""


class Reader:
    """One process that relays and reads; started again when it was killed."""

    def __init__(self, bus, member: int) -> None:
        self._words = [sys.executable, str(PROGRAM), bus.dsn, str(bus.kernel.data_folder), str(member)]
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
        self._process = await asyncio.create_subprocess_exec(
            *self._words, env=environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
        )
        stdout = self._process.stdout
        assert stdout is not None
        async with asyncio.timeout(60):
            while b"ready" not in await stdout.readline():
                if stdout.at_eof():
                    await self.start()
                    return

    async def kill(self) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()


@pytest.fixture
async def readers(bus, tmp_path) -> AsyncIterator[list[Reader]]:
    folder = tmp_path / "more"
    folder.mkdir()
    (folder / "0002_effects.sql").write_text(EFFECTS)
    (folder / "0001_notes.sql").write_text((tmp_path / "notes" / "0001_notes.sql").read_text())
    await migrate(bus.kernel.require(MIGRATOR), "acme.notes", "x_acme_notes", folder)
    made = [Reader(bus, 1), Reader(bus, 2)]
    await asyncio.gather(*(reader.start() for reader in made))
    yield made
    for reader in made:
        await reader.kill()


async def write(bus, tenants: list[UUID], seed: int, enough: Callable[[int], bool]) -> None:
    """Tell one to three facts a transaction, with a row for each, until there are enough; errors are what kills leave."""
    dice = Random(seed)
    while not enough(0):
        events = [Event("note.added.v1", f"e{dice.randrange(ENTITIES)}", {}) for _ in range(dice.randint(1, 3))]
        try:
            async with bus.calls.open(dice.choice(tenants), "race") as call:
                tx = await call.tx()
                for event in events:
                    await tx.execute(
                        "insert into notes (id, body) values ($1, $2)", event.id, f"{event.subject} {event.id}"
                    )
                    tx.emit(event)
            enough(len(events))
        except KernelError:
            await asyncio.sleep(0.05)


async def reap(readers: list[Reader], postgres_pid: Callable[[], int], is_over: Callable[[], bool]) -> int:
    """Kill somebody every few seconds; how many were killed."""
    dice, killed = Random(7), 0
    while not is_over():
        await asyncio.sleep(KILL_EVERY_S)
        victim = dice.choice([*readers, None])
        if victim is None:
            os.kill(postgres_pid(), signal.SIGKILL)
        else:
            await victim.kill()
            await victim.start()
        killed += 1
    return killed


@pytest.mark.timeout(20_000 if EVENTS > 10_000 else 280)
async def test_nothing_is_lost_doubled_or_reordered(bus, readers, postgres_pid) -> None:
    tenants, written = [uuid4(), uuid4()], 0

    def enough(more: int) -> bool:
        nonlocal written
        written += more
        return written >= EVENTS

    reaping = asyncio.create_task(reap(readers, postgres_pid, lambda: enough(0)))
    await asyncio.gather(*(write(bus, tenants, seed, enough) for seed in range(WRITERS)))
    killed = await reaping

    async def is_done() -> bool:
        try:
            (row,) = await bus.query(
                "select (select count(*) from x_acme_notes.notes) as told, (select count(*) from x_acme_notes.effects) as had"
            )
        except (asyncpg.PostgresError, OSError):
            return False
        return row["had"] >= row["told"]

    await until(is_done, "every event has had its effect", 120 + EVENTS / 100)
    log = await bus.query(
        'select id, tenant_id, subject, sequence, topic, partition, "offset", position from eventbus.log'
    )
    notes = await bus.query("select id from x_acme_notes.notes")
    effects = await bus.query("select tenant_id, subject, sequence from x_acme_notes.effects order by nr")
    told = [Effect((row["tenant_id"], row["subject"]), row["sequence"]) for row in log]
    had = [Effect((row["tenant_id"], row["subject"]), row["sequence"]) for row in effects]

    assert killed >= 3
    assert {row["id"] for row in log} == {row["id"] for row in notes}, "one event for each row, one row for each event"
    assert judge(told, had) == Verdict(0, 0, 0)
    assert gaps(((row["topic"], row["partition"]), row["offset"]) for row in log) == 0
    assert gaps([("log", row["position"] - 1) for row in log]) == 0
    assert gaps([(effect.entity, effect.sequence - 1) for effect in told]) == 0, "numbers of an entity have no gap"


# -------------------------------------------------------------------------------------- the usual shortcuts

NAIVE = """create table told (pos bigint generated always as identity primary key, xid xid8 default pg_current_xact_id(),
  entity int not null, sequence bigint not null);
create table counted (entity int primary key, sequence bigint not null);
insert into counted select n, 0 from generate_series(0, 9) n"""
TELL = """with n as (update counted set sequence = sequence + 1 where entity = $1 returning *)
insert into told (entity, sequence) select entity, sequence from n returning sequence"""
BY_POSITION = "select pos, xid::text::bigint as xid, entity, sequence from told where pos > $1 order by pos"
BY_TRANSACTION = """select pos, xid::text::bigint as xid, entity, sequence from told
where (xid::text::bigint, pos) > ($1, $2) and xid < pg_snapshot_xmin(pg_current_snapshot()) order by xid, pos"""


async def naive_writer(dsn: str, seed: int, told: list[Effect]) -> None:
    """Tells of one or two entities a transaction, and lingers before the commit."""
    dice, connection = Random(seed), await asyncpg.connect(dsn)
    for _ in range(60):
        async with connection.transaction():
            entities = sorted(dice.sample(range(10), dice.randint(1, 2)))
            numbers = []
            for entity in entities:
                numbers.append(Effect(entity, await connection.fetchval(TELL, entity)))
                await asyncio.sleep(dice.random() * 0.01)
        told.extend(numbers)
    await connection.close()


async def naive_race(dsn: str, by_position: bool) -> Verdict:
    connection = await asyncpg.connect(dsn)
    await connection.execute(NAIVE)
    told: list[Effect] = []
    seen: list[Effect] = []
    writing = asyncio.gather(*(naive_writer(dsn, seed, told) for seed in range(8)))
    xid = pos = 0
    is_last = False
    while not is_last:
        is_last = writing.done()
        rows = await (connection.fetch(BY_POSITION, pos) if by_position else connection.fetch(BY_TRANSACTION, xid, pos))
        for row in rows:
            seen.append(Effect(row["entity"], row["sequence"]))
            xid, pos = row["xid"], row["pos"]
    await writing
    await connection.close()
    return judge(told, seen)


async def test_the_judge_finds_what_a_cursor_on_the_identity_column_loses(make_database) -> None:
    assert (await naive_race(await make_database(), by_position=True)).lost > 0


async def test_the_judge_finds_what_an_order_by_transactions_inverts(make_database) -> None:
    assert (await naive_race(await make_database(), by_position=False)).inverted > 0
