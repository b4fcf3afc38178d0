"""The rule about what is to leave the plugin API."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from typing import Final

from host.authoring.package import Package, Place, Rule
from host.authoring.rules_hooks import implementations
from host.authoring.rules_imports import imported
from host.authoring.source import Source
from plugin_api.deprecations import DEPRECATIONS, Deprecation, deprecated


def uses(package: Package, announced: Sequence[Deprecation] = DEPRECATIONS) -> Iterator[Place]:
    """Each place where a plugin uses a hook, an argument or a name that is announced to go."""
    if not announced:
        return
    for source, function, hook, arguments in implementations(package):
        for entry in deprecated([hook, *(f"{hook}.{name}" for name in arguments)], announced):
            yield Place(entry.told, source.file, function.lineno)
    for source in package.sources:
        for name, line in sorted(set(_names(source)), key=lambda one: one[1]):
            for entry in deprecated([name], announced):
                yield Place(entry.told, source.file, line)


def _names(source: Source) -> Iterator[tuple[str, int]]:
    """Every full name that is imported, or reached from one that is."""
    yield from imported(source)
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Attribute) and (name := source.resolve(node)):
            yield name, node.lineno


RULES: Final = (
    Rule(
        "deprecated",
        "warning",
        "It leaves the plugin API with a later major; until then it works as ever.",
        "The message says what to write instead; docs/reference/compatibility.md says how long there is time.",
        uses,
    ),
)
