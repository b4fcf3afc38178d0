"""Opening a zip file that somebody else made: bounded, and no name in it leaves the folder or meets another."""

from __future__ import annotations

import re
import stat
import struct
import unicodedata
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from plugin_api.errors import InvalidRequest, PayloadTooLarge

WHEEL_BYTES_MAX: Final = 64 * 1_048_576
UNPACKED_BYTES_MAX: Final = 256 * 1_048_576
FILES_MAX: Final = 5_000
NAME_BYTES_MAX: Final = 240
DIRECTORY_BYTES_MAX: Final = 4 * 1_048_576
"""Of the zip file's own list; zipfile reads it whole."""
CHUNK_BYTES: Final = 65_536

_END: Final = 22
_END_SIGNATURE: Final = b"PK\x05\x06"
_ZIP64_LOCATOR: Final = b"PK\x06\x07"
_ENCRYPTED: Final = 0x1
_METHODS: Final = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_DRIVE: Final = re.compile(r"[A-Za-z]:")


def damaged(label: str, file: str, reason: str) -> InvalidRequest:
    """The refusal of a wheel that is not what its builder made; `file` is the place in it, or empty."""
    where = f"{label}: {file}" if file else label
    return InvalidRequest(f"{where} {reason}; get the wheel again, or build it again", code="package_damaged")


def refused(label: str, reason: str) -> InvalidRequest:
    """The refusal of a wheel that is whole and that no package is made of."""
    return InvalidRequest(f"{label} {reason}", code="wheel_refused")


class Tree:
    """The paths of one package: no two of them meet on any file system, and no file is another's folder."""

    def __init__(self) -> None:
        self._by_fold: dict[str, str] = {}
        self._files: set[str] = set()

    def clash(self, path: str) -> str | None:
        """The path that a new file `path` would meet, or None after it was added."""
        parts = path.split("/")
        prefixes = ["/".join(parts[: count + 1]) for count in range(len(parts))]
        for prefix in prefixes:
            known = self._by_fold.get(_fold(prefix))
            if known is not None and (known != prefix or prefix == path or prefix in self._files):
                return known
        self._by_fold.update({_fold(prefix): prefix for prefix in prefixes})
        self._files.add(path)
        return None


def _fold(path: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", path).casefold())


@contextmanager
def open_archive(path: Path, label: str) -> Iterator[zipfile.ZipFile]:
    """Open a zip file after its bounds are checked.

    Raises:
        InvalidRequest: `package_damaged`, no whole zip file; `wheel_refused`, a name or kind of file that is not taken.
        PayloadTooLarge: more bytes or files than a wheel may have.
    """
    _check_size(path, label)
    _check_end(path, label)
    with reading(label, ""):
        archive = zipfile.ZipFile(path)
    with archive:
        _check_members(archive.infolist(), label)
        yield archive


@contextmanager
def reading(label: str, file: str) -> Iterator[None]:
    """Turn what zipfile raises for broken bytes into `package_damaged`."""
    try:
        yield
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, struct.error) as error:
        raise damaged(label, file, f"cannot be read: {str(error) or type(error).__name__}") from error


def _check_size(path: Path, label: str) -> None:
    size = path.stat().st_size
    if size > WHEEL_BYTES_MAX:
        raise PayloadTooLarge(f"{label} has {size} bytes, and a wheel may have {WHEEL_BYTES_MAX} (64 MiB)")


def _check_end(path: Path, label: str) -> None:
    """A wheel ends with its list of files; a comment or the long form would only hide a list that is too long."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - _END - 20))
        tail = file.read()
    end = tail[-_END:]
    if len(end) < _END or end[:4] != _END_SIGNATURE:
        raise damaged(label, "", "is not a whole zip file")
    count, listed = struct.unpack_from("<HI", end, 10)
    if count > FILES_MAX or listed > DIRECTORY_BYTES_MAX or tail[:-_END][-20:][:4] == _ZIP64_LOCATOR:
        raise PayloadTooLarge(f"{label} lists {count} files in {listed} bytes, and a wheel may have {FILES_MAX}")


def _check_members(members: list[zipfile.ZipInfo], label: str) -> None:
    if len(members) > FILES_MAX:
        raise PayloadTooLarge(f"{label} has {len(members)} files, and a wheel may have {FILES_MAX}")
    total = sum(member.file_size for member in members)
    if total > UNPACKED_BYTES_MAX:
        raise PayloadTooLarge(f"{label} unpacks to {total} bytes, and a wheel may unpack to 268435456 (256 MiB)")
    tree = Tree()
    for member in members:
        fault = _name_fault(member.orig_filename) or _kind_fault(member)
        if fault is not None:
            raise refused(label, f"holds {member.orig_filename[:NAME_BYTES_MAX]!r}, {fault}")
        met = None if member.is_dir() else tree.clash(member.filename)
        if met is not None:
            raise refused(label, f"holds {member.filename!r} and {met!r}, which may be one file; rename one")


def _name_fault(name: str) -> str | None:
    parts = name.removesuffix("/").split("/")
    if not name.isprintable() or "\\" in name:
        return "whose name has characters that no file of a package has"
    if len(name.encode("utf-8", "surrogateescape")) > NAME_BYTES_MAX:
        return f"a name of more than {NAME_BYTES_MAX} bytes"
    if name.startswith("/") or _DRIVE.match(name) or any(part in ("", ".", "..") for part in parts):
        return "a path that leads outside"
    return None


def _kind_fault(member: zipfile.ZipInfo) -> str | None:
    kind = stat.S_IFMT(member.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "a symbolic link or special file"
    if member.flag_bits & _ENCRYPTED or member.compress_type not in _METHODS:
        return "which is encrypted or compressed in a way that wheels are not"
    return None


def read_member(archive: zipfile.ZipFile, name: str, label: str, *, bytes_max: int = 1_048_576) -> bytes:
    """The content of one small file.

    Raises:
        InvalidRequest: `package_damaged`, it is not there, too long or broken.
    """
    try:
        member = archive.getinfo(name)
    except KeyError:
        raise damaged(label, name, "is missing") from None
    if member.file_size > bytes_max:
        raise damaged(label, name, f"has {member.file_size} bytes, more than {bytes_max}")
    return b"".join(chunks(archive, member, label))


def chunks(archive: zipfile.ZipFile, member: zipfile.ZipInfo, label: str) -> Iterator[bytes]:
    """The content of one file piece by piece, never more than its declared size."""
    left = member.file_size
    with reading(label, member.filename):
        stream = archive.open(member)
    with stream:
        while True:
            with reading(label, member.filename):
                chunk = stream.read(CHUNK_BYTES)
            left -= len(chunk)
            if left < 0:
                raise damaged(label, member.filename, f"is longer than the {member.file_size} bytes that it declares")
            if not chunk:
                break
            yield chunk
    if left:
        raise damaged(label, member.filename, f"ends {left} bytes early")
