"""What keeping and giving back a large blob costs beside a plain copy of a file."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

from measure import Figure

from core_plugins.files.operations import FilesOperations
from core_plugins.files.plugin import make_driver
from core_plugins.files.settings import Settings
from host.observe import PluginLog
from plugin_api.testing import FakeClock

SIZE, PIECE, ROUNDS = 64 * 2**20, 256 * 1024, 7


async def blob() -> Figure:
    """64 MiB from a file into the store and out of it / the same by plain calls, on the disk before it counts as done."""
    place = Path(tempfile.mkdtemp(prefix="pk-bench-blobs-"))
    source, copy, tenant = place / "source", place / "copy", uuid4()
    source.write_bytes(os.urandom(PIECE) * (SIZE // PIECE))
    (place / "secrets").mkdir()
    clock = FakeClock(datetime.now(UTC))
    files = FilesOperations(make_driver(Settings(), place, clock), Settings(), clock, PluginLog("kernel.files"))
    await files.start()
    store = files.part("bench.blobs")

    async def kept() -> None:
        await store.put(tenant, "film", _pieces(source))
        async with store.get(tenant, "film") as found:
            assert sum([len(piece) async for piece in found.chunks()]) == SIZE

    async def copied() -> None:
        await asyncio.to_thread(_copy, source, copy)

    try:
        ratios: list[float] = []
        for number in range(ROUNDS + 1):
            sides = [copied, kept] if number % 2 else [kept, copied]
            took = {side: await _wall_s(side) for side in sides}
            if number:
                ratios.append(took[copied] / took[kept])
    finally:
        await files.stop()
        shutil.rmtree(place, ignore_errors=True)
    return Figure("blob", ratios, 0.5, "wall time: 64 MiB copied with fsync and read / put (with SHA-256) and got")


async def _pieces(source: Path) -> AsyncIterator[bytes]:
    with source.open("rb") as opened:
        while piece := await asyncio.to_thread(opened.read, PIECE):
            yield piece


def _copy(source: Path, to: Path) -> None:
    with source.open("rb") as opened, to.open("wb") as written:
        while piece := opened.read(PIECE):
            written.write(piece)
        written.flush()
        os.fsync(written.fileno())
    with to.open("rb") as opened:
        while opened.read(PIECE):
            pass


async def _wall_s(work: Callable[[], Awaitable[None]]) -> float:
    begun = time.monotonic()
    await work()
    return time.monotonic() - begun
