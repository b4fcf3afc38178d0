"""Breakers: closed, open for a while, then one probe. Pure: the time is told to them, and nothing is awaited.

`enter` lets a call through and gives the number of the generation that it belongs to, or REFUSED; `leave` says how it ended,
once. Each change of state begins a new generation, so the end of a call from before it counts no more. Time is lazy: an open
breaker becomes half-open when the next call comes.
"""

from __future__ import annotations

import math
from collections import deque
from enum import Enum
from typing import Final

REFUSED: Final = -1
OPEN_S: Final = 30.0
STREAK: Final = 5
STREAK_S: Final = 30.0
"""Failures in a row open a breaker when the first of them is no older than that."""
WINDOW_S: Final = 60
CALLS_MIN: Final = 20
RATIO: Final = 0.5
LEASE_SPARE_S: Final = 1.0
"""A probe that has not ended so long after its deadline is lost: the next call takes its place."""


class State(Enum):
    """What a breaker does with the next call."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class Outcome(Enum):
    """What the end of a call says about whoever answered it."""

    SUCCESS = "success"
    FAILURE = "failure"
    EXCLUDED = "excluded"
    """Nothing: the caller went away, or somebody else refused."""


CLOSED: Final = State.CLOSED
SUCCESS, FAILURE, EXCLUDED = Outcome.SUCCESS, Outcome.FAILURE, Outcome.EXCLUDED


class Breaker:
    """The states; what opens it is counted by its kinds."""

    __slots__ = ("_ends_at", "_probing", "generation", "state")

    def __init__(self) -> None:
        self.state = CLOSED
        self.generation = 0
        self._ends_at = 0.0
        """When it has been open long enough, or when the lease of the probe ends."""
        self._probing = False

    def enter(self, now: float, lease_s: float) -> int:
        """Let a call through, or not; a probe may take `lease_s` seconds."""
        if self.state is CLOSED:
            return self.generation
        if self.state is State.OPEN:
            if now <= self._ends_at:
                return REFUSED
            self._begin(State.HALF_OPEN)
        elif self._probing:
            if now <= self._ends_at:
                return REFUSED
            self._begin(State.HALF_OPEN)  # the probe is lost: what it says when it comes back after all counts no more
        self._probing, self._ends_at = True, now + lease_s
        return self.generation

    def leave(self, generation: int, outcome: Outcome, now: float) -> None:
        """Say how a call ended that was let through."""
        if generation != self.generation:
            return
        if self.state is CLOSED:
            if self._counts(outcome, now):
                self._open(now)
        elif outcome is SUCCESS:
            self.reset()
        elif outcome is FAILURE:
            self._open(now)
        else:
            self._probing = False

    def wait_s(self, now: float) -> int:
        """Whole seconds until another try is worth while, at least one."""
        return max(1, math.ceil(self._ends_at - now))

    def reset(self) -> None:
        """Begin anew, closed."""
        self._begin(CLOSED)
        self._forget()

    def _open(self, now: float) -> None:
        self._begin(State.OPEN)
        self._ends_at = now + OPEN_S
        self._forget()

    def _begin(self, state: State) -> None:
        self.state = state
        self.generation += 1
        self._probing = False

    def _counts(self, outcome: Outcome, now: float) -> bool:
        """Count while closed; whether it is to open now."""
        raise NotImplementedError

    def _forget(self) -> None:
        """Count from zero."""
        raise NotImplementedError


class StreakBreaker(Breaker):
    """Opens after STREAK failures in a row, however many calls are under way: a success ends the row."""

    __slots__ = ("_failed_at", "is_calm")

    def __init__(self) -> None:
        super().__init__()
        self._failed_at: deque[float] = deque(maxlen=STREAK)
        self.is_calm = True
        """Whether it is closed, and a success would change nothing."""

    def _begin(self, state: State) -> None:
        super()._begin(state)
        self.is_calm = False

    def _counts(self, outcome: Outcome, now: float) -> bool:
        if outcome is SUCCESS:
            self._forget()
        elif outcome is FAILURE:
            self.is_calm = False
            self._failed_at.append(now)
            return len(self._failed_at) == STREAK and now - self._failed_at[0] <= STREAK_S
        return False

    def _forget(self) -> None:
        self._failed_at.clear()
        self.is_calm = self.state is CLOSED


class RatioBreaker(Breaker):
    """Opens when more than half of the calls that ended within the last minute failed, of at least CALLS_MIN."""

    __slots__ = ("_ended", "_ended_sum", "_failed", "_failed_sum", "_second")

    def __init__(self) -> None:
        super().__init__()
        self._second = 0
        self._forget()

    def succeed(self, generation: int, now: float) -> None:
        """`leave` with a success, which is what nearly all calls do."""
        second = int(now)
        if second == self._second and self.state is CLOSED and generation == self.generation:
            self._ended[second % WINDOW_S] += 1
            self._ended_sum += 1
        else:
            self.leave(generation, SUCCESS, now)

    def _counts(self, outcome: Outcome, now: float) -> bool:
        if outcome is EXCLUDED:
            return False
        second = int(now)
        if second != self._second:
            self._roll(second)
        place = second % WINDOW_S
        self._ended[place] += 1
        self._ended_sum += 1
        if outcome is SUCCESS:
            return False
        self._failed[place] += 1
        self._failed_sum += 1
        return self._ended_sum >= CALLS_MIN and self._failed_sum > RATIO * self._ended_sum

    def _roll(self, second: int) -> None:
        """Drop the seconds that are a minute old by now."""
        for stale in range(max(self._second + 1, second - WINDOW_S + 1), second + 1):
            place = stale % WINDOW_S
            self._ended_sum -= self._ended[place]
            self._failed_sum -= self._failed[place]
            self._ended[place] = self._failed[place] = 0
        self._second = second

    def _forget(self) -> None:
        self._ended, self._failed = [0] * WINDOW_S, [0] * WINDOW_S
        self._ended_sum = self._failed_sum = 0
