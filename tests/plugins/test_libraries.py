"""Plugins bring libraries along: different versions side by side, from a folder of wheels, and the kernel's own stay."""

from __future__ import annotations

import hashlib
import json
import sysconfig
from dataclasses import replace
from pathlib import Path

import pytest

from plugin_api.testing import KernelProcess, Tenant
from plugin_api.testing.plugin import FreshKernel
from tests.plugins.conftest import Pk, Recipe, plugins_of, words_heard, write_wheel

LIBRARY = "acme_shades"
SAYING = 'from importlib.metadata import version\nimport acme_shades\nWORD = acme_shades.NAME + " " + version("acme-shades")\n'


def library(folder: Path, version: str) -> Path:
    """A pure library that knows its version, as a wheel."""
    info = f"{LIBRARY}-{version}.dist-info"
    contents = {
        f"{LIBRARY}/__init__.py": f'NAME = "shades {version}"\n',
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: acme-shades\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    return write_wheel(folder / version / f"{LIBRARY}-{version}-py3-none-any.whl", contents, info)


def painter(short: str, needs: str) -> Recipe:
    """A plugin that says which library it has."""
    recipe = Recipe(f"acme.{short}", needs=(needs,), files={"shade.py": SAYING})
    said = recipe.contents()[f"{recipe.package}/operations.py"]
    late = said.replace('text="Hello"', "text=WORD").replace(
        "import asyncio\n", "import asyncio\nfrom .shade import WORD\n"
    )
    return replace(recipe, files={**recipe.files, "operations.py": late})


@pytest.fixture
def links(tmp_path: Path) -> Path:
    """A folder of wheels, as an air-gapped operator has one."""
    folder = tmp_path / "links"
    folder.mkdir()
    for version in ("1.0", "2.0"):
        wheel = library(tmp_path / "made", version)
        wheel.rename(folder / wheel.name)
    return folder


@pytest.fixture
async def offline(fresh_kernel: FreshKernel, links: Path) -> KernelProcess:
    """A kernel that takes plugins from that folder alone."""
    links_set = f"host.plugin_links={json.dumps([str(links)])}"
    return await fresh_kernel("--set", links_set, "--set", "host.plugin_offline=true")


def environment_of_the_kernel() -> str:
    """A digest of every file of the interpreter's own packages."""
    root = Path(sysconfig.get_path("purelib"))
    files = sorted(path for path in root.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    told = "".join(f"{path} {path.stat().st_size} {path.stat().st_mtime_ns}\n" for path in files)
    return hashlib.sha256(told.encode()).hexdigest()


async def test_libraries_live_side_by_side_and_the_kernels_own_stay(
    offline: KernelProcess, pk: Pk, links: Path, tmp_path: Path
) -> None:
    tenant: Tenant = await offline.sign_up()
    before = environment_of_the_kernel()
    light, dark = painter("light", "acme-shades==1.0"), painter("dark", "acme-shades>=1.5")
    for recipe in (light, dark):
        wheel = recipe.wheel(tmp_path)
        wheel.rename(links / wheel.name)
        await pk(offline, "plugins", "install", recipe.package.replace("_", "-"))
    assert await words_heard(tenant.owner, light) == {"shades 1.0 1.0"}
    assert await words_heard(tenant.owner, dark) == {"shades 2.0 2.0"}

    clash = Recipe("acme.clash", needs=("msgspec<0.1",)).wheel(tmp_path)
    refused = await pk(offline, "plugins", "install", clash, status=1)
    assert "msgspec" in refused.stderr
    assert "0.1" in refused.stderr
    lacking = Recipe("acme.lacking", needs=("acme-nowhere",)).wheel(tmp_path)
    assert "acme-nowhere" in (await pk(offline, "plugins", "install", lacking, status=1)).stderr
    assert "acme-unknown" in (await pk(offline, "plugins", "install", "acme-unknown", status=1)).stderr

    newer = painter("light", "acme-shades>=2")
    newer = replace(newer, version="1.1.0").wheel(tmp_path)
    newer.rename(links / newer.name)
    await pk(offline, "plugins", "upgrade", light.plugin_id)
    assert await words_heard(tenant.owner, light) == {"shades 2.0 2.0"}
    listed = await plugins_of(offline)
    assert (listed[light.plugin_id]["version"], listed[light.plugin_id]["leaks"]) == ("1.1.0", [])
    assert environment_of_the_kernel() == before
