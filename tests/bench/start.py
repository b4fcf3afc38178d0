"""How long a start takes, as multiples of what the two servers need by themselves, one after the other as a script would
start them. Wall time: this is what an operator waits for."""

from __future__ import annotations

import shutil
import tempfile
import time
from pathlib import Path

from kernel import Kernel
from measure import Figure

from core_plugins.cache.drivers.valkey_server import ValkeyServer
from core_plugins.data.drivers.postgres_server import PostgresServer
from host.children import Register, Servers
from host.datafolder import DataFolder
from host.privileges import choose_privileges

ROUNDS = 5


async def servers_alone(place: Path) -> float:
    """Seconds until both servers serve, with nothing around them; they are stopped again."""
    folder = DataFolder.open(place)
    servers = Servers(folder, Register(folder), lambda: None)
    privileges = choose_privileges()
    begun = time.monotonic()
    await servers.start([PostgresServer(), ValkeyServer()], privileges)
    took = time.monotonic() - begun
    await servers.stop(5.0)
    folder.close()
    return took


async def kernel_seconds(place: Path) -> float:
    """Seconds from `pk up` until it says that it is ready."""
    async with Kernel(place) as kernel:
        return kernel.ready_s


async def first_and_warm() -> list[Figure]:
    """Both figures, interleaved: first start on an empty folder, then a start on the folder as it was left."""
    first, warm = list[float](), list[float]()
    for _ in range(ROUNDS):
        place = Path(tempfile.mkdtemp(prefix="pk-bench-"))
        bare = [await servers_alone(place / "bare") for _ in range(2)]
        whole = [await kernel_seconds(place) for _ in range(2)]
        first.append(whole[0] / bare[0])
        warm.append(whole[1] / bare[1])
        shutil.rmtree(place, ignore_errors=True)
    reference = "wall time until ready / the two servers' own start"
    return [
        Figure("first-start", first, 3.0, f"{reference}, initdb included", at_least=False),
        Figure("warm-start", warm, 3.0, f"{reference}, existing folder", at_least=False),
    ]
