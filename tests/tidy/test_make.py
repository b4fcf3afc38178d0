"""`make` explains itself, and says what is missing on a bare machine and how to get it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TARGETS = ("setup", "run", "test", "lint", "bench", "soak")


def make(*words: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run make to its end; its variables are given as words, and those of an outer make are not inherited."""
    return subprocess.run(
        [
            "env",
            *(f"--unset={name}" for name in ("MAKEFLAGS", "MAKEOVERRIDES", "MAKELEVEL", "VENV", "PYTHON")),
            "make",
            *words,
        ],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """What `make setup` looks at, in a folder where nothing is installed."""
    for name in ("Makefile", "requirements.lock", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def python(folder: Path, script: str) -> str:
    """A program that is taken for Python."""
    program = folder / "python"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return f"PYTHON={program}"


def test_make_alone_prints_the_targets() -> None:
    ran = make()

    assert ran.returncode == 0
    told = dict(line.split(maxsplit=2)[1:] for line in ran.stdout.splitlines())
    assert set(TARGETS) <= set(told)
    assert all(told.values())


def test_an_old_python_is_refused_naming_it_and_the_remedy(checkout: Path) -> None:
    old = python(checkout, 'case "$1" in -V) echo "Python 3.9.2";; *) exit 1;; esac')

    ran = make("setup", old, cwd=checkout)

    assert ran.returncode == 2
    assert "Python 3.11 or newer is needed" in ran.stderr
    assert "Python 3.9.2" in ran.stderr
    assert "PYTHON=" in ran.stderr
    assert not (checkout / ".venv").exists()


def test_a_python_without_ensurepip_is_refused_with_the_remedy(checkout: Path) -> None:
    bare = python(checkout, 'case "$2" in *ensurepip*) exit 1;; esac')

    ran = make("setup", bare, cwd=checkout)

    assert ran.returncode == 2
    assert "apt-get install python3-venv" in ran.stderr


def test_an_interrupted_installation_is_not_taken_for_a_whole_one(checkout: Path) -> None:
    """The virtual environment's pip fails half-way: setup fails, and does it again the next time."""
    binaries = checkout / ".venv" / "bin"
    binaries.mkdir(parents=True)
    python(binaries, 'case "$3" in install) echo Collecting a; echo "no space left" >&2; exit 1;; esac')

    for _ in range(2):
        ran = make("setup", cwd=checkout)

        assert ran.returncode == 2
        assert "1 of " in ran.stdout
        assert "no space left" in ran.stderr
        assert not (checkout / ".venv" / ".installed").exists()
