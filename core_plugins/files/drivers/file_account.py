"""How many bytes a tenant keeps, and who may change that now. Blocking.

The number stands in a small file that is marked before each change and unmarked after it, under a lock that the system
takes back from a killed process. So a mark that is found under the lock was left by a kill, and the number is counted anew
from the files; so it is after the machine was started again, which may have lost what was not synced.
"""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from core_plugins.files.drivers import file_tree
from core_plugins.files.drivers.file_tree import FILE_MODE, OBJECTS, UPLOADS
from core_plugins.files.model.content import check_quota

_RECORD: Final = struct.Struct(">4s16sBQ")
_MAGIC: Final = b"PKU\x01"
_FLAGS: Final = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
_BOOT: Final = Path("/proc/sys/kernel/random/boot_id")


def boot_id() -> bytes:
    """Another one after each start of the machine; zeros where the system does not tell."""
    try:
        return bytes.fromhex(_BOOT.read_text().strip().replace("-", ""))
    except (OSError, ValueError):
        return bytes(16)


class Account:
    """One tenant's, while its lock is held."""

    def __init__(self, record: int, tenant: int, boot: bytes) -> None:
        self._record = record
        self._boot = boot
        self.used = self._read(tenant)

    def _read(self, tenant: int) -> int:
        raw = os.pread(self._record, _RECORD.size, 0)
        if len(raw) == _RECORD.size:
            magic, boot, is_changing, used = _RECORD.unpack(raw)
            if magic == _MAGIC and boot == self._boot and not is_changing:
                return int(used)
        return _count(tenant)

    @contextmanager
    def changing(self, by: int, quota: int | None = None) -> Iterator[None]:
        """Around a change of the tenant's files by this many bytes.

        Raises:
            LimitReached: it would keep more than `quota`.
        """
        if quota is not None:
            check_quota(self.used, by, quota)
        self._write(is_changing=True)
        yield  # when this fails the mark stays: nobody knows what has happened, so the next one counts
        self.used = max(0, self.used + by)
        self._write(is_changing=False)

    def _write(self, *, is_changing: bool) -> None:
        os.pwrite(self._record, _RECORD.pack(_MAGIC, self._boot, is_changing, self.used), 0)


def _count(tenant: int) -> int:
    total = 0
    for name in (OBJECTS, UPLOADS):
        try:
            with file_tree.folder(tenant, [name]) as opened:
                total += file_tree.count_bytes(opened)
        except FileNotFoundError:
            continue
    return total


@contextmanager
def locked(root: int, tenant_name: bytes, boot: bytes) -> Iterator[tuple[int, Account]]:
    """(the tenant's open folder, its account) with the tenant's lock held; the folder is made if need be.

    Readers need no lock: what they open stays as it is.
    """
    while True:
        with file_tree.folder(root, [tenant_name], create=True) as tenant:
            lock = os.open(b"lock", _FLAGS, FILE_MODE, dir_fd=tenant)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX)
                if _is_in_place(root, tenant_name, tenant):
                    record = os.open(b"usage", _FLAGS, FILE_MODE, dir_fd=tenant)
                    try:
                        yield tenant, Account(record, tenant, boot)
                    finally:
                        os.close(record)
                    return
            finally:
                os.close(lock)


def _is_in_place(root: int, tenant_name: bytes, tenant: int) -> bool:
    """Whether the folder is still the tenant's: it may have been erased while its lock was waited for."""
    try:
        found = os.stat(tenant_name, dir_fd=root, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return found.st_ino == os.fstat(tenant).st_ino
