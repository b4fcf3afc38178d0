"""Rules about hooks: names and arguments as `plugin_api.hooks` has them, compared without importing the plugin."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from difflib import get_close_matches
from typing import Final

from host.authoring.package import Package, Place, Rule
from host.authoring.source import Function, Source, keyword_of, text_of
from plugin_api import hooks

_MARKS: Final = frozenset({"plugin_api.hookimpl", "plugin_api.hooks.hookimpl"})
HOOKS: Final = {
    name: tuple(inspect.signature(function).parameters)
    for name, function in vars(hooks).items()
    if name.startswith("pk_")
}
"""Every hook with its arguments."""


def implementations(package: Package) -> Iterator[tuple[Source, Function, str, list[str]]]:
    """Each implementation: the hook's name and the arguments that it asks for."""
    for source in package.sources:
        for function, owner in source.functions():
            mark = _mark(source, function)
            if mark is not None:
                named = text_of(keyword_of(mark, "specname")) if isinstance(mark, ast.Call) else None
                yield source, function, named or function.name, _arguments(function, owner)


def _mark(source: Source, function: Function) -> ast.expr | None:
    for mark in function.decorator_list:
        if source.resolve(mark.func if isinstance(mark, ast.Call) else mark) in _MARKS:
            return mark
    return None


def _arguments(function: Function, owner: ast.ClassDef | None) -> list[str]:
    """Those that pluggy would fill: all without a default, `self` aside."""
    names = [one.arg for one in [*function.args.posonlyargs, *function.args.args]]
    names = names[: len(names) - len(function.args.defaults)]
    is_static = any(isinstance(one, ast.Name) and one.id == "staticmethod" for one in function.decorator_list)
    return names[1:] if owner is not None and not is_static else names


def _unknown(package: Package) -> Iterator[Place]:
    for source, function, hook, _ in implementations(package):
        if hook not in HOOKS:
            near = get_close_matches(hook, HOOKS, n=1)
            meant = f"; did you mean {near[0]}?" if near else ""
            yield Place(f"there is no hook {hook}{meant}", source.file, function.lineno)


def _wrong_arguments(package: Package) -> Iterator[Place]:
    for source, function, hook, arguments in implementations(package):
        wrong = [name for name in arguments if name not in HOOKS.get(hook, arguments)]
        if wrong:
            taken = ", ".join(HOOKS[hook]) or "none"
            said = f"{hook} asks for the argument {wrong[0]}; it can have: {taken}"
            yield Place(said, source.file, function.lineno)


def _unmarked(package: Package) -> Iterator[Place]:
    for source in package.sources:
        for function, owner in source.functions():
            if function.name in HOOKS and owner is not None and _mark(source, function) is None:
                yield Place(f"{function.name} is not marked `@hookimpl`", source.file, function.lineno)


RULES: Final = (
    Rule(
        "hook_unknown",
        "error",
        "A plugin with a hook that does not exist is refused when it is loaded.",
        "docs/reference/hooks.md lists the hooks.",
        _unknown,
    ),
    Rule(
        "hook_arguments",
        "error",
        "A hook is given only what its specification names; asking for more is refused when the plugin is loaded.",
        "Name only arguments that the hook has; leave out those that you do not need.",
        _wrong_arguments,
    ),
    Rule(
        "hook_unmarked",
        "warning",
        "Without the mark it is never called.",
        "Write `@hookimpl` above it.",
        _unmarked,
    ),
)
