"""Programs of this environment, and plugins as an author's tools build and test them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., subprocess.CompletedProcess[str]]
_NO_INDEX = ("--no-index", "--no-deps", "--no-build-isolation", "--disable-pip-version-check")


def _run(*command: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *command],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


@pytest.fixture(scope="session")
def run() -> Run:
    """Runs one program of this environment to its end: `run("mypy", "x", cwd=folder, MYPYPATH="...")`."""
    return _run


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], Path]:
    """Builds a project without an index, from a copy, for a build leaves files behind; the folder of its unpacked wheel."""

    def build(project: Path) -> Path:
        place = tmp_path_factory.mktemp("wheel")
        shutil.copytree(project, place / "source")
        built = _run("pip", "wheel", "-q", *_NO_INDEX, "-w", str(place), str(place / "source"), cwd=place)
        assert (built.returncode, built.stderr) == (0, ""), built.stdout[-2000:] + built.stderr[-2000:]
        with zipfile.ZipFile(next(place.glob("*.whl"))) as wheel:
            wheel.extractall(place / "site")
        return place / "site"

    return build


@pytest.fixture
def own_tests(tmp_path: Path) -> Callable[[Path], subprocess.CompletedProcess[str]]:
    """Runs a project's own tests, in a copy: they start a kernel and install the plugin into it with `pk plugins install`."""

    def test(project: Path) -> subprocess.CompletedProcess[str]:
        shutil.copytree(project, tmp_path / "copy")
        return _run("pytest", "-q", "-p", "no:cacheprovider", cwd=tmp_path / "copy")

    return test
