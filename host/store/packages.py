"""A package: one unpacked version of a plugin with what it brings along, and the list that proves it unchanged."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from plugin_api.errors import Conflict, NotFound
from plugin_api.manifest import PluginId, Version

LIST_NAME: Final = ".files.json"
LIST_BYTES_MAX: Final = 64 * 1_048_576
NAME_DIGITS: Final = 12
"""So much of the digest is in the folder's name."""


class Package(Struct, frozen=True):
    """One prepared version of one plugin."""

    plugin_id: str
    version: str
    """As its manifest spells it."""
    digest: str
    """sha256 of the list of its files, as hex: equal for equal contents."""
    folder: str
    distribution: str
    target: str
    """`package:attribute` of its entry point."""
    requirement: str
    """What was asked for."""
    wheels: tuple[str, ...]
    """sha256 of each wheel that it was made of, the plugin's first."""

    @property
    def key(self) -> tuple[str, str, str]:
        """What it is found by: id, version, digest."""
        return self.plugin_id, self.version, self.digest


class PackageDamaged(Conflict):
    """A package is not what was prepared: a file was changed, added or taken away. The detail names it."""

    default_code = "package_damaged"


class FileEntry(Struct, frozen=True, array_like=True):
    """One file of a package."""

    path: str
    size: int
    """Bytes."""
    sha256: str


class _Key(Struct, frozen=True):
    plugin_id: PluginId
    version: Version
    digest: str


def package_name(plugin_id: str, version: str, digest: str) -> str:
    """Where a package lies below the store: `{id}/{version}-{digest}`.

    Raises:
        NotFound: `package_missing`, these are no id, version and digest.
    """
    try:
        msgspec.convert({"plugin_id": plugin_id, "version": version, "digest": digest}, _Key)
        is_hex = len(bytes.fromhex(digest)) == 32
    except (msgspec.ValidationError, ValueError):
        is_hex = False
    if not is_hex:
        said = f"no package has the id {plugin_id!r}, version {version!r} and digest {digest!r}"
        raise NotFound(said, code="package_missing")
    return f"{plugin_id}/{package_folder(version, digest)}"


def package_folder(version: str, digest: str) -> str:
    """The last part of a package's name; empty for a version of the environment, which has no digest."""
    return f"{version}-{digest[:NAME_DIGITS]}" if digest else ""


def stored_place(store: Path, place: str) -> tuple[str, str]:
    """The plugin, and the last part of its package's name, in which a file (or `file:line`) lies; empty outside."""
    prefix = f"{store}/"
    if not place.startswith(prefix):
        return "", ""
    plugin_id, _, inside = place[len(prefix) :].partition("/")
    return ("", "") if plugin_id.startswith(".") else (plugin_id, inside.partition("/")[0])


# ------------------------------------------------------------------------------------------------- the list


def write_list(folder: Path, entries: list[FileEntry]) -> str:
    """Write the list of a new package and return its digest."""
    raw = msgspec.json.encode(sorted(entries, key=lambda entry: entry.path))
    descriptor = os.open(folder / LIST_NAME, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(raw)
        file.flush()
        os.fsync(file.fileno())
    return hashlib.sha256(raw).hexdigest()


def verify_files(folder: Path, label: str, digest: str) -> None:
    """Compare every file of a package with its list, and the list with the digest.

    Raises:
        PackageDamaged: naming the first file that differs.
    """
    expected = {entry.path: entry for entry in _read_list(folder, label, digest)}
    folders = {str(parent) for path in expected for parent in Path(path).parents}
    for path, kind in _walk(folder):
        if stat.S_ISDIR(kind) and path in folders:
            continue
        if not stat.S_ISREG(kind):
            raise _damaged(label, path, "is a link, folder or special file that nobody packed")
        if path not in expected and path != LIST_NAME:
            raise _damaged(label, path, "was added")
    for entry in expected.values():
        _verify_file(folder, entry, label)


def _read_list(folder: Path, label: str, digest: str) -> list[FileEntry]:
    try:
        raw = _read(folder / LIST_NAME, LIST_BYTES_MAX)
    except OSError as error:
        raise _damaged(label, LIST_NAME, f"cannot be read ({error.strerror})") from error
    if hashlib.sha256(raw).hexdigest() != digest:
        raise _damaged(label, LIST_NAME, "was changed")
    return msgspec.json.decode(raw, type=list[FileEntry])


def _verify_file(folder: Path, entry: FileEntry, label: str) -> None:
    try:
        raw = _read(folder / entry.path, entry.size)
    except OSError as error:
        said = "is missing" if isinstance(error, FileNotFoundError) else f"cannot be read ({error.strerror})"
        raise _damaged(label, entry.path, said) from error
    if len(raw) != entry.size or hashlib.sha256(raw).hexdigest() != entry.sha256:
        raise _damaged(label, entry.path, "was changed")


def _read(file: Path, bytes_max: int) -> bytes:
    """At most `bytes_max` and one byte more, which tells that there is more."""
    descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as stream:
        return stream.read(bytes_max + 1)


def _walk(folder: Path, inner: str = "") -> Iterator[tuple[str, int]]:
    """Every name below a folder with its mode; links are not followed."""
    with os.scandir(folder / inner) as found:
        names = sorted(entry.name for entry in found)
    for name in names:
        path = f"{inner}/{name}" if inner else name
        mode = (folder / path).lstat().st_mode
        yield path, mode
        if stat.S_ISDIR(mode):
            yield from _walk(folder, path)


def _damaged(label: str, path: str, what: str) -> PackageDamaged:
    return PackageDamaged(f"{label}: {path} {what} after it was prepared; install it again")
