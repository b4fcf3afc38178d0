"""The large example is real: it has the scaffold's shape, passes every check, and works in a kernel."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from host.authoring.rules import check_project
from host.authoring.scaffold import new_project

ROOT = Path(__file__).parents[3]
EXAMPLE = ROOT / "docs" / "examples" / "acme_crm"


def test_it_has_nothing_to_be_warned_of() -> None:
    assert [] == check_project(EXAMPLE)


def test_it_has_the_scaffolds_shape(tmp_path: Path) -> None:
    made = new_project("acme.crm", tmp_path)
    folder = Path(made.folder)

    def shape(project: Path) -> dict[str, Any]:
        told = tomllib.loads((project / "pyproject.toml").read_text())
        told["project"].pop("description")
        return told

    mine = {name for name in made.files if "migrations" not in name and "test_" not in name}
    assert [] == [name for name in sorted(mine) if not (EXAMPLE / name).is_file()]
    assert shape(folder) == shape(EXAMPLE)
    for name in ("tests/conftest.py", ".gitignore"):
        assert (folder / name).read_text() == (EXAMPLE / name).read_text()


def test_its_tests_pass_in_a_kernel(own_tests: Callable[[Path], subprocess.CompletedProcess[str]]) -> None:
    ran = own_tests(EXAMPLE)

    assert ran.returncode == 0, ran.stdout[-4000:] + ran.stderr[-1000:]
    assert "14 passed" in ran.stdout


@pytest.mark.parametrize(
    "checker",
    [
        ("ruff", "check", "--no-cache", "--extend-select", "I,UP,B,ANN,RUF,SIM,PT"),
        ("ruff", "format", "--check", "--no-cache"),
        ("mypy", "--strict", "--no-incremental", "acme_crm", "tests"),
        ("pyright", "--pythonpath", sys.executable),
    ],
)
def test_it_is_tidy_and_typed(
    run: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path, checker: tuple[str, ...]
) -> None:
    project = tmp_path / "acme_crm"  # a copy: checkers leave caches behind
    shutil.copytree(EXAMPLE, project)
    (project / "pyrightconfig.json").write_text(json.dumps({"typeCheckingMode": "strict", "extraPaths": [str(ROOT)]}))

    ran = run(*checker, cwd=project, MYPYPATH=str(ROOT))

    assert ran.returncode == 0, ran.stdout[-3000:] + ran.stderr[-1000:]
