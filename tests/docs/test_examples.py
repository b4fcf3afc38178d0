"""The examples are real: built, installed into a kernel, tested, type-checked as an author would, and what pages quote."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "docs" / "examples" / "acme-notes"
PAGE = ROOT / "docs" / "how-to" / "write-a-plugin.md"


def run(*command: str, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    """One program of this environment, to its end."""
    return subprocess.run(
        [sys.executable, "-m", *command],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def blocks(page: str, *languages: str) -> list[str]:
    """The fenced blocks of a page in these languages."""
    found = re.findall(r"^```(\w+)\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    return [text for language, text in found if language in languages]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the example is installed, from a wheel as pip would build it."""
    place = tmp_path_factory.mktemp("example")
    shutil.copytree(EXAMPLE, place / "source")
    built = run("hatchling", "build", "-t", "wheel", "-d", str(place), cwd=place / "source")
    assert built.returncode == 0, built.stderr
    with zipfile.ZipFile(next(place.glob("*.whl"))) as wheel:
        wheel.extractall(place / "site")
    return place / "site"


def test_the_example_passes_its_own_tests(site: Path, tmp_path: Path) -> None:
    shutil.copytree(EXAMPLE / "tests", tmp_path / "tests")
    shutil.copy(EXAMPLE / "pyproject.toml", tmp_path)

    ran = run("pytest", "-q", "-p", "no:cacheprovider", "tests", cwd=tmp_path, PYTHONPATH=str(site))

    assert ran.returncode == 0, ran.stdout[-4000:] + ran.stderr[-1000:]
    assert " passed" in ran.stdout


def test_pages_quote_the_example_as_it_is() -> None:
    files = [
        file.read_text() for file in EXAMPLE.rglob("*") if file.is_file() and file.suffix in {".py", ".sql", ".toml"}
    ]
    quoted = blocks(PAGE.read_text(), "python", "sql", "toml")

    assert len(quoted) >= 8
    assert [] == [text for text in quoted if not any(text.strip("\n") in file for file in files)]


@pytest.mark.parametrize("checker", [("mypy", "--strict", "--no-incremental"), ("pyright",)])
def test_what_authors_write_is_typed_strictly(tmp_path: Path, checker: tuple[str, ...]) -> None:
    """An author's checker sees the plugin API's types, and objects to a wrong one."""
    for name in ("right", "wrong"):
        shutil.copytree(EXAMPLE / "acme_notes", tmp_path / name / "acme_notes")
    operations = tmp_path / "wrong" / "acme_notes" / "operations.py"
    operations.write_text(operations.read_text().replace("keyset(call, request)", "keyset(request, call)"))
    options = '{"typeCheckingMode": "strict", "extraPaths": ["%s"], "pythonVersion": "3.11"}' % ROOT  # noqa: UP031

    found = []
    for name in ("right", "wrong"):
        (tmp_path / name / "pyrightconfig.json").write_text(options)
        arguments = ["acme_notes"] if checker[0] == "mypy" else ["--pythonpath", sys.executable]
        ran = run(*checker, *arguments, cwd=tmp_path / name, MYPYPATH=str(ROOT))
        found.append((ran.returncode, ran.stdout[-3000:]))

    assert found[0][0] == 0, found[0][1]
    assert found[1][0] == 1, found[1][1]
