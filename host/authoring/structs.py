"""Structs as the text of a package shows them: their fields, and whether they refuse what they do not know."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from host.authoring.source import Source, is_true, keyword_of
from plugin_api.pages import PageRequest

_STRUCTS: Final = frozenset({"msgspec.Struct", "plugin_api.Struct"})
_PAGE_REQUEST: Final = "plugin_api.pages.PageRequest"
_STEPS_MAX: Final = 20


@dataclass(frozen=True)
class StructView:
    """One Struct of the package."""

    name: str
    file: str
    line: int
    fields: frozenset[str]
    is_strict: bool
    """Whether it has `forbid_unknown_fields=True`, itself or from a base."""


class Structs:
    """Finds the Structs of a package by name."""

    def __init__(self, sources: Sequence[Source]) -> None:
        self._classes = {
            f"{source.module}.{node.name}": (source, node)
            for source in sources
            for node in source.tree.body
            if isinstance(node, ast.ClassDef)
        }
        self._modules = {source.module: source for source in sources}

    def find(self, name: str) -> StructView | None:
        """The Struct of that full name; None when it is not one of the package, or the text does not tell all of it."""
        found = self._view(name, 0)
        return found if found is not None and found.line else None

    def _view(self, name: str, depth: int) -> StructView | None:
        if name == _PAGE_REQUEST:
            fields = frozenset(field.name for field in msgspec.structs.fields(PageRequest))
            return StructView("PageRequest", "", 0, fields, is_strict=True)
        if name in _STRUCTS:
            return StructView("Struct", "", 0, frozenset(), is_strict=False)
        source, node = self._classes.get(self._followed(name), (None, None))
        if source is None or node is None or depth > _STEPS_MAX:
            return None
        bases = [self._view(base, depth + 1) for one in node.bases if _is_no_generic(base := source.resolve(one))]
        known = [base for base in bases if base is not None]
        if not known or len(known) < len(bases):
            return None
        own = {
            one.target.id for one in node.body if isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name)
        }
        fields = frozenset(own).union(*(base.fields for base in known))
        told = keyword_of(node, "forbid_unknown_fields")
        is_strict = is_true(told) if told is not None else any(base.is_strict for base in known)
        return StructView(node.name, source.file, node.lineno, fields, is_strict)

    def _followed(self, name: str) -> str:
        """The name where a class is defined, through modules that only pass it on."""
        for _ in range(_STEPS_MAX):
            module, _, last = name.rpartition(".")
            source = self._modules.get(module)
            if name in self._classes or source is None or last not in source.names:
                return name
            name = source.names[last]
        return name


def _is_no_generic(name: str) -> bool:
    return name not in ("typing.Generic", "typing.Protocol")
