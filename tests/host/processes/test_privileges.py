"""Servers never run as root, whichever way is open here."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from host.children import Place
from host.datafolder import DataFolder
from host.privileges import Way, choose_privileges
from host.processes import identify
from plugin_api.servers import Command, StartRefused

SHOW = """
import os, re
status = open("/proc/self/status").read()
print(os.getpid(), os.geteuid(), re.search(r"CapEff:\\s*(\\w+)", status)[1])
"""


def only(way: Way) -> frozenset[Way]:
    ways: frozenset[Way] = frozenset({"mapped", "dropped"})
    return ways - {way}


def test_a_plain_user_runs_them_as_himself(nobody: int) -> None:
    os.seteuid(nobody)
    try:
        privileges = choose_privileges()
    finally:
        os.seteuid(0)

    assert (privileges.way, privileges.uid, privileges.wrap(["x"])) == ("same", nobody, ["x"])


def test_mapped_programs_are_no_root_and_keep_their_pid(nobody: int) -> None:
    privileges = choose_privileges(without=only("mapped"))
    started = subprocess.Popen(privileges.wrap([sys.executable, "-c", SHOW]), stdout=subprocess.PIPE, text=True)
    shown, _ = started.communicate(timeout=10)

    assert shown.split() == [str(started.pid), str(nobody), "0" * 16]


async def test_dropped_programs_are_no_root_and_enter_their_folders_alone(tmp_path: Path, nobody: int) -> None:
    folder = DataFolder.open(tmp_path / "pk")
    try:
        (folder.path / "secrets" / "kek").write_text("secret")
        place = Place("postgres", folder, choose_privileges(without=only("dropped")))
        words = f"id -u; echo x > {place.inside(place.folder / 'file')}; cat {folder.path}/secrets/kek"
        output = await place.execute(
            Command(("/bin/sh", "-c", words), place.folder, {"PATH": "/usr/bin:/bin"}), limit_s=10
        )
        place.close()

        assert output.text.splitlines()[0] == str(nobody)
        assert "Permission denied" in output.text
        assert (folder.path / "postgres" / "file").stat().st_uid == nobody
        assert folder.path.stat().st_uid == 0
    finally:
        folder.close()


def test_without_any_way_root_is_refused() -> None:
    if os.geteuid() != 0:
        pytest.skip("only root has anything to give up")
    with pytest.raises(StartRefused, match="as a plain user"):
        choose_privileges(without=frozenset({"mapped", "dropped"}))


def test_a_folder_is_given_whole_and_no_link_is_followed(tmp_path: Path, nobody: int) -> None:
    (tmp_path / "outside").write_text("")
    inner = tmp_path / "top" / "inner"
    inner.mkdir(parents=True)
    (inner / "file").write_text("")
    (inner / "link").symlink_to(tmp_path / "outside")
    dropped, mapped = (choose_privileges(without=only(way)) for way in ("dropped", "mapped"))
    owners = []
    for privileges in (dropped, mapped):
        privileges.give(tmp_path / "top")
        owners.append({path.lstat().st_uid for path in (tmp_path / "top").rglob("*")})

    assert owners == [{nobody}, {0}]
    assert (tmp_path / "outside").stat().st_uid == 0


async def test_a_program_that_takes_too_long_is_killed_with_its_children(tmp_path: Path) -> None:
    folder = DataFolder.open(tmp_path / "pk")
    try:
        place = Place("postgres", folder, choose_privileges())
        words = f"sleep 3600 & echo $! > {place.inside(place.folder / 'pid')}; wait"
        with pytest.raises(StartRefused, match="did not end within"):
            await place.execute(Command(("/bin/sh", "-c", words), place.folder, {"PATH": "/usr/bin:/bin"}), limit_s=0.5)
        place.close()

        assert identify(int((folder.path / "postgres" / "pid").read_text())) is None
    finally:
        folder.close()


async def test_a_program_that_is_not_there_is_refused(tmp_path: Path) -> None:
    folder = DataFolder.open(tmp_path / "pk")
    try:
        place = Place("postgres", folder, choose_privileges(without=frozenset({"mapped"})))
        with pytest.raises(StartRefused, match="cannot be run"):
            await place.execute(Command(("/no/such/program",), place.folder, {}), limit_s=1)
        place.close()
    finally:
        folder.close()
