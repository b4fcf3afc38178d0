"""Writes wheels and folders of plugins as strangers would, sound ones and every kind of broken one."""

from __future__ import annotations

import base64
import hashlib
import stat
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from host.store import Package, Sources, Store

Entry = tuple[zipfile.ZipInfo | str, bytes]
MANIFEST = 'id = "{id}"\nversion = "{version}"\napi = ">=1.0,<2"\nsummary = "Greets"\n'
PROJECT = """[build-system]
requires = {requires}
build-backend = "setuptools.build_meta"

[project]
name = "{name}"
version = "{version}"

[project.entry-points."platform_kernel.plugins"]
"{id}" = "{package}:plugin"

[tool.setuptools]
packages = ["{package}"]

[tool.setuptools.package-data]
{package} = ["manifest.toml"]
"""


def record_of(files: Mapping[str, bytes]) -> str:
    """RECORD without the row of itself."""
    rows = []
    for name, content in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        rows.append(f'"{name}",sha256={digest},{len(content)}\n')
    return "".join(rows)


def write_zip(file: Path, entries: Sequence[Entry]) -> Path:
    """A zip file of exactly these entries."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries:
            archive.writestr(name, content)
    return file


def link(name: str) -> zipfile.ZipInfo:
    """The entry of a symbolic link."""
    info = zipfile.ZipInfo(name)
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info


class Workshop:
    """Makes wheels in a folder that can be given as `find_links`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.index = root / "index"
        self.index.mkdir(parents=True)

    def wheel(
        self,
        name: str,
        version: str = "1.0.0",
        *,
        files: Mapping[str, str | bytes] | None = None,
        requires: Sequence[str] = (),
        metadata: str = "",
        tag: str = "py3-none-any",
        purelib: str = "true",
        entry_points: str = "",
        place: Path | None = None,
        more: Sequence[Entry] = (),
        record: Callable[[str], str] = str,
    ) -> Path:
        """A wheel; `more` entries are not in RECORD, `record` changes it."""
        plain = name.replace("-", "_")
        info = f"{plain}-{version}.dist-info"
        needs = "".join(f"Requires-Dist: {one}\n" for one in requires)
        texts: dict[str, str | bytes] = dict(
            files if files is not None else {f"{plain}.py": f"VERSION = '{version}'\n"}
        )
        texts[f"{info}/METADATA"] = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}{metadata}"
        texts[f"{info}/WHEEL"] = f"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: {purelib}\nTag: {tag}\n"
        if entry_points:
            texts[f"{info}/entry_points.txt"] = entry_points
        contents = {path: text.encode() if isinstance(text, str) else text for path, text in texts.items()}
        rows = record(record_of(contents) + f"{info}/RECORD,,\n").encode()
        entries: list[Entry] = [*contents.items(), *more, (f"{info}/RECORD", rows)]
        return write_zip((place or self.index) / f"{plain}-{version}-{tag}.whl", entries)

    def plugin(self, plugin_id: str = "acme.hello", version: str = "1.0.0", **changes: Any) -> Path:
        """A plugin's wheel; `manifest`, `entry`, `name` and `code` replace its parts, the rest goes to `wheel`."""
        package = plugin_id.replace(".", "_")
        manifest = changes.pop("manifest", MANIFEST.format(id=plugin_id, version=version))
        files: dict[str, str | bytes] = {f"{package}/__init__.py": changes.pop("code", "plugin = object()\n")}
        if manifest is not None:
            files[f"{package}/manifest.toml"] = manifest
        entry = changes.pop("entry", f"{plugin_id} = {package}:plugin")
        return self.wheel(
            changes.pop("name", package.replace("_", "-")),
            version,
            files=files | changes.pop("files", {}),
            entry_points=f"[platform_kernel.plugins]\n{entry}\n" if entry else "",
            **changes,
        )

    def folder(
        self, plugin_id: str = "acme.hello", version: str = "1.0.0", requires: str = '["setuptools>=68"]'
    ) -> Path:
        """A source folder that builds with setuptools."""
        package = plugin_id.replace(".", "_")
        home = self.root / "sources" / package
        (home / package).mkdir(parents=True, exist_ok=True)
        names = {"id": plugin_id, "package": package, "name": package.replace("_", "-"), "version": version}
        (home / "pyproject.toml").write_text(PROJECT.format(requires=requires, **names))
        (home / package / "manifest.toml").write_text(MANIFEST.format(**names))
        (home / package / "__init__.py").write_text("plugin = object()\n")
        return home


class Shelf:
    """A store that knows no index but the workshop's folder."""

    def __init__(self, folder: Path, sources: Sources) -> None:
        self.folder = folder
        self.sources = sources
        self.store = Store(folder, sources)
        self.steps: list[str] = []

    def prepare(self, what: str | Path) -> Package:
        """Prepare, noting the steps."""
        self.steps.clear()
        return self.store.prepare(str(what), self.steps.append)

    def left(self) -> list[str]:
        """Every file in it but the lock, by path."""
        found = (path.relative_to(self.folder) for path in self.folder.rglob("*") if not path.is_dir())
        return sorted(str(path) for path in found if path.name != ".lock")


@pytest.fixture
def workshop(tmp_path: Path) -> Workshop:
    """A place that makes wheels."""
    return Workshop(tmp_path / "workshop")


@pytest.fixture
def shelf(tmp_path: Path, workshop: Workshop) -> Shelf:
    """An empty store."""
    return Shelf(tmp_path / "plugins", Sources(find_links=(str(workshop.index),), offline=True))
