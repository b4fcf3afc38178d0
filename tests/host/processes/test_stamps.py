"""Stamps: felt at once in every process that maps the same file."""

from __future__ import annotations

import stat
import subprocess
import sys
from pathlib import Path

import pytest

from host.stamps import SLOT_BYTES, SLOTS, FileStamps, create_stamps

ROOT = Path(__file__).parents[3]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    create_stamps(tmp_path / "stamps")
    return tmp_path / "stamps"


def test_file_is_private_and_of_fixed_size(path: Path) -> None:
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.stat().st_size == SLOTS * SLOT_BYTES


def test_touch_changes_the_slot_of_its_key_alone(path: Path) -> None:
    with FileStamps(path) as stamps:
        before = [stamps.read(slot) for slot in range(SLOTS)]
        stamps.touch("user:1")

        changed = [slot for slot in range(SLOTS) if stamps.read(slot) != before[slot]]

    assert changed == [FileStamps(path).slot("user:1")]


def test_touch_all_changes_every_slot(path: Path) -> None:
    with FileStamps(path) as stamps:
        before = [stamps.read(slot) for slot in range(SLOTS)]
        stamps.touch_all()

        assert not any(stamps.read(slot) == before[slot] for slot in range(SLOTS))


def test_touch_of_another_process_is_seen_at_once(path: Path) -> None:
    program = "import sys; from pathlib import Path; from host.stamps import FileStamps; FileStamps(Path(sys.argv[1])).touch('k')"
    with FileStamps(path) as stamps:
        before = stamps.read(stamps.slot("k"))
        subprocess.run([sys.executable, "-c", program, str(path)], cwd=ROOT, check=True)

        assert stamps.read(stamps.slot("k")) != before


def test_a_stamp_never_comes_back(path: Path) -> None:
    with FileStamps(path) as one, FileStamps(path) as other:
        seen = set()
        for turn in range(1_000):
            (one, other)[turn % 2].touch("k")
            seen.add(one.read(one.slot("k")))

    assert len(seen) == 1_000


def test_a_new_file_leaves_the_old_one_to_its_users(path: Path) -> None:
    with FileStamps(path) as old:
        create_stamps(path)
        with FileStamps(path) as new:
            before = new.read(0)
            old.touch_all()

            assert new.read(0) == before
