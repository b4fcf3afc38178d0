"""Bringing up all plugins of one process, in order, and taking them down again."""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from msgspec import Struct

from host.changes.orders import Quarantine
from host.control_answers import answer
from host.discovery import Found, PluginLoadError, discover
from host.generations import Generation
from host.http import Page
from host.kernel import Kernel
from host.lifecycle import ActivationFailed, Lifecycle, failed_state, stop_order
from host.migrations import ALL_PHASES, EXPAND_ONLY, migrate
from host.own_operations import host_generation
from host.own_pages import host_pages
from host.remote.remotes import make_remotes
from host.resolution import UnknownPlugin, resolve
from host.roster import PLUGINS_FOLDER, Process, Roster, stored_ids, stored_packages
from host.settings import (
    ANY_SECTION,
    OBSERVE,
    REMOTE,
    HostSettings,
    LoadedSettings,
    ObserveSettings,
    RemoteSettings,
    SettingsInvalid,
    read,
)
from host.store.packages import stored_place
from host.tracing_start import start_tracing
from plugin_api.hooks import Health
from plugin_api.ports.migrations import MIGRATOR
from plugin_api.servers import StartRefused

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
    """The plugins of this process: found, resolved, activated, and stopped in reverse.

    The kernel's own come first, because which others are to run is read from the database.
    """

    def __init__(
        self,
        kernel: Kernel,
        only: Sequence[str],
        overrides: Mapping[str, Any],
        found: Sequence[Found] | None = None,
        quarantined: Sequence[Quarantine] = (),
        loading: Callable[[str, str], None] = lambda _id, _package: None,
    ) -> None:
        self._kernel = kernel
        self._only = list(only)
        self._overrides = overrides
        self._found = list(discover() if found is None else found)
        self._quarantined = quarantined
        self._loading = loading
        self._lifecycle = Lifecycle(kernel, self._migrate)
        self._health: tuple[float, dict[str, Any]] = (0.0, {})
        self._disabled: list[str] = []
        self.roster: Roster | None = None

    def pages(self) -> dict[str, Page]:
        """The pages that the host serves itself."""
        return host_pages(self._kernel)

    async def run(self) -> None:
        """Activate everything. StartFailed when one of the kernel's own plugins cannot be."""
        self._kernel.publish(host_generation(self._kernel))
        ours = self._resolve()
        settings = self._read_settings(ours)
        active = [await self._activate(found, settings) for found in ours]
        roster = self.roster = self._make_roster(settings)
        await roster.converge()
        for generation in active:
            await self._ready(generation)

    def _make_roster(self, settings: LoadedSettings) -> Roster:
        process = Process(
            self._kernel, self._lifecycle, self._only, self._disabled, self._overrides, loading=self._loading
        )
        roster = Roster(process, self._found, settings)
        roster.quarantines = self._quarantined
        return roster

    def _resolve(self) -> list[Found]:
        """The kernel's own plugins that are to start, in their order; why the others do not is noted."""
        sections: dict[str, type[Struct]] = {"host": HostSettings, REMOTE: RemoteSettings}
        host = read(sections, data_dir=self._kernel.data_folder, overrides=self._overrides, others=ANY_SECTION)
        if host.problems:
            raise StartFailed(SettingsInvalid(host.problems).detail)
        self._disabled = host.section("host").disabled
        try:
            self._kernel.remotes = make_remotes(self._kernel, host.section(REMOTE), host.section("host"))
        except StartRefused as error:
            raise StartFailed(str(error)) from error
        elsewhere = host.section(REMOTE).addresses
        known = [*self._found, *(stored_packages(self._plugins_folder) if self._only else ())]
        try:
            resolution = resolve(known, only=self._only, disabled=self._disabled, elsewhere=elsewhere)
        except UnknownPlugin as error:
            raise StartFailed(str(error)) from error
        for plugin_id, reason in resolution.blocked.items():
            self._trouble(plugin_id, reason, "blocked")
        for plugin_id in resolution.disabled:
            self._trouble(plugin_id, "switched off by the setting host.disabled", "stopped")
        return [found for found in resolution.order if found.is_kernel]

    @property
    def _plugins_folder(self) -> Path:
        return self._kernel.data_folder / PLUGINS_FOLDER

    def _read_settings(self, ours: Sequence[Found]) -> LoadedSettings:
        """Read the kernel's own sections; a problem in one of them ends the start."""
        sections: dict[str, type[Struct]] = {"host": HostSettings, OBSERVE: ObserveSettings, REMOTE: RemoteSettings}
        for found in ours:
            self._load(found)
            if (declared := settings_of(found)) is not None:
                sections[found.names.area] = declared
        others = {found.names.area for found in self._found} | stored_ids(self._plugins_folder)
        settings = read(
            sections, data_dir=self._kernel.data_folder, overrides=self._overrides, others=others - set(sections)
        )
        if settings.problems:
            raise StartFailed(SettingsInvalid(settings.problems).detail)
        host: HostSettings = settings.section("host")
        self._kernel.deadline_s = host.deadline_s
        start_tracing(self._kernel, settings.section(OBSERVE))
        return settings

    def _load(self, found: Found) -> object:
        try:
            return found.load()
        except PluginLoadError as error:
            self._trouble(found.id, str(error), "failed")
            raise StartFailed(str(error)) from error

    async def _activate(self, found: Found, settings: LoadedSettings) -> Generation:
        """One of the kernel's own plugins; without it there is no kernel to start."""
        try:
            return await self._lifecycle.activate(found, self._load(found), settings.find(found.names.area))
        except ActivationFailed as error:
            self._trouble(found.id, str(error), "failed")
            raise StartFailed(str(error)) from error

    async def _ready(self, generation: Generation) -> None:
        try:
            await self._lifecycle.ready(generation)
        except ActivationFailed as error:
            self._kernel.log.error("a plugin is not ready", plugin=generation.plugin_id, why=str(error))
            raise StartFailed(str(error)) from error

    def _trouble(self, plugin_id: str, reason: str, state: str) -> None:
        if not plugin_id.startswith("kernel."):
            return  # the roster's business
        manifest = next(found.manifest for found in self._found if found.id == plugin_id)
        self._kernel.troubles[plugin_id] = failed_state(manifest, 0, reason, state)
        self._kernel.log.error("a plugin does not serve", plugin=plugin_id, state=state, why=reason)

    async def _migrate(self, generation: Generation, found: Found) -> list[str]:
        """The kernel's own plugins run everything that is pending. Of others that are there already only what suits the
        version before too: that may serve beside, and again after a rollback; the rest waits for `pk migrate up`, or for
        its time."""
        folder, migrator = found.folder / "migrations", self._kernel.find(MIGRATOR)
        if migrator is None:
            return []
        schema = generation.names.schema
        if found.is_kernel:
            return await migrate(migrator, generation.plugin_id, schema, folder)
        phases = EXPAND_ONLY if await migrator.applied(schema) else ALL_PHASES
        return await migrate(migrator, generation.plugin_id, schema, folder, phases=phases, may_be_older=True)

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
        """Every plugin that is known here."""
        ours = [found for found in self._found if found.is_kernel]
        return ours + (self.roster.found if self.roster is not None else [])

    @property
    def settings(self) -> LoadedSettings | None:
        """The settings of this process; None before they are read."""
        return self.roster.settings if self.roster is not None else None

    def owner_of(self, file: str) -> str:
        """The plugin whose code a file is; empty for the host's, a library's and Python's own. Safe from any thread."""
        if plugin_id := stored_place(self._plugins_folder, file)[0]:
            return plugin_id
        return next((found.id for found in self._found if file.startswith(f"{found.folder}/")), "")

    def package_of(self, file: str) -> str:
        """The package of the store that a file, or a place in it, is of; empty for none. Safe from any thread."""
        return stored_place(self._plugins_folder, file)[1]

    async def stop(self) -> None:
        """Stop every plugin, the last one first."""
        if self.roster is not None:
            await self.roster.stop()
        for plugin_id in stop_order(list(self._kernel.table.generations.values())):
            await self._lifecycle.deactivate(plugin_id, 2.0)
        if self._kernel.remotes is not None:
            await self._kernel.remotes.close()
        if self._kernel.tracing is not None:
            await self._kernel.tracing.close()


def settings_of(found: Found) -> type[Struct] | None:
    """The `Settings` Struct of a plugin's `settings.py`, if it has one. The plugin's package is imported already."""
    name = f"{found.package}.settings"
    if importlib.util.find_spec(name) is None:
        return None
    settings = getattr(importlib.import_module(name), "Settings", None)
    return settings if isinstance(settings, type) and issubclass(settings, Struct) else None
