"""What tests of several areas share: real servers for the whole run, and databases that last for a test.

The servers are those of the embedded profile, watched as in a kernel: one that a test kills comes back by itself.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import asyncpg
import pytest

from core_plugins.cache.drivers.valkey_server import ValkeyServer
from core_plugins.data.drivers.postgres_server import PostgresServer
from host.children import Register, Servers
from host.datafolder import DataFolder
from host.privileges import choose_privileges
from plugin_api.servers import ChildServer

LIMIT_S = 60.0
STOP_LIMIT_S = 10.0
T = TypeVar("T")


class ServerThread:
    """One server under its keeper, in a thread so that it outlives the event loops of single tests."""

    def __init__(self, server: ChildServer, folder: Path) -> None:
        self.server = server
        self._folder = DataFolder.open(folder)
        self._servers = Servers(self._folder, Register(self._folder), lambda: None)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(LIMIT_S)

    def pid(self) -> int:
        """The pid of the server that runs now."""
        return self._servers.pids()[self.server.name]

    def address(self) -> str:
        """What its clients need."""
        return self._servers.addresses()[self.server.name]

    @contextmanager
    def running(self) -> Iterator[None]:
        """Start it; end it and the thread afterwards."""
        try:
            self._run(self._servers.start([self.server], choose_privileges()))
            yield
        finally:
            self._run(self._servers.stop(STOP_LIMIT_S))
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(LIMIT_S)
            self._loop.close()
            self._folder.close()


@pytest.fixture(scope="session")
def valkey_thread(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerThread]:
    server = ServerThread(ValkeyServer(), tmp_path_factory.mktemp("valkey") / "pk")
    with server.running():
        yield server


@pytest.fixture
def valkey_url(valkey_thread: ServerThread) -> str:
    """The address of a Valkey for the whole run."""
    return valkey_thread.address()


@pytest.fixture
def valkey_pid(valkey_thread: ServerThread) -> Callable[[], int]:
    """Tells its pid; another one after it was killed."""
    return valkey_thread.pid


@pytest.fixture(scope="session")
def postgres_thread(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerThread]:
    server = ServerThread(PostgresServer(), tmp_path_factory.mktemp("postgres") / "pk")
    with server.running():
        yield server


@pytest.fixture
def postgres_pid(postgres_thread: ServerThread) -> Callable[[], int]:
    """Tells the pid of the PostgreSQL for the whole run; another one after it was killed."""
    return postgres_thread.pid


_numbers = itertools.count(1)


@pytest.fixture
async def make_database(postgres_thread: ServerThread) -> AsyncIterator[Callable[[], Awaitable[str]]]:
    """Makes empty databases; their addresses have the administrator's log-in. They are gone after the test."""
    made: list[str] = []

    async def administer(sql: str) -> None:
        connection = await asyncpg.connect(postgres_thread.address())
        try:
            await connection.execute(sql)
        finally:
            await connection.close()

    async def make() -> str:
        name = f"scratch_{next(_numbers)}"
        await administer(f"create database {name}")
        made.append(name)
        return postgres_thread.address().replace("/postgres?", f"/{name}?")

    yield make
    for name in made:
        await administer(f"drop database if exists {name} with (force)")
