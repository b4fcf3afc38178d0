"""Ranges of versions as manifests write them: `>=1.0,<2`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

Numbers = tuple[int, int, int]

_VERSION: Final = re.compile(r"(0|[1-9]\d{0,8})(?:\.(0|[1-9]\d{0,8}))?(?:\.(0|[1-9]\d{0,8}))?\Z", re.ASCII)
_BOUND: Final = re.compile(r"(>=|<=|==|!=|>|<)\s*([0-9.]+)\Z", re.ASCII)
BOUNDS_MAX: Final = 8
LEGAL: Final = "bounds joined by commas, like `>=1.0,<2` (operators: >= > <= < !=)"


def parse_version(text: str) -> Numbers:
    """`1.2` is (1, 2, 0). ValueError for what is no plain `MAJOR[.MINOR[.PATCH]]`."""
    matched = _VERSION.match(text)
    if matched is None:
        raise ValueError(f"{text!r} is no version; write numbers like `1` or `1.2`")
    major, minor, patch = (int(part or 0) for part in matched.groups())
    return major, minor, patch


@dataclass(frozen=True)
class Bound:
    """One condition on a version."""

    operator: str
    version: Numbers

    def allows(self, version: Numbers) -> bool:
        """Whether the version fulfils it."""
        match self.operator:
            case ">=":
                return version >= self.version
            case ">":
                return version > self.version
            case "<=":
                return version <= self.version
            case "<":
                return version < self.version
            case "!=":
                return version != self.version
            case _:
                return version == self.version


@dataclass(frozen=True)
class VersionRange:
    """All the versions that fulfil every bound; without bounds, all versions."""

    text: str
    bounds: tuple[Bound, ...]

    def allows(self, version: str) -> bool:
        """Whether the version lies in the range. ValueError when it is no version."""
        numbers = parse_version(version)
        return all(bound.allows(numbers) for bound in self.bounds)

    @property
    def is_pin(self) -> bool:
        """Whether it names one exact version."""
        return any(bound.operator == "==" for bound in self.bounds)

    @property
    def has_upper_bound(self) -> bool:
        """Whether it ends somewhere."""
        return any(bound.operator in ("<", "<=", "==") for bound in self.bounds)

    def __str__(self) -> str:
        return self.text


def parse_range(text: str) -> VersionRange:
    """Read `>=1.0,<2`; an empty text is every version.

    Raises:
        ValueError: the text is no such list; it says what is.
    """
    parts = [part.strip() for part in text.split(",")] if text.strip() else []
    if len(parts) > BOUNDS_MAX:
        raise ValueError(f"more than {BOUNDS_MAX} bounds")
    return VersionRange(text.strip(), tuple(map(_parse_bound, parts)))


def _parse_bound(part: str) -> Bound:
    matched = _BOUND.match(part)
    if matched is None:
        raise ValueError(f"{part!r} is no bound; write {LEGAL}")
    return Bound(matched[1], parse_version(matched[2]))


def split_requirement(entry: str) -> tuple[str, VersionRange]:
    """`data >=1` is the capability `data` in the range `>=1`. ValueError when the range cannot be read."""
    name, _, rest = entry.strip().partition(" ")
    return name, parse_range(rest)
