"""Where a key stands in TOML text, so that an error can name its line."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

Path = tuple[str | int, ...]

_TABLE: Final = re.compile(r"\s*(\[\[?)\s*(.+?)\s*\]\]?\s*(?:#.*)?\Z")
_KEY: Final = re.compile(
    r"""\s*((?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*')(?:\s*\.\s*(?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*'))*)\s*=(.*)\Z"""
)
_PART: Final = re.compile(r"""[A-Za-z0-9_-]+|"[^"]*"|'[^']*'""")
_STRING: Final = re.compile(r""""(?:[^"\\]|\\.)*"|'[^']*'|#.*""")


class TomlLines:
    """The lines of the keys of one TOML text. Good for error messages: what it cannot find is placed at its table."""

    def __init__(self, text: str) -> None:
        self._lines = text.splitlines()
        self._at: dict[Path, int] = {}
        self._counts: dict[Path, int] = {}
        self._scan()

    def line_of(self, path: Sequence[str | int], value: object = None) -> int:
        """The line, from 1, of the key at `path`; inside arrays and inline tables, of the text of `value`."""
        whole = tuple(path)
        for length in range(len(whole), -1, -1):
            start = self._at.get(whole[:length])
            if start is not None:
                return start if length == len(whole) else self._inside(start, whole[length:], value)
        return 1

    def _scan(self) -> None:
        table: Path = ()
        depth, quotes = 0, ""
        for number, line in enumerate(self._lines, 1):
            if quotes:
                quotes = "" if quotes in line else quotes
                continue
            if depth == 0:
                table = self._note(table, number, line)
            quotes = _opened(line)
            bare = _STRING.sub("", line)
            if depth or "=" in bare:
                value = bare if depth else bare.partition("=")[2]
                depth = max(0, depth + sum(map(value.count, "[{")) - sum(map(value.count, "]}")))

    def _note(self, table: Path, number: int, line: str) -> Path:
        opened = _TABLE.match(line)
        if opened is not None and "=" not in _STRING.sub("", line):
            name = _parts(opened[2])
            table = self._entered(name, is_array=opened[1] == "[[")
            self._at.setdefault(name, number)
            self._at.setdefault(table, number)
            return table
        key = _KEY.match(line)
        if key is not None:
            self._at.setdefault((*table, *_parts(key[1])), number)
        return table

    def _entered(self, path: Path, *, is_array: bool) -> Path:
        if not is_array:
            return path
        index = self._counts.get(path, 0)
        self._counts[path] = index + 1
        return (*path, index)

    def _inside(self, start: int, rest: Path, value: object) -> int:
        last = next((part for part in reversed(rest) if isinstance(part, str)), "")
        wanted = value if isinstance(value, str) and value else last
        for number in range(start, len(self._lines) + 1):
            if number > start and number in self._starts():
                break
            if wanted and wanted in self._lines[number - 1]:
                return number
        return start

    def _starts(self) -> frozenset[int]:
        return frozenset(self._at.values())


def _parts(dotted: str) -> Path:
    return tuple(part.strip("\"'") for part in _PART.findall(dotted))


def _opened(line: str) -> str:
    """The triple quotes that a line opens and does not close."""
    for quotes in ('"""', "'''"):
        if line.count(quotes) % 2:
            return quotes
    return ""
