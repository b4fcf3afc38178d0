"""Folders and files of blobs, reached from one open folder to the next and never through a path: a link among them leads
nowhere. Blocking; `file_store` calls it in threads.

    DIR/blobs/drafts/{id}                           what is being written; its writer holds a lock on it
    DIR/blobs/erased/{id}/                          tenants on their way out
    DIR/blobs/{tenant}/lock                         held while the tenant's blobs change (flock)
    DIR/blobs/{tenant}/usage                        how many bytes it keeps
    DIR/blobs/{tenant}/objects/{area}/{segment}.d/{segment}.b
    DIR/blobs/{tenant}/uploads/{area}/{upload}/about, {number}.b

A segment of a key is a folder `.d` or, the last one, a file `.b`; so `a` and `a/b` are both possible, and no segment means
anything to the filesystem.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from typing import Final

from core_plugins.files.model.file_format import HEADER_BYTES, Description, unpack
from core_plugins.files.model.names import Place, stored_name
from plugin_api.errors import KernelBug

FOLDER_MODE: Final = 0o700
FILE_MODE: Final = 0o600
OBJECTS: Final = b"objects"
UPLOADS: Final = b"uploads"
_FOLDER_FLAGS: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE_FLAGS: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_STRANGE: Final = frozenset({errno.ELOOP, errno.ENOTDIR, errno.ENXIO})


def folders_of(key: str) -> list[bytes]:
    """Names of the folders that lead to a key's file."""
    return stored_name(key).encode().split(b"/")[:-1]


def file_of(key: str) -> bytes:
    """Name of a key's file in the last of them."""
    return stored_name(key).rpartition("/")[2].encode()


def objects_of(place: Place) -> list[bytes]:
    """Names of the folders that lead to a plugin's blobs in a tenant."""
    return [place.tenant.encode(), OBJECTS, place.area.encode()]


def uploads_of(place: Place) -> list[bytes]:
    """Names of the folders that lead to its uploads."""
    return [place.tenant.encode(), UPLOADS, place.area.encode()]


# ------------------------------------------------------------------------------------------------ folders


def open_folder(name: bytes, within: int) -> int:
    """Open one folder in another; FileNotFoundError when it is not there, KernelBug when it is no folder."""
    try:
        return os.open(name, _FOLDER_FLAGS, dir_fd=within)
    except OSError as error:
        raise _told(error, name) from error


def open_or_make_folder(name: bytes, within: int) -> int:
    """Open one folder in another, made now if it is not there; its entry is on the disk then."""
    try:
        return open_folder(name, within)
    except FileNotFoundError:
        with suppress(FileExistsError):
            os.mkdir(name, FOLDER_MODE, dir_fd=within)
        os.fsync(within)
        return open_folder(name, within)


@contextmanager
def folder(root: int, names: list[bytes], *, create: bool = False) -> Iterator[int]:
    """Open a folder below the folder `root`, one step after the other.

    Raises:
        FileNotFoundError: it is not there (and `create` is false).
        KernelBug: something else stands in its place.
    """
    step = open_or_make_folder if create else open_folder
    opened = os.dup(root)
    try:
        for name in names:
            inner = step(name, opened)
            os.close(opened)
            opened = inner
        yield opened
    finally:
        os.close(opened)


def prune(root: int, names: list[bytes], kept: int) -> None:
    """Remove folders that are empty, from the innermost outwards, but the first `kept`. The tenant's lock is held."""
    for depth in range(len(names), kept, -1):
        with folder(root, names[: depth - 1]) as outer:
            try:
                os.rmdir(names[depth - 1], dir_fd=outer)
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT):
                    raise
                return


def remove_tree(name: bytes, within: int) -> None:
    """Remove a folder with everything in it; links are removed, not followed. Interrupted, it is repeated."""
    try:
        opened = os.open(name, _FOLDER_FLAGS, dir_fd=within)
    except FileNotFoundError:
        return
    except NotADirectoryError:
        os.unlink(name, dir_fd=within)
        return
    try:
        for entry in _entries(opened):
            if entry.is_dir(follow_symlinks=False):
                remove_tree(os.fsencode(entry.name), opened)
            else:
                os.unlink(entry.name, dir_fd=opened)
    finally:
        os.close(opened)
    os.rmdir(name, dir_fd=within)


def _entries(opened: int) -> list[os.DirEntry[str]]:
    with os.scandir(opened) as found:
        return list(found)


def names_in(opened: int) -> list[bytes]:
    """Names of what is in a folder, sorted."""
    return sorted(os.fsencode(entry.name) for entry in _entries(opened))


def _told(error: OSError, name: bytes) -> Exception:
    if error.errno in _STRANGE:
        return KernelBug(
            f"{name.decode(errors='replace')!r} in the folder of the blobs is a link, or no file or folder of ours; look "
            "who put it there and remove it"
        )
    return error


# -------------------------------------------------------------------------------------------------- files


def open_file(name: bytes, within: int) -> int:
    """Open a file for reading. FileNotFoundError when it is not there, KernelBug when it is no file."""
    try:
        opened = os.open(name, _FILE_FLAGS, dir_fd=within)
    except OSError as error:
        raise _told(error, name) from error
    if not stat.S_ISREG(os.fstat(opened).st_mode):
        os.close(opened)
        raise _told(OSError(errno.ELOOP, ""), name)
    return opened


def describe(opened: int) -> Description:
    """Read the header of an open blob."""
    return unpack(os.pread(opened, HEADER_BYTES, 0), os.fstat(opened).st_size)


def find(name: bytes, within: int) -> Description | None:
    """Read the header of a blob, None when there is none."""
    try:
        opened = open_file(name, within)
    except FileNotFoundError:
        return None
    try:
        return describe(opened)
    finally:
        os.close(opened)


def count_bytes(opened: int) -> int:
    """Bytes of all blobs and parts below an open folder, headers aside."""
    total = 0
    for entry in _entries(opened):
        if entry.is_dir(follow_symlinks=False):
            inner = open_folder(os.fsencode(entry.name), opened)
            try:
                total += count_bytes(inner)
            finally:
                os.close(inner)
        elif entry.name.endswith(".b") and entry.is_file(follow_symlinks=False):
            total += max(0, entry.stat(follow_symlinks=False).st_size - HEADER_BYTES)
    return total


def walk(
    opened: int, prefix: bytes, after: bytes, path: bytes = b""
) -> Generator[tuple[bytes, Description], None, None]:
    """Stored names below an open folder that begin with `prefix` and come after `after`, in the order of their bytes."""
    for name in _sorted(opened):
        full = path + name
        if name.endswith(b"/"):
            is_past = full < after and not after.startswith(full)
            if not is_past and (full.startswith(prefix) or prefix.startswith(full)):
                yield from _walk_inner(opened, name[:-1], prefix, after, full)
        elif full > after and full.startswith(prefix):
            found = find(name, opened)
            if found is not None:
                yield full, found


def _walk_inner(
    outer: int, name: bytes, prefix: bytes, after: bytes, path: bytes
) -> Generator[tuple[bytes, Description], None, None]:
    try:
        inner = open_folder(name, outer)
    except FileNotFoundError:
        return  # removed meanwhile
    try:
        yield from walk(inner, prefix, after, path)
    finally:
        os.close(inner)


def _sorted(opened: int) -> list[bytes]:
    """Names of the blobs and, with a slash after them, of the folders."""
    found: list[bytes] = []
    for entry in _entries(opened):
        name = os.fsencode(entry.name)
        if name.endswith(b".d") and entry.is_dir(follow_symlinks=False):
            found.append(name + b"/")
        elif name.endswith(b".b") and entry.is_file(follow_symlinks=False):
            found.append(name)
    return sorted(found)
