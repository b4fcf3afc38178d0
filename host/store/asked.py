"""What is asked for: a requirement, the path of a wheel, or the path of a folder with a plugin's source."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import InvalidName, canonicalize_name

from host.store.resolve import applies
from plugin_api.errors import InvalidRequest

TEXT_BYTES_MAX: Final = 4_096
_ADDRESS: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://|@")
_PATH: Final = re.compile(r"[/~.]")

Kind = Literal["requirement", "wheel", "folder"]


@dataclass(frozen=True)
class Asked:
    """One thing to prepare."""

    kind: Kind
    text: str
    """As it was asked for."""
    path: Path
    """Of the wheel or folder."""
    key: str = ""
    """Of a requirement: the normal form of its name."""
    wanted: str = ""
    """Of a requirement: what pip is given."""


def read_asked(text: str) -> Asked:
    """Tell what is asked for. A whole path wins where it exists or looks like one.

    A relative one is none: it would be looked up in whatever folder the kernel was started in, where a folder may have the
    name of a distribution.

    Raises:
        InvalidRequest: `requirement_invalid`: no requirement, an option, an address, or a path with nothing there.
    """
    what = text.strip()
    if not what or not what.isprintable() or len(what.encode("utf-8", "replace")) > TEXT_BYTES_MAX:
        raise _invalid(f"the requirement is empty, longer than {TEXT_BYTES_MAX} bytes or has control characters")
    if what.startswith("-"):
        raise _invalid(f"{_first_word(what)!r} is an option of pip, which is not taken here")
    path = Path(what).expanduser() if what.startswith("~/") else Path(what)
    if path.is_absolute() and os.path.exists(path):  # Path.exists fails on what is too long for a name
        return Asked("folder" if path.is_dir() else "wheel", what, path)
    if _ADDRESS.search(what):
        raise _invalid("an address is not taken: fetch the wheel and give its path, or name what the index has")
    if "/" in what.partition(";")[0] or _PATH.match(what) or what.endswith((".whl", ".tar.gz", ".zip")):
        raise _invalid(f"there is nothing at {what[:200]}")
    return _read_requirement(what)


def _read_requirement(what: str) -> Asked:
    try:
        requirement = Requirement(what)
        key = canonicalize_name(requirement.name, validate=True)
    except (InvalidRequirement, InvalidName) as error:
        raise _invalid(f"{what[:200]!r} is no requirement: {str(error).splitlines()[0]}") from None
    if not applies(requirement, frozenset()):
        raise _invalid(f"the marker of {what[:200]!r} does not hold on this machine")
    requirement.marker = None
    return Asked("requirement", what, Path(), key, str(requirement))


def _first_word(what: str) -> str:
    return re.split(r"[\s=]", what, maxsplit=1)[0][:40]


def _invalid(why: str) -> InvalidRequest:
    return InvalidRequest(
        f'{why}; write a requirement like "acme-crm>=1.2", or the path of a wheel or of a folder with pyproject.toml',
        code="requirement_invalid",
    )
