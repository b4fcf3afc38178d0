"""A tenant's transaction (role, signed context, row security) against a plain one with the tenant in its condition.

CPU of both sides counts: ours, and that of every process of the database server.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import asyncpg
from measure import Figure, Side, interleaved

from core_plugins.data.drivers.asyncpg_migrator import AsyncpgMigrator
from core_plugins.data.drivers.postgres_server import PostgresServer
from core_plugins.data.plugin import open_database
from core_plugins.data.settings import Settings
from host.children import Register, Servers
from host.datafolder import DataFolder
from host.migrations import migrate
from host.privileges import choose_privileges

SCHEMA = "x_bench_notes"
TENANTS, NOTES = 20, 200
COUNT, ROUNDS = 1_500, 7
MIGRATION = """-- phase: expand
-- up
create table notes (
  tenant_id uuid not null default pk.tenant_id(), id uuid not null, body text not null, primary key (tenant_id, id));
select pk.protect('notes');
-- down
drop table notes;
"""


class LivePids(Sequence[int]):
    """Our own process and every process of the server, as they are now."""

    def __init__(self, postmaster: int) -> None:
        self._postmaster = postmaster

    def _now(self) -> list[int]:
        children = [int(p.name) for p in Path("/proc").iterdir() if p.name.isdigit() and _parent(p) == self._postmaster]
        return [os.getpid(), self._postmaster, *children]

    def __getitem__(self, index: Any) -> Any:
        return self._now()[index]

    def __len__(self) -> int:
        return len(self._now())


def _parent(process: Path) -> int:
    try:
        return int((process / "stat").read_text().rsplit(")", 1)[1].split()[1])
    except OSError:
        return 0


@asynccontextmanager
async def postgres() -> AsyncIterator[tuple[str, int, Path]]:
    """A server for one figure: its address, the postmaster's pid, a folder beside it."""
    place = Path(tempfile.mkdtemp(prefix="pk-bench-"))
    folder = DataFolder.open(place / "pk")
    servers = Servers(folder, Register(folder), lambda: None)
    await servers.start([PostgresServer()], choose_privileges())
    try:
        yield servers.addresses()["postgres"], servers.pids()["postgres"], place
    finally:
        await servers.stop(5.0)
        folder.close()
        shutil.rmtree(place, ignore_errors=True)


async def figure() -> Figure:
    """The ratio plain / tenant."""
    async with postgres() as (dsn, postmaster, place):
        return await _measure(dsn, postmaster, place)


async def _measure(dsn: str, postmaster: int, place: Path) -> Figure:
    migrator = AsyncpgMigrator(dsn, kernel_version="bench", lock_timeout_ms=3000, statement_timeout_s=30)
    database = await open_database(dsn, migrator, Settings(pool_size=1))
    migrations = place / "migrations"
    migrations.mkdir()
    (migrations / "0001_notes.sql").write_text(MIGRATION)
    await migrate(migrator, "bench.notes", SCHEMA, migrations)
    notes = await _fill(database)
    plain = await asyncpg.connect(dsn)
    pids = LivePids(postmaster)

    async def without(count: int) -> None:
        for number in range(count):
            tenant, note = notes[number % len(notes)]
            async with plain.transaction():
                await plain.fetch(f"select body from {SCHEMA}.notes where tenant_id = $1 and id = $2", tenant, note)

    async def within(count: int) -> None:
        for number in range(count):
            tenant, note = notes[number % len(notes)]
            tx = await database.begin(SCHEMA, tenant, deadline=time.monotonic() + 5)
            await tx.fetch("select body from notes where id = $1", note)
            await tx.commit()

    try:
        usual, ours = await interleaved([Side(pids, without), Side(pids, within)], count=COUNT, rounds=ROUNDS)
    finally:
        await plain.close()
        await database.close()
    ratios = [u / o for u, o in zip(usual, ours, strict=True)]
    return Figure(
        "transaction", ratios, 0.85, "asyncpg transaction with a tenant predicate / ours; client and server CPU"
    )


async def _fill(database: Any) -> list[tuple[UUID, UUID]]:
    made: list[tuple[UUID, UUID]] = []
    for tenant in [uuid4() for _ in range(TENANTS)]:
        tx = await database.begin(SCHEMA, tenant, deadline=time.monotonic() + 30)
        for number in range(NOTES):
            note = uuid4()
            await tx.execute("insert into notes (id, body) values ($1, $2)", note, f"note {number}")
            made.append((tenant, note))
        await tx.commit()
    return made
