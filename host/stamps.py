"""The stamps of this kernel: one small file, mapped into every process (port `plugin_api.ports.stamps.Stamps`)."""

from __future__ import annotations

import mmap
import os
import secrets
import zlib
from pathlib import Path
from typing import Final, Self

SLOTS: Final = 4_096
SLOT_BYTES: Final = 8


def create_stamps(path: Path) -> None:
    """Make the file anew, 0600, every slot random; processes of an earlier kernel keep their own, unlinked one.

    Raises:
        OSError: the folder cannot be written.
    """
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(secrets.token_bytes(SLOTS * SLOT_BYTES))


class FileStamps:
    """Stamps in a file that `create_stamps` made.

    A stamp is random, never counted up: of two racing writers neither can bring back a value that a reader has seen.
    A store is one aligned word, so a reader never sees half of one.
    """

    def __init__(self, path: Path) -> None:
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), SLOTS * SLOT_BYTES)
        self._words = memoryview(self._map).cast("Q")

    def slot(self, key: str) -> int:
        """The slot of a key, the same in every process (CRC-32)."""
        return zlib.crc32(key.encode()) % SLOTS

    def read(self, slot: int) -> int:
        """The current stamp of a slot."""
        return self._words[slot]

    def touch(self, key: str) -> None:
        """Make every cached entry of this key stale, in all processes."""
        self._words[self.slot(key)] = secrets.randbits(64)

    def touch_all(self) -> None:
        """Make every cached entry stale, in all processes."""
        for slot in range(SLOTS):
            self._words[slot] = secrets.randbits(64)

    def close(self) -> None:
        """Unmap the file; the stamps must not be used any more."""
        self._words.release()
        self._map.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
