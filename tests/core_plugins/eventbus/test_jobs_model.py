"""What needs no database: pauses between attempts, and what no job may have."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest

from core_plugins.eventbus.model.jobs import check_job, pause_after
from plugin_api.errors import KernelBug
from plugin_api.ports.job_queue import Job


@pytest.mark.parametrize(("chance", "pauses_s"), [
    (0.0, [27, 54, 108, 216, 432, None]),
    (0.5, [30, 60, 120, 240, 480, None]),
    (1.0, [33, 66, 132, 264, 528, None]),
])  # fmt: skip
def test_five_retries_each_after_twice_the_pause_give_or_take_a_tenth(chance: float, pauses_s: list[Any]) -> None:
    pauses = [pause_after(attempt, lambda: chance) for attempt in range(1, 7)]
    assert pauses == [pause if pause is None else pytest.approx(pause) for pause in pauses_s]


@pytest.mark.parametrize("given", [
    {"queue": "Import"}, {"queue": ""}, {"queue": "a..b"}, {"queue": "a" * 101}, {"queue": "a\n"}, {"priority": 10},
    {"priority": -1}, {"key": ""}, {"key": "k" * 201}, {"run_at": datetime(2026, 1, 1)},  # noqa: DTZ001
])  # fmt: skip
def test_what_no_job_may_have_is_the_authors_fault(given: dict[str, Any]) -> None:
    with pytest.raises(KernelBug):
        check_job(Job(**{"queue": "import", "data": {}, **given}))


@pytest.mark.parametrize("given", [{"queue": "send.email"}, {"priority": 0}, {"priority": 9}, {"key": "k" * 200}])
def test_what_a_job_may_have_is_taken(given: dict[str, Any]) -> None:
    check_job(Job(**{"queue": "import", "data": {}, **given}))
