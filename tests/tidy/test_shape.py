"""Every plugin of ours has the same shape, and only files that have a place in it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
REQUIRED = ("__init__.py", "manifest.toml", "README.md", "operations", "plugin.py")
MODULES = frozenset({"__init__", "settings", "model", "events", "storage", "operations", "routes", "plugin"})
FOLDERS = frozenset({"drivers", "migrations", "bootstrap", "model", "storage", "operations", "__pycache__"})
DATA = frozenset({"manifest.toml", "README.md", "wire.lock", "events.lock"})
README = "# acme\n## What it promises\n## Limits\n## When something fails\n"
SUBJECTS = ("promise", "limits", "fail")


def plugins(root: Path) -> list[Path]:
    """The folders of the kernel's own plugins."""
    return sorted(p for p in (root / "core_plugins").iterdir() if p.is_dir() and p.name != "__pycache__")


def faults(plugin: Path) -> Iterator[str]:
    """What is wrong with the shape of one plugin."""
    for name in REQUIRED:
        if not (plugin / name).exists() and not (plugin / f"{name}.py").exists():
            yield f"{plugin.name}: {name} is missing"
    for entry in plugin.iterdir():
        if entry.is_dir():
            if entry.name not in FOLDERS:
                yield f"{plugin.name}: the folder {entry.name} has no place"
        elif entry.suffix == ".py":
            if entry.stem not in MODULES:
                yield f"{plugin.name}: {entry.name} has no place"
        elif entry.name not in DATA:
            yield f"{plugin.name}: {entry.name} has no place"
    yield from unexplained(plugin)
    yield from (
        f"{file.relative_to(plugin.parent)} is empty" for file in plugin.rglob("*.py") if not file.read_text().strip()
    )


def unexplained(plugin: Path) -> Iterator[str]:
    """What the README of a plugin has no section about."""
    if not (plugin / "README.md").exists():
        return
    headings = " ".join(re.findall(r"^## (.*)$", (plugin / "README.md").read_text(), re.MULTILINE)).lower()
    for subject in SUBJECTS:
        if subject not in headings:
            yield f"{plugin.name}: README.md has no section about {subject}"


def test_every_plugin_has_the_one_shape() -> None:
    assert [] == [fault for plugin in plugins(ROOT) for fault in faults(plugin)]


def test_there_are_plugins_to_look_at() -> None:
    assert {"cache", "data", "iam", "vault"} <= {plugin.name for plugin in plugins(ROOT)}


@pytest.mark.parametrize(
    ("broken", "fault"),
    [
        ("helpers.py", "acme: helpers.py has no place"),
        ("notes.txt", "acme: notes.txt has no place"),
        ("lib/x.py", "acme: the folder lib has no place"),
        ("-README.md", "acme: README.md is missing"),
        ("-operations.py", "acme: operations is missing"),
        ("## Limits", "acme: README.md has no section about limits"),
    ],
)
def test_another_shape_is_found(tmp_path: Path, broken: str, fault: str) -> None:
    plugin = tmp_path / "core_plugins" / "acme"
    plugin.mkdir(parents=True)
    for name in ("__init__.py", "manifest.toml", "README.md", "operations.py", "plugin.py"):
        (plugin / name).write_text("x = 1")
    (plugin / "README.md").write_text(README)
    if broken.startswith("-"):
        (plugin / broken[1:]).unlink()
    elif broken.startswith("#"):
        (plugin / "README.md").write_text(README.replace(broken, ""))
    else:
        (plugin / broken).parent.mkdir(exist_ok=True)
        (plugin / broken).write_text("x = 1")

    assert [fault] == list(faults(plugin))
