"""Every shell snippet of the tutorial and of the README's tour runs, in order, against a real kernel."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
ADDRESS = "http://127.0.0.1:8080"


def snippets(page: str) -> list[str]:
    """The `sh` blocks of a page, but for those that only say `make ...`."""
    blocks = re.findall(r"^```sh\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    return [block for block in blocks if not block.startswith("make ")]


@pytest.mark.parametrize("page", ["docs/tutorial/first-tenant.md", "README.md"])
def test_the_snippets_run(page: str, kernel: Any) -> None:
    blocks = snippets((ROOT / page).read_text())
    script = "set -euo pipefail\n" + "\n".join(blocks).replace(ADDRESS, kernel.url)

    ran = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=120, check=False)

    assert len(blocks) >= 3
    assert ran.returncode == 0, ran.stdout[-2000:] + ran.stderr[-2000:]


def test_a_failing_snippet_is_noticed(kernel: Any) -> None:
    """The way the snippets are run does fail when one of them does."""
    script = "set -euo pipefail\ncurl --silent --fail-with-body " + kernel.url + "/api/v1/nowhere | cat\n"

    assert subprocess.run(["bash", "-c", script], capture_output=True, timeout=60, check=False).returncode != 0
