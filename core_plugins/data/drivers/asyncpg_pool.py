"""A bounded pool of connections that never hands on what a former borrower left.

asyncpg's own pool sends a reset after each use (a round trip of its own) and hands out wrapped connections; ours is bound by
deadlines, retires connections, and throws away each one whose state is not known for sure.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final

import asyncpg

from core_plugins.data.drivers.asyncpg_errors import is_away
from core_plugins.data.drivers.asyncpg_types import Connection, Statement, state_of
from plugin_api.errors import KernelBug, StoreUnavailable

WAITERS_MAX: Final = 1_024
"""Calls that may wait for a connection at once; a further one is told at once that the store is unavailable."""
BURIAL_S: Final = 1.0
"""How long the server gets to end what a cancelled call was doing before its connection is torn down."""
OVERDUE_S: Final = 0.5
"""How long after its deadline a borrower may keep a connection: the server ends statements at the deadline itself, so
whoever is later waits for a server that does not answer."""
SWEEP_S: Final = 0.25


class LoginRefused(KernelBug):
    """The server is there and does not let `pk_app` in; `code` is the SQL state."""


class Link:
    """One connection with what must be known about it."""

    __slots__ = (
        "clock_offset_s",
        "connection",
        "deadline",
        "epoch",
        "is_discreet",
        "statements",
        "take_turn",
        "turn",
        "turns_left",
        "used",
    )

    def __init__(
        self,
        connection: Connection,
        *,
        turn: int,
        turns: int,
        take_turn: str,
        clock_offset_s: float,
        is_discreet: bool,
    ) -> None:
        self.connection = connection
        self.is_discreet = is_discreet
        """Whether the server keeps the texts of statements that fail out of its log, so that they may hold data."""
        self.turn = turn
        """The session's value of the sequence `pk.turn`."""
        self.turns_left = turns
        self.take_turn = take_turn
        """The statement that moves `pk.turn` on by one."""
        self.clock_offset_s = clock_offset_s
        """The server's clock (seconds since 1970) minus our monotonic one."""
        self.statements: dict[str, Statement] = {}
        self.deadline = 0.0
        """Until when the present borrower may keep it (monotonic)."""
        self.epoch = 0
        self.used = False
        """Whether anybody has borrowed it before; if not, a failing BEGIN does not mean that it was stale."""

    @property
    def is_fit(self) -> bool:
        """Whether it can serve another transaction."""
        connection = self.connection
        return self.turns_left > 0 and not connection.is_closed() and not connection.is_in_transaction()


class Pool:
    """At most `size` connections; the most recently used is lent first."""

    def __init__(self, connect: Callable[[float], Awaitable[Link]], *, size: int, connect_timeout_s: float) -> None:
        self._connect = connect
        self._size = size
        self._connect_timeout_s = connect_timeout_s
        self._idle: list[Link] = []
        self._lent: set[Link] = set()
        self._waiters: deque[asyncio.Future[Link | None]] = deque()
        self._places = 0
        """Connections that are open, being opened or being buried."""
        self._epoch = 0
        self._closed = False
        self.waited: Callable[[float], None] = _nobody
        """Called with the seconds that somebody has waited for a connection, in vain or not."""
        self._burials: set[asyncio.Task[None]] = set()
        self._sweeper: asyncio.TimerHandle | None = None

    async def open_beside(self, timeout_s: float) -> Link:
        """Make a connection that is not the pool's; whoever asks closes it."""
        return await self._connect(timeout_s)

    def take(self, deadline: float) -> Link | None:
        """Lend an idle connection until `deadline` (monotonic), or None when there is none: then use `acquire`."""
        idle = self._idle
        while idle:
            link = idle.pop()
            if not link.connection.is_closed():
                self._lend(link, deadline)
                return link
            self._throw_away(link)
        return None

    async def acquire(self, deadline: float) -> Link:
        """Lend a connection until `deadline`, made or waited for.

        Raises:
            StoreUnavailable: the database cannot be reached, or no connection came free until `deadline` (monotonic).
        """
        if self._closed:
            raise StoreUnavailable("the database is being shut down")
        link = self.take(deadline)
        if link is None and self._places >= self._size:
            link = await self._wait(deadline)
        elif link is None:
            self._places += 1
        if link is None:
            link = await self._open(deadline)
        self._lend(link, deadline)
        return link

    def release(self, link: Link) -> None:
        """Take a connection back whose transaction has ended."""
        self._lent.discard(link)
        if self._closed or link.epoch != self._epoch or not link.is_fit:
            self._throw_away(link)
            return
        waiter = self._next_waiter() if self._waiters else None
        if waiter is None:
            self._idle.append(link)
        else:
            waiter.set_result(link)

    def bury(self, link: Link) -> None:
        """Throw away a connection whose statement was interrupted. Its place comes free when the server has let go of the
        transaction (and its locks), BURIAL_S at the latest."""
        self._lent.discard(link)
        if link.connection.is_closed():
            self._throw_away(link)
            return
        burial = asyncio.get_running_loop().create_task(self._bury(link))
        self._burials.add(burial)
        burial.add_done_callback(self._burials.discard)

    def retire_all(self) -> None:
        """Let no connection that exists now serve another transaction: the server went away, or schemas changed."""
        self._epoch += 1
        idle, self._idle = self._idle, []
        for link in idle:
            self._throw_away(link)

    async def close(self) -> None:
        """Close what is idle and refuse what comes; lent connections close when they are given back."""
        self._closed = True
        self.retire_all()
        while (waiter := self._next_waiter()) is not None:
            waiter.set_exception(StoreUnavailable("the database is being shut down"))
        if self._burials:
            await asyncio.wait(set(self._burials))
        if self._sweeper is not None and not self._lent:
            self._sweeper.cancel()
            self._sweeper = None

    def figures(self) -> dict[str, int]:
        """How the pool is, for health and metrics."""
        return {
            "size": self._size,
            "open": self._places,
            "idle": len(self._idle),
            "lent": len(self._lent),
            "waiting": len(self._waiters),
        }

    def _lend(self, link: Link, deadline: float) -> None:
        link.deadline = deadline
        self._lent.add(link)
        if self._sweeper is None:
            self._sweeper = asyncio.get_running_loop().call_later(SWEEP_S, self._sweep)

    def _sweep(self) -> None:
        """End what waits for a server that does not answer: cheaper than a timer for each statement."""
        overdue = time.monotonic() - OVERDUE_S
        for link in self._lent:
            if link.deadline < overdue:
                link.connection.terminate()
        self._sweeper = asyncio.get_running_loop().call_later(SWEEP_S, self._sweep) if self._lent else None

    async def _open(self, deadline: float) -> Link:
        """Make a connection in a place that has been reserved."""
        epoch = self._epoch
        try:
            left = min(self._connect_timeout_s, deadline - time.monotonic())
            async with asyncio.timeout(max(left, 0)):
                link = await self._connect(left)
        except BaseException as error:
            self._free_place()
            if isinstance(error, TimeoutError) or is_away(error):
                raise StoreUnavailable("the database cannot be reached; try again") from error
            if isinstance(error, asyncpg.PostgresError):
                text = f"the database refused the kernel's log-in: {state_of(error)} {error}"
                raise LoginRefused(text, code=state_of(error)) from error
            raise
        link.epoch = epoch
        return link

    async def _wait(self, deadline: float) -> Link | None:
        """Wait for a connection, or for a place to make one (None)."""
        if len(self._waiters) >= WAITERS_MAX:
            raise StoreUnavailable(f"{WAITERS_MAX} calls wait for a database connection already; try again")
        waiter: asyncio.Future[Link | None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        begun = time.monotonic()
        try:
            async with asyncio.timeout(max(deadline - time.monotonic(), 0)):
                return await waiter
        except BaseException as error:
            self._give_back(waiter)
            if isinstance(error, TimeoutError):
                text = f"all {self._size} database connections stayed busy until the deadline; try again"
                raise StoreUnavailable(text) from error
            raise
        finally:
            self.waited(time.monotonic() - begun)

    def _give_back(self, waiter: asyncio.Future[Link | None]) -> None:
        """Hand on what was given to someone who no longer waits for it."""
        if not waiter.done() or waiter.cancelled():
            with contextlib.suppress(ValueError):
                self._waiters.remove(waiter)
            waiter.cancel()
        elif waiter.exception() is None:
            link = waiter.result()
            if link is None:
                self._free_place()
            else:
                self.release(link)

    def _next_waiter(self) -> asyncio.Future[Link | None] | None:
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                return waiter
        return None

    def _throw_away(self, link: Link) -> None:
        self._lent.discard(link)
        link.connection.terminate()
        link.statements.clear()
        self._free_place()

    def _free_place(self) -> None:
        waiter = None if self._closed else self._next_waiter()
        if waiter is None:
            self._places -= 1
        else:
            waiter.set_result(None)

    async def _bury(self, link: Link) -> None:
        try:
            # asyncpg asks the server to cancel the statement, and waits for that before it sends anything else.
            with contextlib.suppress(Exception):
                async with asyncio.timeout(BURIAL_S):
                    await link.connection.execute("rollback")
                    await link.connection.close()
        finally:
            self._throw_away(link)


def _nobody(seconds: float) -> None:
    """Nobody counts."""
