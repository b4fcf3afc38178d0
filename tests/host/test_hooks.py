"""Hooks are checked when a plugin is registered and called one plugin at a time."""

from __future__ import annotations

import asyncio
from typing import Any

import pluggy
import pytest

from host.hooks import HookFailed, HookTable
from plugin_api import hookimpl


class Good:
    @hookimpl
    def pk_configure(self, settings: Any) -> None:
        self.seen = settings

    @hookimpl
    async def pk_enable(self) -> None:
        await asyncio.sleep(0)

    @hookimpl
    async def pk_ready(self) -> None:
        await asyncio.Event().wait()

    @hookimpl
    async def pk_drain(self) -> None:
        raise SystemExit(3)


class WrongArgument:
    @hookimpl
    def pk_configure(self, options: Any) -> None: ...


class WrongName:
    @hookimpl
    def pk_konfigure(self, settings: Any) -> None: ...


async def test_a_hook_gets_the_arguments_that_it_names() -> None:
    table, plugin = HookTable(), Good()
    table.add("acme.good@1", plugin)

    await table.call("acme.good@1", "acme.good", "pk_configure", 1.0, settings={"a": 1}, more="dropped")
    await table.call("acme.good@1", "acme.good", "pk_enable", 1.0)

    assert plugin.seen == {"a": 1}


async def test_an_absent_hook_is_nothing() -> None:
    table = HookTable()
    table.add("acme.good@1", Good())

    assert await table.call("acme.good@1", "acme.good", "pk_health", 1.0) is None
    assert await table.call("acme.none@1", "acme.none", "pk_health", 1.0) is None


async def test_a_hanging_hook_is_given_up() -> None:
    table = HookTable()
    table.add("acme.good@1", Good())

    with pytest.raises(HookFailed, match="acme.good: pk_ready did not end within 0.01 s"):
        await table.call("acme.good@1", "acme.good", "pk_ready", 0.01)


async def test_system_exit_stops_only_its_plugin() -> None:
    table = HookTable()
    table.add("acme.good@1", Good())

    with pytest.raises(HookFailed, match="raised SystemExit: 3"):
        await table.call("acme.good@1", "acme.good", "pk_drain", 1.0)


@pytest.mark.parametrize("plugin", [WrongArgument(), WrongName()])
async def test_a_wrong_hook_is_refused_and_leaves_nothing(plugin: object) -> None:
    table = HookTable()

    with pytest.raises(pluggy.PluginValidationError):
        table.add("acme.wrong@1", plugin)

    assert table.find("acme.wrong@1", "pk_configure") is None
    table.add("acme.good@1", Good())


async def test_two_generations_of_one_plugin_stand_side_by_side() -> None:
    table, old, new = HookTable(), Good(), Good()
    table.add("acme.good@1", old)
    table.add("acme.good@2", new)

    await table.call("acme.good@2", "acme.good", "pk_configure", 1.0, settings=2)
    table.remove("acme.good@1")
    await table.call("acme.good@1", "acme.good", "pk_configure", 1.0, settings=1)

    assert new.seen == 2
    assert not hasattr(old, "seen")
