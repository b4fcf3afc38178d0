"""`pk contract lock`: what a plugin's code promises is written into its `events.lock` and its `wire.lock`, which only grow."""

from __future__ import annotations

from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from host.authoring.rules import check_project, tryable
from host.authoring.wire_contract import WireLocked, WireRefused, grow_wire_lock, lock_of, proto_of
from host.event_lock import NAME, LockUnreadable, breaks, gains, lock_text, read_lock, write_lock
from host.trial import Trial, try_out
from host.wire.lock import breaks as breaks_wire
from plugin_api.event_schemas import Schema
from plugin_api.manifest import read_manifest

_TOLD_HERE = frozenset({"event_schema_broken", "events_lock_unreadable", "wire_changed", "wire_lock_unreadable"})
"""Errors of a trial."""


class LockRefused(Exception):
    """The lock was left as it is; says why and what to do."""


class Locked(Struct, frozen=True):
    """What became of the lock."""

    file: str
    """Absolute."""
    gained: list[str]
    """A sentence for each type or field that was added; none when it had everything."""
    types: list[str]
    """All that it holds now."""
    wire: WireLocked | None = None
    """What became of the lock of gRPC; None without operations."""


async def lock_project(folder: Path, limit_s: float) -> Locked:
    """Bring the locks of a source folder up to date. The plugin is registered once, in a process of its own.

    Raises:
        LockRefused: the code drops or changes something that a lock has, or cannot be registered, or there is no place for
            the files.
    """
    package, trial = await try_project(folder, limit_s)
    emitted = read_manifest((package / "manifest.toml").read_text("utf-8"), "manifest.toml").events.emits
    locked = grow_lock(package, trial.events or {}, emitted)
    if trial.wire is None or not trial.wire.services:
        return locked
    try:
        return replace(locked, wire=grow_wire_lock(package, trial.wire))
    except WireRefused as error:
        raise LockRefused(str(error)) from error


async def export_project(folder: Path, limit_s: float) -> tuple[str, str]:
    """The name and the text of the `.proto` file of a source folder. The plugin is registered as for its locks.

    Raises:
        LockRefused: it cannot be registered, has no operation that gRPC has a form for, or its lock forbids what it does.
    """
    package, trial = await try_project(folder, limit_s)
    contract = trial.wire
    if contract is None or not contract.services:
        raise LockRefused("it has no operations that gRPC has a form for, so there is nothing to export")
    try:
        broken = list(breaks_wire(lock_of(package), contract))
        if broken:
            raise LockRefused("\n  ".join(["its wire.lock forbids what its code does:", *broken]))
        return contract.file, proto_of(package, contract)
    except WireRefused as error:
        raise LockRefused(str(error)) from error


async def try_project(folder: Path, limit_s: float) -> tuple[Path, Trial]:
    """Register a source folder's plugin once; its package, and what the trial saw.

    Raises:
        LockRefused: it cannot be registered.
    """
    place = tryable(folder)
    if place is None:
        raise LockRefused(check_project(folder)[0].message)
    if place.missing:
        raise LockRefused(f"{', '.join(place.missing)} is not installed here; pip install it, and try again")
    name = place.target.partition(":")[0].strip()
    trial = await try_out(place.top, place.target, place.plugin_id, limit_s, [name.partition(".")[0]])
    for one in trial.findings:
        if trial.events is None or (one.severity == "error" and one.id not in _TOLD_HERE):
            raise LockRefused(f"{one.message}; {one.remedy}, and try again (`pk check {folder}` tells more)")
    return place.top.joinpath(*name.split(".")), trial


def grow_lock(package: Path, declared: dict[str, Schema], emitted: list[str]) -> Locked:
    """Add to the lock of a package what is declared and not in it; nothing leaves it.

    Raises:
        LockRefused: as `lock_project`.
    """
    file = package / NAME
    try:
        locked = read_lock(package) or {}
    except LockUnreadable as error:
        raise LockRefused(f"{error}; bring back {file} of the last commit") from error
    broken = list(breaks(locked, declared, emitted))
    if broken:
        raise LockRefused(f"{file} was left as it is:\n  " + "\n  ".join(broken))
    gained, grown = gains(locked, declared), {**locked, **declared}
    try:
        if grown and (gained or file.read_text("utf-8") != lock_text(grown)):
            write_lock(package, grown)
    except OSError as error:
        raise LockRefused(f"{file} cannot be written: {error.strerror}; make the folder writable") from error
    return Locked(str(file), gained, sorted(grown))
