"""Every shell snippet of the tutorials, of the pages for authors and of the README's tour runs, in order, against a real kernel; changes of files
that a page shows are made as they stand there."""

from __future__ import annotations

import inspect
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
ADDRESS = "http://127.0.0.1:8080"
BLOCK = re.compile(r"^```(sh|diff)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def snippets(page: str) -> list[tuple[str, str]]:
    """Language and text of each block that a reader acts on, but for those that only say `make ...`."""
    return [(language, text) for language, text in BLOCK.findall(page) if not text.startswith("make ")]


def script(page: str, url: str) -> str:
    """All of them as one program."""
    lines = [text if language == "sh" else change_command(text) for language, text in snippets(page)]
    return "set -euo pipefail\n" + "\n".join(lines).replace(ADDRESS, url)


def change_command(diff: str) -> str:
    """A command that makes a change of a file."""
    program = f"{inspect.getsource(change_file)}\nimport sys\nchange_file(sys.stdin.read())"
    return f"{shlex.quote(sys.executable)} -c {shlex.quote(program)} <<'END OF CHANGE'\n{diff}END OF CHANGE\n"


def change_file(diff: str) -> None:
    """Make the change that a `diff` block shows: the file's name, then parts divided by `@@`, each of whole lines.

    Raises:
        AssertionError: the file has the old lines of a part nowhere, or more than once.
    """
    from pathlib import Path

    head, _, body = diff.partition("\n")
    file = Path(head.removeprefix("--- "))
    text = "\n" + file.read_text()
    for part in body.removesuffix("\n").split("\n@@\n"):
        lines = part.split("\n")
        old = "".join(f"\n{line[1:]}" for line in lines if line[:1] in (" ", "-", "")) + "\n"
        new = "".join(f"\n{line[1:]}" for line in lines if line[:1] in (" ", "+", "")) + "\n"
        assert text.count(old) == 1, f"{file} has these lines {text.count(old)} times:{old}"
        text = text.replace(old, new)
    file.write_text(text[1:])


PAGES = (
    "docs/tutorial/first-tenant.md",
    "docs/tutorial/your-first-plugin.md",
    "docs/how-to/write-a-plugin.md",
    "docs/how-to/tell-and-hear.md",
    "docs/how-to/do-it-later.md",
    "README.md",
)


@pytest.mark.parametrize("page", PAGES)
def test_the_snippets_run(page: str, kernel: Any, tmp_path: Path) -> None:
    """In a folder where the kernel's own is `.pk` and the documents are at hand, as for who has started it in a checkout."""
    (tmp_path / ".pk").symlink_to(kernel.data_dir)
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    text = (ROOT / page).read_text()

    ran = subprocess.run(
        ["bash", "-c", script(text, kernel.url)],
        cwd=tmp_path,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )

    assert len(snippets(text)) >= 3
    assert ran.returncode == 0, ran.stdout[-2000:] + ran.stderr[-2000:]


def test_a_failing_snippet_is_noticed(kernel: Any) -> None:
    """The way the snippets are run does fail when one of them does."""
    page = f"```sh\ncurl --silent --fail-with-body {ADDRESS}/api/v1/nowhere | cat\n```\n"

    assert (
        subprocess.run(
            ["bash", "-c", script(page, kernel.url)], capture_output=True, timeout=60, check=False
        ).returncode
        != 0
    )


@pytest.mark.parametrize(
    ("diff", "left"),
    [
        ("--- {file}\n one\n-two\n+deux\n", "one\ndeux\nthree\ntwo\n"),
        ("--- {file}\n-one\n@@\n three\n+four\n", "two\nthree\nfour\ntwo\n"),
        ("--- {file}\n-two\n+deux\n", None),
        ("--- {file}\n-thre\n+drei\n", None),
        ("--- {file}\n four\n+five\n", None),
    ],
)
def test_a_change_is_made_as_shown_or_not_at_all(tmp_path: Path, diff: str, left: str | None) -> None:
    file = tmp_path / "numbers"
    file.write_text("one\ntwo\nthree\ntwo\n")
    page = f"```diff\n{diff.format(file=file)}```\n"

    ran = subprocess.run(["bash", "-c", script(page, "")], capture_output=True, text=True, timeout=60, check=False)

    assert (ran.returncode == 0) == (left is not None)
    assert file.read_text() == (left or "one\ntwo\nthree\ntwo\n")
