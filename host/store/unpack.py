"""Unpacking wheels into one folder: every byte counted and compared with RECORD, every file 0600 and on the disk."""

from __future__ import annotations

import hashlib
import os
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

from host.store.archive import Tree, chunks, damaged
from host.store.packages import LIST_NAME, FileEntry
from host.store.wheels import Member, Wheel, record_digest
from plugin_api.errors import InvalidRequest


class Unpacking:
    """A package that comes into being: `add` its wheels, then `settle` and read `entries`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._tree = Tree()
        self._tree.clash(LIST_NAME)
        self._owners: dict[str, str] = {LIST_NAME: "the store"}
        self._by_path: dict[str, FileEntry] = {}
        folder.mkdir(mode=0o700)

    @property
    def entries(self) -> list[FileEntry]:
        """Every file so far."""
        return list(self._by_path.values())

    def add(self, wheel: Wheel) -> None:
        """Unpack a wheel beside those before it.

        Raises:
            InvalidRequest: `package_damaged`, a file is not what RECORD says; `file_clash`, another wheel has a file
                of this name with other contents.
            OSError: the disk.
        """
        with zipfile.ZipFile(wheel.file) as archive:
            for member in wheel.members:
                self._add_file(archive, member, wheel.label)

    def settle(self) -> None:
        """Bring everything to the disk. After the last wheel, because many files at once are quicker."""
        for entry in self._by_path.values():
            _sync(self.folder / entry.path)
        for folder, _, _ in os.walk(self.folder, topdown=False):
            _sync(Path(folder))

    def _add_file(self, archive: zipfile.ZipFile, member: Member, label: str) -> None:
        pieces = _checked(archive, member, label)
        if member.path is None:
            for _ in pieces:
                pass
            return
        met = self._tree.clash(member.path)
        if met is not None:
            self._compare(member.path, met, _entry_of(member.path, pieces), label)
            return
        self._by_path[member.path] = _write(self.folder, member.path, pieces)
        self._owners[member.path] = label

    def _compare(self, path: str, met: str, entry: FileEntry, label: str) -> None:
        """Two distributions may bring the same file: the `__init__.py` of a shared namespace."""
        if self._by_path.get(met) != entry:
            owner = self._owners.get(met) or next(o for p, o in self._owners.items() if p.startswith(f"{met}/"))
            raise InvalidRequest(
                f"{owner} and {label} both bring {path}, with different contents; one of them has to rename it",
                code="file_clash",
            )


def _checked(archive: zipfile.ZipFile, member: Member, label: str) -> Iterator[bytes]:
    """The pieces of a file; the end fails when they are not what RECORD says."""
    digest = hashlib.new(member.algorithm or "sha256")
    for piece in chunks(archive, member.info, label):
        digest.update(piece)
        yield piece
    if member.algorithm is not None and record_digest(digest.digest()) != member.digest.rstrip("="):
        raise damaged(label, member.info.filename, f"is not what RECORD says: its {member.algorithm} differs")


def _entry_of(path: str, pieces: Iterator[bytes]) -> FileEntry:
    digest, size = hashlib.sha256(), 0
    for piece in pieces:
        digest.update(piece)
        size += len(piece)
    return FileEntry(path, size, digest.hexdigest())


def _write(folder: Path, path: str, pieces: Iterator[bytes]) -> FileEntry:
    file = folder / path
    _make_folders(folder, path)
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as stream:
        return _entry_of(path, _passed_on(pieces, stream.write))


def _passed_on(pieces: Iterator[bytes], write: Callable[[bytes], int]) -> Iterator[bytes]:
    for piece in pieces:
        write(piece)
        yield piece


def _make_folders(folder: Path, path: str) -> None:
    for part in path.split("/")[:-1]:
        folder = folder / part
        folder.mkdir(mode=0o700, exist_ok=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
