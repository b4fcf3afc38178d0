"""The check of a plugin: every rule over one package or project. Nothing of the plugin is imported or run."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import importlib_metadata
from packaging.requirements import InvalidRequirement, Requirement

from host.authoring import (
    rules_deprecated,
    rules_files,
    rules_hooks,
    rules_imports,
    rules_manifest,
    rules_migrations,
    rules_operations,
    rules_process,
    rules_project,
)
from host.authoring.package import Declared, Package, Place, Rule
from host.discovery import GROUP
from host.finding import Finding
from host.trial.findings import RULES as TRIAL_RULES

PROJECT_FILE: Final = "pyproject.toml"
_ORDER: Final = {"error": 0, "warning": 1, "info": 2}


def _nowhere(_: Package) -> list[Place]:
    return []  # `check_project` looks itself: there is no package yet


PROJECT: Final = Rule(
    "project_unreadable",
    "error",
    "Without it pip cannot build the plugin, and the kernel cannot find it.",
    "Write a `pyproject.toml` with the entry point; `pk new plugin acme.crm` shows a whole one.",
    _nowhere,
)
NOT_TRIED: Final = Rule(
    "not_tried",
    "warning",
    "What shows only when the plugin is imported and registered has not been looked for.",
    "Install the plugin's libraries into the environment of `pk`: `pip install LIBRARY`.",
    _nowhere,
)
RULES: Final = (
    *(PROJECT, NOT_TRIED, *rules_project.RULES),
    *rules_manifest.RULES,
    *rules_files.RULES,
    *rules_hooks.RULES,
    *rules_operations.RULES,
    *rules_migrations.RULES,
    *rules_imports.RULES,
    *rules_process.RULES,
    *rules_deprecated.RULES,
)
"""All of them, in the order of docs/reference/checks.md."""


def check_package(folder: Path, package: str) -> list[Finding]:
    """Check an unpacked plugin: `folder` is like a small site-packages, `package` the import package in it.

    Errors come first, then by file and line. A folder without the package has one finding.
    """
    return _check(Package(folder, folder, package, _installed(folder, package)))


def check_project(folder: Path) -> list[Finding]:
    """Check a source folder: its `pyproject.toml`, and the package that its entry point names."""
    read = _read_project(folder)
    if isinstance(read, str):
        return _refused(read)
    declared = _declared(read)
    packages = sorted({_package(target) for target in declared.entry_points.values()})
    if len(packages) != 1:
        seen = f"{len(packages)} packages" if packages else "none"
        return _refused(f'it declares {seen} below [project.entry-points."{GROUP}"]; expected one')
    top = _top(folder, packages[0])
    if top is None:
        return _refused(f"its entry point names {packages[0]!r}, and there is no such package here or in src/")
    return _check(Package(folder, top, packages[0], declared))


@dataclass(frozen=True)
class Tryable:
    """What a trial of a source folder needs."""

    top: Path
    """The folder that holds the package."""
    target: str
    """`package:attribute`."""
    plugin_id: str
    missing: list[str]
    """What the project depends on and this environment does not have."""


def tryable(folder: Path) -> Tryable | None:
    """What a trial of a source folder needs; None when `check_project` would find no package."""
    read = _read_project(folder)
    declared = _declared({} if isinstance(read, str) else read)
    for plugin_id, target in declared.entry_points.items():
        top = _top(folder, _package(target))
        if top is not None:
            return Tryable(top, target, plugin_id, _missing(declared.project))
    return None


def in_order(found: Iterable[Finding]) -> list[Finding]:
    """Errors first, then by file and line."""
    return sorted(found, key=lambda one: (_ORDER[one.severity], one.file, one.line))


def rules_page() -> str:
    """The body of docs/reference/checks.md: tables of all rules, those of the trial apart."""
    text = [(rule.id, rule.severity, rule.why, rule.remedy) for rule in RULES]
    tried = [(name, rule.severity, _sentence(rule.why), _sentence(rule.remedy)) for name, rule in TRIAL_RULES.items()]
    return (
        "## Found in the text\nNothing of the plugin runs for these.\n\n"
        + _rows(text)
        + "\n## Found in the trial\nThe plugin is imported and registered once, in a process of its own.\n\n"
        + _rows(tried)
    )


def _rows(rules: Iterable[tuple[str, str, str, str]]) -> str:
    rows = [f"| `{name}` | {severity} | {why} | {remedy} |\n" for name, severity, why, remedy in rules]
    return "| rule | severity | why | remedy |\n|---|---|---|---|\n" + "".join(rows)


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def _package(target: str) -> str:
    return target.partition(":")[0].strip()


def _top(folder: Path, package: str) -> Path | None:
    """The folder in a project that holds a package."""
    parts = package.split(".")
    if not all(part.isidentifier() for part in parts):
        return None
    return next((top for top in (folder, folder / "src") if top.joinpath(*parts).is_dir()), None)


def _check(package: Package) -> list[Finding]:
    return in_order(finding for rule in RULES for finding in rule.findings(package))


def _refused(said: str) -> list[Finding]:
    return [PROJECT.finding(said, PROJECT_FILE)]


def _read_project(folder: Path) -> Mapping[str, Any] | str:
    """The content of its pyproject.toml, or why there is none."""
    try:
        return tomllib.loads((folder / PROJECT_FILE).read_text("utf-8"))
    except FileNotFoundError:
        return f"there is no {PROJECT_FILE} in {folder}"
    except OSError as error:
        return f"it cannot be read: {error.strerror}"
    except ValueError as error:  # TOMLDecodeError, or no UTF-8
        return f"it is no TOML: {error}"


def _declared(project: Mapping[str, Any]) -> Declared:
    told = project.get("project")
    about = told if isinstance(told, Mapping) else {}
    groups = about.get("entry-points")
    entries = groups.get(GROUP) if isinstance(groups, Mapping) else {}
    sound = {k: v for k, v in entries.items() if isinstance(v, str)} if isinstance(entries, Mapping) else {}
    version = about.get("version")
    return Declared(version if isinstance(version, str) else None, sound, PROJECT_FILE, project)


def _installed(folder: Path, package: str) -> Declared | None:
    """What the distribution in a folder says, if one there declares the package."""
    for distribution in importlib_metadata.distributions(path=[str(folder)]):
        try:
            entries = {one.name: one.value for one in distribution.entry_points if one.group == GROUP}
            told = Declared(distribution.version, entries, f"{distribution.name} (metadata)")
        except Exception:  # noqa: BLE001, S112 - whatever is damaged, it does not declare this package
            continue
        if any(_package(value) == package for value in entries.values()):
            return told
    return None


def _missing(project: Mapping[str, Any]) -> list[str]:
    about = project.get("project")
    listed = about.get("dependencies") if isinstance(about, Mapping) else None
    return [text for text in listed if isinstance(text, str) and _is_missing(text)] if isinstance(listed, list) else []


def _is_missing(text: str) -> bool:
    """Whether a requirement is not met here; one that cannot be read is left to pip."""
    try:
        wanted = Requirement(text)
        if wanted.marker is not None and not wanted.marker.evaluate():
            return False
        return not wanted.specifier.contains(importlib_metadata.version(wanted.name), prereleases=True)
    except InvalidRequirement:
        return False
    except importlib_metadata.PackageNotFoundError:
        return True
