"""What no package is made of, each refused by a code that says why and a text that says what to do."""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from host.store import Sources, Store, archive
from host.store.unpack import Unpacking
from host.store.wheels import read_wheel
from plugin_api.errors import Conflict, InvalidRequest, KernelError, PayloadTooLarge, Unavailable
from plugin_api.manifest import ManifestError

if TYPE_CHECKING:
    from tests.host.store.conftest import Shelf, Workshop


def link(name: str) -> zipfile.ZipInfo:
    """The entry of a symbolic link."""
    info = zipfile.ZipInfo(name)
    info.external_attr = 0o120777 << 16
    return info


def refusal(shelf: Shelf, what: str | Path) -> KernelError:
    """The error; nothing is left behind by it."""
    with pytest.raises(KernelError) as caught:
        shelf.prepare(what)
    assert [] == shelf.left()
    assert [] == list((shelf.folder / ".drafts").glob("*"))
    return caught.value


# -------------------------------------------------------------------------------------------- what is asked


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("", "empty"),
        ("acme\nhello", "control characters"),
        ("-r x", "'-r' is an option"),
        ("--index-url=https://evil.example/simple", "'--index-url' is an option"),
        ("acme-hello --pre", "no requirement"),
        ("acme-hello -e .", "no requirement"),
        ("acme-hello==1.0 --hash=sha256:00", "no requirement"),
        ("acme hello", "no requirement"),
        ("acme-hello @ https://name:hunter2@x.example/a.whl", "address"),
        ("https://name:hunter2@x.example/a.whl", "address"),
        ("git+ssh://git@x.example/a", "address"),
        ("./nowhere", "nothing at"),
        ("/nowhere/acme_hello-1.0.0-py3-none-any.whl", "nothing at"),
        ("nowhere-1.0.0-py3-none-any.whl", "nothing at"),
        ("acme-hello; python_version < '3'", "marker"),
        ("/dev/null", "neither a file nor a folder"),
        ("x" * 5_000, "longer"),
        ("x!" * 300, "no requirement"),
    ],
)
def test_a_bad_requirement(shelf: Shelf, what: str, said: str) -> None:
    error = refusal(shelf, what)

    assert isinstance(error, InvalidRequest) and error.code == "requirement_invalid"
    assert said in error.detail
    assert "hunter2" not in error.detail


@pytest.mark.parametrize("what", ["acme-hello", ".", "./acme-hello", "acme-hello-1.0.0-py3-none-any.whl"])
def test_what_lies_where_the_kernel_was_started_is_not_meant(
    shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """Neither by the name of a distribution nor by a relative path: who asks may be elsewhere."""
    (tmp_path / "acme-hello").mkdir()
    (tmp_path / "acme-hello-1.0.0-py3-none-any.whl").touch()
    monkeypatch.chdir(tmp_path)

    assert refusal(shelf, what).code in ("requirement_invalid", "requirement_not_found")


def test_what_pip_is_given_is_no_option(shelf: Shelf, workshop: Workshop) -> None:
    """Names may not begin with a dash, so the marker is the only place where one could hide."""
    workshop.plugin()

    assert "acme-hello" == shelf.prepare("acme-hello; os_name != '--index-url x'").distribution


# ---------------------------------------------------------------------------------------------- resolution


def test_a_library_of_the_kernel_does_not_fit(shelf: Shelf, workshop: Workshop) -> None:
    error = refusal(shelf, workshop.plugin(requires=["msgspec<0.1", "nowhere-to-be-found"]))

    assert isinstance(error, Conflict) and error.code == "library_conflict"
    for said in (
        "acme-hello 1.0.0 needs msgspec<0.1",
        "environment has msgspec 0.",
        "platform-kernel needs msgspec",
        "widen",
    ):
        assert said in error.detail


def test_an_extra_of_what_is_installed_is_followed(shelf: Shelf, workshop: Workshop) -> None:
    """`redis[hiredis]` needs a distribution that is not there, and then it cannot be got."""
    error = refusal(shelf, workshop.plugin(requires=["redis[hiredis]"]))

    assert "requirement_not_found" == error.code
    assert "hiredis" in error.detail


def test_a_missing_library_does_not_go_with_the_kernel(shelf: Shelf, workshop: Workshop) -> None:
    workshop.wheel("acme-lib", requires=["msgspec<0.1"])

    error = refusal(shelf, workshop.plugin(requires=["acme-lib"]))

    assert isinstance(error, Conflict) and error.code == "library_conflict"
    for said in ("acme-lib 1.0.0 depends on msgspec<0.1", "msgspec==0.", "widen"):
        assert said in error.detail


@pytest.mark.parametrize("what", ["acme-nowhere", "acme-hello>=7"])
def test_an_unknown_requirement(shelf: Shelf, workshop: Workshop, what: str) -> None:
    workshop.plugin()

    error = refusal(shelf, what)

    assert isinstance(error, InvalidRequest) and error.code == "requirement_not_found"
    assert what in error.detail


@pytest.mark.parametrize("as_requirement", [True, False])
def test_another_python_is_needed(shelf: Shelf, workshop: Workshop, as_requirement: bool) -> None:
    wheel = workshop.plugin(metadata="Requires-Python: >=3.99\n")

    error = refusal(shelf, "acme-hello" if as_requirement else wheel)

    assert isinstance(error, InvalidRequest) and error.code == "python_mismatch"
    assert ">=3.99" in error.detail and "Python 3." in error.detail


def test_the_index_is_down(workshop: Workshop, tmp_path: Path) -> None:
    sources = Sources(index_url="http://name:hunter2@127.0.0.1:9/simple", find_links=(str(workshop.index),))
    store = Store(tmp_path / "plugins", sources)

    with pytest.raises(Unavailable) as caught:
        store.prepare("acme-no-such-distribution", lambda step: None)

    assert caught.value.code == "index_unavailable"
    assert "hunter2" not in caught.value.detail


def test_a_build_does_not_end_in_time(shelf: Shelf, workshop: Workshop) -> None:
    home = workshop.folder()
    (home / "setup.py").write_text("import time\ntime.sleep(1000)\n")
    store = Store(shelf.folder, shelf.sources, prepare_limit_s=1.0)

    with pytest.raises(InvalidRequest) as caught:
        store.prepare(str(home), lambda step: None)

    assert caught.value.code == "build_failed"
    assert "did not end in time" in caught.value.detail


def test_a_folder_that_does_not_build(shelf: Shelf, workshop: Workshop) -> None:
    home = workshop.folder()
    (home / "setup.py").write_text("raise RuntimeError('the author forgot a part')\n")

    error = refusal(shelf, home)

    assert isinstance(error, InvalidRequest) and error.code == "build_failed"
    assert "the author forgot a part" in error.detail


@pytest.mark.parametrize("project", [None, "[build-system\n", "[build-system]\nrequires = ['- x']\n"])
def test_a_folder_that_is_no_project(shelf: Shelf, tmp_path: Path, project: str | None) -> None:
    home = tmp_path / "home"
    home.mkdir()
    if project is not None:
        (home / "pyproject.toml").write_text(project)

    error = refusal(shelf, home)

    assert "build_failed" == error.code
    assert "pyproject.toml" in error.detail


# ------------------------------------------------------------------------------------------------- wheels


def rows(change: str) -> Callable[[str], str]:
    """RECORD with a change: the row of one file gone, with another hash, or with another size."""

    def edit(text: str) -> str:
        (row,) = [line for line in text.splitlines() if line.startswith('"acme_hello/__init__.py"')]
        name, digest, size = row.split(",")
        changed = {
            "gone": "",
            "hash": f"{name},sha256={'A' * 43},{size}",
            "size": f"{name},{digest},7",
            "weak": f"{name},md5=AAAA,{size}",
            "none": f"{name},,",
            "double": f"{row}\n{row}",
            "more": f"{row}\nacme_hello/lost.py,sha256=AAAA,3",
        }
        return text.replace(row, changed[change])

    return edit


@pytest.mark.parametrize(
    ("change", "file"),
    [
        ("gone", "acme_hello/__init__.py"),
        ("hash", "acme_hello/__init__.py"),
        ("size", "acme_hello/__init__.py"),
        ("weak", "acme_hello/__init__.py"),
        ("none", "acme_hello/__init__.py"),
        ("double", "acme_hello-1.0.0.dist-info/RECORD"),
        ("more", "acme_hello/lost.py"),
    ],
)
def test_a_wheel_that_is_not_what_its_record_says(shelf: Shelf, workshop: Workshop, change: str, file: str) -> None:
    error = refusal(shelf, workshop.plugin(record=rows(change)))

    assert isinstance(error, InvalidRequest) and error.code == "package_damaged"
    assert file in error.detail


def test_a_file_that_nobody_recorded(shelf: Shelf, workshop: Workshop) -> None:
    error = refusal(shelf, workshop.plugin(more=[("acme_hello/late.py", b"x = 1\n")]))

    assert "package_damaged" == error.code
    assert "acme_hello/late.py" in error.detail


@pytest.mark.parametrize("cut", [0, 1, 100, -1])
def test_a_truncated_wheel(shelf: Shelf, workshop: Workshop, cut: int) -> None:
    wheel = workshop.plugin()
    raw = wheel.read_bytes()
    wheel.write_bytes(raw[:cut])

    assert "package_damaged" == refusal(shelf, wheel).code


def test_bytes_that_flipped(shelf: Shelf, workshop: Workshop) -> None:
    """Wherever a byte of the wheel flips: it is refused in our words, or it carried nothing that is unpacked."""
    raw = workshop.plugin(code="plugin = object()\n" * 50).read_bytes()
    flipped = workshop.root / "flipped.whl"
    codes = []
    for place in range(0, len(raw), 43):
        flipped.write_bytes(raw[:place] + bytes([raw[place] ^ 0x41]) + raw[place + 1 :])
        try:
            shelf.store.verify(*shelf.prepare(flipped).key)
        except KernelError as error:
            codes.append(error.code)

    assert len(codes) > len(raw) // 43 // 2
    assert set(codes) <= {"package_damaged", "wheel_refused", "payload_too_large", "no_plugin"}


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("../outside.py", "outside"),
        ("acme_hello/../../outside.py", "outside"),
        ("/etc/outside.py", "outside"),
        ("acme_hello//double.py", "outside"),
        ("./acme_hello/here.py", "outside"),
        ("C:/outside.py", "outside"),
        ("acme_hello\\outside.py", "characters"),
        ("acme_hello/new\nline.py", "characters"),
        ("acme_hello/" + "x" * 300, "240 bytes"),
        ("ACME_HELLO/other.py", "may be one file"),
        ("acme_hello/__INIT__.py", "may be one file"),
        ("acme_hello/__init__.py/deeper.py", "may be one file"),
        (link("acme_hello/linked.py"), "symbolic link"),
    ],
)
def test_a_name_that_is_not_taken(shelf: Shelf, workshop: Workshop, entry: Any, said: str) -> None:
    error = refusal(shelf, workshop.plugin(more=[(entry, b"/etc/passwd")]))

    assert isinstance(error, InvalidRequest) and error.code == "wheel_refused"
    assert said in error.detail


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_that_stands_twice(shelf: Shelf, workshop: Workshop) -> None:
    error = refusal(shelf, workshop.plugin(more=[("acme_hello/__init__.py", b"second\n")]))

    assert "wheel_refused" == error.code


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"acme_hello-1.0.0.data/purelib/acme_hello/__init__.py": "x"}, "two files"),
        ({"acme_hello-1.0.0.data/purelib/ACME_HELLO/x.py": "x"}, "two files"),
        ({"acme_hello-1.0.0.data/odd/x.py": "x"}, "may hold purelib"),
        ({"acme_hello-1.0.0.data": "x"}, "may hold purelib"),
        ({"acme.pth": "import os\n"}, "start of an interpreter"),
        ({"acme_hello-1.0.0.data/purelib/acme.pth": "import os\n"}, "start of an interpreter"),
        ({"other.egg-info/PKG-INFO": "x"}, "another distribution"),
        ({"acme_hello-1.0.0.data/purelib/other-1.dist-info/METADATA": "x"}, "another distribution"),
    ],
)
def test_a_place_that_is_not_taken(shelf: Shelf, workshop: Workshop, files: dict[str, str], said: str) -> None:
    error = refusal(shelf, workshop.plugin(files=files))

    assert "wheel_refused" == error.code
    assert said in error.detail


@pytest.mark.parametrize(
    "file", ["host/x.py", "host.py", "Plugin_API/x.py", "core_plugins/x.py", "marketplace/x", "ui_shell/x", "envoy/x"]
)
def test_names_of_the_kernel(shelf: Shelf, workshop: Workshop, file: str) -> None:
    error = refusal(shelf, workshop.plugin(files={file: "x = 1\n"}))

    assert isinstance(error, InvalidRequest) and error.code == "reserved_package"
    assert file in error.detail and "platform-kernel" in error.detail


def test_names_of_the_kernel_inside_a_package_are_free(shelf: Shelf, workshop: Workshop) -> None:
    shelf.prepare(workshop.plugin(files={"acme_hello/host/__init__.py": "", "acme_hello/host.py": "", "hosts.py": ""}))


def test_a_library_with_a_name_of_the_kernel(shelf: Shelf, workshop: Workshop) -> None:
    workshop.wheel("acme-lib", files={"envoy/__init__.py": ""})

    error = refusal(shelf, workshop.plugin(requires=["acme-lib"]))

    assert "reserved_package" == error.code and "acme-lib 1.0.0" in error.detail


@pytest.mark.parametrize(
    "changes",
    [
        {"tag": "cp311-cp311-linux_x86_64"},
        {"purelib": "false"},
        {"files": {"acme_hello/fast.cpython-311-x86_64-linux-gnu.so": "\x7fELF"}},
        {"files": {"acme_hello/fast.pyd": "MZ"}},
        {"files": {"acme_hello.libs/libfast.so.1.2": "\x7fELF"}},
        {"files": {"acme_hello/fast.dylib": ""}},
    ],
)
def test_compiled_code(shelf: Shelf, workshop: Workshop, changes: dict[str, Any]) -> None:
    error = refusal(shelf, workshop.plugin(**changes))

    assert isinstance(error, Conflict) and error.code == "compiled_extension"
    assert "acme-hello 1.0.0" in error.detail and "pip install 'acme-hello==1.0.0'" in error.detail


def test_compiled_code_in_a_missing_library(shelf: Shelf, workshop: Workshop) -> None:
    workshop.wheel("acme-fast", tag="cp311-abi3-linux_x86_64")
    workshop.wheel("acme-fast", tag="cp312-abi3-linux_x86_64")
    workshop.wheel("acme-sneaky", files={"acme_sneaky/x.so": "\x7fELF"})

    for name in ("acme-fast", "acme-sneaky"):
        error = refusal(shelf, workshop.plugin(requires=[name]))
        assert isinstance(error, Conflict) and error.code == "compiled_extension"
        assert f"{name} 1.0.0" in error.detail and f"pip install '{name}==1.0.0'" in error.detail


def test_of_a_compiled_and_a_pure_wheel_the_pure_one_is_taken(shelf: Shelf, workshop: Workshop) -> None:
    workshop.wheel("acme-fast", tag="cp311-abi3-linux_x86_64")
    workshop.wheel("acme-fast")

    package = shelf.prepare(workshop.plugin(requires=["acme-fast"]))

    assert Path(package.folder, "acme_fast.py").exists()


def test_a_wheel_for_another_python(shelf: Shelf, workshop: Workshop) -> None:
    error = refusal(shelf, workshop.plugin(tag="py2-none-any"))

    assert "python_mismatch" == error.code and "py2-none-any" in error.detail


@pytest.mark.parametrize("raw", [b"", b"no zip at all", b"PK\x03\x04" + b"\0" * 100])
def test_something_that_is_no_wheel(shelf: Shelf, tmp_path: Path, raw: bytes) -> None:
    file = tmp_path / "acme_hello-1.0.0-py3-none-any.whl"
    file.write_bytes(raw)

    assert "package_damaged" == refusal(shelf, file).code


def test_a_zip_file_that_is_no_wheel(shelf: Shelf, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as made:
        made.writestr("readme.txt", "hello")

    error = refusal(shelf, tmp_path / "x.zip")

    assert "package_damaged" == error.code and "no wheel" in error.detail


def test_metadata_of_somebody_else(shelf: Shelf, workshop: Workshop) -> None:
    plain = "acme_hello-1.0.0.dist-info"
    file = workshop.plugin(metadata="Requires-Dist: !!\n")
    assert "package_damaged" == refusal(shelf, file).code

    with zipfile.ZipFile(file, "w") as made:
        made.writestr(f"{plain}/METADATA", "Metadata-Version: 2.1\nName: other\nVersion: 1.0.0\n")
    assert plain in refusal(shelf, file).detail


# -------------------------------------------------------------------------------------------------- bounds


def test_too_many_bytes_in_the_wheel(shelf: Shelf, workshop: Workshop) -> None:
    wheel = workshop.plugin()
    with wheel.open("r+b") as file:
        file.truncate(archive.WHEEL_BYTES_MAX + 1)

    assert isinstance(refusal(shelf, wheel), PayloadTooLarge)


def test_too_many_files(shelf: Shelf, workshop: Workshop) -> None:
    files = {f"acme_hello/x{number}.txt": "" for number in range(archive.FILES_MAX)}

    assert isinstance(refusal(shelf, workshop.plugin(files=files)), PayloadTooLarge)


def test_too_many_bytes_unpacked(shelf: Shelf, workshop: Workshop) -> None:
    part = bytes(archive.UNPACKED_BYTES_MAX // 4)
    files = {f"acme_hello/x{number}.bin": part for number in range(4)}

    assert isinstance(refusal(shelf, workshop.plugin(files=files)), PayloadTooLarge)


def test_a_bomb_that_lies_about_its_size(shelf: Shelf, workshop: Workshop) -> None:
    """The list says 10 bytes and the stream holds 10 MiB: unpacking ends where the list says."""
    wheel = workshop.plugin(files={"acme_hello/bomb.bin": bytes(10_485_760)})
    raw = wheel.read_bytes().replace(struct.pack("<I", 10_485_760), struct.pack("<I", 10))
    wheel.write_bytes(raw)

    assert "package_damaged" == refusal(shelf, wheel).code


def test_a_list_of_files_that_is_too_long_to_read(shelf: Shelf, workshop: Workshop) -> None:
    wheel = workshop.plugin()
    raw = bytearray(wheel.read_bytes())
    struct.pack_into("<I", raw, len(raw) - 10, archive.DIRECTORY_BYTES_MAX + 1)
    wheel.write_bytes(raw)

    assert isinstance(refusal(shelf, wheel), PayloadTooLarge)


# ------------------------------------------------------------------------------------------ what it declares


def test_no_plugin(shelf: Shelf, workshop: Workshop) -> None:
    error = refusal(shelf, workshop.plugin(entry=""))

    assert isinstance(error, InvalidRequest) and error.code == "no_plugin"
    assert "platform_kernel.plugins" in error.detail


@pytest.mark.parametrize(
    "entry",
    [
        "acme.hello = acme_hello",
        "acme.hello = nowhere:plugin",
        "acme.hello = acme-hello:plugin",
        "acme.hello = :plugin",
        "[[[",
    ],
)
def test_an_entry_point_that_leads_nowhere(shelf: Shelf, workshop: Workshop, entry: str) -> None:
    assert "no_plugin" == refusal(shelf, workshop.plugin(entry=entry)).code


def test_several_plugins(shelf: Shelf, workshop: Workshop) -> None:
    error = refusal(shelf, workshop.plugin(entry="acme.hello = acme_hello:plugin\nacme.bye = acme_hello:plugin"))

    assert isinstance(error, InvalidRequest) and error.code == "several_plugins"
    assert "acme.bye and acme.hello" in error.detail


def test_a_library_that_is_a_plugin(shelf: Shelf, workshop: Workshop) -> None:
    workshop.plugin("acme.other")

    error = refusal(shelf, workshop.plugin(requires=["acme-other"]))

    assert "several_plugins" == error.code
    assert "acme.hello" in error.detail and "acme.other" in error.detail and "manifest.toml" in error.detail


def test_an_id_of_the_kernel(shelf: Shelf, workshop: Workshop) -> None:
    error = refusal(shelf, workshop.plugin("kernel.money"))

    assert isinstance(error, InvalidRequest) and error.code == "id_reserved"
    assert "kernel.money belongs to platform-kernel" in error.detail


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"entry": "Acme = acme_hello:plugin"}, "'Acme', which is no plugin's id"),
        ({"manifest": None}, "acme.hello: the wheel has no acme_hello/manifest.toml"),
        ({"manifest": "id = \n"}, "acme.hello: acme_hello/manifest.toml:1: this is no TOML"),
        ({"manifest": b"\xff\xfe"}, "acme.hello: acme_hello/manifest.toml is no UTF-8"),
        ({"manifest": "#" * 300_000}, "262144 bytes"),
        ({"manifest": 'id = "acme.hello"\n'}, "acme_hello/manifest.toml:1: `version` is missing"),
        (
            {"manifest": 'id = "acme.bye"\nversion = "1.0.0"\napi = ">=1.0,<2"\nsummary = "x"\n'},
            "`id` is 'acme.bye', and the entry point of acme-hello 1.0.0 is named 'acme.hello'",
        ),
        (
            {"manifest": 'id = "acme.hello"\nversion = "1.0.1"\napi = ">=1.0,<2"\nsummary = "x"\n'},
            "`version` '1.0.1', and its wheel is acme-hello 1.0.0",
        ),
    ],
)
def test_a_manifest_that_does_not_hold(shelf: Shelf, workshop: Workshop, changes: dict[str, Any], said: str) -> None:
    error = refusal(shelf, workshop.plugin(**changes))

    assert isinstance(error, ManifestError) and error.code == "manifest_invalid"
    assert said in error.detail


def test_violations_of_the_manifest_come_through(shelf: Shelf, workshop: Workshop) -> None:
    error = refusal(shelf, workshop.plugin(manifest='id = "acme.hello"\nversion = "1.0.0"\nsummary = "x"\n'))

    assert ["/api"] == [one.pointer for one in error.violations]
    assert "acme.hello" in error.detail


def test_two_distributions_with_one_file(shelf: Shelf, workshop: Workshop) -> None:
    workshop.wheel("acme-lib", files={"acme_hello/__init__.py": "# mine\n"})

    error = refusal(shelf, workshop.plugin(requires=["acme-lib"]))

    assert isinstance(error, InvalidRequest) and error.code == "file_clash"
    for said in ("acme-hello 1.0.0", "acme-lib 1.0.0", "acme_hello/__init__.py"):
        assert said in error.detail


@pytest.mark.parametrize("file", ["acme_hello/__init__.py/x.py", "ACME_HELLO/y.py", "acme_hello", ".files.json"])
def test_two_distributions_whose_files_meet(tmp_path: Path, workshop: Workshop, file: str) -> None:
    unpacking = Unpacking(tmp_path / "package")
    unpacking.add(read_wheel(workshop.plugin(), "x"))

    with pytest.raises(InvalidRequest) as caught:
        unpacking.add(read_wheel(workshop.wheel("acme-lib", files={file: ""}), "x"))

    assert "file_clash" == caught.value.code
