"""A plugin that stops workers is found out, kept out, told, and tried again; whatever is beside it serves on.

One kernel of two workers for all of it; its quarantines last for an hour unless a test begins it anew.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from plugin_api.testing import Client, KernelProcess, Tenant, Unreachable, until
from plugin_api.testing.kernel import run_apart
from plugin_api.testing.plugin import FreshKernel
from tests.plugins.conftest import Pk, Plant, Recipe, run_pk, words_heard

LIMIT_S = 90.0
"""For a worker to be found hung, killed and replaced, on a slow machine."""
STALL_LIMIT_S = 3
LONG_S = 3_600
SHORT_S = 2


def operation(name: str, *lines: str) -> str:
    """An operation of these statements."""
    body = "".join(f"        {line}\n" for line in lines)
    return (
        f'    @operation("GET /{name}", permission="word.read")\n'
        f"    async def {name}(self, call: Call, request: Ask) -> Said:\n"
        f'        """Do harm."""\n{body}        return Said(text="")\n'
    )


HARM = (
    operation("spin", "while True:", "    pass")
    + operation("search", "import re", "re.match('(a+)+$', 'a' * 60 + 'b')")
    + operation("crash", "import ctypes", "ctypes.string_at(0)")
)
SPINS_IN_ENABLE = "    @hookimpl\n    async def pk_enable(self):\n        while True:\n            pass\n"
SPINS_IN_READY = SPINS_IN_ENABLE.replace("pk_enable", "pk_ready")


def settings(kernel: KernelProcess, quarantine_s: float) -> None:
    """What the kernel reads when it starts the next time."""
    kernel.data_dir.mkdir(mode=0o700, exist_ok=True)
    text = f"[host]\nstall_limit_s = {STALL_LIMIT_S}\nquarantine_s = {quarantine_s}\nhalf_open_s = {LONG_S}\n"
    (kernel.data_dir / "pk.toml").write_text(text)


BESIDE = Recipe("acme.beside")
"""Serves whatever the others do."""


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Generator[KernelProcess]:
    kernel = KernelProcess(["--no-demo", "--workers", "2"])
    settings(kernel, LONG_S)
    try:
        run_apart(kernel.start())
        run_apart(run_pk(kernel, "plugins", "install", BESIDE.wheel(tmp_path_factory.mktemp("beside"))))
        yield kernel
    finally:
        run_apart(kernel.close())


@pytest.fixture
def kernel(started: KernelProcess) -> KernelProcess:
    return started


async def states(kernel: KernelProcess) -> dict[str, dict[str, Any]]:
    """As `plugins_of`, without a process for each question; nothing while no worker answers."""
    reader, writer = await asyncio.open_unix_connection(kernel.data_dir / "run" / "control.sock")
    try:
        writer.write(b"GET /plugins HTTP/1.1\r\nHost: control\r\nConnection: close\r\n\r\n")
        body = (await reader.read()).partition(b"\r\n\r\n")[2]
    finally:
        writer.close()
        await writer.wait_closed()
    return {one["id"]: one for one in json.loads(body).get("items", ())}


async def stalled(kernel: KernelProcess, recipe: Recipe) -> None:
    """Wait until a watchdog has seen a plugin hold up its worker: from then on nobody is served by that."""

    def seen() -> bool:
        lines = kernel.log_file.read_text().splitlines()
        return any('"the event loop has stalled"' in one and f'"{recipe.plugin_id}"' in one for one in lines)

    await until(seen, f"{recipe.plugin_id} has stalled a worker", LIMIT_S)


async def harm(owner: Client, recipe: Recipe, what: str) -> None:
    """Call what stops the worker; nobody answers that."""
    owner.limit_s = LIMIT_S
    with pytest.raises(Unreachable):
        await owner.get(recipe.route.replace("/word", f"/{what}"))


async def until_state(kernel: KernelProcess, recipe: Recipe, state: str) -> dict[str, Any]:
    """Wait until both workers say so of a plugin; what is listed then."""

    async def seen() -> dict[str, Any] | None:
        listed = (await states(kernel)).get(recipe.plugin_id)
        return listed if listed and [one["state"] for one in listed["workers"]] == [state] * 2 else None

    found: dict[str, Any] | None = await until(seen, f"{recipe.plugin_id} is {state} in both workers", LIMIT_S)
    return found or {}


def quarantined(kernel: KernelProcess, recipe: Recipe) -> dict[str, Any]:
    """What the parent has written down about a plugin."""
    written = json.loads((kernel.data_dir / "plugins" / "quarantine.json").read_text())
    (found,) = [one for one in written if one["plugin"] == recipe.plugin_id]
    return dict(found)


async def both_serve(kernel: KernelProcess) -> None:
    """Wait until no worker is missing."""
    await until(lambda: {"worker0", "worker1"} <= kernel.pids().keys(), "both workers serve", LIMIT_S)
    await kernel.until_ready()


@pytest.mark.timeout(600)
async def test_what_stops_a_worker_is_kept_out_told_and_tried_again(
    kernel: KernelProcess, tenant: Tenant, pk: Pk, plant: Plant, tmp_path: Path
) -> None:
    spins = plant("spins", more=HARM)
    spins = replace(spins, manifest=f'provides = ["{spins.plugin_id} 1.0"]\n')
    above = plant("above", manifest=f'requires = ["{spins.plugin_id} >=1"]\n')
    for recipe in (spins, above):
        await pk(kernel, "plugins", "install", recipe.wheel(tmp_path))
    harming = asyncio.create_task(harm(tenant.owner, spins, "spin"))
    await stalled(kernel, spins)
    heard = await words_heard(kernel.client(tenant.owner.token), BESIDE)
    await harming
    listed = await until_state(kernel, spins, "quarantined")

    assert heard == {"Hello"}, "the other worker serves on"
    assert "it stopped a worker's event loop" in listed["reason"]
    assert f"{spins.package}/operations.py:" in listed["reason"]
    assert f"pk plugins enable {spins.plugin_id}" in listed["reason"]
    assert (await until_state(kernel, above, "blocked"))["reason"].startswith(
        f"{above.plugin_id} needs {spins.plugin_id} >=1, and {spins.plugin_id}, which provides it, is quarantined: it"
    )
    assert await words_heard(tenant.owner, spins) == {404}
    assert await words_heard(tenant.owner, BESIDE) == {"Hello"}
    await both_serve(kernel)
    refused = await pk(kernel, "plugins", "remove", spins.plugin_id, status=1)
    assert above.plugin_id in refused.stderr, "who would serve without the quarantine is still asked for"

    settings(kernel, SHORT_S)
    await kernel.restart()
    owner = kernel.client(tenant.owner.token)
    assert (await until_state(kernel, spins, "quarantined"))["reason"] == listed["reason"]
    assert await words_heard(owner, BESIDE) == {"Hello"}
    await pk(kernel, "plugins", "enable", spins.plugin_id)
    await until_state(kernel, spins, "active")
    await until_state(kernel, above, "active")
    assert await words_heard(owner, spins) == await words_heard(owner, above) == {"Hello"}

    for times, what in enumerate(("search", "crash"), 1):
        await harm(owner, spins, what)
        back = await until_state(kernel, spins, "half_open")
        assert "on trial until" in back["reason"]
        assert await words_heard(owner, spins) == {"Hello"}
        written = quarantined(kernel, spins)
        assert written["times"] == times
        assert written["forgiven"] - written["until"] == LONG_S
        await both_serve(kernel)
    assert "SIGSEGV" in quarantined(kernel, spins)["reason"]


@pytest.mark.timeout(600)
async def test_a_version_that_stops_a_worker_while_it_is_brought_up_is_refused(
    kernel: KernelProcess, tenant: Tenant, tmp_path: Path
) -> None:
    bad = replace(BESIDE, version="2.0.0", word="Bad", hooks=SPINS_IN_ENABLE)
    upgrade = ("plugins", "upgrade", BESIDE.plugin_id, bad.wheel(tmp_path))
    changing = asyncio.create_task(run_pk(kernel, *upgrade, status=1))
    await stalled(kernel, bad)
    heard = await words_heard(tenant.owner, BESIDE)
    refused = await changing

    assert heard == {"Hello"}
    assert f"{BESIDE.plugin_id} 2.0.0 could not be brought up: it stopped a worker's event loop" in refused.stderr
    assert f"{bad.package}/plugin.py:" in refused.stderr
    await both_serve(kernel)
    assert (await until_state(kernel, BESIDE, "active"))["version"] == "1.0.0"
    assert [place.name[:5] for place in (kernel.data_dir / "plugins" / BESIDE.plugin_id).iterdir()] == ["1.0.0"]
    assert await words_heard(tenant.owner, BESIDE) == {"Hello"}


@pytest.mark.soak
@pytest.mark.timeout(600)
async def test_a_version_that_stops_the_first_worker_when_it_serves_never_meets_the_other(
    fresh_kernel: FreshKernel, pk: Pk, plant: Plant, tmp_path: Path
) -> None:
    kernel = await fresh_kernel("--workers", "2", environment={"PK_HOST__STALL_LIMIT_S": str(STALL_LIMIT_S)})
    bad, before = plant("ready", hooks=SPINS_IN_READY), kernel.pids()["worker1"]
    told = (await pk(kernel, "plugins", "install", bad.wheel(tmp_path))).document

    assert [line for line in told["warnings"] if f"{bad.plugin_id} is quarantined: it stopped" in line]
    await both_serve(kernel)
    assert kernel.pids()["worker1"] == before
    await until_state(kernel, bad, "quarantined")


@pytest.mark.soak
@pytest.mark.timeout(600)
async def test_with_one_worker_others_answer_within_one_start_of_a_worker(
    fresh_kernel: FreshKernel, pk: Pk, plant: Plant, tmp_path: Path
) -> None:
    kernel = await fresh_kernel(environment={"PK_HOST__STALL_LIMIT_S": str(STALL_LIMIT_S)})
    tenant, bad = await kernel.sign_up(), plant("block", hooks=SPINS_IN_ENABLE)
    await pk(kernel, "plugins", "install", BESIDE.wheel(tmp_path))
    refused = await pk(kernel, "plugins", "install", bad.wheel(tmp_path), status=1)
    await kernel.until_ready(LIMIT_S)

    assert f"{bad.plugin_id} 1.0.0 could not be brought up" in refused.stderr
    assert await words_heard(tenant.owner, BESIDE) == {"Hello"}
    assert bad.plugin_id not in await states(kernel)
    assert not (kernel.data_dir / "plugins" / bad.plugin_id).exists()
