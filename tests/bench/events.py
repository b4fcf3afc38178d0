"""What telling costs a business write, what the relay costs an event, and how long an event takes to its consumer."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
from database import LivePids, postgres
from measure import Figure, Side, interleaved

from host.generations import Generation
from host.kernel import Kernel, Place
from host.migrations import migrate
from host.runtime import PluginCalls
from host.stamps import FileStamps, create_stamps
from host.startup import Startup
from plugin_api.call import Call
from plugin_api.events import Event, EventEnvelope
from plugin_api.manifest import names_of, read_manifest
from plugin_api.ports.event_log import EVENT_LOG, Reaction
from plugin_api.ports.migrations import MIGRATOR

COUNT, ROUNDS, BATCH = 400, 7, 500
POLL_S = 0.5
MANIFEST = """id = "bench.notes"
version = "1.0.0"
api = ">=1.0,<2"
summary = "Notes"
requires = ["data", "eventbus"]
[events]
emits = ["note.changed.v1"]
"""
MIGRATION = """-- phase: expand
-- up
create table notes (
  tenant_id uuid not null default pk.tenant_id(), id uuid not null, body text not null, version bigint not null default 1,
  primary key (tenant_id, id));
create table history (
  tenant_id uuid not null default pk.tenant_id(), id uuid not null, note_id uuid not null, body text not null,
  primary key (tenant_id, id));
select pk.protect('notes'), pk.protect('history');
-- down
drop table history, notes;
"""


@dataclass
class Bench:
    """A kernel of this process, and a plugin that writes notes and tells of it."""

    kernel: Kernel
    calls: PluginCalls
    dsn: str
    pids: LivePids
    tenant: Any
    notes: list[Any]

    async def write(self, number: int, *, tells: bool) -> None:
        """What an operation usually does: lock, change, keep what was; and tell of it."""
        note = self.notes[number % len(self.notes)]
        async with self.calls.open(self.tenant, "write") as call:
            tx = await call.tx()
            row = await tx.fetch_one("select body, version from notes where id = $1 for update", note)
            await tx.execute("update notes set body = $2, version = version + 1 where id = $1", note, f"text {number}")
            await tx.execute("insert into history (id, note_id, body) values ($1, $2, $3)", uuid4(), note, row["body"])  # type: ignore[index]
            if tells:
                tx.emit(Event("note.changed.v1", str(note), {"words": number, "author": "ada"}))


@asynccontextmanager
async def bench(*only: str) -> AsyncIterator[Bench]:
    """With these plugins."""
    async with postgres() as (dsn, postmaster, place):
        folder = place / "kernel"
        for part in (folder, folder / "secrets", folder / "run", place / "sql"):
            part.mkdir(mode=0o700)
        create_stamps(folder / "run" / "stamps")
        stamps = FileStamps(folder / "run" / "stamps")
        kernel = Kernel(Place(folder, "embedded", 0, {"postgres": dsn}), stamps, b"k" * 32, lambda text: None)
        startup = Startup(
            kernel, list(only), {"data.pool_size": 8, **({"eventbus.poll_s": POLL_S} if len(only) > 1 else {})}
        )
        await startup.run()
        try:
            yield await _filled(kernel, dsn, LivePids(postmaster), place / "sql")
        finally:
            await startup.stop()


async def _filled(kernel: Kernel, dsn: str, pids: LivePids, folder: Path) -> Bench:
    (folder / "0001_notes.sql").write_text(MIGRATION)
    await migrate(kernel.require(MIGRATOR), "bench.notes", "x_bench_notes", folder)
    generation = Generation(
        "bench.notes", 1, read_manifest(MANIFEST, "manifest.toml"), names_of("bench.notes"), object()
    )
    made = Bench(kernel, PluginCalls(kernel.runtime(generation)), dsn, pids, uuid4(), [uuid4() for _ in range(200)])
    async with made.calls.open(made.tenant, "fill") as call:
        tx = await call.tx()
        for note in made.notes:
            await tx.execute("insert into notes (id, body) values ($1, 'text')", note)
    return made


async def outbox() -> Figure:
    """A business write without / with an event; client and server, the relay not counted."""
    async with bench("data") as made:

        async def silent(count: int) -> None:
            for number in range(count):
                await made.write(number, tells=False)

        async def telling(count: int) -> None:
            for number in range(count):
                await made.write(number, tells=True)

        without, within = await interleaved(
            [Side(made.pids, silent), Side(made.pids, telling)], count=COUNT, rounds=ROUNDS
        )
    ratios = [a / b for a, b in zip(without, within, strict=True)]
    return Figure("event_write", ratios, 0.8, "a business write of three statements without / with an event")


async def relay() -> Figure:
    """An awaited insert of one row / one event moved by the relay, in batches of 500."""
    async with bench("data") as made:
        plain = await asyncpg.connect(made.dsn)
        await _with_log(made)
        await _tell_many(made, BATCH)
        await _relay_batch(made)
        await plain.execute(SINGLE)
        event, sql = await _insert_of_one(plain)
        positions = itertools.count(1)

        async def one_by_one(count: int) -> None:
            for _ in range(count):
                await plain.execute(sql, *event, next(positions))

        async def moved(count: int) -> None:
            for _ in range(count // BATCH):
                await _relay_batch(made)

        ratios = []
        for number in range(ROUNDS + 1):
            await _tell_many(made, BATCH)
            sides = [one_by_one, moved] if number % 2 else [moved, one_by_one]
            took = {side: await _wall_s(side) for side in sides}
            if number:
                ratios.append(took[one_by_one] / took[moved])
        await plain.close()
    return Figure(
        "event_relay",
        ratios,
        20.0,
        "wall time: an awaited insert of an event into such a log / one in a relayed batch of 500",
    )


SINGLE = "create table public.single (like eventbus.log including all)"


async def _insert_of_one(plain: asyncpg.Connection[Any]) -> tuple[list[Any], str]:
    """An event as the log has it, and the statement that inserts it at another position into a table of the same shape."""
    (row,) = await plain.fetch("select * from eventbus.log limit 1")
    columns = [name for name in row.keys() if name != "position"]  # noqa: SIM118 - a record is not its keys
    names, marks = ", ".join(f'"{name}"' for name in columns), ", ".join(f"${n + 1}" for n in range(len(columns)))
    return [row[name] for name in columns], (
        f"insert into public.single ({names}, position) values ({marks}, ${len(columns) + 1})"
    )


async def _wall_s(work: Callable[[int], Awaitable[None]]) -> float:
    begun = time.monotonic()
    await work(BATCH)
    return time.monotonic() - begun


async def _with_log(made: Bench) -> None:
    folder = Path(__file__).parents[2] / "core_plugins" / "eventbus" / "migrations"
    await migrate(made.kernel.require(MIGRATOR), "kernel.eventbus", "eventbus", folder)
    bus = Generation("kernel.eventbus", 1, read_manifest(BUS, "manifest.toml"), names_of("kernel.eventbus"), object())
    async with PluginCalls(made.kernel.runtime(bus)).open(None, "lead") as call, call.system_tx("lead") as tx:
        await tx.fetch("select * from pk.take_leases(array['eventbus:relay'], 'bench', 3600, 1)")


BUS = """id = "kernel.eventbus"
version = "1.0.0"
api = ">=1.0,<2"
summary = "Events"
"""


async def _relay_batch(made: Bench) -> None:
    bus = Generation("kernel.eventbus", 1, read_manifest(BUS, "manifest.toml"), names_of("kernel.eventbus"), object())
    async with PluginCalls(made.kernel.runtime(bus)).open(None, "relay") as call, call.system_tx("relay") as tx:
        row = await tx.fetch_one("select relay(1, $1) as moved", BATCH)
    assert row is not None
    assert row["moved"] == BATCH, f"{row['moved']} events were there"


async def _tell_many(made: Bench, number: int) -> None:
    for begin in range(0, number, BATCH):
        async with made.calls.open(made.tenant, "tell") as call:
            tx = await call.tx()
            for n in range(begin, begin + BATCH):
                tx.emit(Event("note.changed.v1", str(made.notes[n % 200]), {"words": n, "author": "ada"}))


async def latency() -> Figure:
    """From the commit's answer to the consumer's method, one event at a time, against the interval of polling."""
    waits: list[float] = []
    came = asyncio.Event()

    async def hear(call: Call, event: EventEnvelope) -> None:
        waits.append(time.monotonic())
        came.set()

    async with bench("data", "eventbus") as made:
        reaction = Reaction(
            "bench.notes.hear", "0", frozenset(["bench.notes.note.changed.v1"]),
            made.calls.continued, hear,
        )  # fmt: skip
        await made.kernel.require(EVENT_LOG).join(reaction.consumer, reaction.types)
        reading = asyncio.create_task(made.kernel.require(EVENT_LOG).consume(reaction))
        took: list[float] = []
        for number in range(200):
            came.clear()
            await made.write(number, tells=True)
            told = time.monotonic()
            async with asyncio.timeout(30):
                await came.wait()
            took.append(max(0.0, waits[-1] - told))
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
    took.sort()
    reference = (
        f"commit -> consumer / poll interval {POLL_S:g} s; p50 {took[100] * 1e3:.1f} ms, p99 {took[198] * 1e3:.1f} ms"
    )
    return Figure("event_latency", [one / POLL_S for one in took], 0.5, reference, at_least=False)
