"""Finding the operation of a path: one walk over its segments, whatever the number of routes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Generic, NamedTuple, TypeVar

T = TypeVar("T")
_PLACEHOLDER: Final = "{}"


class RouteConflict(ValueError):
    """Two routes would answer the same request; the text names both."""


class Match(NamedTuple, Generic[T]):
    """What a path leads to."""

    methods: dict[str, T]
    """Method -> target; never empty."""
    values: tuple[str, ...]
    """Raw (still percent-encoded) values of the placeholders, in order."""


class _Node(Generic[T]):
    __slots__ = ("branches", "methods", "templates")

    def __init__(self) -> None:
        self.branches: dict[str, _Node[T]] = {}
        self.methods: dict[str, T] = {}
        self.templates: dict[str, str] = {}


class Dispatch(Generic[T]):
    """An immutable map from (method, path) to targets. A literal segment beats a placeholder."""

    def __init__(self, routes: Iterable[tuple[str, str, T]]) -> None:
        self._root: _Node[T] = _Node()
        self._literal: dict[str, Match[T]] = {}
        for method, template, target in routes:
            self._add(method, template, target)
        self._index(self._root, "")

    def _add(self, method: str, template: str, target: T) -> None:
        node = self._root
        for segment in template.split("/")[1:]:
            key = _PLACEHOLDER if segment.startswith("{") else segment
            node = node.branches.setdefault(key, _Node())
        if method in node.methods:
            raise RouteConflict(f"{method} {template} is taken by {method} {node.templates[method]}")
        node.methods[method] = target
        node.templates[method] = template

    def _index(self, node: _Node[T], path: str) -> None:
        if node.methods:
            self._literal[path] = Match(node.methods, ())
        for segment, branch in node.branches.items():
            if segment != _PLACEHOLDER:
                self._index(branch, f"{path}/{segment}")

    def find(self, path: str) -> Match[T] | None:
        """What `path` (no query) leads to, or None. Empty segments match nothing."""
        found = self._literal.get(path)
        if found is not None:
            return found
        return _walk(self._root, path.split("/"), 1, ())


def _walk(node: _Node[T], segments: list[str], at: int, values: tuple[str, ...]) -> Match[T] | None:
    """Go down as long as there is one way; where a literal and a placeholder both fit, try the literal first."""
    for place in range(at, len(segments)):
        segment, branches = segments[place], node.branches
        literal = branches.get(segment) if segment != _PLACEHOLDER else None
        template = branches.get(_PLACEHOLDER) if segment else None
        if literal is not None and template is not None:
            found = _walk(literal, segments, place + 1, values)
            return found or _walk(template, segments, place + 1, (*values, segment))
        if literal is not None:
            node = literal
        elif template is not None:
            node, values = template, (*values, segment)
        else:
            return None
    return Match(node.methods, values) if node.methods else None
