"""The third parties' plugins of this process: what is desired, what is staged, and how the process comes to run it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

from msgspec import Struct

from host.changes.orders import Quarantine
from host.code import load_code
from host.discovery import Found, PluginLoadError, discover
from host.generations import Generation
from host.leaks import find_leaks
from host.lifecycle import ActivationFailed, Lifecycle, failed_state
from host.migrations import migrate
from host.resolution import Resolution, resolve
from host.settings import ANY_SECTION, LoadedSettings, SettingsInvalid, read
from host.store import Store
from host.store.packages import package_folder
from plugin_api.errors import Conflict, InvalidRequest, KernelError, NotFound, Unavailable
from plugin_api.manifest import names_of
from plugin_api.ports.desired_state import DESIRED_STATE, DesiredPlugin, DesiredPlugins
from plugin_api.ports.host_state import PluginState
from plugin_api.ports.migrations import MIGRATOR

if TYPE_CHECKING:
    from host.kernel import Kernel

NOTHING: Final = DesiredPlugins(0, "", ())
DISABLED: Final = "disabled; `pk plugins enable` lets it serve again"
BY_SETTING: Final = "switched off by the setting host.disabled"
TRIED_AGAIN: Final = "it is tried again by itself, and by `pk plugins enable`"
PLUGINS_FOLDER: Final = "plugins"


@dataclass
class Process:
    """What a roster needs of its process."""

    kernel: Kernel
    lifecycle: Lifecycle
    only: Sequence[str] = ()
    disabled: Sequence[str] = ()
    overrides: Mapping[str, Any] = field(default_factory=dict)
    loading: Callable[[str, str], None] = lambda _id, _package: None
    """Told which plugin's code, of which package, is about to run for the first time, and told "" when that is over."""


class Roster:
    """Which third-party plugins this process runs. One change at a time; the parent sees to that."""

    def __init__(self, process: Process, found: Sequence[Found], settings: LoadedSettings) -> None:
        self._process = process
        self._kernel = process.kernel
        self._ours = [one for one in found if one.is_kernel]
        self._environment = {one.id: one for one in found if not one.is_kernel}
        self._store = Store(process.kernel.data_folder / PLUGINS_FOLDER)
        self._staged: dict[str, Generation] = {}
        self._leaving: dict[str, asyncio.Task[None]] = {}
        self._known: dict[str, Found] = dict(self._environment)
        self.settings = settings
        self.desired = NOTHING
        self.is_failing = False
        """Whether something that is desired could not be brought up the last time."""
        self.quarantines: Sequence[Quarantine] = ()
        """Those that are in force, and those of plugins that are on trial after theirs."""

    # ------------------------------------------------------------------------------------ what is known

    @property
    def found(self) -> list[Found]:
        """Every third-party plugin that is known here, by id."""
        return [self._known[plugin_id] for plugin_id in sorted(self._known)]

    async def read(self) -> DesiredPlugins:
        """What is desired now; nothing where no plugin keeps it (`--only` left it out)."""
        state = self._kernel.find(DESIRED_STATE)
        return await state.read() if state is not None else NOTHING

    async def commit(
        self, change_id: str, expected: int, put: Sequence[DesiredPlugin], drop: Sequence[str]
    ) -> DesiredPlugins:
        """Write what is to be desired from now on. See `DesiredState.change`."""
        state = self._kernel.find(DESIRED_STATE)
        if state is None:
            raise Unavailable("plugins cannot be changed here: kernel.data does not run; start it (see `--only`)")
        await state.change(change_id, expected, put, drop)
        return await state.read()

    def dependents(self, plugin_id: str) -> list[str]:
        """Third-party plugins that cannot serve without this one: those that serve, or would without a quarantine."""
        before = self._resolve({}, kept_out={})
        after = self._resolve({}, without={plugin_id}, kept_out={})
        left = {one.id for one in after.order}
        return [one.id for one in before.order if one.id not in left and one.id != plugin_id]

    def of_environment(self, plugin_id: str) -> DesiredPlugin | None:
        """How a plugin of the kernel's own environment stands in the desired state, when something is to be said of it."""
        found = self._environment.get(plugin_id)
        if found is None or found.problem is not None:
            return None
        return DesiredPlugin(found.id, found.manifest.version, "", found.distribution, found.target, "")

    async def contract(self, plugin_id: str) -> list[str]:
        """Run what is pending of an active plugin's migrations, those included that no version before it survives."""
        found, migrator = self._known.get(plugin_id), self._kernel.find(MIGRATOR)
        if found is None or migrator is None or plugin_id not in self._kernel.table.generations:
            return []
        folder = found.folder / "migrations"
        return await migrate(migrator, plugin_id, found.names.schema, folder, may_be_older=True)

    # --------------------------------------------------------------------------------------- one plugin

    async def stage(self, plugin: DesiredPlugin) -> Generation:
        """Load one package and bring it so far that publishing it is one step.

        Raises:
            Conflict: it needs what is not here, or takes away what others need.
            InvalidRequest: it cannot be loaded, registered, migrated, or is not well; nothing of it stays.
        """
        await self._drop_staged(plugin.id)
        await self._gone(plugin.id)
        found = self._package(plugin)
        self._check_needs(found)
        before = self._kernel.troubles.get(plugin.id)
        try:
            generation = await self._bring_up(found)
        except ActivationFailed as error:
            self._kernel.troubles.pop(plugin.id, None)  # it is what it was, not what was tried
            if before is not None:
                self._kernel.troubles[plugin.id] = before
            raise InvalidRequest(f"{error}; correct it, everything is as it was", code="plugin_failed") from error
        self._staged[plugin.id] = generation
        return generation

    async def discard(self) -> None:
        """Forget everything that is staged."""
        for plugin_id in list(self._staged):
            await self._drop_staged(plugin_id)

    async def _drop_staged(self, plugin_id: str) -> None:
        generation = self._staged.pop(plugin_id, None)
        if generation is not None:
            await self._process.lifecycle.discard(generation)
            await self._unload(generation)

    def _package(self, plugin: DesiredPlugin) -> Found:
        """The package of a desired plugin, with every hash checked; one of the environment as it is."""
        if not plugin.digest:
            if plugin.id in self._environment:
                return self._environment[plugin.id]
            raise NotFound(f"{plugin.id} is not in this kernel's environment any more; remove it, or install it again")
        self._store.verify(plugin.id, plugin.version, plugin.digest)
        folder = self._store.find(plugin.id, plugin.version, plugin.digest)
        for found in discover([str(folder)]):
            if found.id == plugin.id:
                return replace(found, digest=plugin.digest)
        raise NotFound(f"{folder} holds no plugin {plugin.id}; install it again")

    def _check_needs(self, found: Found) -> None:
        if found.problem is not None:
            raise InvalidRequest(f"{found.id}: {found.problem}", code="plugin_failed")
        if found.id in self._process.disabled:
            raise Conflict(f"{found.id} is {BY_SETTING}; take it out there and restart", code="switched_off")
        now = self._resolve({found.id: found})
        if found.id in now.blocked:
            raise Conflict(now.blocked[found.id], code="needs_unmet")
        before, after = self._resolve({}, kept_out={}), self._resolve({found.id: found}, kept_out={})
        broken = [one.id for one in before.order if one.id in after.blocked]
        if broken:
            reasons = "; ".join(after.blocked[plugin_id] for plugin_id in broken)
            raise Conflict(f"others need what {found.id} {found.manifest.version} lacks: {reasons}", code="needed")

    async def _bring_up(self, found: Found) -> Generation:
        """Load and stage; ActivationFailed when that fails, whatever it is."""
        number = self._kernel.next_number(found.id)
        await asyncio.sleep(0)  # what was sent before goes out first
        self._process.loading(found.id, package_folder(found.manifest.version, found.digest))
        try:
            generation = await self._load(found, number)
        finally:
            self._process.loading("", "")
        generation.digest = found.digest
        return generation

    async def _load(self, found: Found, number: int) -> Generation:
        try:
            code = load_code(found, number)
        except PluginLoadError as error:
            raise ActivationFailed(found.id, "be imported", error.reason) from error
        try:
            settings = self._settings_of(found, code.module(f"{found.package}.settings"))
            return await self._process.lifecycle.stage(found, code.plugin, settings, code, number)
        except BaseException:
            code.unload()
            raise

    def _settings_of(self, found: Found, module: Any) -> Any:
        declared = getattr(module, "Settings", None)
        area = names_of(found.id).area
        if not (isinstance(declared, type) and issubclass(declared, Struct)):
            self.settings = self.settings.without({area})
            return None
        settings = read(
            {area: declared},
            data_dir=self._kernel.data_folder,
            overrides=self._process.overrides,
            others=ANY_SECTION,
        )
        self.settings = self.settings.with_sections_of(settings)
        try:
            return settings.section(area)
        except SettingsInvalid as error:
            raise ActivationFailed(found.id, "be configured", error.detail) from error

    # -------------------------------------------------------------------------------------- all of them

    async def converge(self, uninstall: Mapping[str, str] | None = None) -> dict[str, str]:
        """Run what is desired: publish what is staged or new, take away what is to go; id -> why it could not be.

        What cannot be brought up leaves its former version serving. Taking away ends when the calls under way have ended;
        `uninstall` tells what becomes of the data of those that leave for good.
        """
        self.desired = await self.read()
        failures = self._look_up()
        resolution = self._resolve({})
        self._note_those_out(resolution)
        ending = [self._take_away(plugin_id, uninstall or {}) for plugin_id in self._to_go(resolution)]
        for found in resolution.order:
            if not found.is_kernel and (why := await self._let_serve(found)) is not None:
                failures[found.id] = why
        self._note_trials()
        await self.discard()
        await asyncio.gather(*ending)
        self.is_failing = bool(failures)
        return failures

    def _look_up(self) -> dict[str, str]:
        """Find the package of everything that is desired; id -> why one cannot be used."""
        failures: dict[str, str] = {}
        known = dict(self._environment)
        for plugin in self.desired.plugins:
            if plugin.leaving:
                known.pop(plugin.id, None)
                continue
            try:
                known[plugin.id] = self._serving(plugin) or self._package(plugin)
            except KernelError as error:
                failures[plugin.id] = error.detail
                known.pop(plugin.id, None)
                self._kernel.troubles[plugin.id] = _state_of(plugin, "failed", error.detail)
        for gone in self._known.keys() - known.keys() - failures.keys():
            for remarks in (self._kernel.troubles, self._kernel.last_errors, self._kernel.leaks):
                remarks.pop(gone, None)
        self._known = known
        rows = self.desired.plugins
        self._kernel.previous = {one.id: one.previous.version for one in rows if one.previous is not None}
        return failures

    def _serving(self, plugin: DesiredPlugin) -> Found | None:
        """What serves already, when it is this very package: its files are not looked at again."""
        generation, found = self._kernel.table.generations.get(plugin.id), self._known.get(plugin.id)
        is_it = generation is not None and plugin.digest and generation.digest == plugin.digest
        return found if is_it and found is not None and found.digest == plugin.digest else None

    def _resolve(
        self,
        candidates: Mapping[str, Found],
        without: Collection[str] = (),
        kept_out: Mapping[str, Quarantine] | None = None,
    ) -> Resolution:
        """`candidates` are taken as if they were desired; `kept_out` are the quarantines that count, those in force."""
        known = {**self._known, **candidates}
        held = self._kept_out() if kept_out is None else kept_out
        off = {*self._switched_off(), *without, *held} - candidates.keys()
        reasons = {plugin_id: _told(quarantine) for plugin_id, quarantine in held.items()}
        remotes = self._kernel.remotes
        return resolve(
            [*self._ours, *known.values()],
            only=self._only(known),
            disabled=sorted(off),
            reasons=reasons,
            elsewhere=remotes.names if remotes is not None else (),
        )

    def _only(self, known: Collection[str]) -> list[str]:
        here = {*known, *(one.id for one in self._ours)}
        return [name for name in self._process.only if name in here or f"kernel.{name}" in here]

    def _switched_off(self) -> set[str]:
        return {plugin.id for plugin in self.desired.plugins if not plugin.enabled} | set(self._process.disabled)

    def _kept_out(self) -> dict[str, Quarantine]:
        """The quarantines in force, by the plugin that they keep out: a version that is desired, or of the environment."""
        return {one.plugin: one for one in self.quarantines if one.until > time.time() and self._is_desired(one)}

    def _is_desired(self, quarantine: Quarantine) -> bool:
        found = self._known.get(quarantine.plugin)
        return found is not None and quarantine.package == package_folder(found.manifest.version, found.digest)

    def _note_those_out(self, resolution: Resolution) -> None:
        """Say of each plugin that does not serve why."""
        for plugin_id, reason in resolution.blocked.items():
            if plugin_id in self._known:
                self._trouble(plugin_id, "blocked", reason)
        off, held = self._switched_off(), self._kept_out()
        for plugin_id in resolution.disabled:
            if plugin_id in self._known and plugin_id not in off:
                self._trouble(plugin_id, "quarantined", _told(held[plugin_id]))
            elif plugin_id in self._known:
                self._trouble(plugin_id, "stopped", BY_SETTING if plugin_id in self._process.disabled else DISABLED)

    def _note_trials(self) -> None:
        """Mark those that serve again after a quarantine, until they have done so for long enough."""
        on_trial = {one.plugin: one for one in self.quarantines if one.until <= time.time() and self._is_desired(one)}
        for generation in self._kernel.table.generations.values():
            if (quarantine := on_trial.get(generation.plugin_id)) is not None:
                generation.state, generation.reason = "half_open", _on_trial(quarantine)
            elif generation.state == "half_open":
                generation.state, generation.reason = "active", ""

    def _trouble(self, plugin_id: str, state: str, reason: str) -> None:
        self._kernel.troubles[plugin_id] = failed_state(self._known[plugin_id].manifest, 0, reason, state)
        if state in ("failed", "blocked"):
            self._kernel.log.error("a plugin does not serve", plugin=plugin_id, state=state, why=reason)

    def _to_go(self, resolution: Resolution) -> list[str]:
        """Active third-party plugins that are to serve no more, the last one first."""
        staying = {one.id for one in resolution.order}
        active = [plugin_id for plugin_id in self._kernel.table.generations if not plugin_id.startswith("kernel.")]
        return [plugin_id for plugin_id in reversed(active) if plugin_id not in staying]

    def _take_away(self, plugin_id: str, uninstall: Mapping[str, str]) -> Awaitable[None]:
        generation = cast("Generation", self._kernel.withdraw(plugin_id))
        return self._retire(generation, uninstall.get(plugin_id))

    async def _let_serve(self, found: Found) -> str | None:
        """Publish one plugin unless it serves already; why it could not be."""
        former = self._kernel.table.generations.get(found.id)
        if former is not None and former.digest == found.digest:
            return None
        generation = self._staged.pop(found.id, None)
        try:
            if generation is None or generation.digest != found.digest:
                await self._gone(found.id)
                generation = await self._bring_up(found)
            former = self._process.lifecycle.publish(generation)
            self._kernel.leaks.pop(found.id, None)
            self._kernel.last_errors.pop(found.id, None)
            await self._ready(generation)
        except ActivationFailed as error:
            if former is None:
                self._trouble(found.id, "failed", f"{error}; {TRIED_AGAIN}")
            return str(error)
        if former is not None:
            self._leaving[found.id] = asyncio.create_task(self._retire(former, None), name=f"retire:{former.key}")
        return None

    async def _ready(self, generation: Generation) -> None:
        try:
            await self._process.lifecycle.ready(generation)
        except ActivationFailed as error:
            generation.reason = str(error)
            self._kernel.log.error("a plugin is not ready", plugin=generation.plugin_id, why=str(error))

    # ------------------------------------------------------------------------------------------ leaving

    async def _gone(self, plugin_id: str) -> None:
        """Wait until an earlier generation has stopped, so that they do not pile up."""
        leaving = self._leaving.pop(plugin_id, None)
        if leaving is not None:
            await asyncio.wait([leaving])

    async def _retire(self, generation: Generation, uninstall: str | None) -> None:
        await self._process.lifecycle.retire(generation, uninstall=uninstall)
        await self._unload(generation)

    async def _unload(self, generation: Generation) -> None:
        """Let go of the code, and look whether it has gone."""
        code, plugin_id, key = generation.code, generation.plugin_id, generation.key
        if code is None:
            return
        generation.empty()
        remains = code.unload()
        del code
        await asyncio.sleep(0)  # until then the loop holds what its last task ended with
        leaks = find_leaks(remains)
        if leaks:
            self._kernel.leaks[plugin_id] = [f"{leak.kind}: {leak.owner}" for leak in leaks]
            for leak in leaks:
                self._kernel.log.warning(
                    "a stopped plugin left something behind", plugin=plugin_id, generation=key, kind=leak.kind,
                    owner=leak.owner, detail=leak.detail,
                )  # fmt: skip

    async def stop(self) -> None:
        """Let whatever is leaving come to its end."""
        await self.discard()
        if self._leaving:
            await asyncio.wait(list(self._leaving.values()))


def stored_ids(folder: Path) -> set[str]:
    """Ids of the plugins of which the store has something."""
    return {entry.name for entry in folder.iterdir() if "." in entry.name.strip(".")} if folder.is_dir() else set()


def stored_packages(folder: Path) -> list[Found]:
    """Every package of the store, one of each plugin; which one is desired is not known yet."""
    packages = [
        package for plugin_id in sorted(stored_ids(folder)) for package in sorted((folder / plugin_id).iterdir())
    ]
    return list({found.id: found for package in packages for found in discover([str(package)])}.values())


def _state_of(plugin: DesiredPlugin, state: str, reason: str) -> PluginState:
    return PluginState(plugin.id, plugin.version, state, 0, reason)


def _told(quarantine: Quarantine) -> str:
    """Why it is kept out, how long, and what to do."""
    again = f"`pk plugins enable {quarantine.plugin}` lets it serve at once"
    return f"quarantined: {quarantine.reason}; it is tried again at {_clock(quarantine.until)}, {again}"


def _on_trial(quarantine: Quarantine) -> str:
    return f"on trial until {_clock(quarantine.forgiven)} after its quarantine: {quarantine.reason}"


def _clock(moment: float) -> str:
    return f"{datetime.fromtimestamp(moment, UTC):%Y-%m-%d %H:%M:%S} UTC"
