"""Broadcasts: every process hears every event of the types that it listens to."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from typing import Final

from core_plugins.eventbus import storage
from core_plugins.eventbus.operations.parts import LOG, Parts
from plugin_api.errors import KernelError
from plugin_api.events import EventEnvelope

BATCH: Final = 500
AGAIN_S: Final = 0.5


class Listener:
    """One subscription."""

    def __init__(
        self, types: Collection[str], hear: Callable[[EventEnvelope], None], forget: Callable[[Listener], None]
    ) -> None:
        self.types = frozenset(types)
        self.hear = hear
        self._forget = forget

    def close(self) -> None:
        """Hear no more."""
        self._forget(self)


class Broadcast:
    """Follows the log in this process, from where it was when the process began to listen."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._listeners: set[Listener] = set()
        self._position: int | None = None

    def listen(self, types: Collection[str], hear: Callable[[EventEnvelope], None]) -> Listener:
        """See `EventLog.broadcast`."""
        listener = Listener(types, hear, self._listeners.discard)
        self._listeners.add(listener)
        return listener

    async def run(self) -> None:
        """Follow for as long as the process lives."""
        bell = self._parts.wakeups.bell(LOG)
        try:
            while True:
                try:
                    if await self.step():
                        continue
                except KernelError as error:
                    self._parts.log.warning("broadcasts wait; it is tried again", why=error.detail)
                    await asyncio.sleep(AGAIN_S)
                await bell.wait(self._parts.settings.poll_s)
        finally:
            bell.close()

    async def step(self) -> bool:
        """Hand out what is new; whether there may be more."""
        types = {one for listener in self._listeners for one in listener.types}
        async with self._parts.tx("hear broadcasts") as tx:
            tip = await storage.tip(tx)
            since = tip if self._position is None else self._position
            found = await storage.read_after(tx, since, types, BATCH) if tip > since and types else []
        for _, event in found:
            self._hand_out(event.envelope)
        is_full = len(found) == BATCH
        self._position = found[-1][0] if is_full else max(tip, found[-1][0] if found else 0)
        return is_full

    def _hand_out(self, event: EventEnvelope) -> None:
        for listener in [one for one in self._listeners if event.type in one.types]:
            try:
                listener.hear(event)
            except Exception as error:  # noqa: BLE001 - one listener's fault is not the others'
                self._parts.log.error("a broadcast was not taken", type=event.type, why=str(error))
