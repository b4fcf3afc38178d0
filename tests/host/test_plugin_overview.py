"""One list of plugins out of what each worker says."""

from __future__ import annotations

from typing import Any

from host.plugin_overview import overview, remarks_on
from host.workers import Stalls


def plugin(plugin_id: str, **changes: Any) -> dict[str, Any]:
    """A plugin as a worker tells of it."""
    usual = {"state": "active", "version": "1.0.0", "generation": 1, "uptime_s": 3, "leaks": [], "last_error": ""}
    return {"id": plugin_id, **usual, **changes}


def remarks(one: dict[str, Any]) -> list[tuple[str, str]]:
    """Status and text of each remark."""
    return [(check.status, check.detail) for check in remarks_on(one)]


def test_what_all_workers_say_alike_is_worth_no_remark() -> None:
    views = {0: [plugin("kernel.iam"), plugin("acme.crm", generation=2)], 1: [plugin("kernel.iam"), plugin("acme.crm")]}
    iam, crm = overview(views, {})

    assert [(one["worker"], one["generation"]) for one in crm["workers"]] == [(0, 2), (1, 1)]
    assert (crm["stalls"], crm["stalled_in"]) == (0, "")
    assert remarks(iam) == remarks(crm) == []


def test_workers_that_differ_are_told() -> None:
    (one,) = overview({0: [plugin("acme.crm")], 1: [plugin("acme.crm", version="1.1.0")]}, {})

    ((status, told),) = remarks(one)
    assert (status, "worker 1: 1.1.0" in told) == ("fail", True)


def test_a_plugin_that_only_one_worker_knows_is_listed() -> None:
    assert [one["id"] for one in overview({0: [], 1: [plugin("acme.crm")]}, {})] == ["acme.crm"]


def test_stalls_leaks_and_refused_versions_are_told() -> None:
    views = {0: [plugin("acme.crm", last_error="2.0.0: no")], 1: [plugin("acme.crm", leaks=["thread: acme.crm"])]}
    (one,) = overview(views, {"acme.crm": Stalls(2, "crm.py:7 spin"), "acme.other": Stalls(9, "")})

    assert [status for status, _ in remarks(one)] == ["warn", "warn", "warn"]
    assert [word for word in ("crm.py:7 spin", "worker 1", "2.0.0: no") if word not in str(remarks(one))] == []
