"""Rules about files: what a package holds, lacks or hides."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from typing import Final

from host.authoring.package import Package, Place, Rule
from host.authoring.scaffold import RESERVED_PACKAGES

_INVISIBLE: Final = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164\ufeff\uffa0"
    "\U000e0000-\U000e0fff]"
)
_COMPILED: Final = (".so", ".pyd", ".dylib")


def _unreadable(package: Package) -> Iterator[Place]:
    yield from package.parsed[1]


def _invisible(package: Package) -> Iterator[Place]:
    for path, text in package.texts.items():
        if isinstance(text, str):
            for number, line in enumerate(text.split("\n"), 1):
                found = sorted({_named(one) for one in _INVISIBLE.findall(line)})
                if found:
                    yield Place(f"it holds {', '.join(found)}", package.shown(path), number)


def _named(character: str) -> str:
    return f"U+{ord(character):04X} {unicodedata.name(character, 'unnamed')}"


def _reserved(package: Package) -> Iterator[Place]:
    for name in sorted(
        RESERVED_PACKAGES - {package.name.partition(".")[0]} if package.is_kernel else RESERVED_PACKAGES
    ):
        folder = package.top / name
        if folder.is_dir() and any(folder.rglob("*.py")):
            yield Place(f"it holds the top-level package {name}", package.shown(folder))
        elif (package.top / f"{name}.py").is_file():
            yield Place(f"it holds the top-level module {name}", package.shown(package.top / f"{name}.py"))


def _compiled(package: Package) -> Iterator[Place]:
    for path in package.files:
        if path.suffix in _COMPILED:
            yield Place("it is a compiled extension", package.shown(path))


def _no_readme(package: Package) -> Iterator[Place]:
    if not (package.folder / "README.md").is_file():
        yield Place(f"there is no {package.shown(package.folder)}/README.md")


def _no_lock(package: Package) -> Iterator[Place]:
    if not (package.folder / "wire.lock").is_file():
        yield Place(f"there is no {package.shown(package.folder)}/wire.lock")


RULES: Final = (
    Rule(
        "unreadable",
        "error",
        "A file that Python cannot read stops the plugin when it is imported.",
        "Mend it where the message points; `python -m compileall` tells the same.",
        _unreadable,
    ),
    Rule(
        "invisible_characters",
        "error",
        "Characters that nobody sees, or that turn the direction of text, make code look like other code.",
        "Remove them; where a text needs one, write its escape, like `\\u200d`.",
        _invisible,
    ),
    Rule(
        "reserved_name",
        "error",
        "The name belongs to the kernel; a second package of that name would hide it or be hidden.",
        "Rename the package.",
        _reserved,
    ),
    Rule(
        "compiled_extension",
        "warning",
        "Python cannot unload compiled code: an upgrade of the plugin needs a rolling restart of the workers.",
        "Prefer pure Python, or depend on a library that has the extension; or tell operators in the README.",
        _compiled,
    ),
    Rule(
        "readme_missing",
        "warning",
        "An operator who decides on the plugin reads what it promises, needs and does when something fails.",
        "Write one page, `README.md`, beside the manifest.",
        _no_readme,
    ),
    Rule(
        "wire_lock_missing",
        "info",
        "Without a committed `wire.lock` the store numbers fields at the first install and keeps the numbers itself.",
        "Nothing must be done.",
        _no_lock,
    ),
)
