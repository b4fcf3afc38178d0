"""Valkey as a child server: closed, bounded, and gone without a trace."""

from __future__ import annotations

import asyncio
import os
import signal
import stat
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from redis.asyncio import Redis

from core_plugins.cache.drivers import valkey_server
from core_plugins.cache.drivers.valkey_server import LOG_BYTES_MAX, MEMORY_MIB, ValkeyServer
from host.children import Place, Register, RunningServer
from host.datafolder import DataFolder
from host.privileges import Way, choose_privileges
from plugin_api.servers import StartRefused

LIMIT_S = 30.0
WAYS: list[Way] = ["mapped", "dropped"] if os.geteuid() == 0 else ["same"]


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[DataFolder]:
    opened = DataFolder.open(tmp_path / "pk")
    yield opened
    opened.close()


@pytest.fixture(params=WAYS)
def place(folder: DataFolder, request: pytest.FixtureRequest) -> Iterator[Place]:
    others: frozenset[Way] = frozenset({"mapped", "dropped"})
    made = Place("valkey", folder, choose_privileges(without=others - {request.param}))
    yield made
    made.close()


@asynccontextmanager
async def running(folder: DataFolder, place: Place) -> AsyncIterator[RunningServer]:
    one, register = RunningServer(ValkeyServer(), place), Register(folder)
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
async def client(place: Place) -> AsyncIterator[Redis]:
    connection = Redis.from_url(ValkeyServer().address(place))
    try:
        yield connection
    finally:
        await connection.aclose()


async def test_it_serves_over_its_socket_alone_and_is_bounded(folder: DataFolder, place: Place) -> None:
    assert not await ValkeyServer().is_ready(place)
    async with running(folder, place), client(place) as valkey:
        await valkey.set("key", "value")
        shown = {**await valkey.config_get("port"), **await valkey.config_get("maxmemory*")}

        assert await valkey.get("key") == b"value"
        assert (shown["port"], shown["maxmemory-policy"]) == ("0", "allkeys-lru")
        assert MEMORY_MIB[0] <= int(shown["maxmemory"] or 0) // 1_048_576 <= MEMORY_MIB[1]
        assert stat.S_IMODE((place.run / "valkey.sock").stat().st_mode) == 0o700


async def test_it_starts_empty_over_what_a_kill_left(folder: DataFolder, place: Place) -> None:
    async with running(folder, place) as one, client(place) as valkey:
        await valkey.set("key", "value")
        os.kill(one.pid, signal.SIGKILL)
    assert (place.run / "valkey.sock").is_socket()
    async with running(folder, place), client(place) as valkey:
        assert await valkey.get("key") is None


async def test_nothing_of_it_is_kept_on_disk(folder: DataFolder, place: Place) -> None:
    async with running(folder, place), client(place) as valkey:
        await valkey.set("key", "value")

    assert list(place.folder.iterdir()) == []


async def test_a_long_log_is_put_aside(place: Place) -> None:
    log = place.logs / "valkey.log"
    log.write_bytes(b"x" * (LOG_BYTES_MAX + 1))
    await ValkeyServer().prepare(place)

    assert [path.name for path in place.logs.iterdir()] == ["valkey.old.log"]


async def test_a_missing_wheel_is_told_with_both_ways_out(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(valkey_server, "find_spec", lambda _: None)

    with pytest.raises(StartRefused, match=r"platform-kernel\[embedded\].*--profile server"):
        await ValkeyServer().prepare(place)
