"""What live changes of plugins cost: to the operator in time, to the worker in memory, to the callers in speed."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import statistics
import sys
import tempfile
import time
import urllib.request
import zipfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from kernel import Kernel
from measure import Figure, HttpLoad, Side, interleaved

from host.control_client import CHANGE_LIMIT_S, ask

ROUNDS = 7
SWAPS = 20
REQUESTS = 6_000
KIB = 1_024
MANIFEST = """id = "{plugin_id}"
version = "{version}"
api = ">=1.0,<2"
summary = "Says its version"
license = "MIT"
permissions = {{ "word.read" = "Hear it" }}
"""
PLUGIN = '''"""Says its version, and how much memory its process has been given since the plugin was there."""

import gc
import tracemalloc

from plugin_api import Call, Registrar, Struct, hookimpl, operation


class Ask(Struct, frozen=True, forbid_unknown_fields=True):
    pass


class Said(Struct, frozen=True):
    version: str
    traced: int


class Operations:
    @operation("GET /word", permission="word.read")
    async def say(self, call: Call, request: Ask) -> Said:
        """Say the version."""
        return Said("{version}", 0)

    @operation("GET /traced", permission="word.read")
    async def traced(self, call: Call, request: Ask) -> Said:
        """Collect, and tell the bytes that are traced; the first call begins to trace."""
        if not tracemalloc.is_tracing():
            tracemalloc.start()
        gc.collect()
        return Said("{version}", tracemalloc.get_traced_memory()[0])


class Plugin:
    @hookimpl
    def pk_register(self, registrar: Registrar) -> None:
        registrar.operations(Operations())


plugin = Plugin()
'''


def wheel(folder: Path, plugin_id: str, version: str) -> Path:
    """One version of a plugin, as a wheel in `folder`."""
    package = plugin_id.replace(".", "_")
    info = f"{package}-{version}.dist-info"
    contents = {
        f"{package}/__init__.py": PLUGIN.replace("{version}", version),
        f"{package}/manifest.toml": MANIFEST.format(plugin_id=plugin_id, version=version),
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: bench\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": f"[platform_kernel.plugins]\n{plugin_id} = {package}:plugin\n",
    }
    hashes = {name: hashlib.sha256(text.encode()).digest() for name, text in contents.items()}
    rows = [
        f"{name},sha256={base64.urlsafe_b64encode(hashes[name]).rstrip(b'=').decode()},{len(text.encode())}"
        for name, text in contents.items()
    ]
    file = folder / f"{package}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(file, "w") as archive:
        for name, text in {**contents, f"{info}/RECORD": "\n".join([*rows, f"{info}/RECORD,,", ""])}.items():
            archive.writestr(name, text)
    return file


class Plant:
    """A kernel in which plugins come and go by the control socket."""

    def __init__(self, kernel: Kernel, folder: Path) -> None:
        self.kernel = kernel
        self.folder = folder

    async def change(self, verb: str, plugin_id: str, what: Path | str = "") -> None:
        """One change, answered."""
        asked = {"verb": verb, "plugin_id": plugin_id, "what": str(what)}
        await asyncio.to_thread(ask, self.kernel.data, "POST", "/plugins", asked, limit_s=CHANGE_LIMIT_S)

    async def two_versions(self, plugin_id: str) -> None:
        """Install one version and upgrade to another, so that a rollback swaps them."""
        await self.change("install", "", wheel(self.folder, plugin_id, "1.0.0"))
        await self.change("upgrade", plugin_id, wheel(self.folder, plugin_id, "1.1.0"))

    async def get(self, plugin_id: str, name: str) -> dict[str, Any]:
        """What an operation of a plugin answers."""
        url = f"http://127.0.0.1:{self.kernel.port}/api/v1/x/{plugin_id}/{name}"
        request = urllib.request.Request(url, headers={"Authorization": f"Bearer {self.kernel.token}"})

        def send() -> dict[str, Any]:
            with urllib.request.urlopen(request, timeout=60) as answer:
                found: dict[str, Any] = json.load(answer)
                return found

        return await asyncio.to_thread(send)

    async def swap_until(self, over: asyncio.Event) -> int:
        """Swap the two versions of `bench.swapped` without a pause; how often."""
        swaps = 0
        while not over.is_set():
            await self.change("rollback", "bench.swapped")
            swaps += 1
        return swaps


@asynccontextmanager
async def planted() -> AsyncIterator[Plant]:
    """A kernel, a tenant, a folder for wheels."""
    with tempfile.TemporaryDirectory(prefix="pk-bench-wheels-") as folder:
        async with Kernel() as kernel:
            await kernel.log_in()
            yield Plant(kernel, Path(folder))
        kernel.remove()


async def pip_seconds(file: Path) -> float:
    """How long pip takes to install the same wheel into an empty folder."""
    with tempfile.TemporaryDirectory(prefix="pk-bench-pip-") as target:
        begun = time.monotonic()
        process = await asyncio.create_subprocess_exec(
            *(
                sys.executable,
                "-m",
                "pip",
                "install",
                "--quiet",
                "--no-deps",
                "--no-index",
                "--target",
                target,
                str(file),
            ),
            stderr=asyncio.subprocess.DEVNULL,
        )
        assert await process.wait() == 0, f"pip could not install {file}"
        return time.monotonic() - begun


async def install_seconds(plant: Plant, plugin_id: str, file: Path) -> float:
    """From the request until the plugin has answered a caller; it is removed again."""
    begun = time.monotonic()
    await plant.change("install", "", file)
    await plant.get(plugin_id, "word")
    took = time.monotonic() - begun
    await plant.change("remove", plugin_id)
    return took


async def install() -> Figure:
    """Wall time: this is what an operator waits for."""
    ratios: list[float] = []
    async with planted() as plant:
        for number in range(ROUNDS + 1):
            plugin_id = f"bench.fresh{number}"
            file = wheel(plant.folder, plugin_id, "1.0.0")
            ratios.append(await install_seconds(plant, plugin_id, file) / await pip_seconds(file))
    told = "wall time from the request to install a local wheel until the plugin answers / pip install --no-deps --target of it"
    return Figure("plugin_install", ratios[1:], 2.0, told, at_least=False)


async def swap_bytes() -> Figure:
    """Traced by the worker itself, which is exact; what it had before the tracing began counts for nothing."""
    found: list[float] = []
    async with planted() as plant:
        await plant.change("install", "", wheel(plant.folder, "bench.gauge", "1.0.0"))
        await plant.two_versions("bench.swapped")
        before = 0
        for _ in range(ROUNDS + 2):  # in the first one tracing begins, in the second caches fill
            for _ in range(SWAPS):
                await plant.change("rollback", "bench.swapped")
                await plant.get("bench.swapped", "word")
            after = (await plant.get("bench.gauge", "traced"))["traced"]
            found.append((after - before) / SWAPS / KIB)
            before = after
    told = f"KiB of traced memory by which a worker grows with each swap of a plugin's generation, {SWAPS} in a row / 1 KiB"
    return Figure("plugin_swap_bytes", found[2:], 1.0, told, at_least=False)


async def storm() -> Figure:
    """What the callers lose while a plugin is swapped under them without a pause; each of them must be answered."""
    async with planted() as plant:
        await plant.two_versions("bench.swapped")
        token = plant.kernel.token
        head = [
            "GET /api/v1/x/bench.swapped/word HTTP/1.1",
            "Host: 127.0.0.1",
            f"Authorization: Bearer {token}",
            "",
            "",
        ]
        load = HttpLoad(plant.kernel.port, "\r\n".join(head).encode())

        swaps: list[int] = []

        async def in_a_storm(count: int) -> None:
            over = asyncio.Event()
            swapping = asyncio.create_task(plant.swap_until(over))
            try:
                await load(count)
            finally:
                over.set()
                swaps.append(await swapping)

        pids = [plant.kernel.worker]
        calm, stormy = await interleaved([Side(pids, load), Side(pids, in_a_storm)], count=REQUESTS, rounds=ROUNDS)
    told = (
        "requests per CPU second of the worker while the plugin that answers is swapped without a pause "
        f"(once in {REQUESTS // statistics.median(swaps):.0f} requests) / without swaps"
    )
    return Figure("plugin_storm", [c / s for c, s in zip(calm, stormy, strict=True)], 0.7, told)
