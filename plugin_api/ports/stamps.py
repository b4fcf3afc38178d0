"""Stamps: how a change in one process is felt at once in every other process of this kernel on this machine."""

from __future__ import annotations

from typing import Protocol


class Stamps(Protocol):
    """A fixed table of random 64-bit stamps in shared memory.

    Whoever caches something derived from `key` reads the stamp BEFORE loading it and keeps it with the entry; an entry
    whose stamp differs from the current one is stale. Whoever changes it calls `touch` AFTER the commit and BEFORE the
    answer. Two keys may share a slot: that costs a reload, never a stale answer.
    """

    def slot(self, key: str) -> int:
        """The slot of a key, the same in every process."""
        ...

    def read(self, slot: int) -> int:
        """The current stamp of a slot."""
        ...

    def touch(self, key: str) -> None:
        """Make every cached entry of this key stale, in all processes."""
        ...

    def touch_all(self) -> None:
        """Make every cached entry stale, in all processes."""
        ...
