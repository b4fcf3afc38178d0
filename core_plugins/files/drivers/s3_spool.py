"""A body that came from somewhere, kept until its length and digest are known: an S3 API wants them first."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator
from contextlib import asynccontextmanager
from tempfile import SpooledTemporaryFile
from typing import IO, Final, cast

from core_plugins.files.drivers.chunks import chunks_of
from core_plugins.files.drivers.file_threads import FileThreads
from core_plugins.files.model.content import Promise, Receiving, check_quota

MEMORY_BYTES_MAX: Final = 1_048_576
"""What is longer goes to a file without a name in the machine's temporary folder; nothing of it is left by a kill."""


class Spooled:
    """A whole body: its bytes, size and SHA-256."""

    def __init__(self, file: IO[bytes], size: int, sha256: str) -> None:
        self.file = file
        self.size = size
        self.sha256 = sha256


@asynccontextmanager
async def spooled(
    body: AsyncIterable[bytes], promise: Promise, quota: int, threads: FileThreads
) -> AsyncIterator[Spooled]:
    """Take a whole body, at most `quota` bytes.

    Raises:
        InvalidRequest, PayloadTooLarge: it breaks the promise.
        LimitReached: it alone is more than the quota.
    """
    receiving = Receiving(promise)
    with SpooledTemporaryFile(MEMORY_BYTES_MAX) as file:
        async for chunk in chunks_of(body):
            receiving.take(chunk)
            check_quota(0, receiving.size, quota)
            await threads.run(file.write, chunk)
        digest = receiving.finish()
        await threads.run(file.seek, 0)
        yield Spooled(cast("IO[bytes]", file), receiving.size, digest)
