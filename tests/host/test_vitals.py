"""What the doctor makes of the metrics."""

from __future__ import annotations

import math
from typing import Any

import pytest

from host.checks import Check
from host.observe import Metrics
from host.totals import Family, Sample, add_up
from host.vitals import quantile, read_vitals, vital_checks


def family(name: str, *samples: tuple[dict[str, str], float], kind: str = "gauge") -> Family:
    return Family(name, kind, "", [Sample(name, labels, value) for labels, value in samples])


def lag(*seconds: float) -> Family:
    """A histogram of these, as a worker reports it."""
    metrics = Metrics()
    histogram = metrics.histogram("pk_loop_lag_seconds", "Lag.")
    for one in seconds:
        histogram.observe(one)
    [found] = [one for one in metrics.families() if one["name"] == "pk_loop_lag_seconds"]
    return Family(found["name"], found["type"], found["help"], [Sample(**sample) for sample in found["samples"]])


def checks(*families: Family) -> dict[str, Check]:
    return {check.name: check for check in vital_checks(read_vitals(families))}


def test_a_kernel_that_has_shown_nothing_yet_is_well() -> None:
    found = checks()

    assert {"ok"} == {check.status for check in found.values()}
    assert {
        "loop lag",
        "outbox",
        "consumers",
        "job queues",
        "dead letters",
        "dead jobs",
        "stalls",
        "breakers",
        "tracing",
    } == set(found)


@pytest.mark.parametrize(
    ("seconds", "p99"),
    [([0.0004] * 100, 0.001), ([0.0004] * 98 + [0.2] * 2, 0.25), ([0.0004] * 99 + [0.2], 0.001), ([60.0], math.inf), ([], None)],
    ids=["quick", "two-late", "one-late", "past-the-last", "none"],
)  # fmt: skip
def test_the_quantile_is_the_bound_of_its_bucket(seconds: list[float], p99: float | None) -> None:
    assert p99 == quantile(lag(*seconds), 0.99)


def test_the_lag_of_two_workers_is_one_histogram() -> None:
    [both] = add_up([[lag(*[0.0004] * 99)], [lag(*[0.2] * 99)]])

    assert (198, 0.25) == (next(s.value for s in both.samples if s.name.endswith("_count")), quantile(both, 0.99))


def test_a_slow_loop_is_told_with_its_remedy() -> None:
    found = checks(lag(*[0.3] * 10))["loop lag"]

    assert ("warn", True) == (found.status, "500 ms" in found.detail) and found.remedy


POOL = {"pk_data_pool_size": 16.0, "pk_data_pool_in_use": 3.0, "pk_data_pool_waiting": 0.0}


@pytest.mark.parametrize(
    ("figures", "status", "told"),
    [
        ({}, "ok", "3 of 16 connections in use, 0 calls wait"),
        ({"pk_data_pool_in_use": 16}, "warn", "16 of 16"),
        ({"pk_data_pool_waiting": 4}, "warn", "4 calls wait"),
        ({"pk_data_pool_waits_total": 4, "pk_data_pool_wait_seconds_total": 2}, "ok", "4 have waited since the start, 500 ms"),
    ],
    ids=["free", "full", "waiting", "had-waited"],
)  # fmt: skip
def test_the_pool_tells_how_full_it_is(figures: dict[str, float], status: str, told: str) -> None:
    found = checks(*(family(name, ({}, value)) for name, value in {**POOL, **figures}.items()))["database pool"]

    assert status == found.status and told in found.detail
    assert bool(found.remedy) is (status == "warn")


CASES: dict[str, tuple[Family, str, str, str]] = {
    "behind": (family("pk_eventbus_consumer_behind_seconds", ({"consumer": "a.x"}, 90), ({"consumer": "a.y"}, 0)), "consumers", "warn", "a.x 90 s"),
    "a little behind": (family("pk_eventbus_consumer_behind_seconds", ({"consumer": "a.x"}, 2)), "consumers", "ok", "a.x 2 s"),
    "overdue": (family("pk_eventbus_due_jobs_seconds", ({"queue": "a.mail"}, 700)), "job queues", "warn", "a.mail 700 s"),
    "letters": (family("pk_eventbus_dead_letters", ({"consumer": "a.x", "topic": "t"}, 2), ({"consumer": "a.x", "topic": "u"}, 3)), "dead letters", "warn", "a.x 5"),
    "dead": (family("pk_eventbus_dead_jobs", ({"queue": "a.mail"}, 1)), "dead jobs", "warn", "a.mail 1"),
    "stalls": (family("pk_plugin_stalls_total", ({"plugin": ""}, 1), ({"plugin": "acme.crm"}, 4), kind="counter"), "stalls", "warn", "acme.crm 4, nobody's code 1"),
    "breaker": (family("pk_gateway_breaker_state", ({"tier": "service", "service": "acme.crm"}, 2), ({"tier": "service", "service": "kernel.iam"}, 0)), "breakers", "warn", "service=acme.crm tier=service 2"),
    "another name of it": (family("pk_breaker_state", ({"service": "acme.crm"}, 1)), "breakers", "warn", "service=acme.crm 1"),
    "closed": (family("pk_breaker_state", ({"service": "acme.crm"}, 0)), "breakers", "ok", "none is open"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_what_waits_or_is_broken_is_named(case: str) -> None:
    shown, name, status, told = CASES[case]

    found = checks(shown)[name]

    assert (status, True) == (found.status, told in found.detail), found
    assert bool(found.remedy) is (status == "warn")


def test_an_old_outbox_is_told() -> None:
    found = checks(family("pk_eventbus_outbox_events", ({}, 7)), family("pk_eventbus_outbox_seconds", ({}, 45)))[
        "outbox"
    ]

    assert ("warn", "7 events are not in the log yet, the oldest for 45 s") == (found.status, found.detail)


def test_many_are_not_all_named() -> None:
    many = [({"queue": f"a.q{number}"}, 1.0) for number in range(12)]

    assert checks(family("pk_eventbus_dead_jobs", *many))["dead jobs"].detail.endswith("and 7 more")


def test_tracing_is_told() -> None:
    def tracing(**counts: float) -> Any:
        return checks(*(family(name, ({}, value)) for name, value in counts.items()))["tracing"]

    off = tracing(pk_tracing_workers=0)
    on = tracing(pk_tracing_workers=2, pk_spans_exported_total=9, pk_span_export_failures_total=3)
    lossy = tracing(pk_tracing_workers=2, pk_spans_exported_total=9, pk_spans_dropped_total=1)

    assert ("ok", True) == (off.status, off.detail.startswith("off"))
    assert ("ok", "on, 9 spans sent, 0 dropped, 0 wait") == (on.status, on.detail)
    assert ("warn", True) == (lossy.status, bool(lossy.remedy))
