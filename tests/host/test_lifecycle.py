"""A plugin becomes active whole or not at all, and one that fails leaves the rest serving."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any, cast

import pytest
from msgspec import Struct

from host.generations import Generation
from host.kernel import Kernel
from host.lifecycle import ActivationFailed, Lifecycle
from host.observe import sink
from plugin_api import Call, Registrar, ServiceKey, errors, hookimpl, operation
from plugin_api.call import Actor
from plugin_api.deprecations import Deprecation
from plugin_api.hooks import Health
from plugin_api.manifest import Manifest
from plugin_api.pipeline import PipelineSlots, Tenant
from plugin_api.testing import until


class Empty(Struct, frozen=True, forbid_unknown_fields=True):
    pass


class Said(Struct, frozen=True):
    text: str


class Found:
    """What discovery would give."""

    def __init__(self, plugin_id: str, folder: Path, **more: Any) -> None:
        self.manifest = Manifest(id=plugin_id, version="1.0.0", api=">=1.0,<2", summary="x", **more)
        self.folder = folder


def speaker(word: str, **faults: Any) -> Any:
    """A plugin that says a word; `faults` names hooks that fail, with what they do."""

    class Operations:
        @operation("GET /word", public=True)
        async def say(self, call: Call, request: Empty) -> Said:
            """Say it."""
            return Said(word)

    class Plugin:
        seen: list[str] = []

        @hookimpl
        def pk_configure(self, settings: Any) -> None:
            act(faults.get("configure"))

        @hookimpl
        def pk_register(self, registrar: Registrar) -> None:
            registrar.operations(Operations())
            registrar.task("wait", faults.get("task", asyncio.Event().wait))
            act(faults.get("register"))

        @hookimpl
        async def pk_enable(self) -> None:
            act(faults.get("enable"))

        @hookimpl
        async def pk_health(self) -> Health:
            return Health(not faults.get("ill"), "the disk is on fire")

        @hookimpl
        async def pk_disable(self) -> None:
            self.seen.append("disable")

    return Plugin()


def act(fault: Any) -> None:
    if isinstance(fault, BaseException):
        raise fault


async def migrate(generation: Generation, found: Any) -> list[str]:
    act(found.__dict__.get("migration_fault"))
    return []


async def activate(kernel: Kernel, found: Any, plugin: Any) -> Generation:
    return await Lifecycle(kernel, migrate).activate(found, plugin, None)


def says(kernel: Kernel, plugin_id: str = "acme.word") -> bool:
    return kernel.table.dispatch.find(f"/api/v1/x/{plugin_id}/word") is not None


async def test_an_active_plugin_is_in_the_table(bare_kernel: Kernel, tmp_path: Path) -> None:
    generation = await activate(bare_kernel, Found("acme.word", tmp_path), speaker("hello"))

    assert says(bare_kernel)
    assert (generation.state, bare_kernel.state.plugins()[0].id) == ("active", "acme.word")
    await Lifecycle(bare_kernel, migrate).deactivate("acme.word")
    assert not says(bare_kernel)
    assert generation.state == "stopped"
    assert not generation.running


async def test_a_task_that_fails_while_it_ends_is_not_begun_again(bare_kernel: Kernel, tmp_path: Path) -> None:
    """As where it would let go of something in a database that is away."""
    begun = 0

    async def stubborn() -> None:
        nonlocal begun
        begun += 1
        try:
            await asyncio.Event().wait()
        finally:
            raise errors.StoreUnavailable("the database is away")

    generation = await activate(bare_kernel, Found("acme.word", tmp_path), speaker("hello", task=stubborn))
    async with asyncio.timeout(5):
        await until(lambda: begun, "it runs")
        await Lifecycle(bare_kernel, migrate).deactivate("acme.word")

    assert (begun, generation.state) == (1, "stopped")


@pytest.mark.parametrize(
    "fault", [RuntimeError("broken"), SystemExit(3), errors.InvalidRequest("broken"), KeyError("broken")]
)
@pytest.mark.parametrize("phase", ["configure", "register", "enable"])
async def test_a_failing_plugin_leaves_the_old_one_serving(
    bare_kernel: Kernel, tmp_path: Path, phase: str, fault: BaseException
) -> None:
    old = await activate(bare_kernel, Found("acme.word", tmp_path), speaker("old"))
    other = await activate(bare_kernel, Found("acme.other", tmp_path), speaker("other"))
    before = bare_kernel.table

    with pytest.raises(ActivationFailed, match=f"acme.word failed to {phase}"):
        await activate(bare_kernel, Found("acme.word", tmp_path), speaker("new", **{phase: fault}))

    assert bare_kernel.table is before
    assert [old.state, other.state] == ["active", "active"]
    assert bare_kernel.hooks.find("acme.word@2", "pk_enable") is None


async def test_a_failed_migration_names_its_phase(bare_kernel: Kernel, tmp_path: Path) -> None:
    found = Found("acme.word", tmp_path)
    found.migration_fault = errors.Conflict("0001_x.sql was edited")  # type: ignore[attr-defined]

    with pytest.raises(ActivationFailed, match="failed to migrate: 0001_x.sql was edited"):
        await activate(bare_kernel, found, speaker("new"))

    assert bare_kernel.troubles["acme.word"].state == "failed"


async def test_an_ill_plugin_is_not_published(bare_kernel: Kernel, tmp_path: Path) -> None:
    plugin = speaker("new", ill=True)

    with pytest.raises(ActivationFailed, match="be healthy: the disk is on fire"):
        await activate(bare_kernel, Found("acme.word", tmp_path), plugin)

    assert not says(bare_kernel)
    assert plugin.seen == ["disable"]


async def test_two_plugins_cannot_hold_one_slot(bare_kernel: Kernel, tmp_path: Path) -> None:
    class Guard:
        @hookimpl
        def pk_pipeline(self, slots: PipelineSlots) -> None:
            slots.limit(lambda bound: None)

    await activate(bare_kernel, Found("acme.one", tmp_path), Guard())

    with pytest.raises(ActivationFailed, match="the slot limit is held by acme.one"):
        await activate(bare_kernel, Found("acme.two", tmp_path), Guard())


async def test_two_plugins_cannot_claim_one_path(bare_kernel: Kernel, tmp_path: Path) -> None:
    class Operations:
        @operation("GET /api/v1/shared", public=True)
        async def say(self, call: Call, request: Empty) -> Said:
            """Say it."""
            return Said("")

    class Plugin:
        @hookimpl
        def pk_register(self, registrar: Registrar) -> None:
            registrar.operations(Operations())

    await activate(bare_kernel, Found("kernel.one", tmp_path), Plugin())

    with pytest.raises(ActivationFailed, match="GET /api/v1/shared is taken by GET /api/v1/shared"):
        await activate(bare_kernel, Found("kernel.two", tmp_path), Plugin())
    with pytest.raises(ActivationFailed, match="which only kernel plugins may register"):
        await activate(bare_kernel, Found("acme.three", tmp_path), Plugin())


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("def say(self, call, request: Empty) -> Said: ...", "is no `async def`"),
        ("async def say(self, call, request) -> Said: ...", "which is no Struct"),
        ("async def say(self, call, request: Empty): ...", "say what it answers"),
        ("async def say(self, call) -> Said: ...", r"takes \(self, call: Call, request: SomeStruct\)"),
    ],
)
async def test_a_wrong_operation_is_refused_with_the_remedy(
    bare_kernel: Kernel, tmp_path: Path, body: str, reason: str
) -> None:
    names: dict[str, Any] = {"operation": operation, "Empty": Empty, "Said": Said}
    exec(f"class Operations:\n    @operation('GET /word', public=True)\n    {body}", names)

    class Plugin:
        @hookimpl
        def pk_register(self, registrar: Registrar) -> None:
            registrar.operations(names["Operations"]())

    with pytest.raises(ActivationFailed, match=reason):
        await activate(bare_kernel, Found("acme.word", tmp_path), Plugin())


async def test_an_unlisted_permission_is_refused_with_the_line_to_add(bare_kernel: Kernel, tmp_path: Path) -> None:
    class Operations:
        @operation("GET /word", permission="word.read")
        async def say(self, call: Call, request: Empty) -> Said:
            """Say it."""
            return Said("")

    class Plugin:
        @hookimpl
        def pk_register(self, registrar: Registrar) -> None:
            registrar.operations(Operations())

    with pytest.raises(ActivationFailed, match=r'add "word.read" under \[permissions\]'):
        await activate(bare_kernel, Found("acme.word", tmp_path), Plugin())


# ------------------------------------------------------------------------------------------------ services

WORDS: ServiceKey[Any] = ServiceKey("acme.word")


class Caller:
    """A plugin that calls another by its key."""

    services: Any = None

    @hookimpl
    def pk_register(self, registrar: Registrar) -> None:
        self.services = registrar.services


def a_call(kernel: Kernel, generation: Generation) -> Call:
    return Call(kernel.runtime(generation), tenant_id=None, actor=Actor("user", "u"), request_id="r", deadline=1e12)


async def test_a_proxy_reaches_the_current_generation(bare_kernel: Kernel, tmp_path: Path) -> None:
    caller = Caller()
    provider = Found("acme.word", tmp_path, provides=["acme.word 1.0"])
    first = await activate(bare_kernel, provider, speaker("one"))
    await activate(bare_kernel, Found("acme.caller", tmp_path, requires=["acme.word >=1"]), caller)
    proxy = caller.services.get(WORDS)
    call = a_call(bare_kernel, first)

    assert (await proxy.say(call, Empty())).text == "one"

    await activate(bare_kernel, provider, speaker("two"))
    assert (await proxy.say(call, Empty())).text == "two"

    await Lifecycle(bare_kernel, migrate).deactivate("acme.word")
    with pytest.raises(errors.Unavailable, match=r"nothing provides acme.word.say now"):
        await proxy.say(call, Empty())


async def test_an_undeclared_capability_cannot_be_looked_up(bare_kernel: Kernel, tmp_path: Path) -> None:
    caller = Caller()
    await activate(bare_kernel, Found("acme.caller", tmp_path), caller)

    with pytest.raises(errors.KernelBug, match="without listing it in `requires` or `after`"):
        caller.services.get(WORDS)


async def test_every_plugin_hears_of_a_tenant_even_when_one_fails(bare_kernel: Kernel, tmp_path: Path) -> None:
    heard: list[str] = []

    class Listener:
        def __init__(self, name: str) -> None:
            self.name = name

        @hookimpl
        async def pk_tenant_created(self, tenant: Tenant) -> None:
            heard.append(self.name)
            if self.name == "acme.one":
                raise RuntimeError("not today")

    for name in ("acme.one", "acme.two"):
        await activate(bare_kernel, Found(name, tmp_path), Listener(name))

    with pytest.raises(errors.Unavailable, match="acme.one in pk_tenant_created"):
        await bare_kernel.tenant_hooks.created(Tenant(id=a_tenant(), slug="a", name="A"))

    assert heard == ["acme.one", "acme.two"]


def a_tenant() -> Any:
    from plugin_api.ids import uuid7

    return uuid7()


async def test_who_uses_what_is_deprecated_is_named(
    bare_kernel: Kernel, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    told = {"since": "1.4", "removed_in": "2.0", "date": "2027-06-30", "replacement": "do without it"}
    announced = [Deprecation(name, **told) for name in ("pk_configure.settings", "pk_demo", "pk_drain")]
    lifecycle = Lifecycle(bare_kernel, migrate, announced)
    await lifecycle.activate(cast("Any", Found("acme.word", tmp_path)), speaker("hello"), None)
    sink.flush()
    lines = [json.loads(line) for line in capfd.readouterr().err.splitlines() if "deprecated" in line]

    assert [(line["plugin"], line["what"].split(" ")[0]) for line in lines] == [("acme.word", "pk_configure.settings")]
