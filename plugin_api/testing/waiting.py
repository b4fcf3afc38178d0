"""Waiting for what another process does, where no signal can be had: ask again and again, with a deadline."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar, cast, overload

T = TypeVar("T")

LIMIT_S: Final = 10.0
LOOK_EVERY_S: Final = 0.02


@overload
async def until(condition: Callable[[], Awaitable[T]], what: str, limit_s: float = ...) -> T: ...


@overload
async def until(condition: Callable[[], T], what: str, limit_s: float = ...) -> T: ...


async def until(condition: Callable[[], T | Awaitable[T]], what: str, limit_s: float = LIMIT_S) -> T:
    """Ask until `condition` (plain or async) gives something true, and return that.

    Raises:
        AssertionError: it did not within `limit_s` seconds; the text is `what`, as a sentence that should have come true.
    """
    end = time.monotonic() + limit_s
    while True:
        given = condition()
        found = await given if inspect.isawaitable(given) else given
        if found:
            return cast("T", found)
        assert time.monotonic() < end, f"not within {limit_s:g} s: {what}"
        await asyncio.sleep(LOOK_EVERY_S)
