"""The words that authors write beside their types: docstrings of classes, and the lines below their fields."""

from __future__ import annotations

import ast
import inspect
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

SOURCE_BYTES_MAX: Final = 2_097_152
_OF_PYTHON: Final = "An enumeration."


def documentation(cls: Any) -> str:
    """The docstring of a class itself, not of its parents; without what dataclasses and enums write of themselves."""
    origin = getattr(cls, "__origin__", cls)
    text = vars(origin).get("__doc__") or ""
    if text.startswith(f"{origin.__name__}(") or text == _OF_PYTHON:
        return ""
    return inspect.cleandoc(text)


class FieldNotes:
    """Reads the docstring lines below fields from the source, each module once. Keep it no longer than one document:
    what it remembers belongs to generations that may go."""

    def __init__(self) -> None:
        self._modules: dict[str, dict[str, dict[str, str]]] = {}

    def of(self, cls: Any) -> dict[str, str]:
        """Field -> note of a class and its parents; empty where the source is not at hand."""
        origin = getattr(cls, "__origin__", cls)
        if not isinstance(origin, type):
            return {}
        found: dict[str, str] = {}
        for parent in reversed(origin.__mro__):
            found |= self._module(parent.__module__).get(parent.__qualname__, {})
        return found

    def _module(self, name: str) -> dict[str, dict[str, str]]:
        if name not in self._modules:
            self._modules[name] = _read_module(name)
        return self._modules[name]


def _read_module(name: str) -> dict[str, dict[str, str]]:
    file = getattr(sys.modules.get(name), "__file__", None)
    if file is None or not file.endswith(".py"):
        return {}
    try:
        path = Path(file)
        tree = ast.parse(path.read_bytes()) if path.stat().st_size <= SOURCE_BYTES_MAX else ast.Module([], [])
    except (OSError, SyntaxError, ValueError):
        return {}
    found: dict[str, dict[str, str]] = {}
    _collect(tree.body, "", found)
    return found


def _collect(body: list[ast.stmt], prefix: str, found: dict[str, dict[str, str]]) -> None:
    for statement in body:
        if isinstance(statement, ast.ClassDef):
            name = f"{prefix}{statement.name}"
            found[name] = _notes(statement.body)
            _collect(statement.body, f"{name}.", found)


def _notes(body: list[ast.stmt]) -> dict[str, str]:
    found: dict[str, str] = {}
    for line, below in pairwise(body):
        match line, below:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str() as text)):
                found[name] = inspect.cleandoc(text)
            case _:
                pass
    return found
