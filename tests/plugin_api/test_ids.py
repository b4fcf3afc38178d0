"""Identifiers ascend, whatever the clock and the threads do."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID

import pytest

from plugin_api import ids
from plugin_api.ids import PLATFORM_TENANT_ID, uuid7

MANY = 20_000


def milliseconds(made: UUID) -> int:
    return made.int >> 80


def test_it_is_a_uuid_of_version_7_with_the_time_it_was_made() -> None:
    before = time.time_ns() // 1_000_000
    made = uuid7()
    after = time.time_ns() // 1_000_000

    assert (made.version, made.variant) == (7, "specified in RFC 4122")
    assert before <= milliseconds(made) <= max(after, ids._last_ms)


def test_ids_ascend_also_within_one_millisecond() -> None:
    made = [uuid7() for _ in range(MANY)]

    assert made == sorted(made)
    assert len(set(made)) == MANY


def test_ids_ascend_when_the_clock_goes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    first = uuid7()
    monkeypatch.setattr(ids.time, "time_ns", lambda: (milliseconds(first) - 60_000) * 1_000_000)
    later = [uuid7() for _ in range(5_000)]

    assert [first, *later] == sorted([first, *later])


def test_threads_never_make_the_same_id() -> None:
    with ThreadPoolExecutor(8) as threads:
        made = [made for many in threads.map(lambda _: [uuid7() for _ in range(2_000)], range(8)) for made in many]

    assert len(set(made)) == 16_000


def test_the_reserved_tenant_is_a_uuid_of_version_7_that_nobody_makes() -> None:
    assert PLATFORM_TENANT_ID.version == 7
    assert milliseconds(PLATFORM_TENANT_ID) == 0
