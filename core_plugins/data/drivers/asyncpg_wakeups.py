"""The port `Wakeups`, by LISTEN and NOTIFY on one connection of the process, outside every transaction of a plugin.

NOTIFY inside a business transaction would serialise all commits of the database; here many wake-ups become one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Final

import asyncpg

from core_plugins.data import storage
from core_plugins.data.drivers.asyncpg_pool import Link
from core_plugins.data.drivers.asyncpg_types import Connection
from plugin_api.errors import StoreUnavailable
from plugin_api.registrar import Logger

CHANNEL: Final = "pk_wakeups"
CONNECT_S: Final = 5.0
ANSWER_S: Final = 5.0
PAUSE_S: Final = 0.05
"""Between two notifications: what rings meanwhile becomes one. The first goes at once; each costs half a business write."""
AGAIN_S: Final = 0.5
AGAIN_S_MAX: Final = 10.0
_FAILURES: Final = (StoreUnavailable, asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError)


async def _closed(_: float) -> Link:
    raise StoreUnavailable("the database is not open in this process")


class AsyncpgBell:
    """The port `Bell`."""

    def __init__(self, name: str, forget: Callable[[AsyncpgBell], None]) -> None:
        self.name = name
        self.is_only = False
        self.rung = asyncio.Event()
        self._forget = forget

    async def wait(self, at_most_s: float) -> None:
        """Return at the next wake-up; see the port."""
        with suppress(TimeoutError):
            async with asyncio.timeout(at_most_s):
                await self.rung.wait()
        self.rung.clear()

    def close(self) -> None:
        """Hear no more."""
        self._forget(self)


class AsyncpgWakeups:
    """The port `Wakeups`; `run` keeps its connection. Without one only bells of this process ring."""

    def __init__(self, log: Logger) -> None:
        self.connect: Callable[[float], Awaitable[Link]] = _closed
        """Makes its connection; set when the database is open."""
        self._log = log
        self._bells: set[AsyncpgBell] = set()
        self._to_ring: set[str] = set()
        self._has_some = asyncio.Event()

    def ring(self, name: str) -> None:
        """Ring here at once, elsewhere soon; see the port."""
        if not self._heard(name):
            self._to_ring.add(name)
            self._has_some.set()

    def bell(self, name: str) -> AsyncpgBell:
        """Make a bell; see the port."""
        bell = AsyncpgBell(name, self._bells.discard)
        self._bells.add(bell)
        return bell

    async def run(self) -> None:
        """Keep a connection that listens, and notify what is to ring elsewhere. Never ends by itself."""
        pause_s = AGAIN_S
        while True:
            try:
                link = await self.connect(CONNECT_S)
            except _FAILURES as error:
                self._log.warning("wake-ups of other processes are not heard", why=type(error).__name__)
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, AGAIN_S_MAX)
                continue
            pause_s = AGAIN_S
            with suppress(*_FAILURES):
                await self._serve(link)

    async def _serve(self, link: Link) -> None:
        connection = link.connection
        connection.add_termination_listener(lambda _: self._has_some.set())
        try:
            await connection.execute(storage.WAIT_FOR_NO_DISK)
            await connection.add_listener(CHANNEL, partial(self._notified, connection.get_server_pid()))
            self._ring_all()  # what was missed while there was no connection
            while not connection.is_closed():
                await self._has_some.wait()
                await self._notify(connection)
                await asyncio.sleep(PAUSE_S)
        finally:
            connection.terminate()

    async def _notify(self, connection: Connection) -> None:
        names, self._to_ring = sorted(self._to_ring), set()
        self._has_some.clear()
        if names and not connection.is_closed():
            async with asyncio.timeout(ANSWER_S):
                await connection.execute(storage.NOTIFY, CHANNEL, names)

    def _notified(self, ours: int, _: object, pid: int, __: str, name: object) -> None:
        if pid != ours:  # ours have rung already
            self._heard(str(name))

    def _heard(self, name: str) -> bool:
        """Ring the bells of this process; whether one of them is the only one that matters."""
        mine = [bell for bell in self._bells if bell.name == name]
        for bell in mine:
            bell.rung.set()
        return any(bell.is_only for bell in mine)

    def _ring_all(self) -> None:
        for bell in self._bells:
            bell.rung.set()
