"""Style that no linter knows: lengths, names, places, leftovers. Each rule is shown to fail on a broken twin."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILE_LINES_MAX = 600
FUNCTION_LINES_MAX = 70
BANNED_NAMES = frozenset({"utils", "helpers", "common", "manager", "misc", "util", "helper"})
NO_PYTHON = ("envoy/", "ui_shell/", "deploy/")
LEFTOVER = re.compile(r"\b(FIXME|TODO|XXX|HACK)\b")
REGISTRY = re.compile(r"(files\.pythonhosted|pypi|npmjs|crates|maven|proxy\.golang)\.[a-z]{2,3}\b", re.IGNORECASE)
EXCUSES = {
    "a mock; use the real stores, or a fake that a conformance suite holds": re.compile(
        r"unittest[.]mock|\bMagicMock\b|\bAsyncMock\b"
    ),
    "a test that is not run; mend it or remove it": re.compile(r"mark[.](skip|xfail)\b|[(]?\bpytest[.]xfail\b"),
}
OURS = ("plugin_api/", "host/", "core_plugins/", "tests/", "tools/")


def tracked() -> list[str]:
    """Files of the checkout, those included that are not committed yet."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return [name for name in listed.stdout.splitlines() if (ROOT / name).is_file()]


def faults(name: str, text: str) -> Iterator[str]:
    """What is wrong with one file."""
    yield from _place(name)
    if REGISTRY.search(text) and name != "tests/tidy/test_tidy.py":
        yield f"{name}: names a package registry"
    if name.endswith(".py") and name.startswith(OURS):
        yield from _python(name, text)


def _place(name: str) -> Iterator[str]:
    path = Path(name)
    if path.suffix == ".py" and name.startswith(NO_PYTHON):
        yield f"{name}: there is no Python in this folder"
    if path.suffix == ".py" and name.startswith("docs/") and not name.startswith("docs/examples/"):
        yield f"{name}: Python below docs/ is an example, in docs/examples/"
    if path.name == "__init__.py" and name.startswith("tests/") and not name.startswith("tests/bench/site/"):
        yield f"{name}: test folders are no packages"
    if BANNED_NAMES & set(path.with_suffix("").parts):
        yield f"{name}: a name that says nothing"


def _python(name: str, text: str) -> Iterator[str]:
    lines = text.count("\n")
    if lines > FILE_LINES_MAX:
        yield f"{name}: {lines} lines; at most {FILE_LINES_MAX}"
    if LEFTOVER.search(text) and name != "tests/tidy/test_tidy.py":
        yield f"{name}: a leftover"
    if name.startswith("tests/") and name != "tests/tidy/test_tidy.py":
        yield from (f"{name}: {what}" for what, pattern in EXCUSES.items() if pattern.search(text))
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > FUNCTION_LINES_MAX:
                yield f"{name}: {node.name} has {length} lines; at most {FUNCTION_LINES_MAX}"


def test_the_checkout_is_tidy() -> None:
    found = []
    for name in tracked():
        try:
            text = (ROOT / name).read_text()
        except UnicodeDecodeError:
            continue
        found += list(faults(name, text))

    assert [] == found


@pytest.mark.parametrize(
    ("name", "text", "fault"),
    [
        ("envoy/x.py", "x = 1\n", "there is no Python in this folder"),
        ("docs/x.py", "x = 1\n", "Python below docs/ is an example"),
        ("tests/host/__init__.py", "", "test folders are no packages"),
        ("host/utils.py", "x = 1\n", "a name that says nothing"),
        ("host/helpers/x.py", "x = 1\n", "a name that says nothing"),
        ("host/x.py", "x = 1\n" * 601, "601 lines"),
        ("host/x.py", "# TO" + "DO: later\n", "a leftover"),
        ("host/x.py", "def f():\n" + "    x = 1\n" * 70, "f has 71 lines"),
        ("tests/host/test_x.py", "from unittest.mock import Mock\n", "a mock"),
        ("tests/host/test_x.py", "@pytest.mark.skip\ndef test_x(): ...\n", "a test that is not run"),
        ("README.md", "see files.pythonho" + "sted.org\n", "names a package registry"),
    ],
)
def test_untidiness_is_found(name: str, text: str, fault: str) -> None:
    assert any(fault in found for found in faults(name, text))


def test_tidy_text_passes() -> None:
    assert [] == list(faults("host/x.py", "def f() -> int:\n    return 1\n"))
