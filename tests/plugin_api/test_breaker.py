"""The breakers as machines, on a clock that a test moves."""

from __future__ import annotations

import random

import pytest

from plugin_api.breaker import (
    EXCLUDED,
    FAILURE,
    REFUSED,
    SUCCESS,
    Breaker,
    Outcome,
    RatioBreaker,
    State,
    StreakBreaker,
)

LEASE_S = 6.0


def call(breaker: Breaker, outcome: Outcome, now: float) -> bool:
    """One whole call at one moment; whether it was let through."""
    generation = breaker.enter(now, LEASE_S)
    if generation == REFUSED:
        return False
    breaker.leave(generation, outcome, now)
    return True


def state_of(breaker: Breaker) -> State:
    return breaker.state


def opened(now: float = 0.0) -> StreakBreaker:
    breaker = StreakBreaker()
    for _ in range(5):
        call(breaker, FAILURE, now)
    assert state_of(breaker) is State.OPEN
    return breaker


# ------------------------------------------------------------------------------------------------ what opens it


def test_five_in_a_row_open_it_and_four_do_not() -> None:
    breaker = StreakBreaker()
    for _ in range(4):
        call(breaker, FAILURE, 0.0)
    assert state_of(breaker) is State.CLOSED
    call(breaker, FAILURE, 0.0)
    assert state_of(breaker) is State.OPEN


@pytest.mark.parametrize(("last", "state"), [(30.0, State.OPEN), (30.001, State.CLOSED)])
def test_a_row_counts_when_its_first_is_thirty_seconds_old_at_most(last: float, state: State) -> None:
    breaker = StreakBreaker()
    for moment in (0.0, 1.0, 2.0, 3.0, last):
        call(breaker, FAILURE, moment)
    assert breaker.state is state


def test_a_row_is_not_lost_over_the_edge_of_any_window() -> None:
    """Whenever it begins: a window that is restarted would lose those that straddle it."""
    for begin in range(0, 120, 7):
        breaker = StreakBreaker()
        call(breaker, SUCCESS, 0.0)
        for number in range(5):
            call(breaker, FAILURE, begin + 7.0 * number)
        assert state_of(breaker) is State.OPEN, begin


def test_old_failures_make_room_for_a_row_that_is_short_enough() -> None:
    breaker = StreakBreaker()
    for moment in (0.0, 20.0, 40.0, 41.0, 42.0):
        call(breaker, FAILURE, moment)
    assert state_of(breaker) is State.CLOSED
    call(breaker, FAILURE, 43.0)
    assert state_of(breaker) is State.OPEN


def test_a_success_ends_the_row_and_what_is_excluded_does_not() -> None:
    breaker = StreakBreaker()
    for outcome in (FAILURE, FAILURE, FAILURE, FAILURE, SUCCESS, FAILURE, FAILURE, FAILURE, EXCLUDED, FAILURE):
        call(breaker, outcome, 0.0)
    assert state_of(breaker) is State.CLOSED
    call(breaker, FAILURE, 0.0)
    assert state_of(breaker) is State.OPEN


@pytest.mark.parametrize(("failures", "successes", "state"), [(19, 0, State.CLOSED), (20, 0, State.OPEN)])
def test_the_ratio_needs_twenty_calls(failures: int, successes: int, state: State) -> None:
    breaker = RatioBreaker()
    for _ in range(failures):
        call(breaker, FAILURE, 5.0)
    assert breaker.state is state


@pytest.mark.parametrize(("failures", "state"), [(10, State.CLOSED), (11, State.OPEN)])
def test_the_ratio_must_be_above_a_half(failures: int, state: State) -> None:
    breaker = RatioBreaker()
    for _ in range(20 - failures):
        call(breaker, SUCCESS, 5.0)
    for _ in range(failures):
        call(breaker, FAILURE, 5.0)
    assert breaker.state is state


def test_calls_under_way_do_not_dilute_the_ratio() -> None:
    breaker = RatioBreaker()
    under_way = [breaker.enter(1.0, LEASE_S) for _ in range(200)]
    for generation in under_way[:20]:
        breaker.leave(generation, FAILURE, 2.0)
    assert state_of(breaker) is State.OPEN


@pytest.mark.parametrize(("later", "state"), [(59.9, State.OPEN), (60.0, State.CLOSED), (10_000.0, State.CLOSED)])
def test_what_ended_a_minute_ago_counts_no_more(later: float, state: State) -> None:
    breaker = RatioBreaker()
    for _ in range(19):
        call(breaker, FAILURE, 0.5)
    call(breaker, FAILURE, later)
    assert breaker.state is state


def test_the_window_rolls_as_a_plain_list_of_moments_would() -> None:
    rng = random.Random(7)
    breaker, told, now = RatioBreaker(), list[tuple[int, bool]](), 0.0
    for _ in range(3_000):
        now += rng.choice((0.0, 0.1, 0.4, 3.0, 61.0) if rng.random() < 0.05 else (0.0, 0.1, 0.4))
        is_failure = rng.random() < 0.49
        call(breaker, FAILURE if is_failure else SUCCESS, now)
        told.append((int(now), is_failure))
        recent = [failed for second, failed in told if second > int(now) - 60]
        expected = is_failure and len(recent) >= 20 and sum(recent) > len(recent) / 2
        assert (state_of(breaker) is State.OPEN) == expected
        if expected:
            breaker, told = RatioBreaker(), []


# ------------------------------------------------------------------------------------------- open and half open


@pytest.mark.parametrize(("moment", "is_let_through"), [(0.001, False), (30.0, False), (30.001, True)])
def test_it_is_open_for_thirty_seconds(moment: float, is_let_through: bool) -> None:
    assert call(opened(), SUCCESS, moment) is is_let_through


@pytest.mark.parametrize(("moment", "wait_s"), [(0.0, 30), (0.5, 30), (29.5, 1), (30.0, 1)])
def test_it_says_how_long_to_wait(moment: float, wait_s: int) -> None:
    assert opened().wait_s(moment) == wait_s


def test_of_a_hundred_at_half_open_one_is_let_through() -> None:
    breaker = opened()
    entered = [breaker.enter(31.0, LEASE_S) for _ in range(100)]
    assert entered.count(REFUSED) == 99
    breaker.leave(max(entered), SUCCESS, 31.5)
    assert state_of(breaker) is State.CLOSED
    assert call(breaker, SUCCESS, 31.5)


def test_a_probe_that_fails_opens_it_again_for_as_long() -> None:
    breaker = opened()
    assert call(breaker, FAILURE, 31.0)
    assert not call(breaker, SUCCESS, 61.0)
    assert call(breaker, SUCCESS, 61.001)
    assert state_of(breaker) is State.CLOSED


def test_a_probe_that_says_nothing_frees_its_place() -> None:
    breaker = opened()
    assert call(breaker, EXCLUDED, 31.0)
    assert state_of(breaker) is State.HALF_OPEN
    assert call(breaker, SUCCESS, 31.0)
    assert state_of(breaker) is State.CLOSED


@pytest.mark.parametrize(("moment", "is_let_through"), [(37.0, False), (37.001, True)])
def test_a_lost_probe_is_replaced_when_its_lease_ends(moment: float, is_let_through: bool) -> None:
    breaker = opened()
    assert breaker.enter(31.0, LEASE_S) != REFUSED
    assert (breaker.enter(moment, LEASE_S) != REFUSED) is is_let_through


def test_what_a_lost_probe_says_in_the_end_counts_no_more() -> None:
    breaker = opened()
    lost = breaker.enter(31.0, LEASE_S)
    second = breaker.enter(38.0, LEASE_S)
    breaker.leave(lost, FAILURE, 38.5)
    assert state_of(breaker) is State.HALF_OPEN
    breaker.leave(second, SUCCESS, 39.0)
    breaker.leave(lost, FAILURE, 39.5)
    assert state_of(breaker) is State.CLOSED


def test_what_began_before_it_opened_counts_no_more() -> None:
    breaker = StreakBreaker()
    early = breaker.enter(0.0, LEASE_S)
    for _ in range(5):
        call(breaker, FAILURE, 1.0)
    breaker.leave(early, SUCCESS, 2.0)
    assert state_of(breaker) is State.OPEN
    probe = breaker.enter(32.0, LEASE_S)
    breaker.leave(early, SUCCESS, 33.0)
    assert state_of(breaker) is State.HALF_OPEN
    breaker.leave(probe, SUCCESS, 33.0)
    breaker.leave(early, FAILURE, 34.0)
    assert breaker.is_calm


def test_closed_again_it_counts_from_zero() -> None:
    breaker = opened()
    call(breaker, SUCCESS, 31.0)
    for _ in range(4):
        call(breaker, FAILURE, 32.0)
    assert state_of(breaker) is State.CLOSED
    assert not breaker.is_calm


@pytest.mark.parametrize("kind", [StreakBreaker, RatioBreaker])
def test_it_never_wedges(kind: type[Breaker]) -> None:
    """Whatever happens in whatever order: after a while without calls, one is let through, and its success closes it."""
    rng = random.Random(11)
    for _ in range(200):
        breaker, now, under_way = kind(), 0.0, list[int]()
        for _ in range(200):
            now += rng.random() * rng.choice((0.1, 3.0, 20.0))
            if under_way and rng.random() < 0.5:
                outcome = rng.choice((SUCCESS, FAILURE, FAILURE, FAILURE, EXCLUDED))
                breaker.leave(under_way.pop(rng.randrange(len(under_way))), outcome, now)
            elif (generation := breaker.enter(now, LEASE_S)) != REFUSED:
                under_way.append(generation)
        assert call(breaker, SUCCESS, now + 31.0)
        assert state_of(breaker) is State.CLOSED
