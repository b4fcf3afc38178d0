"""Rates: how often somebody may call, counted by the generic cell rate algorithm (GCRA). Pure: the time is told.

A key's whole state is one moment, its theoretical arrival time: how long its calls so far would take at the allowed rate. A
call is let through while that moment is no further ahead than the burst allows.
"""

from __future__ import annotations

import math
from collections.abc import Hashable
from typing import Final

from msgspec import Struct

from core_plugins.gateway.model.recent import Recent

SLICE_PARTS: Final = 32
"""A worker takes a 32nd of the burst at once, and lets as little through without asking."""

ROUNDING_S: Final = 1e-9
"""Sums of times are off by less than that."""


class Rate(Struct, frozen=True):
    """So many calls a second, and so many at once."""

    name: str
    """What is limited: `tenant`, `actor`, `route`, `address`."""
    per_s: float
    burst: int

    @property
    def slice(self) -> int:
        """How many calls a worker asks for at once."""
        return max(1, self.burst // SLICE_PARTS)

    @property
    def policy(self) -> str:
        """As in the header field `RateLimit-Policy`."""
        return f'"{self.name}";q={self.burst};w={max(1, math.ceil(self.burst / self.per_s))}'


class LocalRate:
    """One key's calls, counted in this process alone."""

    __slots__ = ("_arrival", "_interval", "_tolerance")

    def __init__(self, per_s: float, burst: int) -> None:
        self._interval = 1.0 / per_s
        self._tolerance = (burst - 1) * self._interval + ROUNDING_S
        self._arrival = 0.0

    def take(self, now: float) -> float:
        """0 when a call may pass now, which is counted; else the seconds until one may, which is not."""
        arrival = self._arrival
        if arrival < now:
            self._arrival = now + self._interval
            return 0.0
        ahead = arrival - now
        if ahead <= self._tolerance:
            self._arrival = arrival + self._interval
            return 0.0
        return ahead - self._tolerance

    def left(self, now: float) -> int:
        """How many calls may pass at once now."""
        return int((self._tolerance + self._interval - max(0.0, self._arrival - now)) / self._interval)


class LocalRates:
    """The calls of many keys in this process; those that called longest ago are forgotten first."""

    def __init__(self, per_s: float, burst: int, most: int) -> None:
        self._per_s = per_s
        self._burst = burst
        self._keys: Recent[LocalRate] = Recent(most)

    def take(self, key: Hashable, now: float) -> float:
        """0 when a call of this key may pass now; else the seconds until one may."""
        rate = self._keys.get(key)
        if rate is None:
            rate = LocalRate(self._per_s, self._burst)
            self._keys.put(key, rate)
        return rate.take(now)

    def __len__(self) -> int:
        return len(self._keys)


class Bucket:
    """One key's calls in this process, as part of what all processes let through.

    Few calls, a slice and then a 32nd of the rate, pass without asking anybody. For more the worker has slices, which it took
    from the store that all workers share. Without the store it counts alone.
    """

    __slots__ = ("_alone", "_free", "blocked_until", "cells", "rate", "remaining")

    def __init__(self, rate: Rate) -> None:
        self.rate = rate
        self.cells = 0
        """Calls that may pass of slices that were taken."""
        self.blocked_until = 0.0
        """Until then the store has nothing to give."""
        self.remaining = rate.burst
        """What was left in the store when it was asked last."""
        self._free = LocalRate(rate.per_s / SLICE_PARTS, rate.slice)
        self._alone: LocalRate | None = None

    def covers(self, now: float) -> bool:
        """Whether one more call may pass without asking anybody."""
        return self.cells > 0 or self._free.left(now) > 0

    def spend(self, now: float) -> None:
        """Count a call that is covered."""
        if self.cells > 0:
            self.cells -= 1
        else:
            self._free.take(now)

    def granted(self, cells: int, wait_s: float, remaining: int, now: float) -> None:
        """Take over what the store has given; when it was nothing, how long it will give nothing."""
        self.cells += cells
        self.remaining = remaining
        self.blocked_until = now + wait_s if cells == 0 else 0.0
        self._alone = None

    def take_alone(self, now: float) -> float:
        """Count a call while the store is away: 0, or the seconds to wait."""
        if self._alone is None:
            self._alone = LocalRate(self.rate.per_s, self.rate.burst)
        return self._alone.take(now)

    def left(self) -> int:
        """About how many calls may pass now, in all workers together."""
        return max(0, min(self.rate.burst, self.remaining + self.cells))


def header_of(buckets: tuple[Bucket, ...]) -> str:
    """The header field `RateLimit`: of the bucket that has least left."""
    least, left = buckets[0], buckets[0].left()
    for bucket in buckets[1:]:
        if (lesser := bucket.left()) < left:
            least, left = bucket, lesser
    return f'"{least.rate.name}";r={left}'


TAKE: Final = """
local t = redis.call('TIME')
local now = t[1] * 1000000 + t[2]
local answer = {}
for i, key in ipairs(KEYS) do
  local interval = tonumber(ARGV[3 * i - 2])
  local burst = tonumber(ARGV[3 * i - 1])
  local wanted = tonumber(ARGV[3 * i])
  local arrival = math.max(tonumber(redis.call('GET', key) or '0'), now)
  local room = math.floor((burst * interval - (arrival - now)) / interval + 0.000001)
  local given = math.max(0, math.min(wanted, room))
  local wait = 0
  if given > 0 then
    arrival = arrival + given * interval
    redis.call('SET', key, string.format('%.0f', arrival), 'PX', math.ceil((arrival - now) / 1000) + 1000)
  else
    wait = math.ceil(arrival - now - (burst - 1) * interval)
  end
  answer[3 * i - 2] = given
  answer[3 * i - 1] = wait
  answer[3 * i] = math.max(0, room - given)
end
return answer
"""
"""GCRA for several keys at once, in microseconds of the store's own clock: gives each as much of what is wanted as there is."""
