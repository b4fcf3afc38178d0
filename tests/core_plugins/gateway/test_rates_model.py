"""Rates as pure machines, on a clock that a test moves."""

from __future__ import annotations

import random

import pytest

from core_plugins.gateway.model.rates import Bucket, LocalRate, LocalRates, Rate, header_of

TENANT = Rate("tenant", 100, 320)


@pytest.mark.parametrize(("per_s", "burst"), [(1, 1), (10, 1), (10, 20), (2_000, 4_000)])
def test_a_burst_passes_at_once_and_then_the_rate(per_s: int, burst: int) -> None:
    rate = LocalRate(per_s, burst)
    assert [rate.take(5.0) for _ in range(burst)] == [0.0] * burst
    wait_s = rate.take(5.0)
    assert wait_s == pytest.approx(1 / per_s, abs=1e-8)
    assert rate.take(5.0 + wait_s * 0.9) > 0
    assert rate.take(5.0 + wait_s * 1.001) == 0.0


def test_a_refused_call_is_not_counted() -> None:
    rate = LocalRate(10, 2)
    for _ in range(2):
        assert rate.take(0.0) == 0.0
    for _ in range(1_000):
        assert rate.take(0.0) > 0
    assert rate.take(0.101) == 0.0


def test_over_any_time_no_more_passes_than_burst_and_rate() -> None:
    rng = random.Random(3)
    rate, now, passed = LocalRate(50, 20), 0.0, list[float]()
    for _ in range(20_000):
        now += rng.expovariate(200)
        if rate.take(now) == 0.0:
            passed.append(now)
    for first in range(0, len(passed), 50):
        for last in range(first, len(passed), 37):
            assert last - first + 1 <= 20 + 50 * (passed[last] - passed[first]) + 1


def test_what_is_left_is_what_passes() -> None:
    rng = random.Random(5)
    now = 0.0
    for _ in range(300):
        rate = LocalRate(7, 9)
        now += 1
        for _ in range(rng.randrange(12)):
            rate.take(now)
        moment = now + rng.random()
        left = rate.left(moment)
        assert [rate.take(moment) for _ in range(left)] == [0.0] * left
        assert rate.take(moment) > 0


def test_of_many_keys_the_oldest_are_forgotten() -> None:
    rates = LocalRates(1, 1, most=100)
    for number in range(1_000):
        assert rates.take(number, 0.0) == 0.0
    assert len(rates) == 100
    assert rates.take(999, 0.0) > 0
    assert rates.take(0, 0.0) == 0.0


def test_few_calls_ask_nobody_and_many_need_slices() -> None:
    bucket = Bucket(TENANT)
    free = 0
    while bucket.covers(0.0):
        bucket.spend(0.0)
        free += 1
    assert free == TENANT.slice == 10
    bucket.granted(10, 0.0, 300, 0.0)
    for _ in range(10):
        assert bucket.covers(0.0)
        bucket.spend(0.0)
    assert not bucket.covers(0.0)
    assert bucket.covers(1.0)  # a 32nd of the rate passes without asking


def test_a_bucket_that_was_given_nothing_says_how_long() -> None:
    bucket = Bucket(TENANT)
    bucket.granted(0, 0.25, 0, 10.0)
    assert bucket.blocked_until == 10.25
    bucket.granted(5, 0.0, 20, 10.3)
    assert bucket.blocked_until == 0.0
    assert bucket.left() == 25


def test_alone_a_worker_lets_through_as_much_as_all_would() -> None:
    bucket = Bucket(TENANT)
    assert [bucket.take_alone(0.0) for _ in range(320)] == [0.0] * 320
    assert bucket.take_alone(0.0) > 0
    bucket.granted(1, 0.0, 320, 0.0)
    assert bucket.take_alone(0.0) == 0.0


def test_header_fields() -> None:
    few, many = Bucket(Rate("actor", 40, 80)), Bucket(TENANT)
    assert (few.rate.policy, many.rate.policy) == ('"actor";q=80;w=2', '"tenant";q=320;w=4')
    assert header_of((many, few)) == '"actor";r=80'
    few.granted(2, 0.0, 7, 0.0)
    assert header_of((many, few)) == '"actor";r=9'
