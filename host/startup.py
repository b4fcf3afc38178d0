"""Bringing up all plugins of one process, in order, and taking them down again."""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from msgspec import Struct

from host.control_answers import answer
from host.description import host_pages
from host.discovery import Found, PluginLoadError, discover
from host.generations import Generation
from host.http import Page
from host.kernel import Kernel
from host.lifecycle import ActivationFailed, Lifecycle, failed_state, stop_order
from host.migrations import migrate
from host.own_operations import host_generation
from host.resolution import Resolution, UnknownPlugin, resolve
from host.settings import ANY_SECTION, HostSettings, LoadedSettings, SettingsInvalid, read
from plugin_api.hooks import Health
from plugin_api.ports.migrations import MIGRATOR

HEALTH_KEPT_S: Final = 2.0
HEALTH_DEADLINE_S: Final = 2.0


class StartFailed(Exception):
    """The kernel cannot start; the text is for the operator: what, why, remedy."""


def preload() -> list[Found]:
    """Discover plugins and import the kernel's own, while the servers are still starting. One that cannot be imported
    says so when it is loaded for good."""
    found = discover()
    for one in found:
        if one.is_kernel and one.problem is None:
            with suppress(PluginLoadError):
                one.load()
    return found


class Startup:
    """The plugins of this process: found, resolved, activated, and stopped in reverse."""

    def __init__(
        self, kernel: Kernel, only: Sequence[str], overrides: Mapping[str, Any], found: Sequence[Found] | None = None
    ) -> None:
        self._kernel = kernel
        self._only = list(only)
        self._overrides = overrides
        self._found = list(discover() if found is None else found)
        self._lifecycle = Lifecycle(kernel, self._migrate)
        self._health: tuple[float, dict[str, Any]] = (0.0, {})
        self.settings: LoadedSettings | None = None

    def folders(self) -> dict[str, Path]:
        """Plugin id -> folder of its code."""
        return {found.manifest.id: found.folder for found in self._found if found.problem is None}

    def pages(self) -> dict[str, Page]:
        """The pages that the host serves itself."""
        return host_pages(self._kernel)

    async def run(self) -> None:
        """Activate everything. StartFailed when one of the kernel's own plugins cannot be."""
        self._kernel.publish(host_generation(self._kernel))
        resolution = self._resolve()
        for plugin_id, reason in resolution.blocked.items():
            self._trouble(plugin_id, reason, "blocked")
        for plugin_id in resolution.disabled:
            self._trouble(plugin_id, "switched off by the setting host.disabled", "stopped")
        loaded = [(found, plugin) for found in resolution.order if (plugin := self._load(found)) is not None]
        self.settings = self._read_settings([found for found, _ in loaded])
        active = [g for found, plugin in loaded if (g := await self._activate(found, plugin)) is not None]
        for generation in active:
            await self._ready(generation)

    def _resolve(self) -> Resolution:
        host = read(
            {"host": HostSettings}, data_dir=self._kernel.data_folder, overrides=self._overrides, others=ANY_SECTION
        )
        if host.problems:
            raise StartFailed(SettingsInvalid(host.problems).detail)
        try:
            return resolve(self._found, only=self._only, disabled=host.section("host").disabled)
        except UnknownPlugin as error:
            raise StartFailed(str(error)) from error

    def _load(self, found: Found) -> object | None:
        try:
            return found.load()
        except PluginLoadError as error:
            self._failed(found, str(error))
            return None

    def _read_settings(self, loaded: Sequence[Found]) -> LoadedSettings:
        """Read every section once. A problem of the kernel's own sections ends the start, one of another plugin that plugin."""
        sections: dict[str, type[Struct]] = {"host": HostSettings}
        sections.update({f.names.area: declared for f in loaded if (declared := settings_of(f)) is not None})
        others = {f.names.area for f in self._found} - set(sections)
        settings = read(sections, data_dir=self._kernel.data_folder, overrides=self._overrides, others=others)
        outside = {f.names.area for f in loaded if not f.is_kernel}
        ours = [problem for problem in settings.problems if problem.section not in outside]
        if ours:
            raise StartFailed(SettingsInvalid(ours).detail)
        host: HostSettings = settings.section("host")
        self._kernel.deadline_s, self._kernel.body_bytes_max = host.deadline_s, host.body_bytes_max
        return settings

    def _settings_problem(self, found: Found) -> str | None:
        problems = self.settings.problems if self.settings else []
        mine = [problem for problem in problems if problem.section == found.names.area]
        return SettingsInvalid(mine).detail if mine else None

    async def _activate(self, found: Found, plugin: object) -> Generation | None:
        problem = self._settings_problem(found)
        if problem is not None:
            self._failed(found, problem)
            return None
        settings = self.settings.find(found.names.area) if self.settings else None
        try:
            return await self._lifecycle.activate(found, plugin, settings)
        except ActivationFailed as error:
            self._failed(found, str(error))
            return None

    async def _ready(self, generation: Generation) -> None:
        try:
            await self._lifecycle.ready(generation)
        except ActivationFailed as error:
            generation.reason = str(error)
            self._kernel.log.error("a plugin is not ready", plugin=generation.plugin_id, why=str(error))
            if generation.plugin_id.startswith("kernel."):
                raise StartFailed(str(error)) from error

    def _failed(self, found: Found, reason: str) -> None:
        """Note a plugin that failed. One of the kernel's own is no kernel to start without."""
        self._trouble(found.manifest.id, reason, "failed")
        if found.manifest.id.startswith("kernel."):
            raise StartFailed(reason)

    def _trouble(self, plugin_id: str, reason: str, state: str) -> None:
        manifest = next(found.manifest for found in self._found if found.manifest.id == plugin_id)
        self._kernel.troubles[plugin_id] = failed_state(manifest, 0, reason, state)
        self._kernel.log.error("a plugin does not serve", plugin=plugin_id, state=state, why=reason)

    async def _migrate(self, generation: Generation, found: Found) -> list[str]:
        folder = found.folder / "migrations"
        if not folder.is_dir() or MIGRATOR.name not in self._kernel.table.services:
            return []
        migrator: Any = self._kernel.table.services[MIGRATOR.name].implementation
        return await migrate(migrator, generation.plugin_id, generation.names.schema, folder)

    # ------------------------------------------------------------------------------- while it runs

    async def health(self) -> dict[str, Any]:
        """How every plugin is, asked at most every HEALTH_KEPT_S."""
        made, kept = self._health
        if kept and time.monotonic() - made < HEALTH_KEPT_S:
            return kept
        generations = list(self._kernel.table.generations.values())
        answers = await asyncio.gather(*(self._health_of(generation) for generation in generations))
        plugins = {g.plugin_id: {"ok": h.ok, "detail": h.detail} for g, h in zip(generations, answers, strict=True)}
        result = {"ok": self._kernel.is_ready and all(h.ok for h in answers), "plugins": plugins}
        self._health = (time.monotonic(), result)
        return result

    async def _health_of(self, generation: Generation) -> Health:
        try:
            health = await self._kernel.hooks.call(generation.key, generation.plugin_id, "pk_health", HEALTH_DEADLINE_S)
        except Exception as error:  # noqa: BLE001 - a plugin that cannot say how it is, is not well
            return Health(False, str(error))
        return health if isinstance(health, Health) else Health(True)

    async def control(self, fields: dict[str, Any]) -> dict[str, Any]:
        """Answer one question of the command line."""
        return await answer(self, fields)

    @property
    def kernel(self) -> Kernel:
        """The kernel of this process."""
        return self._kernel

    @property
    def found(self) -> list[Found]:
        """Every plugin that was discovered."""
        return self._found

    async def stop(self) -> None:
        """Stop every plugin, the last one first."""
        for plugin_id in stop_order(list(self._kernel.table.generations.values())):
            await self._lifecycle.deactivate(plugin_id, 2.0)


def settings_of(found: Found) -> type[Struct] | None:
    """The `Settings` Struct of a plugin's `settings.py`, if it has one. The plugin's package is imported already."""
    name = f"{found.package}.settings"
    if importlib.util.find_spec(name) is None:
        return None
    settings = getattr(importlib.import_module(name), "Settings", None)
    return settings if isinstance(settings, type) and issubclass(settings, Struct) else None
