"""Regular expressions of Python, as JSON Schema wants them: ECMA-262 with the `u` flag."""

from __future__ import annotations

import re
from typing import Final

_SYNTAX: Final = frozenset("^$\\.*+?()[]{}|/")
_CLASSES: Final = frozenset("dDwWsS")
_CONTROL: Final = {"n": r"\n", "r": r"\r", "t": r"\t", "f": r"\f", "v": r"\v", "a": r"\x07"}
_QUANTIFIER: Final = re.compile(r"\{(\d*)(,?)(\d*)\}")
_GROUP: Final = re.compile(r"\?P<([A-Za-z_][A-Za-z0-9_]*)>|\?(?::|=|!|<=|<!)")
_HEX: Final = re.compile(r"x[0-9A-Fa-f]{2}|u[0-9A-Fa-f]{4}")


class NotPortable(ValueError):
    """The pattern means something that ECMA-262 cannot say; the text names it."""


def ecma_pattern(pattern: str) -> str:
    r"""Rewrite a Python pattern so that other programs read it the same way: `\Z` becomes `$`, a dot all but a newline.

    A `$` stays, and means the end alone. `\d`, `\w` and `\b` are ASCII.

    Raises:
        NotPortable: inline flags, atomic groups, possessive quantifiers, conditions and the like.
    """
    return _Rewriter(pattern).run()


class _Rewriter:
    def __init__(self, pattern: str) -> None:
        self._pattern = pattern
        self._at = 0
        self._done: list[str] = []

    def run(self) -> str:
        while self._at < len(self._pattern):
            self._step()
        return "".join(self._done)

    def _step(self) -> None:
        character = self._pattern[self._at]
        match character:
            case "\\":
                self._escape(in_class=False)
            case "[":
                self._class()
            case "(":
                self._group()
            case "{":
                self._brace()
            case ".":
                self._put(r"[^\n]", 1)
            case "}" | "]":
                self._put(f"\\{character}", 1)
            case "*" | "+" | "?" if self._pattern[self._at + 1 : self._at + 2] == "+":
                raise NotPortable(f"the possessive quantifier {character}+")
            case _:
                self._put(character, 1)

    def _put(self, text: str, taken: int) -> None:
        self._done.append(text)
        self._at += taken

    def _escape(self, *, in_class: bool) -> None:
        following = self._pattern[self._at + 1 : self._at + 2]
        hexadecimal = _HEX.match(self._pattern, self._at + 1)
        if hexadecimal is not None:
            self._put(f"\\{hexadecimal[0]}", 1 + len(hexadecimal[0]))
        elif following in _CLASSES or following in _SYNTAX:
            self._put(f"\\{following}", 2)
        elif following in _CONTROL:
            self._put(_CONTROL[following], 2)
        elif in_class:
            self._put(self._escaped_in_class(following), 2)
        else:
            self._put(self._escaped(following), 2)

    def _escaped(self, following: str) -> str:
        anchors = {"Z": "$", "z": "$", "A": "^", "b": r"\b", "B": r"\B"}
        if following in anchors:
            return anchors[following]
        if following.isalnum() and not ("1" <= following <= "9"):
            raise NotPortable(f"the escape \\{following}")
        return f"\\{following}" if following.isdigit() else following

    def _escaped_in_class(self, following: str) -> str:
        if following == "b":
            return r"\x08"
        if following.isalnum():
            raise NotPortable(f"the escape \\{following} in a class")
        return r"\-" if following == "-" else following

    def _class(self) -> None:
        self._put("[", 1)
        if self._pattern.startswith("^", self._at):
            self._put("^", 1)
        if self._pattern.startswith("]", self._at):
            self._put(r"\]", 1)
        while not self._pattern.startswith("]", self._at):
            character = self._pattern[self._at]
            if character == "\\":
                self._escape(in_class=True)
            else:
                self._put(r"\[" if character == "[" else character, 1)
        self._put("]", 1)

    def _group(self) -> None:
        self._put("(", 1)
        if not self._pattern.startswith("?", self._at):
            return
        matched = _GROUP.match(self._pattern, self._at)
        if matched is None:
            raise NotPortable(f"the group ({self._pattern[self._at : self._at + 3]}...)")
        self._put(f"?<{matched[1]}>" if matched[1] else matched[0], len(matched[0]))

    def _brace(self) -> None:
        matched = _QUANTIFIER.match(self._pattern, self._at)
        if matched is None or not (matched[1] or matched[3]):
            self._put(r"\{", 1)
            return
        if self._pattern.startswith("+", matched.end()):
            raise NotPortable(f"the possessive quantifier {matched[0]}+")
        self._put(f"{{{matched[1] or '0'}{matched[2]}{matched[3]}}}", len(matched[0]))
