"""What is asked for becomes a folder of its own: by requirement, wheel or source folder, with what it needs."""

from __future__ import annotations

import json
import os
import stat
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from host.discovery import discover
from host.store import Package, Store

if TYPE_CHECKING:
    from tests.host.store.conftest import Shelf, Workshop


def files_of(package: Package) -> set[str]:
    """Its files by path."""
    root = Path(package.folder)
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


def test_a_wheel_is_unpacked_to_its_own_folder_and_found(shelf: Shelf, workshop: Workshop) -> None:
    wheel = workshop.plugin("acme.hello", "1.2.0")

    package = shelf.prepare(wheel)

    assert ("acme.hello", "1.2.0", "acme-hello", "acme_hello:plugin") == (
        package.plugin_id,
        package.version,
        package.distribution,
        package.target,
    )
    assert Path(package.folder) == shelf.folder / "acme.hello" / f"1.2.0-{package.digest[:12]}"
    assert Path(package.folder) == shelf.store.find(*package.key)
    shelf.store.verify(*package.key)
    (found,) = discover([package.folder])
    assert (found.id, found.problem, found.folder) == ("acme.hello", None, Path(package.folder, "acme_hello"))
    assert [wheel.name] == [file.name for file in (shelf.folder / ".wheels" / package.wheels[0]).iterdir()]
    assert "acme_hello/__init__.py" in files_of(package)


def test_everything_is_private(shelf: Shelf, workshop: Workshop) -> None:
    before = os.umask(0)
    try:
        shelf.prepare(workshop.plugin())
    finally:
        os.umask(before)

    modes = {(path.is_dir(), stat.S_IMODE(path.stat().st_mode)) for path in [shelf.folder, *shelf.folder.rglob("*")]}
    assert modes == {(True, 0o700), (False, 0o600)}


def test_what_the_environment_has_needs_no_pip(shelf: Shelf, workshop: Workshop) -> None:
    wheel = workshop.plugin(
        requires=["msgspec>=0.20", "nowhere-to-be-found; extra == 'more'", "nowhere; python_version < '3'"]
    )

    package = shelf.prepare(wheel)

    assert 1 == len(package.wheels)
    assert not [step for step in shelf.steps if "resolving" in step]


def test_what_is_missing_comes_along_and_nothing_else(shelf: Shelf, workshop: Workshop) -> None:
    workshop.wheel("acme-deep", "2.0")
    workshop.wheel("acme-lib", "1.5", requires=["acme-deep", "msgspec"])
    workshop.wheel("acme-lib", "2.0")

    package = shelf.prepare(workshop.plugin(requires=["acme-lib<2", "msgspec"]))

    assert {"acme_lib.py", "acme_deep.py", "acme_lib-1.5.dist-info/METADATA"} <= files_of(package)
    assert not [name for name in files_of(package) if name.startswith("msgspec")]
    assert 3 == len(package.wheels)
    assert ["acme.hello"] == [one.id for one in discover([package.folder])]


def test_two_plugins_carry_different_versions_of_one_library(shelf: Shelf, workshop: Workshop) -> None:
    for version in ("1.0", "2.0"):
        workshop.wheel("acme-lib", version, files={"acme_lib.py": f"VERSION = {version}\n"})

    old = shelf.prepare(workshop.plugin("acme.old", requires=["acme-lib<2"]))
    new = shelf.prepare(workshop.plugin("acme.new", requires=["acme-lib>=2"]))

    assert "VERSION = 1.0\n" == Path(old.folder, "acme_lib.py").read_text()
    assert "VERSION = 2.0\n" == Path(new.folder, "acme_lib.py").read_text()


def test_a_requirement_takes_the_newest_that_goes_with_the_kernel(shelf: Shelf, workshop: Workshop) -> None:
    workshop.plugin("acme.hello", "1.0.0")
    workshop.plugin("acme.hello", "1.1.0", requires=["packaging>=20"])
    workshop.plugin("acme.hello", "2.0.0", requires=["packaging<1"])

    package = shelf.prepare("acme-hello")

    assert ("1.1.0", "acme-hello") == (package.version, package.requirement)


def test_a_requirement_brings_what_its_extra_needs(shelf: Shelf, workshop: Workshop) -> None:
    workshop.wheel("acme-lib")
    workshop.plugin(requires=["acme-lib; extra == 'more'"], metadata="Provides-Extra: more\n")

    assert 1 == len(shelf.prepare("acme_Hello==1.0.0").wheels)
    assert 2 == len(shelf.prepare("acme-hello[more] ; python_version > '3'").wheels)


def test_a_requirement_of_what_the_environment_has_is_fetched_all_the_same(shelf: Shelf, workshop: Workshop) -> None:
    """The plugin may stand in the environment in another version; here another distribution plays it."""
    workshop.plugin("acme.hello", "99.0.0", name="iniconfig")

    package = shelf.prepare("iniconfig>=99")

    assert ("acme.hello", "99.0.0") == (package.plugin_id, package.version)


def test_a_source_of_the_index_is_built(shelf: Shelf, workshop: Workshop, tmp_path: Path) -> None:
    """With a backend of its own in the archive, so that no index is asked for one."""
    backend = (
        "import pathlib, shutil\n"
        "def build_wheel(folder, config_settings=None, metadata_directory=None):\n"
        "    (wheel,) = pathlib.Path('ready').iterdir()\n"
        "    shutil.copy(wheel, folder)\n"
        "    return wheel.name\n"
    )
    home = tmp_path / "acme_hello-1.0.0"
    workshop.plugin(place=home / "ready")
    (home / "backend.py").write_text(backend)
    (home / "pyproject.toml").write_text(
        '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    )
    (home / "PKG-INFO").write_text("Metadata-Version: 2.1\nName: acme-hello\nVersion: 1.0.0\n")
    with zipfile.ZipFile(workshop.index / "acme_hello-1.0.0.zip", "w") as archive:
        for file in home.rglob("*"):
            archive.write(file, file.relative_to(tmp_path))

    assert "acme.hello" == shelf.prepare("acme-hello==1.0.0").plugin_id


def state_of(home: Path) -> dict[Path, tuple[int, bytes]]:
    """What an author would see of his folder; the kernel's data in it is not his."""
    seen = [path for path in home.rglob("*") if home / "data" not in [path, *path.parents]]
    return {path: (path.lstat().st_mtime_ns, path.read_bytes() if path.is_file() else b"") for path in seen}


def test_a_folder_is_built_without_an_index_and_stays_as_it_was(shelf: Shelf, workshop: Workshop) -> None:
    home = workshop.folder("acme.hello", "1.3.0")
    (home / "build" / "lib" / "acme_hello").mkdir(parents=True)
    (home / "build" / "lib" / "acme_hello" / "stale.py").write_text("of an earlier build\n")
    (home / "data" / "run").mkdir(parents=True)
    (home / "data" / "run" / "kernel.lock").write_text("1\n")
    (home / "loop").symlink_to(home)
    (home / "dangling").symlink_to("nowhere")
    os.mkfifo(home / "pipe")
    before = state_of(home)

    package = Store(home / "data" / "plugins", shelf.sources).prepare(str(home), shelf.steps.append)

    assert ("acme.hello", "1.3.0") == (package.plugin_id, package.version)
    assert "acme_hello/stale.py" not in files_of(package)
    assert before == state_of(home)


def test_setuptools_that_also_asks_for_wheel_needs_no_index(shelf: Shelf, workshop: Workshop) -> None:
    assert "acme.hello" == shelf.prepare(workshop.folder(requires='["setuptools", "wheel"]')).plugin_id


def test_the_same_contents_are_the_same_package(shelf: Shelf, workshop: Workshop) -> None:
    workshop.wheel("acme-lib")
    wheel = workshop.plugin(requires=["acme-lib"])
    first = shelf.prepare(wheel)
    inode = Path(first.folder).stat().st_ino

    assert first == shelf.prepare(wheel)
    assert inode == Path(first.folder).stat().st_ino

    home = workshop.folder("acme.bye")
    built = shelf.prepare(home)
    assert built == shelf.prepare(home)


def test_a_damaged_package_is_mended_by_preparing_it_again(shelf: Shelf, workshop: Workshop) -> None:
    wheel = workshop.plugin()
    package = shelf.prepare(wheel)
    Path(package.folder, "acme_hello", "__init__.py").write_text("changed\n")

    assert package == shelf.prepare(wheel)

    shelf.store.verify(*package.key)


def test_a_wheel_may_come_under_any_name(shelf: Shelf, workshop: Workshop, tmp_path: Path) -> None:
    workshop.wheel("acme-lib")
    upload = tmp_path / "upload.bin"
    upload.write_bytes(workshop.plugin(requires=["acme-lib"]).read_bytes())

    package = shelf.prepare(upload)

    assert (2, str(upload)) == (len(package.wheels), package.requirement)


def test_files_of_the_data_folder(shelf: Shelf, workshop: Workshop) -> None:
    data = "acme_hello-1.0.0.data"
    files = {
        f"{data}/purelib/acme_hello/pure.py": "",
        f"{data}/platlib/acme_hello/plat.py": "",
        f"{data}/scripts/acme": "#!python\n",
        f"{data}/data/share/man/acme.1": "",
        "acme_hello/__pycache__/plugin.cpython-311.pyc": "stale",
    }

    package = shelf.prepare(workshop.plugin(files=files))

    names = files_of(package)
    assert {"acme_hello/pure.py", "acme_hello/plat.py"} <= names
    assert not [name for name in names if "acme.1" in name or name.endswith(".pyc") or ".data" in name]


def test_a_shared_namespace_is_one_file(shelf: Shelf, workshop: Workshop) -> None:
    workshop.wheel("acme-lib", files={"acmespace/__init__.py": "# shared\n", "acmespace/lib.py": ""})

    package = shelf.prepare(workshop.plugin(requires=["acme-lib"], files={"acmespace/__init__.py": "# shared\n"}))

    assert "acmespace/lib.py" in files_of(package)


def test_what_is_known_of_a_package_can_be_read(shelf: Shelf, workshop: Workshop) -> None:
    package = shelf.prepare(workshop.plugin())

    (note,) = (shelf.folder / ".packages").iterdir()

    assert package.digest == json.loads(note.read_text())["digest"]


@pytest.mark.parametrize("version", ["1.0.0-rc.1"])
def test_a_pre_release_is_spelt_in_two_ways(shelf: Shelf, workshop: Workshop, version: str) -> None:
    manifest = f'id = "acme.hello"\nversion = "{version}"\napi = ">=1.0,<2"\nsummary = "x"\n'

    package = shelf.prepare(workshop.plugin(version="1.0.0rc1", manifest=manifest))

    assert version == package.version
