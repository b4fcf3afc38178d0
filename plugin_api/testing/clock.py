"""A clock that only tests move."""

from __future__ import annotations

import asyncio
import heapq
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Final

BEGIN: Final = datetime(2026, 1, 1, tzinfo=UTC)
TURNS: Final = 20
"""How often the event loop gets a turn after each sleeper was woken, so that it can go to sleep again."""


class FakeClock:
    """A `Clock` that stands still until `advance`; both of its times move together.

    Give `sleep` to code that takes its sleep as an argument: it wakes when the clock is advanced past its end.
    """

    def __init__(self, start: datetime = BEGIN) -> None:
        self._now = start
        self._monotonic = 1_000.0
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._numbers = count()

    def now(self) -> datetime:
        """The current time, aware, UTC."""
        return self._now

    def monotonic(self) -> float:
        """Seconds that never go back."""
        return self._monotonic

    @property
    def sleepers(self) -> int:
        """How many sleep now."""
        return sum(not future.done() for _, _, future in self._sleepers)

    async def sleep(self, seconds: float) -> None:
        """Sleep until the clock has been advanced by `seconds`; at least one turn of the event loop."""
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        future = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._monotonic + seconds, next(self._numbers), future))
        await future

    def jump(self, seconds: float) -> None:
        """Set the wall clock on or back, as whoever sets a wrong clock right does; the monotonic one stays, and nobody wakes."""
        self._now += timedelta(seconds=seconds)

    def advance(self, seconds: float) -> None:
        """Move the clock and wake, in order, whoever's sleep has ended; they run when the event loop comes to them.

        Raises:
            ValueError: `seconds` is negative; no clock of ours goes back.
        """
        if seconds < 0:
            raise ValueError(f"a clock is advanced by seconds from 0, not by {seconds}")
        self._now += timedelta(seconds=seconds)
        self._monotonic += seconds
        while self._sleepers and self._sleepers[0][0] <= self._monotonic:
            _, _, future = heapq.heappop(self._sleepers)
            if not future.done():
                future.set_result(None)

    async def let_pass(self, seconds: float) -> None:
        """Advance from one sleeper's end to the next, letting each run at its own time: who sleeps again and again
        wakes as often as in real life."""
        await self._settle()
        end = self._monotonic + seconds
        while self._sleepers and self._sleepers[0][0] <= end:
            self.advance(max(self._sleepers[0][0] - self._monotonic, 0.0))
            await self._settle()
        self.advance(max(end - self._monotonic, 0.0))
        await self._settle()

    async def _settle(self) -> None:
        for _ in range(TURNS):
            await asyncio.sleep(0)
