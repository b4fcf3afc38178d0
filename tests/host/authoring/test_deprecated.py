"""What is announced to leave the plugin API is told to who uses it. Nothing is now, so the tests announce something."""

from __future__ import annotations

import re
from datetime import date
from pathlib import Path

import pytest

from host.authoring.package import Package
from host.authoring.rules import check_project
from host.authoring.rules_deprecated import uses
from host.authoring.scaffold import new_project
from plugin_api.deprecations import DEPRECATIONS, Deprecation
from plugin_api.version_range import parse_version

HEAD = "from plugin_api import errors, hookimpl\nfrom plugin_api.pages import keyset\n"
HOOK = "class P:\n    @hookimpl\n    def pk_uninstall(self, data): ...\n"
USED = [
    # announced, code, line
    ("pk_uninstall", HOOK, 5),
    ("pk_uninstall.data", HOOK, 5),
    ("plugin_api.pages.keyset", "", 2),
    ("plugin_api.pages", "", 2),
    ("plugin_api.errors.Gone", "def f():\n    raise errors.Gone('x')\n", 4),
    ("plugin_api.ids.uuid7", "import plugin_api.ids\nx = plugin_api.ids.uuid7\n", 4),
]
NOT_USED = ["pk_drain", "pk_uninstall.reason", "plugin_api.pages.key", "plugin_api.errors.Conflict", "acme_crm.pages"]


def announced(name: str) -> Deprecation:
    return Deprecation(name, "1.4", "2.0", "2027-06-30", "write something else")


def package(tmp_path: Path, code: str) -> Package:
    top = Path(new_project("acme.crm", tmp_path).folder)
    for file in (top / "acme_crm").glob("*.py"):
        file.write_text("")
    (top / "acme_crm" / "extra.py").write_text(HEAD + code)
    return Package(top, top, "acme_crm", None)


@pytest.mark.parametrize(("name", "code", "line"), USED)
def test_a_use_is_found_where_it_stands(tmp_path: Path, name: str, code: str, line: int) -> None:
    found = list(uses(package(tmp_path, code), [announced("pk_never"), announced(name)]))

    assert [("acme_crm/extra.py", line)] == [(one.file, one.line) for one in found]
    assert all(word in found[0].message for word in (name, "1.4", "2.0", "2027-06-30", "write something else"))


@pytest.mark.parametrize("name", NOT_USED)
def test_what_only_looks_like_it_is_not(tmp_path: Path, name: str) -> None:
    assert [] == list(uses(package(tmp_path, HOOK), [announced(name)]))


def test_a_new_plugin_uses_nothing_that_is_to_go(tmp_path: Path) -> None:
    found = check_project(Path(new_project("acme.crm", tmp_path).folder))

    assert "deprecated" not in {one.id for one in found}


def flaws(entry: Deprecation) -> list[str]:
    """What is wrong with an announcement."""
    told = []
    if parse_version(entry.removed_in)[0] <= parse_version(entry.since)[0] or parse_version(entry.removed_in)[1:] != (
        0,
        0,
    ):
        told.append("only a later major takes something away")
    if not re.fullmatch(r"pk_\w+(\.\w+)?|plugin_api(\.\w+)+", entry.name):
        told.append("it names nothing of the API")
    date.fromisoformat(entry.date)
    return told


def test_announcements_are_whole() -> None:
    assert {} == {entry.name: flaws(entry) for entry in DEPRECATIONS if flaws(entry)}
    assert [] == flaws(announced("pk_drain"))
    assert len(flaws(Deprecation("drain", "1.4", "1.5", "2027-06-30", "x"))) == 2
