"""Telling whether a function, class, object or frame is code of one generation, without running any of it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import CodeType, CoroutineType, FrameType, FunctionType, MethodType, ModuleType
from typing import Any, Final

UNWRAPPED_MAX: Final = 8
PRIVATE_PREFIX: Final = "_pk_"


class Belonging:
    """Knows the code of one generation by its root package, and code without a module by its folder."""

    def __init__(self, root: str, folder: Path) -> None:
        self.root = root
        self._below = f"{root}."
        self._inside = f"{folder}{os.sep}"

    def is_name(self, name: object) -> bool:
        """Whether a module's name is one of this generation."""
        return isinstance(name, str) and (name == self.root or name.startswith(self._below))

    def is_file(self, name: object) -> bool:
        """Whether a file lies in the generation's folder."""
        return isinstance(name, str) and name.startswith(self._inside)

    def is_code(self, code: CodeType, module: object) -> bool:
        """Whether code is of this generation; another generation of the same folder has another root."""
        if isinstance(module, str) and module.startswith(PRIVATE_PREFIX):
            return self.is_name(module)
        return self.is_file(code.co_filename)

    def is_frame(self, frame: FrameType) -> bool:
        """Whether a frame runs code of this generation."""
        return self.is_code(frame.f_code, frame.f_globals.get("__name__"))

    def show(self, name: str) -> str:
        """A dotted name without the private root."""
        return name.removeprefix(self._below)

    def find(self, thing: object) -> str | None:
        """The public dotted name of the generation's code behind `thing`, or None when it is not the generation's.

        Partials, bound methods, properties and decorators are looked through; an object is its class.
        """
        return next((self.show(name) for part in _parts(thing) if (name := self._own_name(part))), None)

    def _own_name(self, thing: object) -> str | None:
        if isinstance(thing, FunctionType):
            module = thing.__globals__.get("__name__")
            return f"{module}.{thing.__qualname__}" if self.is_code(thing.__code__, module) else None
        if isinstance(thing, CoroutineType):
            frame = thing.cr_frame
            module = frame.f_globals.get("__name__") if frame is not None else None
            return f"{module}.{thing.__qualname__}" if self.is_code(thing.cr_code, module) else None
        if isinstance(thing, ModuleType):
            name = vars(thing).get("__name__")
            return name if isinstance(name, str) and self.is_name(name) else None
        kind = thing if isinstance(thing, type) else type(thing)
        module = vars(kind).get("__module__")
        return f"{module}.{kind.__qualname__}" if self.is_name(module) else None


def _parts(thing: object) -> Iterator[object]:
    """`thing` and what it wraps."""
    waiting, seen = [thing], 0
    while waiting and seen < UNWRAPPED_MAX:
        part = waiting.pop()
        seen += 1
        yield part
        waiting += [inner for inner in _wrapped(part) if inner is not None]


def _wrapped(thing: Any) -> list[object]:
    if isinstance(thing, partial):
        return [thing.func]
    if isinstance(thing, MethodType):
        return [thing.__self__, thing.__func__]
    if isinstance(thing, staticmethod | classmethod):
        return [thing.__func__]
    if isinstance(thing, property):
        return [thing.fdel, thing.fset, thing.fget]
    if isinstance(thing, FunctionType):
        return [vars(thing).get("__wrapped__")]
    return []
