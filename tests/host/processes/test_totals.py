"""Sums over workers that come and go, and Prometheus' text."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import pytest

from host.totals import Family, Sample, Totals, show, single


def report(value: float, *, name: str = "calls_total", kind: str = "counter", **labels: str) -> list[dict[str, Any]]:
    sample = {"name": name, "labels": labels, "value": value}
    return [{"name": name, "type": kind, "help": "Calls.", "samples": [sample]}]


def values(totals: Totals) -> dict[str, float]:
    return {f"{s.name}{s.labels}": s.value for family in totals.families([]) for s in family.samples}


def test_the_same_series_of_all_workers_is_summed() -> None:
    totals = Totals()
    totals.report(1, report(2, door="rest"))
    totals.report(2, report(3, door="rest"))
    totals.report(2, report(4, door="rest") + report(5, name="other_total", door="grpc"))

    assert values(totals) == {"calls_total{'door': 'rest'}": 6, "other_total{'door': 'grpc'}": 5}


def test_the_order_of_labels_makes_no_other_series() -> None:
    totals = Totals()
    totals.report(1, report(1, a="x", b="y"))
    totals.report(2, report(1, b="y", a="x"))

    assert list(values(totals).values()) == [2]


def test_what_a_worker_counted_stays_when_it_goes_and_its_gauges_go() -> None:
    totals = Totals()
    totals.report(1, report(7) + report(3, name="open", kind="gauge"))
    totals.retire(1)
    totals.retire(1)
    totals.report(2, report(1) + report(2, name="open", kind="gauge"))

    assert values(totals) == {"calls_total{}": 8, "open{}": 2}


@pytest.mark.parametrize("families", [None, "text", [{"name": 5}], [*report(1), {"name": "x", "samples": 1}]])
def test_what_is_no_report_is_refused_and_the_last_one_kept(families: Any) -> None:
    totals = Totals()
    totals.report(1, report(7))
    with pytest.raises(msgspec.ValidationError):
        totals.report(1, families)

    assert values(totals) == {"calls_total{}": 7}


def test_the_text_escapes_what_would_break_its_lines() -> None:
    odd = Family("x", "gauge", "one\ntwo \\", [Sample("x", {"path": 'a"b\\c\nd'}, 0.5)])

    assert show([odd]) == '# HELP x one\\ntwo \\\\\n# TYPE x gauge\nx{path="a\\"b\\\\c\\nd"} 0.5\n'


@pytest.mark.parametrize(
    ("value", "shown"), [(3.0, "3"), (0.25, "0.25"), (math.inf, "+Inf"), (-math.inf, "-Inf"), (1e20, "1e+20")]
)
def test_numbers_are_shown_exactly(value: float, shown: str) -> None:
    assert show([single("x", "gauge", "X.", value)]).splitlines()[-1] == f"x {shown}"


def test_a_number_that_is_none_is_shown_as_such() -> None:
    assert show([single("x", "gauge", "X.", math.nan)]).splitlines()[-1] == "x NaN"
