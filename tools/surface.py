"""The public surface of the plugin API, one line for each name, so that a change of it shows in a diff.

Run it to write `plugin_api/surface.txt`.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Final, get_origin

import msgspec

import plugin_api
from plugin_api.errors import KernelError

SNAPSHOT: Final = Path(plugin_api.__file__).with_name("surface.txt")


def surface() -> list[str]:
    """Every public name of every module, with its signature, sorted."""
    return sorted({line for module in _modules() for line in _of_module(module)})


def lost(before: Sequence[str], after: Sequence[str]) -> list[str]:
    """What the surface had and has no more: removed or narrowed."""
    kept = set(after)
    return [line for line in before if line not in kept]


def _modules() -> Iterator[ModuleType]:
    yield plugin_api
    for found in pkgutil.walk_packages(plugin_api.__path__, "plugin_api."):
        if not any(part.startswith("_") for part in found.name.split(".")):
            yield importlib.import_module(found.name)


def _of_module(module: ModuleType) -> Iterator[str]:
    exported = getattr(module, "__all__", None)
    if exported is None:
        yield from _aliases(module)
    for name, value in vars(module).items():
        if name.startswith("_") or isinstance(value, ModuleType):
            continue
        if exported is not None:
            if name in exported:
                yield f"{module.__name__}.{name}"
        elif inspect.isclass(value):
            if value.__module__ == module.__name__:
                yield from _of_class(f"{module.__name__}.{name}", value)
        elif inspect.isfunction(value):
            if value.__module__ == module.__name__:
                yield f"{module.__name__}.{name}{_signature(value)}"
        elif name.isupper():
            yield f"{module.__name__}.{name}{_constant(value)}"
        elif type(value).__name__ == "FixtureFunctionDefinition":
            yield f"{module.__name__}.{name} (fixture)"


def _aliases(module: ModuleType) -> Iterator[str]:
    """Names for types, with their bounds, as written: `Name = Annotated[str, Meta(max_length=200)]`."""
    for node in ast.parse(inspect.getsource(module)).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            name = node.targets[0].id
            if not name.startswith("_") and get_origin(getattr(module, name)) is not None:
                yield f"{module.__name__}.{name} = {ast.unparse(node.value)}"


def _constant(value: object) -> str:
    return f" = {value!r}" if isinstance(value, int | float | str) else ""


def _of_class(path: str, cls: type) -> Iterator[str]:
    bases = ", ".join(base.__name__ for base in cls.__bases__ if base is not object)
    status = f" status={cls.status} code={cls.default_code}" if issubclass(cls, KernelError) else ""
    yield f"{path}({bases}){status}"
    yield from _fields(path, cls)
    for name, value in vars(cls).items():
        if not name.startswith("_"):
            yield from _of_member(f"{path}.{name}", value)


def _fields(path: str, cls: type) -> Iterator[str]:
    """Fields and attributes with their types as written, bounds included; of a Struct by their names on the wire."""
    fields = {field.name: field for field in msgspec.structs.fields(cls)} if issubclass(cls, msgspec.Struct) else {}
    for name, written in inspect.get_annotations(cls).items():
        if name.startswith("_"):
            continue
        field = fields.get(name)
        has_default = name in vars(cls) if field is None else not field.required
        shown = name if field is None else field.encode_name
        yield f"{path}.{shown}: {written}{' = ...' if has_default else ''}"


def _of_member(path: str, value: Any) -> Iterator[str]:
    if isinstance(value, property):
        yield f"{path} (property)"
    elif inspect.isfunction(value):
        yield f"{path}{_signature(value)}"


def _signature(function: Any) -> str:
    """Arguments as written; a default that is an object of its own is shown as `...`."""
    shown = re.sub(r"<[^<>]* at 0x[0-9a-f]+>", "...", str(inspect.signature(function)))
    return f"{shown} async" if inspect.iscoroutinefunction(function) else shown


if __name__ == "__main__":
    SNAPSHOT.write_text("\n".join(surface()) + "\n")
