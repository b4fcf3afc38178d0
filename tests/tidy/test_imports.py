"""Imports point one way: the contracts of pyproject.toml hold, and each of them can fail."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    """Check the contracts of a checkout in a process of its own: import-linter remembers what it has imported."""
    program = "import sys; sys.path.insert(0, '.'); from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))"
    return subprocess.run(
        [sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, check=False, timeout=120
    )


def test_the_contracts_hold() -> None:
    ran = lint(ROOT)

    assert ran.returncode == 0, ran.stdout[-3000:] + ran.stderr[-1000:]


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("plugin_api/ids.py", "import host.http"),
        ("plugin_api/ids.py", "import aiohttp"),
        ("host/hooks.py", "import core_plugins.iam"),
        ("host/hooks.py", "import asyncpg"),
        ("core_plugins/vault/model.py", "import host.hooks"),
        ("core_plugins/cache/operations.py", "import core_plugins.vault"),
        ("core_plugins/cache/operations.py", "def f():\n    import core_plugins.cache.plugin"),
        ("core_plugins/vault/operations.py", "import asyncpg"),
        ("core_plugins/vault/storage.py", "import core_plugins.vault.operations"),
        ("core_plugins/vault/settings.py", "import core_plugins.vault.model"),
        ("core_plugins/vault/operations.py", "import core_plugins.vault.drivers.kek_file"),
        ("core_plugins/vault/drivers/kek_file.py", "import core_plugins.vault.operations"),
        ("core_plugins/vault/drivers/kek_file.py", "import core_plugins.vault.plugin"),
        ("core_plugins/iam/operations/users.py", "import core_plugins.iam.drivers.argon2_hasher"),
        ("core_plugins/vault/helpers.py", "VALUE = 1"),
    ],
)
def test_a_wrong_import_is_found(tmp_path: Path, file: str, line: str) -> None:
    for package in ("plugin_api", "host", "core_plugins"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    target = tmp_path / file
    text = target.read_text() if target.exists() else '"""A file."""\n'
    target.write_text(f"{text}\n{line}\n")

    assert lint(tmp_path).returncode == 1


def strangers(text: str, allowed: frozenset[str]) -> set[str]:
    """Packages that a file imports, on any line, and that are neither Python's own nor allowed."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add((node.module or "").partition(".")[0])
    return found - allowed - sys.stdlib_module_names


@pytest.mark.parametrize(
    ("folder", "allowed"), [("plugin_api", ["msgspec", "pluggy"]), ("plugin_api/testing", ["msgspec", "pytest"])]
)
def test_the_plugin_api_stands_on_few_shoulders(folder: str, allowed: list[str]) -> None:
    """A plugin author installs nothing but it; a list of what is forbidden would miss the next library."""
    files = [
        file for file in (ROOT / folder).rglob("*.py") if folder.endswith("testing") or "testing" not in file.parts
    ]

    found = {file.name: strangers(file.read_text(), frozenset([*allowed, "plugin_api"])) for file in files}

    assert len(files) > 5
    assert {} == {name: names for name, names in found.items() if names}


def test_a_strange_import_is_found() -> None:
    text = "import json\ndef f():\n    from attrs import define\n"

    assert {"attrs"} == strangers(text, frozenset())
