"""The wheel holds everything that a checkout has at run time: it is built, unpacked and used in place of the checkout."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("plugin_api", "host", "core_plugins")
DATA = (".toml", ".sql", ".md", ".lock", ".html", ".js", ".css", ".json", ".typed", ".template")
PROGRAM = """
import json
from host.discovery import discover
from host.cli import main
from plugin_api.manifest import manifest_schema
print(json.dumps({one.id: [str(one.folder), one.problem, len(list(one.folder.glob("migrations/*.sql")))] for one in discover()}))
"""


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the wheel installs."""
    place = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(place)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=120)
    with zipfile.ZipFile(next(place.glob("platform_kernel-*.whl"))) as wheel:
        wheel.extractall(place / "site")
    return place / "site"


def missing(site: Path) -> list[str]:
    """Files that are read at run time and that an installation does not have."""
    wanted = [file for package in PACKAGES for file in (ROOT / package).rglob("*") if file.suffix in (".py", *DATA)]
    names = [str(file.relative_to(ROOT)) for file in wanted]
    assert len(names) > 150
    return [name for name in names if not (site / name).exists()]


def test_nothing_is_left_out(unpacked: Path) -> None:
    assert [] == missing(unpacked)


def test_a_missing_file_is_found(tmp_path: Path) -> None:
    left_out = missing(tmp_path)

    assert {"core_plugins/iam/manifest.toml", "host/authoring/templates/package/plugin.py.template"} <= set(left_out)


def test_only_our_packages_are_in(unpacked: Path) -> None:
    names = {entry.name for entry in unpacked.iterdir() if not entry.name.endswith(".dist-info")}

    assert set(PACKAGES) == names


def test_an_installation_finds_its_own_plugins(unpacked: Path) -> None:
    """Through the entry points of the wheel, with their manifests and migrations, not those of this checkout."""
    ran = subprocess.run(
        [sys.executable, "-P", "-c", PROGRAM],
        cwd=unpacked.parent,
        env={"PYTHONPATH": str(unpacked)},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    found = json.loads(ran.stdout)

    areas = {"audit", "cache", "data", "eventbus", "files", "gateway", "iam", "vault"}
    assert {f"kernel.{area}" for area in areas} == set(found)
    for folder, problem, _ in found.values():
        assert folder.startswith(str(unpacked))
        assert problem is None
    assert found["kernel.iam"][2] > 0


def test_the_licence_and_the_notices_come_along(unpacked: Path) -> None:
    (licences,) = unpacked.glob("*.dist-info/licenses")

    assert {"LICENSE", "THIRD_PARTY_NOTICES"} <= {file.name for file in licences.iterdir()}
