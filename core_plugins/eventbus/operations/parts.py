"""What the operations of the plugin share."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from core_plugins.eventbus.operations.counting import Counts
from core_plugins.eventbus.settings import Settings
from plugin_api.ports.database import Tx
from plugin_api.ports.wakeups import Wakeups
from plugin_api.registrar import Calls, Logger

LOG: Final = "log"
"""Rings when the log has grown."""
REPLAY: Final = "replay"
"""Rings when dead letters are to be tried again."""
FORGOTTEN_AT_ONCE: Final = 5_000
"""Rows of a plugin that leaves which go in one transaction."""


async def first_of(*waits: Coroutine[Any, Any, Any]) -> None:
    """Return when one of them has come; the others are given up."""
    tasks = [asyncio.create_task(wait) for wait in waits]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@dataclass(frozen=True)
class Parts:
    """Handles of the plugin."""

    calls: Calls
    wakeups: Wakeups
    log: Logger
    settings: Settings
    sleep: Callable[[float], Awaitable[None]]
    """Between attempts; tests turn the clock."""
    counts: Counts = field(default_factory=Counts)

    @asynccontextmanager
    async def tx(self, reason: str) -> AsyncIterator[Tx]:
        """A transaction without a tenant; commits at the end of the block."""
        async with self.calls.open(None, reason) as call, call.system_tx(reason) as tx:
            yield tx
