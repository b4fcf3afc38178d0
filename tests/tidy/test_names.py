"""The names of our packages and of our plugins are ours alone."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OURS = frozenset({"platform-kernel"})


def packages() -> list[str]:
    """Top-level packages of the distribution, as pyproject.toml tells the builder."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    found: list[str] = project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    return found


def strangers(owners: Mapping[str, list[str]], names: list[str]) -> Iterator[str]:
    """Distributions that install a package under one of our names; an editable install of ours owns none."""
    for name in names:
        yield from (f"{name}: {owner}" for owner in owners.get(name, []) if owner not in OURS)


def test_nobody_else_installs_a_package_of_our_name() -> None:
    """The environment holds everything that the lock holds, so this looks at all of it."""
    names = packages()

    assert {"plugin_api", "host", "core_plugins"} <= set(names)
    assert [] == list(strangers(packages_distributions(), names))


@pytest.mark.parametrize("name", ["host", "plugin_api"])
def test_somebody_else_is_found(name: str) -> None:
    assert [f"{name}: stranger"] == list(strangers({name: ["platform-kernel", "stranger"]}, packages()))


def test_each_plugin_folder_has_its_entry_point() -> None:
    """A plugin that is not declared would be shipped and never found."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = project["entry-points"]["platform_kernel.plugins"]
    folders = [folder for folder in (ROOT / "core_plugins").iterdir() if (folder / "manifest.toml").exists()]

    expected = {
        str(tomllib.loads((folder / "manifest.toml").read_text())["id"]): f"core_plugins.{folder.name}:plugin"
        for folder in folders
    }

    assert len(expected) >= 4
    assert expected == declared
