"""Moments of schedules: fields, zones, days on which clocks are set, and what becomes of what was missed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from core_plugins.eventbus.model.cron import BadSchedule, Cron, to_fire

DAY = timedelta(days=1)


def moments(fields: str, zone: str, after: str, until: str) -> list[str]:
    """In UTC, without seconds."""
    begin, end = (datetime.fromisoformat(one).replace(tzinfo=UTC) for one in (after, until))
    return [f"{one:%m-%d %H:%M}" for one in Cron(fields, zone).between(begin, end, 1_000)]


def test_fields_are_wall_time_in_the_zone() -> None:
    assert moments("30 8 * * MON-FRI", "UTC", "2026-01-01", "2026-01-06") == [
        "01-01 08:30",
        "01-02 08:30",
        "01-05 08:30",
    ]
    assert moments("30 8 * * *", "Europe/Berlin", "2026-01-01", "2026-01-02") == ["01-01 07:30"]
    assert moments("30 8 * * *", "Europe/Berlin", "2026-07-01", "2026-07-02") == ["07-01 06:30"]
    assert moments("0 0 29 2 *", "UTC", "2026-01-01", "2032-12-31") == ["02-29 00:00", "02-29 00:00"]


# Berlin goes from 02:00 to 03:00 on 29 March 2026 (01:00 UTC), and from 03:00 to 02:00 on 25 October (01:00 UTC).


@pytest.mark.parametrize("fields", ["30 2 * * *", "0,30 2 * * *", "15,45 2 * * *"])
def test_skipped_local_times_come_once_at_the_next_moment_there_is(fields: str) -> None:
    on_the_day = moments(fields, "Europe/Berlin", "2026-03-28T12:00", "2026-03-29T12:00")
    assert on_the_day == ["03-29 01:00"]


def test_a_skipped_local_time_and_the_moment_after_the_gap_are_one() -> None:
    assert moments("0 2,3 * * *", "Europe/Berlin", "2026-03-28T12:00", "2026-03-29T12:00") == ["03-29 01:00"]
    assert moments("30 1,2 * * *", "Europe/Berlin", "2026-03-28T12:00", "2026-03-29T12:00") == [
        "03-29 00:30",
        "03-29 01:00",
    ]


def test_a_gap_of_half_an_hour_is_one_too() -> None:
    """Lord Howe goes from 02:00 to 02:30 on 4 October 2026."""
    assert moments("15 2 * * *", "Australia/Lord_Howe", "2026-10-03", "2026-10-04") == ["10-03 15:30"]


def test_a_repeated_local_time_comes_once() -> None:
    assert moments("30 2 * * *", "Europe/Berlin", "2026-10-24T12:00", "2026-10-25T12:00") == ["10-25 00:30"]


@pytest.mark.parametrize("minute", range(0, 60, 7))
def test_a_repeated_local_time_comes_once_wherever_looking_begins(minute: int) -> None:
    """Looked at every few minutes, as a scheduler does, the day has as many moments as all at once."""
    cron = Cron("30 2 * * *", "Europe/Berlin")
    at, end = datetime(2026, 10, 24, 23, minute, tzinfo=UTC), datetime(2026, 10, 25, 4, tzinfo=UTC)
    found: list[datetime] = []
    while at < end:
        found += cron.between(at, at + timedelta(minutes=7), 10)
        at += timedelta(minutes=7)
    assert found == [datetime(2026, 10, 25, 0, 30, tzinfo=UTC)]


def test_what_begins_with_a_star_goes_by_the_time_that_passes() -> None:
    assert len(moments("*/15 * * * *", "Europe/Berlin", "2026-03-29", "2026-03-30")) == 24 * 4
    assert len(moments("*/15 * * * *", "Europe/Berlin", "2026-10-25", "2026-10-26")) == 24 * 4


@pytest.mark.parametrize(("fields", "zone", "told"), [
    ("* * * *", "UTC", "five fields"),
    ("* * * * * *", "UTC", "five fields"),
    ("60 * * * *", "UTC", "Bad minute"),
    ("* * * * FOO", "UTC", "Bad day-of-week"),
    ("0 0 31 2 *", "UTC", "Bad day-of-month"),
    ("0 0 * * *", "Mars/Olympus", "no time zone"),
    ("0 0 * * *", "../../etc/passwd", "no time zone"),
])  # fmt: skip
def test_what_is_no_schedule_is_refused_with_what_to_write(fields: str, zone: str, told: str) -> None:
    with pytest.raises(BadSchedule, match=told):
        Cron(fields, zone)


# ------------------------------------------------------------------------------------------------- missed moments

NOW = datetime(2026, 5, 10, 12, 0, 30, tzinfo=UTC)
NOON = NOW.replace(second=0)


def test_of_missed_moments_once_fires_the_newest_alone() -> None:
    assert to_fire(Cron("0 12 * * *", "UTC"), "once", NOW - 5 * DAY, NOW) == [NOON]
    assert to_fire(Cron("0 9 * * *", "UTC"), "once", NOW - 5 * DAY, NOW) == [NOON.replace(hour=9)]
    assert to_fire(Cron("0 9 * * *", "UTC"), "once", NOW.replace(hour=10), NOW) == []


def test_of_missed_moments_skip_fires_none_that_is_older_than_a_minute() -> None:
    assert to_fire(Cron("0 12 * * *", "UTC"), "skip", NOW - 5 * DAY, NOW) == [NOON]
    assert to_fire(Cron("59 11 * * *", "UTC"), "skip", NOW - 5 * DAY, NOW) == []


def test_of_missed_moments_all_fires_the_newest_hundred() -> None:
    assert to_fire(Cron("0 12 * * *", "UTC"), "all", NOW - 3 * DAY, NOW) == [NOON - 2 * DAY, NOON - DAY, NOON]
    many = to_fire(Cron("* * * * *", "UTC"), "all", NOW - 365 * DAY, NOW)
    assert (len(many), many[-1], many[0]) == (100, NOON, NOON - timedelta(minutes=99))


def test_moments_of_years_are_found_without_walking_through_them() -> None:
    """A schedule that comes once in four years, and one that comes every minute, after years in which nobody looked."""
    assert to_fire(Cron("0 0 29 2 *", "UTC"), "once", NOW - 3_000 * DAY, NOW) == [datetime(2024, 2, 29, tzinfo=UTC)]
    assert to_fire(Cron("* * * * *", "UTC"), "once", NOW - 3_000 * DAY, NOW) == [NOON]
