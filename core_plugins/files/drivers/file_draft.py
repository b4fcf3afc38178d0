"""A blob that is being written: a file beside the blobs, put in place by one rename when it is whole. Blocking.

Its writer holds a lock on it. The system takes the lock back from a killed process, so a draft that can be locked is one
that was left behind.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from typing import Final
from uuid import uuid4

from core_plugins.files.drivers import file_tree
from core_plugins.files.drivers.file_tree import FILE_MODE
from core_plugins.files.model.content import Promise, Receiving, check_quota
from core_plugins.files.model.file_format import HEADER_BYTES, Description, pack

DRAFTS: Final = b"drafts"
_FLAGS: Final = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class Draft:
    """Opened by the first write; `close` in any case."""

    def __init__(self, drafts: int, promise: Promise) -> None:
        self._drafts = drafts
        self._receiving = Receiving(promise)
        self._file: int | None = None
        self._name = b""

    def open(self) -> None:
        """Make the file; every one has a name of its own."""
        while self._file is None:
            name = uuid4().hex.encode()
            file = os.open(name, _FLAGS, FILE_MODE, dir_fd=self._drafts)
            fcntl.flock(file, fcntl.LOCK_EX)
            if os.fstat(file).st_nlink == 0:  # a sweep came between making and locking
                os.close(file)
                continue
            self._file, self._name = file, name
            os.lseek(file, HEADER_BYTES, os.SEEK_SET)

    def write(self, chunk: bytes, used: int, quota: int) -> None:
        """Add bytes; `used` is what the tenant keeps without them.

        Raises:
            InvalidRequest, PayloadTooLarge: they break the promise.
            LimitReached: the quota would be used up already.
        """
        assert self._file is not None
        self._receiving.take(chunk)
        check_quota(used, self._receiving.size, quota)
        write_all(self._file, chunk)

    def finish(self, make: Description) -> Description:
        """Write the header, with size and SHA-256 as they are, and wait until all is on the disk.

        Raises:
            InvalidRequest: other bytes came than were announced.
        """
        assert self._file is not None
        digest = bytes.fromhex(self._receiving.finish())
        description = Description(self._receiving.size, digest, make.content_type, make.created_at)
        os.pwrite(self._file, pack(description), 0)
        os.fsync(self._file)
        return description

    def put_in_place(self, folder: int, name: bytes) -> None:
        """Rename it to `name` in an open folder, in place of what is there."""
        os.rename(self._name, name, src_dir_fd=self._drafts, dst_dir_fd=folder)
        self._name = b""

    def close(self) -> None:
        """Remove what was not put in place."""
        file, self._file = self._file, None
        if file is None:
            return
        try:
            if self._name:
                with suppress(FileNotFoundError):
                    os.unlink(self._name, dir_fd=self._drafts)
        finally:
            os.close(file)


def write_all(file: int, chunk: bytes) -> None:
    """Write every byte: the system may take fewer at once."""
    rest = memoryview(chunk)
    while rest:
        rest = rest[os.write(file, rest) :]


def sweep_drafts(drafts: int) -> int:
    """Remove drafts that nobody writes any more; how many."""
    return sum(_sweep(drafts, name) for name in file_tree.names_in(drafts))


def _sweep(drafts: int, name: bytes) -> bool:
    try:
        file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=drafts)
    except OSError:
        return False  # gone, or none of ours
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.unlink(name, dir_fd=drafts)
    except (BlockingIOError, FileNotFoundError):
        return False
    finally:
        os.close(file)
    return True
