"""Blocking calls of the filesystem, in a few threads."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, ParamSpec, TypeVar

from plugin_api.errors import StoreUnavailable

P = ParamSpec("P")
T = TypeVar("T")
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class FileThreads:
    """A bounded number of threads; calls wait in order until one is free."""

    def __init__(self, count: int) -> None:
        self._pool = ThreadPoolExecutor(count, thread_name_prefix="blobs")

    async def run(self, work: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
        """Call in a thread. Whoever is cancelled meanwhile waits for its end all the same: nothing that the call uses may
        be closed under it.

        Raises:
            StoreUnavailable: the filesystem refused; code `disk_full` when that was for room.
        """
        future = asyncio.wrap_future(self._pool.submit(work, *arguments, **named))
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            await _settle(future)
            raise
        except OSError as error:
            raise unavailable(error) from error

    def close(self) -> None:
        """Wait for the calls under way and end the threads."""
        self._pool.shutdown()


async def _settle(future: asyncio.Future[Any]) -> None:
    while not future.done():
        try:
            await asyncio.wait([future])
        except asyncio.CancelledError:
            continue
    if not future.cancelled():
        future.exception()  # nobody else looks at it


def unavailable(error: OSError) -> StoreUnavailable:
    """What a refusal of the filesystem means to whoever stores blobs."""
    if error.errno in _FULL:
        return StoreUnavailable(
            f"the disk of the blobs is full ({error.strerror}); nothing was kept, the operator has to make room",
            code="disk_full",
        )
    return StoreUnavailable(f"the folder of the blobs cannot be used ({error.strerror}); the operator has to mend it")
