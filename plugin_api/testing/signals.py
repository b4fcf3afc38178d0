"""Signals: a test waits for what happens inside, instead of sleeping and hoping."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final, Generic, TypeVar

T = TypeVar("T")

VALUES_MAX: Final = 1_000
WAIT_S: Final = 5.0


class Signal(Generic[T]):
    """Something that happened, with its value, for one event loop: `emit` where it happens, `wait` in the test.

    Values are kept in order until they are waited for, so a test may begin to wait after the fact.
    """

    def __init__(self, name: str = "signal") -> None:
        self._name = name
        self._values: deque[T] = deque()
        self._arrived = asyncio.Event()

    def emit(self, value: T) -> None:
        """Tell that it happened. AssertionError when VALUES_MAX wait to be taken: nobody listens."""
        assert len(self._values) < VALUES_MAX, f"{self._name}: {VALUES_MAX} values were emitted and none was waited for"
        self._values.append(value)
        self._arrived.set()

    async def wait(self, timeout_s: float = WAIT_S) -> T:
        """The next value, in the order of `emit`. AssertionError when there is none within `timeout_s` seconds."""
        if not self._values:
            await self._sleep(timeout_s)
        return self._values.popleft()

    async def wait_for(self, count: int, timeout_s: float = WAIT_S) -> list[T]:
        """The next `count` values, `timeout_s` for each."""
        return [await self.wait(timeout_s) for _ in range(count)]

    def require_empty(self) -> None:
        """AssertionError when something happened that was not waited for."""
        assert not self._values, f"{self._name}: {len(self._values)} values were emitted and not waited for"

    async def _sleep(self, timeout_s: float) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                while not self._values:
                    self._arrived.clear()
                    await self._arrived.wait()
        except TimeoutError:
            raise AssertionError(f"{self._name}: nothing was emitted within {timeout_s:g} s") from None
