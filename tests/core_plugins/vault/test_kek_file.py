"""The file of the key-encryption keys: closed, whole at every moment, and never silently another one."""

from __future__ import annotations

import asyncio
import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from core_plugins.vault.drivers.kek_file import RETIRE_AFTER_S, KekFile, StoredKek, kek_id_of
from plugin_api.errors import Conflict, InvalidRequest, KernelBug, StoreUnavailable
from plugin_api.settings import Secret
from plugin_api.testing import FakeClock

CONTENT = Secret(b"a data key and whose it is")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    folder = tmp_path / "secrets"
    folder.mkdir(mode=0o700)
    return folder / "kek"


@pytest.fixture
def open_file(path: Path, fake_clock: FakeClock) -> Callable[..., KekFile]:
    def open_it(*, create: bool = True) -> KekFile:
        opened = KekFile(path, fake_clock)
        asyncio.run(opened.open(create=create))
        return opened

    return open_it


def document(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def rewrite(path: Path, content: object) -> None:
    path.write_text(content if isinstance(content, str) else json.dumps(content))


def test_it_is_made_once_and_for_us_alone(path: Path, open_file: Callable[..., KekFile]) -> None:
    made = open_file()

    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [entry.name for entry in path.parent.iterdir()] == ["kek"]
    assert document(path)["keys"][0]["id"] == made.current_id
    assert open_file().current_id == made.current_id


def test_what_one_wraps_another_unwraps(open_file: Callable[..., KekFile]) -> None:
    kek_id, wrapped = asyncio.run(open_file().wrap(CONTENT))

    assert asyncio.run(open_file().unwrap(kek_id, wrapped)) == CONTENT
    assert CONTENT.reveal() not in wrapped


MAKE = """
import asyncio, sys
from pathlib import Path
from core_plugins.vault.drivers.kek_file import KekFile
from plugin_api.clock import SystemClock
opened = KekFile(Path(sys.argv[1]), SystemClock())
sys.stdin.readline()
asyncio.run(opened.open(create=True))
print(opened.current_id)
"""


def test_processes_that_make_it_at_once_agree(path: Path) -> None:
    words = [sys.executable, "-c", MAKE, str(path)]
    racers = [
        subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=os.getcwd())
        for _ in range(4)
    ]
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("go\n")
        racer.stdin.flush()
    told = {racer.communicate(timeout=30)[0].strip() for racer in racers}

    assert told == {document(path)["keys"][0]["id"]}
    assert [entry.name for entry in path.parent.iterdir()] == ["kek"]


# ---------------------------------------------------------------------------------------------------- refusals


def test_a_missing_file_is_not_made_when_keys_need_the_old_one(path: Path, open_file: Callable[..., KekFile]) -> None:
    with pytest.raises(InvalidRequest, match="put the file back from a backup"):
        open_file(create=False)
    assert not path.exists()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o666])
def test_a_file_that_others_may_read_is_refused(path: Path, open_file: Callable[..., KekFile], mode: int) -> None:
    open_file()
    path.chmod(mode)

    with pytest.raises(InvalidRequest, match=f"chmod 600 {path}"):
        open_file()


@pytest.mark.parametrize(
    "change",
    [
        lambda content: "",
        lambda content: "not json",
        lambda content: {**content, "keys": []},
        lambda content: {**content, "more": 1},
        lambda content: {**content, "keys": [{**content["keys"][0], "id": "0" * 16}]},
        lambda content: {**content, "keys": [{**content["keys"][0], "key": "QUJD"}]},
    ],
)
def test_a_damaged_file_is_refused(path: Path, open_file: Callable[..., KekFile], change: Callable[[Any], Any]) -> None:
    open_file()
    key = document(path)["keys"][0]["key"]
    rewrite(path, change(document(path)))

    with pytest.raises(InvalidRequest, match="damaged") as caught:
        open_file()
    assert key not in str(caught.value)


def test_a_file_of_a_newer_kernel_is_refused(path: Path, open_file: Callable[..., KekFile]) -> None:
    open_file()
    rewrite(path, {**document(path), "format": 2})

    with pytest.raises(InvalidRequest, match="format 2 and this kernel knows 1"):
        open_file()


def test_a_folder_that_is_not_there_is_named(tmp_path: Path, fake_clock: FakeClock) -> None:
    with pytest.raises(InvalidRequest, match="cannot be written"):
        asyncio.run(KekFile(tmp_path / "nowhere" / "kek", fake_clock).open(create=True))


def test_a_changed_wrapping_is_our_bug_and_tells_no_key(open_file: Callable[..., KekFile]) -> None:
    opened = open_file()
    kek_id, wrapped = asyncio.run(opened.wrap(CONTENT))

    with pytest.raises(KernelBug, match=kek_id):
        asyncio.run(opened.unwrap(kek_id, wrapped[:-1] + bytes([wrapped[-1] ^ 1])))


def test_a_file_that_went_away_while_running_stops_only_what_needs_it(
    path: Path, open_file: Callable[..., KekFile]
) -> None:
    opened = open_file()
    kek_id, wrapped = asyncio.run(opened.wrap(CONTENT))
    path.unlink()

    assert asyncio.run(opened.unwrap(kek_id, wrapped)) == CONTENT
    with pytest.raises(StoreUnavailable):
        asyncio.run(opened.wrap(CONTENT))
    with pytest.raises(StoreUnavailable):
        asyncio.run(opened.unwrap("0" * 16, wrapped))


# ---------------------------------------------------------------------------------------------------- rotation


def test_a_rotation_adds_a_key_and_keeps_the_old(
    path: Path, open_file: Callable[..., KekFile], fake_clock: FakeClock
) -> None:
    opened, other = open_file(), open_file()
    old_id, wrapped = asyncio.run(opened.wrap(CONTENT))
    fake_clock.advance(10)
    new_id = asyncio.run(opened.rotate())

    assert [key["id"] for key in document(path)["keys"]] == [old_id, new_id]
    assert asyncio.run(other.wrap(CONTENT))[0] == new_id, "another process finds the new key by itself"
    assert asyncio.run(other.unwrap(old_id, wrapped)) == CONTENT
    assert opened.made_at == fake_clock.now()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_key_is_retired_when_nothing_needs_it_and_some_time_has_passed(
    open_file: Callable[..., KekFile], fake_clock: FakeClock
) -> None:
    opened = open_file()
    first = opened.current_id
    second = asyncio.run(opened.rotate())

    assert asyncio.run(opened.retire([])) == [], "somebody may just have wrapped with it"
    fake_clock.advance(RETIRE_AFTER_S)
    assert asyncio.run(opened.retire([first])) == []
    assert asyncio.run(opened.retire([])) == [first]
    assert asyncio.run(opened.ids()) == {second}
    with pytest.raises(StoreUnavailable, match=first):
        asyncio.run(opened.unwrap(first, b"x" * 40))


def test_two_rotations_at_once_are_refused(path: Path, open_file: Callable[..., KekFile]) -> None:
    opened, other = open_file(), open_file()
    with opened._locked(), pytest.raises(Conflict):
        asyncio.run(other.rotate())


def test_keys_never_print() -> None:
    key = b"k" * 32

    assert "kkkk" not in repr(StoredKek(kek_id_of(key), FakeClock().now(), key))
    assert kek_id_of(key) != kek_id_of(b"l" * 32)
