"""The store itself: prepared packages and the wheels they were made of, put into place in one step each."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from time import monotonic
from typing import Final

import msgspec

from host.store.archive import WHEEL_BYTES_MAX
from host.store.asked import Asked, read_asked
from host.store.build import build_folder
from host.store.builder import Builder
from host.store.declaration import Declared, declared_plugins, read_declaration
from host.store.drafts import draft, locked, remove_abandoned, sync_folder, take_away
from host.store.packages import Package, PackageDamaged, package_name, verify_files, write_list
from host.store.pip_process import Pip, Sources
from host.store.resolve import Environment, Resolved, fetch, installed, missing, only_wheel, resolve
from host.store.room import check_room, room
from host.store.unpack import Unpacking
from host.store.wheels import Wheel, hash_of, read_wheel
from plugin_api.errors import InvalidRequest, NotFound, PayloadTooLarge

LOCK_WAIT_S: Final = 30.0
PREPARE_LIMIT_S: Final = 300.0
"""For all that pip does for one preparation: building, resolving, fetching."""

_WHEELS: Final = ".wheels"
_NOTES: Final = ".packages"
"""What is known of each package beside its files: `{id}-{version}-{digest}.json`."""
_ID: Final = re.compile(r"[a-z][a-z0-9]*(\.[a-z][a-z0-9]*)+\Z")
_PACKAGE: Final = re.compile(r"[^/]+/[^/]+-[0-9a-f]{12}\Z")

Key = tuple[str, str, str]
"""Id, version and digest of a package."""


@dataclass(frozen=True)
class _Work:
    """One preparation."""

    folder: Path
    pip: Pip
    tell: Callable[[str], None]

    @cached_property
    def environment(self) -> Environment:
        """The kernel's own; looked at when it is asked for, because that takes longer than all the rest."""
        return installed()


class Store:
    """The packages below `DIR/plugins`. Any number of processes may use one at once.

    `sources` say where requirements come from; `builder` builds the first folder, where one has been started. Waits for the
    store's lock end after `lock_wait_s`, all runs of pip for one preparation after `prepare_limit_s`.
    """

    def __init__(
        self,
        folder: Path,
        sources: Sources = Sources(),  # noqa: B008 - frozen
        *,
        lock_wait_s: float = LOCK_WAIT_S,
        prepare_limit_s: float = PREPARE_LIMIT_S,
        builder: Builder | None = None,
    ) -> None:
        self.folder = Path(os.path.abspath(folder))
        self._sources = sources
        self._lock_wait_s = lock_wait_s
        self._prepare_limit_s = prepare_limit_s
        self._builder = builder

    # -- taking in

    def prepare(self, what: str, progress: Callable[[str], None]) -> Package:
        """Make a package of a requirement, of a wheel or of a folder; the path of one wins where it exists.

        The same contents give the same package again. `progress` is told each step in words. A kill at any moment
        leaves nothing that `sweep` does not remove.

        Raises:
            InvalidRequest: what is asked for, the source, the wheel or what it declares does not hold; codes
                `requirement_invalid` `requirement_not_found` `python_mismatch` `build_failed` `package_damaged`
                `wheel_refused` `payload_too_large` `reserved_package` `id_reserved` `no_plugin` `several_plugins`
                `file_clash` `manifest_invalid`.
            Conflict: `library_conflict`, it does not go with the kernel's libraries; `compiled_extension`; `busy`.
            Unavailable: `index_unavailable`, `disk_full`.
        """
        asked = read_asked(what)
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with room(self.folder), draft(self.folder, self._lock_wait_s) as place:
            pip = Pip(_working(place), self._sources, monotonic() + self._prepare_limit_s, self._builder)
            work = _Work(place, pip, progress)
            wheels, declared = _gather(asked, work)
            unpacking = _unpack(wheels, declared, work)
            package = Package(
                plugin_id=declared.manifest.id,
                version=declared.manifest.version,
                digest=write_list(unpacking.folder, unpacking.entries),
                folder="",
                distribution=wheels[0].name,
                target=declared.target,
                requirement=asked.text,
                wheels=tuple(wheel.sha256 for wheel in wheels),
            )
            unpacking.settle()
            with locked(self.folder, self._lock_wait_s):
                return self._publish(package, wheels, unpacking.folder)

    def _publish(self, package: Package, wheels: list[Wheel], unpacked: Path) -> Package:
        """Wheels first, then what is known of the package, then the package: whatever is there is whole."""
        name = package_name(*package.key)
        target = self.folder / name
        package = msgspec.structs.replace(package, folder=str(target))
        known = self._known(package)
        if known is not None:
            package = msgspec.structs.replace(package, wheels=known.wheels)
        else:
            for wheel in wheels:
                self._keep(wheel, unpacked.parent)
        self._note(package, unpacked.parent)
        if known is None or not self._is_sound(package):
            take_away(self.folder, target)
            target.parent.mkdir(mode=0o700, exist_ok=True)
            unpacked.rename(target)
            sync_folder(target.parent)
            sync_folder(self.folder)
        return package

    def _is_sound(self, package: Package) -> bool:
        try:
            self.verify(*package.key)
        except (NotFound, PackageDamaged):
            return False
        return True

    def _known(self, package: Package) -> Package | None:
        """The package of the same contents, when its wheels are there too."""
        known = self._read_note(self._note_file(package_name(*package.key)))
        if known is None or known.digest != package.digest:
            return None
        return known if all((self.folder / _WHEELS / sha256).is_dir() for sha256 in known.wheels) else None

    def _keep(self, wheel: Wheel, place: Path) -> None:
        target = self.folder / _WHEELS / wheel.sha256
        target.parent.mkdir(mode=0o700, exist_ok=True)
        if _holds(target, wheel):
            return
        fresh = place / "keep" / wheel.sha256
        fresh.mkdir(mode=0o700, parents=True)
        _copy(wheel.file, fresh / wheel.file_name)
        sync_folder(fresh)
        take_away(self.folder, target)
        fresh.rename(target)
        sync_folder(target.parent)

    def _note(self, package: Package, place: Path) -> None:
        target = self._note_file(package_name(*package.key))
        target.parent.mkdir(mode=0o700, exist_ok=True)
        fresh = place / "note.json"
        _write(fresh, msgspec.json.format(msgspec.json.encode(package), indent=2) + b"\n")
        fresh.replace(target)
        sync_folder(target.parent)

    def _note_file(self, name: str) -> Path:
        return self.folder / _NOTES / f"{name.replace('/', '-', 1)}.json"

    def _read_note(self, file: Path) -> Package | None:
        try:
            return msgspec.json.decode(file.read_bytes(), type=Package)
        except (OSError, msgspec.DecodeError):
            return None

    # -- looking up

    def find(self, plugin_id: str, version: str, digest: str) -> Path:
        """The folder of a package.

        Raises:
            NotFound: `package_missing`.
        """
        folder = self.folder / package_name(plugin_id, version, digest)
        if not folder.is_dir() or folder.is_symlink():
            raise NotFound(
                f"the package of {plugin_id} {version} is not in {folder.parent}; install it again",
                code="package_missing",
            )
        return folder

    def verify(self, plugin_id: str, version: str, digest: str) -> None:
        """Compare every file of a package with what was prepared.

        Raises:
            NotFound: `package_missing`.
            PackageDamaged: a file was changed, added (compiled ones count) or taken away.
        """
        verify_files(self.find(plugin_id, version, digest), f"{plugin_id} {version}", digest)

    # -- clearing away

    def discard(self, package: Package | Key) -> None:
        """Remove a package, and the wheels that no other is made of. One that is not there stays so."""
        key = package.key if isinstance(package, Package) else package
        name = package_name(*key)
        with locked(self.folder, self._lock_wait_s):
            self._take_package(name)
            self._take_unused_wheels()

    def sweep(self, keep: Collection[Key]) -> list[str]:
        """Remove what killed processes left, packages that are not in `keep`, and wheels that none is made of.

        What another process is preparing at this moment stays. Returns what was removed, by path below the store.
        """
        names = {package_name(*key) for key in keep}
        with locked(self.folder, self._lock_wait_s):
            removed = remove_abandoned(self.folder)
            for name in [name for name in self._packages() if name not in names]:
                self._take_package(name)
                removed.append(name)
            self._take_strays()
            return removed + self._take_unused_wheels()

    def _packages(self) -> Iterator[str]:
        for folder in self._id_folders():
            found = (f"{folder.name}/{entry.name}" for entry in _listed(folder))
            yield from (name for name in found if _PACKAGE.match(name))

    def _id_folders(self) -> list[Path]:
        """The folders that are named like a plugin; what else lies here is not ours."""
        return [entry for entry in _listed(self.folder) if _ID.match(entry.name) and not entry.is_symlink()]

    def _take_package(self, name: str) -> None:
        """The note goes last: a kill before leaves its wheels known, and `sweep` finds a note without its package."""
        folder = self.folder / name
        take_away(self.folder, folder)
        with suppress(OSError):  # others of the same plugin are in it, or it is not there
            folder.parent.rmdir()
        self._note_file(name).unlink(missing_ok=True)

    def _take_strays(self) -> None:
        """What a kill before the last step of `prepare` or of a removal leaves beside packages."""
        for folder in self._id_folders():
            with suppress(OSError):
                folder.rmdir()
        there = {self._note_file(name).name for name in self._packages()}
        for file in _listed(self.folder / _NOTES):
            if file.name not in there:
                file.unlink()

    def _take_unused_wheels(self) -> list[str]:
        notes = [self._read_note(file) for file in _listed(self.folder / _NOTES)]
        used = {sha256 for note in notes if note is not None for sha256 in note.wheels}
        unused = [entry for entry in _listed(self.folder / _WHEELS) if entry.name not in used]
        for entry in unused:
            take_away(self.folder, entry)
        return [f"{_WHEELS}/{entry.name}" for entry in unused]


# ------------------------------------------------------------------------------------- one preparation


def _working(place: Path) -> Path:
    working = place / "work"
    working.mkdir(mode=0o700)
    return working


def _gather(asked: Asked, work: _Work) -> tuple[list[Wheel], Declared]:
    """The plugin's wheel, then those of what it needs and the environment lacks."""
    if asked.kind == "requirement" and asked.key not in work.environment:
        return _gather_resolved(asked, work)
    wheel = _own_wheel(asked, work)
    declared = _declared(wheel, work)
    if not wheel.requires or not missing(wheel.label, wheel.requires, work.environment):
        return [wheel], declared
    work.tell(f"resolving what {wheel.label} needs")
    lacking = resolve(work.pip, str(wheel.file), wheel.key, work.environment, about=wheel.label)
    return [wheel, *_fetched([one for one in lacking if one.key != wheel.key], work, "needed")], declared


def _gather_resolved(asked: Asked, work: _Work) -> tuple[list[Wheel], Declared]:
    work.tell(f"resolving {asked.wanted}")
    lacking = resolve(work.pip, asked.wanted, asked.key, work.environment, about=asked.wanted)
    own = [one for one in lacking if one.key == asked.key]
    if len(own) != 1:
        raise InvalidRequest(f"{asked.text}: pip's report does not list it", code="requirement_not_found")
    (wheel,) = _fetched(own, work, "own")
    declared = _declared(wheel, work)
    return [wheel, *_fetched([one for one in lacking if one.key != asked.key], work, "needed")], declared


def _own_wheel(asked: Asked, work: _Work) -> Wheel:
    """The plugin's wheel as a file of ours, under the name that pip expects of it."""
    into = work.folder / "own"
    if asked.kind == "folder":
        work.tell(f"building {asked.path.name}")
        file = build_folder(work.pip, asked.path, into, work.environment)
    elif asked.kind == "wheel":
        into.mkdir(mode=0o700)
        file = into / "wheel"
        _take_file(asked.path, file)
    else:  # the environment has some version of it, which must not stand for the one that is asked for
        work.tell(f"fetching {asked.wanted}")
        into.mkdir(mode=0o700)
        work.pip.run("wheel", "--no-deps", "--wheel-dir", str(into), "--", asked.wanted, about=asked.text)
        file = only_wheel(into, asked.text)
    wheel = read_wheel(file, asked.path.name or asked.text)
    named = file.rename(file.with_name(wheel.file_name))
    return replace(wheel, file=named)


def _take_file(file: Path, copy: Path) -> None:
    """A copy of our own: what was checked is what is unpacked."""
    if not file.is_file():
        raise InvalidRequest(f"{file} is neither a file nor a folder", code="requirement_invalid")
    size = file.stat().st_size
    if size > WHEEL_BYTES_MAX:
        raise PayloadTooLarge(f"{file.name} has {size} bytes, and a wheel may have {WHEEL_BYTES_MAX} (64 MiB)")
    try:
        _copy(file, copy)
    except PermissionError as error:
        said = f"{file} cannot be read; let the kernel's account read it"
        raise InvalidRequest(said, code="requirement_invalid") from error


def _declared(wheel: Wheel, work: _Work) -> Declared:
    """Unpack the plugin alone and read what it declares: an index is asked for the rest of a good one only."""
    work.tell(f"checking {wheel.label}")
    check_room(work.folder, wheel.bytes_unpacked)
    with _scratch(work.folder / "look") as folder, room(work.folder, wheel.bytes_unpacked):
        Unpacking(folder).add(wheel)
        return read_declaration(wheel, folder)


def _fetched(wanted: list[Resolved], work: _Work, into: str) -> list[Wheel]:
    if not wanted:
        return []
    work.tell(f"fetching {', '.join(one.label for one in wanted)}")
    return fetch(work.pip, wanted, work.folder / into)


def _unpack(wheels: list[Wheel], declared: Declared, work: _Work) -> Unpacking:
    work.tell(f"unpacking {wheels[0].label}" + (f" and {len(wheels) - 1} more" if wheels[1:] else ""))
    needed = sum(wheel.bytes_unpacked + wheel.file.stat().st_size for wheel in wheels)
    check_room(work.folder, needed)
    with room(work.folder, needed):
        unpacking = Unpacking(work.folder / "package")
        for wheel in wheels:
            unpacking.add(wheel)
    for wheel in wheels[1:]:
        others = declared_plugins(wheel, unpacking.folder)
        if others:
            raise InvalidRequest(
                f"{declared.manifest.id} brings {wheel.label}, which declares the plugin {others[0].name}; require its "
                "capability in manifest.toml instead of its distribution, and install the two one after the other",
                code="several_plugins",
            )
    return unpacking


@contextmanager
def _scratch(folder: Path) -> Iterator[Path]:
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


# --------------------------------------------------------------------------------------------------- files


def _holds(folder: Path, wheel: Wheel) -> bool:
    found = _listed(folder)
    return [file.name for file in found] == [wheel.file_name] and hash_of(found[0]) == wheel.sha256


def _copy(source: Path, target: Path) -> None:
    with source.open("rb") as stream:
        descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            shutil.copyfileobj(stream, file)
            file.flush()
            os.fsync(file.fileno())


def _write(target: Path, content: bytes) -> None:
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _listed(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []
