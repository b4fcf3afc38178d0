"""A plugin that stopped a worker stays out for its time, each time for longer, until it has behaved for long enough."""

from __future__ import annotations

from pathlib import Path

import pytest

from host.changes.orders import Blame
from host.changes.quarantine import DOUBLINGS_MAX, LONGEST_S, Quarantines

SPINS = Blame("acme.spin", "1.0.0-aaaaaaaaaaaa", "it stopped a worker's event loop (spin.py:3 spin)")
NEWER = Blame("acme.spin", "1.1.0-bbbbbbbbbbbb", "it stopped a worker's event loop (spin.py:9 spin)")


class Time:
    """Unix time, as the test wants it."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "quarantine.json"


@pytest.fixture
def quarantines(file: Path, time: Time) -> Quarantines:
    return Quarantines(file, time, first_s=10.0, trial_s=100.0)


def until(quarantines: Quarantines) -> list[float]:
    """When each ends."""
    return [one.until for one in quarantines.known()]


def test_one_is_kept_out_then_on_trial_then_forgotten(quarantines: Quarantines, time: Time) -> None:
    quarantines.add(SPINS)
    held = quarantines.active("acme.spin")
    assert held is not None
    assert (held.reason, held.until, held.forgiven) == (SPINS.reason, time.now + 10, time.now + 110)
    assert quarantines.next_change_s() == 10.0
    time.now += 10
    assert quarantines.active("acme.spin") is None
    assert len(quarantines.known()) == 1
    assert quarantines.next_change_s() == 100.0
    time.now += 100

    assert (quarantines.known(), quarantines.next_change_s()) == ([], None)


def test_each_time_in_a_row_lasts_twice_as_long(quarantines: Quarantines, time: Time) -> None:
    for times, lasts_s in enumerate((10, 20, 40, 80), 1):
        made = quarantines.add(SPINS)
        assert (made.times, made.until) == (times, time.now + lasts_s)
        time.now = made.until + 99  # one second later it would be forgiven
    time.now += 1

    assert quarantines.add(SPINS).times == 1


def test_several_workers_that_meet_it_at_once_are_one_time(quarantines: Quarantines, time: Time) -> None:
    first = quarantines.add(SPINS)
    time.now += 5

    assert quarantines.add(SPINS) == first
    assert until(quarantines) == [first.until]


def test_none_lasts_for_longer_than_a_day(quarantines: Quarantines, time: Time) -> None:
    for _ in range(DOUBLINGS_MAX + 1_100):
        time.now = quarantines.add(SPINS).until + 1

    assert quarantines.add(SPINS).until == time.now + LONGEST_S


def test_versions_are_kept_out_apart_and_let_in_together(quarantines: Quarantines, time: Time) -> None:
    quarantines.add(SPINS)
    time.now += 1
    quarantines.add(NEWER)
    quarantines.add(Blame("acme.other", "", "it ended a worker"))
    assert [one.package for one in quarantines.known()] == ["", SPINS.package, NEWER.package]
    quarantines.lift("acme.nobody")
    quarantines.lift("acme.spin")

    assert [one.plugin for one in quarantines.known()] == ["acme.other"]


def test_a_later_kernel_knows_them(quarantines: Quarantines, file: Path, time: Time) -> None:
    quarantines.add(SPINS)
    later = Quarantines(file, time, first_s=10.0, trial_s=100.0)
    assert later.known() == quarantines.known()
    time.now += 50

    assert later.add(SPINS).times == 2


@pytest.mark.parametrize("content", [b"", b"{}", b'[{"plugin": 1}]', b"\xff"])
def test_a_damaged_file_keeps_nobody_out(file: Path, content: bytes, capfd: pytest.CaptureFixture[str]) -> None:
    file.write_bytes(content)

    assert Quarantines(file).known() == []
    assert "cannot be read and are forgotten" in capfd.readouterr().err


def test_a_full_disk_ends_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    quarantines = Quarantines(tmp_path / "file" / "quarantine.json")  # writing there is refused, whoever asks
    quarantines.add(SPINS)

    assert quarantines.active("acme.spin") is not None
    assert "cannot be written" in capfd.readouterr().err
