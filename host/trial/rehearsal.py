"""Inside the trial's process: the package goes through everything up to its publication, and out again."""

from __future__ import annotations

import asyncio
import re
import secrets
import traceback
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import pluggy
from msgspec import Struct

from host.discovery import PluginLoadError
from host.dispatch import RouteConflict
from host.event_lock import NAME as EVENTS_LOCK
from host.event_lock import LockUnreadable, breaks, gains, read_lock
from host.finding import Finding
from host.generations import Generation
from host.hooks import HookFailed
from host.kernel import Kernel, Place
from host.leaks import Surroundings, find_leaks
from host.leaks.finding import Leak
from host.lifecycle import StagedSlots, _check_provided
from host.loader import LoadedCode, load
from host.registrar import HostRegistrar, _marked
from host.settings import ANY_SECTION, read
from host.stamps import FileStamps, create_stamps
from host.trial.findings import LEAK_RULES, Request, Trial, TriedOperation, finding, has_passed
from host.wire.lock import NAME as WIRE_LOCK
from host.wire.lock import Lock, WireLockUnreadable
from host.wire.lock import breaks as wire_breaks
from host.wire.lock import gains as wire_gains
from host.wire.lock import read_lock as read_wire_lock
from host.wire.model import Contract
from host.wire.shapes import contract_of
from plugin_api.errors import KernelError
from plugin_api.event_schemas import Schema
from plugin_api.limits import HOOK_DEADLINE_S
from plugin_api.manifest import Manifest, ManifestError, Names, names_of, read_manifest
from plugin_api.operation import OPERATION_ATTRIBUTE, OperationSpec

_PLACED: Final = re.compile(r"(?P<file>/.*?):(?P<line>\d+): ")
_HOOK: Final = re.compile(r"hook '(?P<name>\w+)'")


class _Stop(Exception):
    """A finding after which going on makes no sense."""


class Rehearsal:
    """One trial. `tell` is told each phase as it begins; `place` is an empty folder that somebody else deletes."""

    def __init__(self, request: Request, tell: Callable[[str], None], place: Path) -> None:
        self._request = request
        self._id = request.plugin_id
        self._folder = Path(request.folder).resolve()
        self._tell = tell
        self._place = place
        self.findings: list[Finding] = []
        self._operations: list[TriedOperation] = []
        self._provides: list[str] = []
        self._events: dict[str, Schema] | None = None
        self._compiled: list[str] = []
        self._wire: Contract | None = None

    async def run(self) -> Trial:
        """Go through all of it; whatever fails is a finding."""
        try:
            manifest = self._read_manifest()
        except _Stop:
            return self._outcome()
        kernel = _empty_kernel(self._place)
        before = Surroundings.snapshot()
        code = self._load()
        if code is not None:
            await self._register(kernel, code, manifest)
        self._add_leaks(Surroundings.changes(before, self._id))
        if code is not None:
            await self._unload(code)
        return self._outcome()

    def _outcome(self) -> Trial:
        passed = has_passed(self.findings)
        return Trial(passed, self.findings, self._operations, self._provides, self._events, self._compiled, self._wire)

    def _find(self, rule_id: str, said: str, at: tuple[str, int] = ("", 0)) -> None:
        text = said if said.startswith(self._id) else f"{self._id}: {said}"
        self.findings.append(finding(rule_id, text, *at))

    # -------------------------------------------------------------------------------- the package

    @property
    def _package(self) -> str:
        return self._request.target.partition(":")[0].strip()

    def _place_of(self, name: str) -> Path:
        return self._folder.joinpath(*self._package.split("."), name)

    def _read_manifest(self) -> Manifest:
        file = self._place_of("manifest.toml")
        try:
            manifest = read_manifest(file.read_text("utf-8"), str(file))
        except (OSError, ValueError) as error:
            self._find("manifest_invalid", f"{file} cannot be read: {error}", (str(file), 0))
            raise _Stop from None
        except ManifestError as error:
            self._find("manifest_invalid", error.detail, _placed(error.detail) or (str(file), 0))
            raise _Stop from None
        if manifest.id != self._id:
            said = f"`id` is {manifest.id!r}, and the package is installed as {self._id!r}; make them equal"
            self._find("manifest_invalid", said, (str(file), 0))
            raise _Stop
        return manifest

    def _load(self) -> LoadedCode | None:
        self._tell("import")
        try:
            code = load(self._folder, self._request.target, self._id, 1, self._request.names)
        except PluginLoadError as error:
            has_left = isinstance(error.__cause__, SystemExit)
            self._find("import_exits" if has_left else "import_fails", str(error), _placed(error.reason) or ("", 0))
            return None
        self._compiled = list(code.compiled)
        for file in self._compiled:
            self._find("compiled_extension", f"{file} is a compiled extension", (file, 0))
        return code

    async def _unload(self, code: LoadedCode) -> None:
        self._tell("unload")
        await asyncio.sleep(0)  # the loop lets go of what ended last
        self._add_leaks(find_leaks(code.unload()))

    def _add_leaks(self, leaks: list[Leak]) -> None:
        """What was seen while the code ran is not told again when it is still there afterwards."""
        told = {one.id for one in self.findings}
        for leak in leaks:
            if LEAK_RULES[leak.kind] not in told:
                self._find(LEAK_RULES[leak.kind], leak.detail)

    # -------------------------------------------------------------------------------- the hooks

    async def _register(self, kernel: Kernel, code: LoadedCode, manifest: Manifest) -> None:
        generation = Generation(self._id, 1, manifest, names_of(self._id), code.plugin)
        try:
            settings = self._read_settings(code, generation.names.area)
            self._add_hooks(kernel, generation)
            await self._hook(kernel, generation, "configure", settings=settings)
            await self._pk_register(kernel, generation, settings)
            self._compare_events(generation)
            self._compare_wire(generation)
            self._publish(kernel, generation)
        except _Stop:
            pass
        await self._disable(kernel, generation)
        kernel.withdraw(self._id)
        kernel.forget(generation)

    def _read_settings(self, code: LoadedCode, area: str) -> Any:
        self._tell("settings")
        try:
            module = code.module(f"{self._package}.settings")
        except PluginLoadError as error:
            self._find("settings_invalid", str(error), _placed(error.reason) or ("", 0))
            raise _Stop from None
        declared = getattr(module, "Settings", None)
        if module is None or declared is None:
            return None
        if not (isinstance(declared, type) and issubclass(declared, Struct)):
            self._find("settings_invalid", f"Settings is {declared!r}, which is no Struct", (str(module.__file__), 0))
            raise _Stop
        overrides = {f"{area}.{name}": value for name, value in self._request.settings.items()}
        data_dir, cwd = self._folder_of(self._request.data_dir), self._folder_of(self._request.cwd)
        loaded = read({area: declared}, data_dir=data_dir, cwd=cwd, overrides=overrides, others=ANY_SECTION)
        problems = [problem.text for problem in loaded.problems if problem.section == area]
        if problems:
            self._find("settings_unset", "\n".join(problems))
            raise _Stop
        return loaded.find(area)

    def _folder_of(self, told: str | None) -> Path:
        return self._place if told is None else Path(told)

    def _add_hooks(self, kernel: Kernel, generation: Generation) -> None:
        try:
            kernel.hooks.add(generation.key, generation.plugin)
        except pluggy.PluginValidationError as error:
            said = " ".join(str(error).split()).replace(generation.key, self._id)
            named = _HOOK.search(said)
            function = getattr(generation.plugin, named["name"], None) if named else None
            self._find("hook_signature", said, _defined(function))
            raise _Stop from None

    async def _hook(self, kernel: Kernel, generation: Generation, phase: str, **arguments: Any) -> None:
        self._tell(phase)
        hook = f"pk_{phase}"
        call = kernel.hooks.call(generation.key, self._id, hook, HOOK_DEADLINE_S, **arguments)
        await self._guard(f"{phase}_fails", call)

    async def _guard(self, rule_id: str, work: Awaitable[Any]) -> None:
        try:
            await work
        except HookFailed as failure:
            cause = failure.__cause__
            said = cause.detail if isinstance(cause, KernelError) else str(failure)
            self._find(rule_id, said, self._raised(cause))
            raise _Stop from None

    async def _pk_register(self, kernel: Kernel, generation: Generation, settings: Any) -> None:
        registrar = TrialRegistrar(kernel, generation, kernel.runtime(generation), settings)
        try:
            await self._hook(kernel, generation, "register", registrar=registrar)
            await self._hook(kernel, generation, "pipeline", slots=StagedSlots(kernel, generation))
        except _Stop:
            if registrar.refused:
                self.findings.pop()  # it says the same of the first of them
            raise
        finally:
            registrar.close()
            for rule_id, said, place in registrar.refused:
                self._find(rule_id, said, place)
        if registrar.refused:
            raise _Stop

    def _compare_events(self, generation: Generation) -> None:
        """What the code declares of its events, with what it lists and what its author has committed."""
        emitted, file = generation.manifest.events.emits, (str(self._place_of(EVENTS_LOCK)), 0)
        self._events = declared = {event_type: one.schema for event_type, one in generation.payloads.items()}
        for event_type in emitted:
            if event_type not in declared:
                manifest = (str(self._place_of("manifest.toml")), 0)
                self._find("event_undeclared", f"{event_type} is listed, and no Struct is declared for it", manifest)
        try:
            locked = read_lock(self._place_of(EVENTS_LOCK).parent)
        except LockUnreadable as error:
            self._find("events_lock_unreadable", str(error), file)
            return
        if locked is None:
            if declared:
                self._find("events_lock_missing", f"there is no {EVENTS_LOCK} beside the manifest")
            return
        broken = list(breaks(locked, declared, emitted))
        for said in broken:
            self._find("event_schema_broken", said, file)
        gained = [] if broken else gains(locked, declared)
        if gained:
            self._find("events_lock_behind", f"{EVENTS_LOCK} lacks something: {'; '.join(gained)}", file)

    def _compare_wire(self, generation: Generation) -> None:
        """What gRPC has of its operations, with the numbers that its author has committed."""
        file, names = (str(self._place_of(WIRE_LOCK)), 0), generation.names
        try:
            locked = read_wire_lock(self._place_of(WIRE_LOCK))
        except WireLockUnreadable as error:
            self._find("wire_lock_unreadable", str(error), file)
            self._wire = contract_of(names.grpc_package, generation.operations, Lock())  # for whoever asks to lock it
            return
        self._wire = contract = contract_of(names.grpc_package, generation.operations, locked or Lock())
        for operation, why in contract.lacking.items():
            self._find("no_grpc", f"{operation} has no method in gRPC: {why}")
        if locked is None:
            return
        broken = list(wire_breaks(locked, contract))
        for said in broken:
            self._find("wire_changed", said, file)
        gained = [] if broken else wire_gains(locked, contract)
        if gained:
            self._find("wire_lock_behind", f"{WIRE_LOCK} lacks something: {'; '.join(gained)}", file)

    def _publish(self, kernel: Kernel, generation: Generation) -> None:
        self._tell("publish")
        self._provides = sorted(generation.services)
        self._operations = [
            TriedOperation(one.bound.method, one.bound.path, one.bound.permission) for one in generation.operations
        ]
        try:
            _check_provided(generation)
        except ManifestError as error:
            self._find("provides_lacking", error.detail)
        try:
            kernel.publish(generation)
            kernel.description.document()
        except RouteConflict as error:
            self._find("route_conflict", str(error))
        except Exception as error:  # noqa: BLE001 - whatever types it brought
            said = error.detail if isinstance(error, KernelError) else f"{type(error).__name__}: {error}"
            self._find("publish_fails", said, self._raised(error))

    async def _disable(self, kernel: Kernel, generation: Generation) -> None:
        with suppress(_Stop):
            await self._hook(kernel, generation, "disable")

    def _raised(self, error: BaseException | None) -> tuple[str, int]:
        """The last place of the package in a traceback."""
        frames = traceback.extract_tb(error.__traceback__) if error is not None else []
        own = [frame for frame in frames if Path(frame.filename).is_relative_to(self._folder)]
        return (own[-1].filename, own[-1].lineno or 0) if own else ("", 0)


class TrialRegistrar(HostRegistrar):
    """The registrar of a trial: of several operations that are refused it tells all, each with its place."""

    refused: list[tuple[str, str, tuple[str, int]]]

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.refused = []

    def operations(self, owner: object) -> None:
        """Register the operations of `owner`, or none of them when one is refused."""
        self._check()
        refusals: list[ManifestError] = []
        for name, method, spec in _marked(owner, OPERATION_ATTRIBUTE):
            try:
                self._registered(name, method, spec)
            except ManifestError as error:
                refusals.append(error)
                rule_id, more = self._rule(spec)
                self.refused.append((rule_id, f"{error.detail}{more}", _defined(method)))
        if refusals:
            raise refusals[0]
        super().operations(owner)

    def _rule(self, spec: OperationSpec) -> tuple[str, str]:
        if spec.path.startswith(("/api/", "/.well-known/")):
            return "foreign_path", f" ({spec.path} belongs to {owner_of(spec.path, self._generation.names)})"
        if spec.permission and spec.permission not in self._generation.manifest.permissions:
            return "permission_unlisted", ""
        return "operation_invalid", ""


def owner_of(path: str, names: Names) -> str:
    """Whose an absolute path is, in words: of an area, of the plugin itself, or of the kernel."""
    if f"{path}/".startswith(f"{names.rest_prefix}/"):
        return f"{names.area} itself"
    parts = path.strip("/").split("/")
    if parts[:3] == ["api", "v1", "x"] and len(parts) > 3:
        return f"the plugin {parts[3]}"
    if parts[:2] == ["api", "v1"] and len(parts) > 2:
        return "the host" if parts[2] == "plugins" else f"the area {parts[2]} of kernel.{parts[2]}"
    return "the kernel"


def _empty_kernel(place: Path) -> Kernel:
    """A kernel in which nothing is active; a plugin's own prefix keeps it off the host's operations."""
    create_stamps(place / "stamps")
    stamps = FileStamps(place / "stamps")
    return Kernel(Place(place, "embedded", 0, {}), stamps, secrets.token_bytes(32), lambda text: None)


def _placed(text: str) -> tuple[str, int] | None:
    """The `file:line: ` with which a text begins."""
    found = _PLACED.match(text)
    return (found["file"], int(found["line"])) if found else None


def _defined(function: Any) -> tuple[str, int]:
    """Where a function or method is written."""
    code = getattr(function, "__code__", None)
    return (code.co_filename, code.co_firstlineno) if code is not None else ("", 0)
