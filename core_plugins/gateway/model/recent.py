"""What was asked for lately, and no more of it than so much."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class Recent(Generic[T]):
    """A bounded map: two halves, of which the older one goes when the younger is full. What is asked for stays.

    A look-up is one of a plain dictionary; to keep the exact order of use would cost each call more than that.
    """

    __slots__ = ("_half", "_old", "_young")

    def __init__(self, most: int) -> None:
        self._half = max(1, most // 2)
        self._young: dict[Hashable, T] = {}
        self._old: dict[Hashable, T] = {}

    def get(self, key: Hashable) -> T | None:
        """What is kept under a key."""
        found = self._young.get(key)
        if found is None:
            found = self._old.get(key)
            if found is not None:
                self.put(key, found)
        return found

    def put(self, key: Hashable, value: T) -> None:
        """Keep something under a key."""
        if len(self._young) >= self._half:
            self._old, self._young = self._young, {}
        self._young[key] = value

    def values(self) -> Iterator[T]:
        """All that is kept."""
        yield from self._young.values()
        yield from (value for key, value in self._old.items() if key not in self._young)

    def __len__(self) -> int:
        return len(self._young.keys() | self._old.keys())
