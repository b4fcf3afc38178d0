"""What can be told from the text of a migration. PostgreSQL has the last word when it runs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

_HIDDEN: Final = re.compile(r"('(?:[^']|'')*')|--[^\n]*|/\*.*?\*/|\$(\w*)\$.*?\$\2\$", re.DOTALL)
_CREATE: Final = re.compile(
    r"\bcreate\s+(?:unlogged\s+)?table\s+(?:if\s+not\s+exists\s+)?([\w.\"]+)\s*\(", re.IGNORECASE
)
_TABLE_KEY: Final = re.compile(r"\bprimary\s+key\s*\(\s*\"?(\w+)", re.IGNORECASE)
_COLUMN_KEY: Final = re.compile(r"(?:^|,)\s*\"?(\w+)\"?\s[^,]*?\bprimary\s+key\b(?!\s*\()", re.IGNORECASE)
_ADDED_KEY: Final = r"\balter\s+table\s+(?:only\s+)?{}\b[^;]*?\bprimary\s+key\s*\(\s*\"?(\w+)"
_PROTECT: Final = re.compile(r"\bpk\.protect\s*\(\s*'([\w.\"]+)'", re.IGNORECASE)
_DESTROYS: Final = re.compile(
    r"\b(drop\s+table|drop\s+column|rename\s+(?:column|to)|alter\s+(?:column\s+)?\S+\s+(?:set\s+data\s+)?type)\b",
    re.IGNORECASE,
)
_DOWN: Final = re.compile(r"^--[ \t]*down[ \t]*\r?$", re.MULTILINE)


@dataclass(frozen=True)
class Table:
    """A table that a migration makes."""

    name: str
    line: int
    first_key: str | None
    """First column of its primary key; None without one."""


@dataclass(frozen=True)
class Up:
    """The `-- up` part of one migration."""

    tables: list[Table]
    protected: frozenset[str]
    is_dynamic: bool
    """Whether it runs statements that it makes itself, so that not all of it can be told."""
    destroys: list[tuple[str, int]]
    """What takes away or renames, with its line."""


def read_up(text: str) -> Up:
    """Look at the part of a migration before `-- down`."""
    down = _DOWN.search(text)
    up = text[: down.start()] if down else text
    spoken = _HIDDEN.sub(lambda found: found[1] or _blank(found[0]), up)
    plain = _HIDDEN.sub(lambda found: _blank(found[0]), up)
    destroys = [(" ".join(found[0].split()[:2]), _line(plain, found.start())) for found in _DESTROYS.finditer(plain)]
    return Up(list(_tables(plain)), frozenset(map(_bare, _PROTECT.findall(spoken))), "$" in up, destroys)


def _blank(text: str) -> str:
    return re.sub(r"[^\n]", " ", text)


def _tables(plain: str) -> Iterator[Table]:
    for found in _CREATE.finditer(plain):
        name, body = _bare(found[1]), _parenthesis(plain, found.end())
        added = re.search(_ADDED_KEY.format(re.escape(found[1])), plain, re.IGNORECASE)
        key = _TABLE_KEY.search(body) or _COLUMN_KEY.search(body) or added
        yield Table(name, _line(plain, found.start()), key[1].lower() if key else None)


def _parenthesis(text: str, start: int) -> str:
    depth = 1
    for at in range(start, len(text)):
        depth += {"(": 1, ")": -1}.get(text[at], 0)
        if not depth:
            return text[start:at]
    return text[start:]


def _bare(name: str) -> str:
    return name.rpartition(".")[2].strip('"').lower()


def _line(text: str, at: int) -> int:
    return text.count("\n", 0, at) + 1
