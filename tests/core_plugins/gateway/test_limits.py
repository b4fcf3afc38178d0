"""Limits over REST and a real Valkey: who floods is slowed down alone, and no worker gives what another one has given."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest

from core_plugins.cache.drivers.valkey_store import ValkeyStore
from core_plugins.cache.operations import CachePart
from core_plugins.gateway.model.rates import TAKE
from core_plugins.gateway.operations.admission import network_of
from plugin_api.testing import Answer, until
from tests.core_plugins.gateway.conftest import OpenScene, Scene, Worker

SLOW = {"gateway.tenant_rate": 5, "gateway.tenant_burst": 32}


async def flood(workers: list[Worker], times: int, name: str = "ada", path: str = "/ping") -> list[Answer]:
    return list(await asyncio.gather(*(workers[n % len(workers)].get(path, name) for n in range(times))))


def expect_limit(answer: Answer, limit: str) -> None:
    assert answer.expect(429).code == "limit_reached"
    assert answer.json["retry_after_s"] == int(answer.headers["Retry-After"]) >= 1
    assert answer.headers["RateLimit"].startswith(f'"{limit}";r=0;t=')
    assert f'"{limit}";q=' in answer.headers["RateLimit-Policy"]


async def test_what_is_allowed_is_told_with_each_answer(worker: Worker) -> None:
    answer = (await worker.get("/ping")).expect(200)
    assert answer.headers["RateLimit-Policy"] == '"tenant";q=4000;w=2, "actor";q=2000;w=2'
    assert answer.headers["RateLimit"] == '"actor";r=2000'


@pytest.mark.parametrize("workers", [1, 2])
async def test_a_tenant_that_floods_is_limited_alone(open_scene: OpenScene, workers: int) -> None:
    scene = await open_scene(workers, **SLOW)
    begun = time.monotonic()
    answers = await flood(scene.workers, 200)
    took = time.monotonic() - begun

    statuses = Counter(answer.status for answer in answers)
    assert statuses.keys() == {200, 429}
    # A worker gives a 32nd of burst and rate without asking; what it has taken of a slice it may keep.
    assert 32 - 2 * workers <= statuses[200] <= (32 + 5 * took) * (1 + workers / 16) + 2 * workers
    assert sum(worker.marks.total() for worker in scene.workers) == statuses[200]
    expect_limit(next(answer for answer in answers if answer.status == 429), "tenant")
    assert {answer.status for answer in await flood(scene.workers, 10, "ada.1")} == {200}


async def test_an_actor_is_limited_and_its_tenant_is_not(open_scene: OpenScene) -> None:
    scene = await open_scene(**{"gateway.actor_rate": 2, "gateway.actor_burst": 10})
    answers = await flood(scene.workers, 40)

    expect_limit(next(answer for answer in answers if answer.status == 429), "actor")
    assert {answer.status for answer in await flood(scene.workers, 5, "bob")} == {200}


async def test_an_operation_may_have_a_limit_of_its_own(open_scene: OpenScene) -> None:
    scene = await open_scene(**{"gateway.route_rates": {"acme.notes.ping": 2}})
    answers = await flood(scene.workers, 40)

    expect_limit(next(answer for answer in answers if answer.status == 429), "route")
    (await scene.workers[0].post("/notes", {"body": "x"})).expect(201)


async def test_a_limited_tenant_is_served_again(open_scene: OpenScene) -> None:
    scene = await open_scene(**{"gateway.tenant_rate": 20, "gateway.tenant_burst": 20})
    await flood(scene.workers, 60)

    async def is_served() -> bool:
        return (await scene.workers[0].get("/ping")).status == 200

    await until(is_served, "the tenant is served again", 5.0)


async def test_an_address_is_limited_before_anybody_is_known(open_scene: OpenScene) -> None:
    scene = await open_scene(**{"gateway.address_rate": 2, "gateway.address_burst": 10})
    answers = await flood(scene.workers, 40, "nobody")

    assert Counter(answer.status for answer in answers).keys() == {401, 429}
    expect_limit(next(answer for answer in answers if answer.status == 429), "address")
    (await scene.workers[0].post("/open", {"name": "x"}, name="nobody")).expect(429)


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::9", "2001:db8:1:2::/64"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("fe80::1%eth0", "fe80::/64"),
        ("1:2", "1:2"),
    ],
)
def test_of_ipv6_a_whole_network_counts(address: str, network: str) -> None:
    assert network_of(address) == network


async def test_a_full_worker_refuses_reads_first_and_log_ins_last(open_scene: OpenScene) -> None:
    scene = await open_scene(**{"gateway.calls_max": 10})
    worker, load = scene.workers[0], scene.workers[0].kernel.load
    seen: list[tuple[int, int, int]] = []
    for load.calls in (6, 7, 8, 9, 10):
        read, write = await worker.get("/ping"), await worker.post("/notes", {"body": "x"})
        seen.append((read.status, write.status, (await worker.post("/open", {"name": "x"}, name="nobody")).status))
    load.calls = 0

    assert seen == [(200, 201, 200), (503, 201, 200), (503, 503, 200), (503, 503, 200), (503, 503, 503)]
    assert (await worker.get("/ping")).status == 200


async def test_calls_under_way_are_counted_however_they_end(worker: Worker) -> None:
    for path in ("/ping", "/trouble?kind=bug", "/trouble?kind=nonsense", "/trouble?kind=conflict"):
        await worker.get(path)
    await worker.get("/ping", "nobody")

    assert worker.kernel.load.calls == 0


async def test_a_body_that_says_it_is_too_large_is_refused_before_its_sender_is_known(open_scene: OpenScene) -> None:
    worker = (await open_scene(**{"gateway.body_bytes_max": 2_000})).workers[0]
    answer = await worker.post("/notes", {"body": "x" * 3_000}, name="nobody")

    assert answer.expect(413).code == "payload_too_large"
    assert "2000 bytes" in answer["detail"]
    (await worker.post("/notes", {"body": "x"})).expect(201)


# ------------------------------------------------------------------------------------------- without the store


async def test_without_valkey_each_worker_counts_alone_and_some_writes_wait(
    open_scene: OpenScene, valkey_pid: Callable[[], int]
) -> None:
    settings = {**SLOW, "gateway.denied_without_cache": ["acme.notes"]}
    scene = await open_scene(**settings)
    worker = scene.workers[0]
    limits: Any = worker.kernel.table.slots.limit.__self__  # type: ignore[union-attr]
    pid = valkey_pid()
    os.kill(pid, signal.SIGSTOP)
    try:
        await until(lambda: limits.is_away, "the outage is noticed", 10.0)
        denied = (await worker.post("/notes", {"body": "x"})).expect(503)
        assert (denied.code, denied.headers["Retry-After"]) == ("unavailable", "1")
        statuses = Counter(answer.status for answer in await flood(scene.workers, 100))
        assert statuses.keys() == {200, 429}
        assert 32 <= statuses[200] < 60
    finally:
        os.kill(pid, signal.SIGCONT)
    await until(lambda: not limits.is_away, "the store is back", 10.0)
    (await worker.post("/notes", {"body": "x"}, name="ada.2")).expect(201)


async def test_what_is_denied_trips_no_breaker(open_scene: OpenScene) -> None:
    scene = await open_scene(**{"gateway.denied_without_cache": ["acme.notes"]})
    worker = scene.workers[0]
    limits: Any = worker.kernel.table.slots.limit.__self__  # type: ignore[union-attr]
    limits.is_away = True
    for _ in range(6):
        await worker.post("/notes", {"body": "x"})
    limits.is_away = False
    (await worker.post("/notes", {"body": "x"})).expect(201)


# ----------------------------------------------------------------------------------------------- the script


@pytest.fixture
async def cache(valkey_url: str) -> Any:
    store = ValkeyStore(valkey_url, size=8, timeout_s=0.25, warn=lambda message, **fields: None)
    yield CachePart(store, "gateway")
    await store.close()


async def take(cache: CachePart, key: str, per_s: float, burst: int, wanted: int) -> list[int]:
    found: Any = await cache.script(TAKE, None, [key], [repr(1_000_000 / per_s), burst, wanted])
    return list(found)


async def test_the_store_gives_a_burst_and_then_the_rate(cache: CachePart) -> None:
    key, begun = str(uuid4()), time.monotonic()
    given = await asyncio.gather(*(take(cache, key, 50, 100, 7) for _ in range(60)))
    took = time.monotonic() - begun

    total = sum(one[0] for one in given)
    assert 100 <= total <= 100 + 50 * took + 1
    nothing = next(one for one in given if one[0] == 0)
    assert 0 < nothing[1] <= 1_000_000 / 50
    assert nothing[2] == 0


async def test_the_store_tells_what_is_left(cache: CachePart) -> None:
    key = str(uuid4())
    assert await take(cache, key, 0.001, 10, 3) == [3, 0, 7]
    assert await take(cache, key, 0.001, 10, 9) == [7, 0, 0]
    given, wait_us, left = await take(cache, key, 0.001, 10, 1)
    assert (given, left) == (0, 0)
    assert 990_000_000 < wait_us <= 1_000_000_000


async def test_several_keys_are_asked_for_at_once(cache: CachePart) -> None:
    keys = [str(uuid4()), str(uuid4())]
    found: Any = await cache.script(TAKE, None, keys, ["1000000.0", 5, 2, "1000000.0", 1, 4])
    assert list(found) == [2, 0, 3, 1, 0, 0]


async def test_nothing_is_kept_of_who_was_forgotten(scene: Scene, worker: Worker) -> None:
    limits: Any = worker.kernel.table.slots.limit.__self__  # type: ignore[union-attr]
    await worker.get("/ping")
    assert len(limits._bounds) == 1
    assert len(limits._buckets) == 2
