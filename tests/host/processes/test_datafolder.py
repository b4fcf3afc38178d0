"""The data folder: laid out, closed to others, locked for one kernel, refused with a reason."""

from __future__ import annotations

import json
import os
import re
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from host import datafolder
from host.datafolder import FOLDERS, SOCKET_PATH_BYTES_MAX, DataFolder, KernelFile, short_run
from plugin_api.servers import StartRefused


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def refusal(path: Path) -> str:
    with pytest.raises(StartRefused) as caught:
        DataFolder.open(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def long_folder() -> Iterator[Path]:
    """A folder whose sockets do not fit into a socket's address."""
    with tempfile.TemporaryDirectory() as top:
        deep = Path(top, *["a-name-of-forty-characters-to-get-deeper-in"] * 3)
        deep.mkdir(parents=True)
        yield deep


def test_folders_are_made_and_closed(tmp_path: Path) -> None:
    folder = DataFolder.open(tmp_path / "new" / "pk")
    try:
        assert {entry.name for entry in folder.path.iterdir()} == set(FOLDERS)
        assert {mode_of(place) for place in (folder.path, *folder.path.iterdir())} == {0o700}
    finally:
        folder.close()


def test_an_open_folder_of_ours_is_closed_again(tmp_path: Path) -> None:
    DataFolder.open(tmp_path / "pk").close()
    (tmp_path / "pk" / "secrets").chmod(0o755)
    DataFolder.open(tmp_path / "pk").close()

    assert mode_of(tmp_path / "pk" / "secrets") == 0o700


def test_settings_may_be_there_before(tmp_path: Path) -> None:
    (tmp_path / "pk.toml").write_text("")
    DataFolder.open(tmp_path).close()

    assert (tmp_path / "run").is_dir()


def test_a_folder_of_something_else_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("")
    tmp_path.chmod(0o755)

    assert "thesis.tex" in refusal(tmp_path)
    assert (mode_of(tmp_path), [entry.name for entry in tmp_path.iterdir()]) == (0o755, ["thesis.tex"])


def test_a_file_is_refused_and_left_alone(tmp_path: Path) -> None:
    blocked = tmp_path / "pk"
    blocked.write_text("not a folder")

    assert re.search("pk is not a folder; .*--data-dir", refusal(blocked))
    assert blocked.read_text() == "not a folder"


@pytest.mark.parametrize("name", ["postgres", "run"])
def test_a_file_in_place_of_a_folder_of_it_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("")

    assert f"{name} is not a folder" in refusal(tmp_path)


def test_a_way_through_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    assert "is not a folder" in refusal(tmp_path / "file" / "pk")


def test_a_link_to_nowhere_is_refused(tmp_path: Path) -> None:
    (tmp_path / "pk").symlink_to(tmp_path / "gone")

    assert "--data-dir" in refusal(tmp_path / "pk")


def test_the_folder_of_another_account_is_refused(tmp_path: Path, nobody: int) -> None:
    os.chown(tmp_path, nobody, nobody)

    assert f"belongs to uid {nobody}" in refusal(tmp_path)


def test_a_folder_that_cannot_be_written_is_refused(
    place: Path, nobody: int, find_interpreter: Callable[[int], str]
) -> None:
    program = "import sys; from pathlib import Path; from host.datafolder import DataFolder; DataFolder.open(Path(sys.argv[1]))"
    ran = subprocess.run(
        [find_interpreter(nobody), "-c", program, str(place / "pk")],
        user=nobody,
        extra_groups=[],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": ":".join(path for path in sys.path if path.endswith("site-packages"))},
    )

    assert f"data folder {place}/pk cannot be written" in ran.stderr


def test_a_full_disk_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datafolder, "DISK_FREE_BYTES_MIN", 2**62)

    assert re.search("disk is full .*MiB are free", refusal(tmp_path))


def test_a_second_kernel_is_refused_until_the_first_ends(tmp_path: Path) -> None:
    first = DataFolder.open(tmp_path)
    first.tell(KernelFile(os.getpid(), "127.0.0.1:1", None, None, [], {}))
    try:
        told = refusal(tmp_path)
        assert str(tmp_path) in told
        assert f"pid {os.getpid()}" in told
        assert first.kernel_file.exists()
    finally:
        first.close()
    DataFolder.open(tmp_path).close()


def test_kernel_json_is_private_and_goes_with_the_kernel(tmp_path: Path) -> None:
    folder = DataFolder.open(tmp_path)
    folder.tell(KernelFile(7, "127.0.0.1:1", None, "127.0.0.1:2", [8], {"postgres": 9}))

    assert mode_of(folder.kernel_file) == 0o600
    assert json.loads(folder.kernel_file.read_text()) == {
        "pid": 7, "http": "127.0.0.1:1", "grpc": None, "management": "127.0.0.1:2", "workers": [8], "servers": {"postgres": 9}
    }  # fmt: skip
    assert [entry.name for entry in folder.run.iterdir() if entry.name.endswith(".new")] == []
    folder.close()
    assert not folder.kernel_file.exists()


def test_kernel_json_of_a_killed_kernel_is_taken_away(tmp_path: Path) -> None:
    DataFolder.open(tmp_path).close()
    (tmp_path / "run" / "kernel.json").write_text("{}")
    DataFolder.open(tmp_path).close()

    assert not (tmp_path / "run" / "kernel.json").exists()


def test_a_short_path_needs_no_alias(tmp_path: Path) -> None:
    place = Path("/tmp") / f"pk-short-{os.getpid()}"
    assert short_run(place) == place / "run"


def test_a_long_path_gets_the_same_short_alias_each_time(long_folder: Path) -> None:
    folder = DataFolder.open(long_folder / "pk")
    try:
        alias = folder.short_run()
        path = alias / ("n" * 32) / ".s.PGSQL.5432"
        assert len(os.fsencode(path)) <= SOCKET_PATH_BYTES_MAX
        assert alias.resolve() == folder.run
        assert mode_of(alias.parent) == 0o700
        assert short_run(folder.path) == alias
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(str(alias / "x.sock"))
        assert (folder.run / "x.sock").is_socket()
    finally:
        folder.close()
    assert not alias.parent.exists()


def test_who_only_looks_for_an_alias_makes_none(long_folder: Path) -> None:
    assert not short_run(long_folder / "pk").parent.exists()


def test_an_alias_that_leads_elsewhere_is_put_right(long_folder: Path) -> None:
    folder = DataFolder.open(long_folder / "pk")
    try:
        alias = folder.short_run()
        alias.unlink()
        alias.symlink_to("/nowhere")

        assert folder.short_run().resolve() == folder.run
    finally:
        folder.close()


@pytest.mark.parametrize("trick", ["link", "folder"])
def test_an_alias_that_somebody_else_made_is_refused(
    long_folder: Path, tmp_path: Path, nobody: int, trick: str
) -> None:
    folder = DataFolder.open(long_folder / "pk")
    try:
        taken = folder.short_run().parent
        (taken / "run").unlink()
        taken.rmdir()
        tmp_path.chmod(0o755)
        if trick == "link":
            taken.symlink_to(tmp_path)
        else:
            taken.mkdir(mode=0o755)
            os.chown(taken, nobody, nobody)
        with pytest.raises(StartRefused, match="somebody else"):
            folder.short_run()
        assert mode_of(tmp_path) == 0o755
        taken.unlink() if trick == "link" else taken.rmdir()
    finally:
        folder.close()
