"""Moments of schedules. Pure.

Five fields, as cron has them, are wall time in a zone. On the days on which clocks are set: a schedule whose minute and hour
are given (`30 2 * * *`) comes once a day that it names; where its time is skipped, at the first moment after the gap, and
where it is repeated, the first time. One whose minute or hour begins with a star (`*/5 * * * *`) goes by the time that passes:
it neither catches up on a skipped hour nor leaves out a repeated one.
"""

from __future__ import annotations

from collections import deque
from datetime import UTC, datetime, timedelta
from itertools import takewhile
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError

from plugin_api.ports.job_queue import MissedRuns

FIELDS: Final = 5
MISSED_AFTER: Final = timedelta(seconds=60)
"""A moment that is longer ago than this was missed."""
MISSED_RUNS_MAX: Final = 100
"""How many missed moments `all` makes up for: the newest."""
_WINDOWS: Final = tuple(timedelta(days=days) for days in (1 / 24, 1, 32, 400, 4_000))
"""How far to look back, one after the other: so that a busy schedule costs no walk over a year that nobody ran it."""


class BadSchedule(ValueError):
    """Fields that no cron has, or a zone that does not exist."""


class Cron:
    """One schedule's moments.

    Raises:
        BadSchedule: there are not five fields, one of them is wrong, they never come true, or there is no such zone.
    """

    def __init__(self, fields: str, time_zone: str) -> None:
        try:
            self._zone = UTC if time_zone == "UTC" else ZoneInfo(time_zone)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise BadSchedule(f"{time_zone!r} is no time zone; write one like Europe/Berlin") from None
        self._fields = fields
        if len(fields.split()) != FIELDS:
            raise BadSchedule(f"{fields!r} has not five fields: minute hour day-of-month month day-of-week")
        try:
            next(self._from(datetime(2026, 1, 1, tzinfo=UTC)))
        except CronSimError as error:
            raise BadSchedule(f"{fields!r}: {error}; an example: */15 8-18 * * MON-FRI") from None
        except StopIteration:
            raise BadSchedule(f"{fields!r} names no day that ever comes") from None

    def _from(self, after: datetime) -> CronSim:
        return CronSim(self._fields, after.astimezone(self._zone))

    def between(self, after: datetime, until: datetime, most: int) -> list[datetime]:
        """The last `most` moments after `after` and not after `until`, in order, in UTC."""
        found: list[datetime] = []
        for window in _WINDOWS:
            start = max(after, until - window)
            found = self._all(start, until, most)
            if start == after or len(found) == most:
                break
        return found

    def _all(self, after: datetime, until: datetime, most: int) -> list[datetime]:
        """Two local times that are skipped together are one moment; one that is repeated came the first time."""
        moments = (one.astimezone(UTC) for one in self._from(after))
        passed = dict.fromkeys(one for one in takewhile(lambda one: one <= until, moments) if one > after)
        return list(deque(sorted(passed), maxlen=most))


def to_fire(cron: Cron, missed: MissedRuns, since: datetime, now: datetime) -> list[datetime]:
    """The moments since `since` that are to be fired now.

    Of what was missed `once` fires the newest alone, `all` the newest MISSED_RUNS_MAX, `skip` none that is older than
    MISSED_AFTER.
    """
    if missed == "all":
        return cron.between(since, now, MISSED_RUNS_MAX)
    newest = cron.between(since, now, 1)
    return [one for one in newest if missed == "once" or now - one <= MISSED_AFTER]
