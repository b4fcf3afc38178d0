"""A stranger's plugin through gRPC: at once when it is installed, upgraded and removed, and through reloads without a loss."""

from __future__ import annotations

import asyncio
import json
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from host.wire.lock import read_lock
from plugin_api.testing import KernelProcess, Tenant
from plugin_api.testing.plugin import FreshKernel
from tests.plugins.conftest import Pk, Plant, Recipe

BUILD = Path(__file__).parents[1] / "tools" / "go.sh"
NO_GO = 3
SAID = b"\x0a\x05Hello"  # Said(text="Hello")


@pytest.fixture(scope="session")
def grpcurl() -> str:
    """The real program, which knows nothing of us."""
    built = subprocess.run(["sh", BUILD, "grpcurl"], capture_output=True, text=True, check=False, timeout=900)
    if built.returncode == NO_GO:
        pytest.skip("grpcurl needs a Go toolchain to be built")
    assert built.returncode == 0, built.stderr
    return built.stdout.strip()


def address(kernel: KernelProcess) -> str:
    return str(json.loads((kernel.data_dir / "run" / "kernel.json").read_text())["grpc"])


def service(recipe: Recipe) -> str:
    return f"pk.x.{recipe.package}.v1.Operations"


def channel_to(kernel: KernelProcess, *options: tuple[str, Any]) -> Any:
    return grpc.aio.insecure_channel(address(kernel), options=[("grpc.enable_http_proxy", 0), *options])


async def curl(program: str, kernel: KernelProcess, *words: str, token: str | None = None, data: str = "") -> str:
    """What grpcurl prints. AssertionError when it fails."""
    options = [*(["-H", f"authorization: Bearer {token}"] if token else []), *(["-d", data] if data else [])]
    command = [program, "-plaintext", *options, address(kernel), *words]
    process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    async with asyncio.timeout(60):
        out, err = await process.communicate()
    assert process.returncode == 0, (command, err.decode())
    return out.decode()


async def test_grpcurl_lists_describes_and_calls_a_plugin_of_this_second(
    grpcurl: str, kernel: KernelProcess, tenant: Tenant, pk: Pk, plant: Plant, tmp_path: Path
) -> None:
    recipe = plant("curl")
    await pk(kernel, "plugins", "install", recipe.wheel(tmp_path))
    name = service(recipe)

    assert {name, "pk.iam.v1.Iam", "grpc.health.v1.Health"} <= set((await curl(grpcurl, kernel, "list")).split())
    assert f"rpc Say ( .pk.x.{recipe.package}.v1.Ask ) returns" in await curl(grpcurl, kernel, "describe", name)
    assert "rpc Say" in await curl(grpcurl, kernel, "describe", f"{name}.Say")
    assert "optional int64 ms = 1" in await curl(grpcurl, kernel, "describe", f"pk.x.{recipe.package}.v1.Ask")
    token = tenant.owner.token
    assert json.loads(await curl(grpcurl, kernel, f"{name}/Say", token=token, data='{"ms": 1}')) == {"text": "Hello"}
    assert json.loads(await curl(grpcurl, kernel, "pk.iam.v1.Iam/Me", token=token))["tenant"]["slug"] == tenant.slug
    assert json.loads(await curl(grpcurl, kernel, "grpc.health.v1.Health/Check")) == {"status": "SERVING"}

    await pk(kernel, "plugins", "remove", recipe.plugin_id)
    assert name not in (await curl(grpcurl, kernel, "list")).split()


async def test_numbers_outlive_the_version_that_had_them(
    kernel: KernelProcess, tenant: Tenant, pk: Pk, plant: Plant, tmp_path: Path
) -> None:
    """Without a lock the kernel numbers the fields, and a later version changes none of the numbers."""
    recipe = plant("number")
    await pk(kernel, "plugins", "install", recipe.wheel(tmp_path))
    async with channel_to(kernel) as channel:
        say = channel.unary_unary(f"/{service(recipe)}/Say")
        metadata = [("authorization", f"Bearer {tenant.owner.token}")]
        assert await say(b"", metadata=metadata, timeout=30) == SAID
        text = recipe.contents()[f"{recipe.package}/operations.py"].replace(
            "    text: str\n", '    first: str = "new"\n    text: str = ""\n'
        )
        newer = replace(recipe, version="1.1.0", files={"operations.py": text})
        await pk(kernel, "plugins", "upgrade", recipe.plugin_id, newer.wheel(tmp_path))
        assert await say(b"", metadata=metadata, timeout=30) == SAID + b"\x12\x03new"

    kept = read_lock(kernel.data_dir / "plugins" / "wire" / f"{recipe.plugin_id}.lock")
    assert kept is not None
    assert {name: one.number for name, one in kept.messages["Said"].fields.items()} == {"text": 1, "first": 2}


async def test_a_reload_cuts_off_no_call(fresh_kernel: FreshKernel, pk: Pk, plant: Plant, tmp_path: Path) -> None:
    """Calls on connections that are kept, and calls that take longer than the worker lives.

    A call that arrives while the library says goodbye to its connection is turned away by it, before anything is begun.
    """
    kernel = await fresh_kernel("--workers", "2")
    recipe, tenant = plant("reload"), await kernel.sign_up()
    await pk(kernel, "plugins", "install", recipe.wheel(tmp_path))
    metadata, over = [("authorization", f"Bearer {tenant.owner.token}")], asyncio.Event()
    path, done = f"/{service(recipe)}/Say", list[bytes]()
    turned_away: list[tuple[str, float]] = []

    async def go_on(channel: Any, message: bytes) -> None:
        while not over.is_set():
            begun = asyncio.get_running_loop().time()
            try:
                done.append(await channel.unary_unary(path)(message, metadata=metadata, timeout=30))
            except grpc.aio.AioRpcError as error:
                turned_away.append((error.code().name, asyncio.get_running_loop().time() - begun))

    channels = [channel_to(kernel, ("grpc.use_local_subchannel_pool", 1)) for _ in range(6)]
    messages = [*[b""] * 4, *[b"\x08\xdc\x0b"] * 2]  # the last two take 1500 ms
    tasks = [asyncio.create_task(go_on(*both)) for both in zip(channels, messages, strict=True)]
    before = kernel.pids()
    for _ in range(2):
        await pk(kernel, "reload")
    over.set()
    await asyncio.gather(*tasks)
    await asyncio.gather(*(channel.close() for channel in channels))

    after = kernel.pids()
    assert not {before["worker0"], before["worker1"]} & {after["worker0"], after["worker1"]}
    assert set(done) == {SAID}
    assert len(done) > 20
    assert {status for status, _ in turned_away} <= {"CANCELLED", "UNAVAILABLE"}
    assert all(seconds < 1.0 for _, seconds in turned_away), "a call that was under way was cut off"
    assert len(turned_away) <= 4 * len(channels), "more than one for each worker that a connection could have met"
