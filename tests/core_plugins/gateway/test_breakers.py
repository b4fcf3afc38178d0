"""Breakers and the retry around real operations, over REST."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from core_plugins.gateway.operations import breakers
from plugin_api import Call, errors
from plugin_api import breaker as machine
from plugin_api.call import Actor, Identity
from plugin_api.testing import Answer, until
from tests.core_plugins.gateway.conftest import Fail, NewNote, OpenScene, Scene, Worker


@pytest.fixture
def jump(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Lets the time of an open breaker pass."""

    def pass_time() -> None:
        monkeypatch.setattr(machine, "OPEN_S", 0.0)

    return pass_time


async def fail(worker: Worker, kind: str = "unavailable", times: int = 5, name: str = "ada") -> list[Answer]:
    return [await worker.post("/trouble", {"kind": kind}, name=name) for _ in range(times)]


def is_refused(answer: Answer) -> bool:
    """Whether a breaker has refused, at once and with everything that a client needs."""
    document = answer.json
    if answer.status != 503 or [e["code"] for e in document.get("errors", ())] != ["circuit_open"]:
        return False
    assert answer.code == "unavailable"
    assert 1 <= int(answer.headers["Retry-After"]) <= 31
    return True


async def test_five_in_a_row_open_the_breaker_for_everybody(worker: Worker) -> None:
    assert not any(map(is_refused, await fail(worker)))

    before = worker.marks.total()
    for name in ("ada", "bob", "ada.1"):
        assert is_refused(await worker.get("/ping", name))
        assert is_refused(await worker.post("/notes", {"body": "x"}, "key-1", name))
    assert worker.marks.total() == before
    assert (await worker.client().get("/api/v1/audit/records")).status == 200


@pytest.mark.parametrize("kind", ["conflict", "store", "bug"])
async def test_what_is_not_the_services_does_not_open_it(worker: Worker, kind: str) -> None:
    await fail(worker, kind, 12)
    assert (await worker.get("/ping")).status == 200


async def test_four_and_a_success_never_open_it(worker: Worker) -> None:
    for _ in range(3):
        await fail(worker, times=4)
        (await worker.post("/free", {"body": "x"})).expect(200)


async def test_refused_bodies_and_strangers_say_nothing(worker: Worker) -> None:
    for _ in range(2):
        await fail(worker, times=2)
        for _ in range(10):
            (await worker.post("/notes", {"body": ""})).expect(422)
            (await worker.get("/ping", "nobody")).expect(401)
    assert is_refused((await fail(worker, times=2))[1])


async def test_five_bugs_in_a_row_open_their_operation_alone(worker: Worker) -> None:
    answers = await fail(worker, "bug", 7)

    assert [answer.status for answer in answers] == [500] * 5 + [503] * 2
    assert is_refused(answers[-1])
    assert (await worker.get("/ping")).status == 200


async def test_the_deadline_counts_and_a_caller_that_leaves_does_not(open_scene: OpenScene) -> None:
    scene = await open_scene(**{"host.deadline_s": 0.3})
    worker = scene.workers[0]

    async def hang(call: Call) -> None:
        await asyncio.sleep(30)

    worker.plugin.operations.before_end = hang
    for _ in range(6):
        call = call_of(scene, worker)
        begun = worker.marks["trouble"]
        task = asyncio.ensure_future(worker.kernel.table.inner["acme.notes", "trouble"].invoke(call, Fail("none")))
        await until(lambda begun=begun: worker.marks["trouble"] > begun, "it runs")  # type: ignore[misc]
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    statuses = [answer.status for answer in await fail(worker, "none", 6)]
    assert statuses == [504] * 5 + [503]


def call_of(scene: Scene, worker: Worker, seconds: float = 5.0) -> Call:
    kernel, ada = worker.kernel, Actor("user", "01890a5d-ac96-774b-bcce-b302099a8057")
    return Call(
        kernel.runtime(kernel.table.generations["acme.notes"]),
        tenant_id=scene.tenants[0],
        actor=ada,
        identity=Identity(scene.tenants[0], ada, 1),
        request_id="r-1",
        deadline=time.monotonic() + seconds,
        allows=lambda permission: True,
    )


async def test_half_open_lets_one_of_many_through(worker: Worker, jump: Callable[[], None]) -> None:
    jump()
    await fail(worker)
    release = asyncio.Event()

    async def hold(call: Call) -> None:
        await release.wait()

    worker.plugin.operations.before_end = hold
    asked = [asyncio.create_task(worker.post("/notes", {"body": "probe"})) for _ in range(20)]
    await until(lambda: sum(one.done() for one in asked) == 19, "all but the probe are answered")
    release.set()
    answers = await asyncio.gather(*asked)

    assert Counter(answer.status for answer in answers) == {201: 1, 503: 19}
    assert worker.marks["probe"] == 1
    (await worker.get("/ping")).expect(200)


async def test_a_probe_whose_caller_leaves_makes_room(scene: Scene, worker: Worker, jump: Callable[[], None]) -> None:
    jump()
    await fail(worker)
    entered = asyncio.Event()

    async def hold(call: Call) -> None:
        entered.set()
        await asyncio.sleep(30)

    worker.plugin.operations.before_end = hold
    task = asyncio.ensure_future(
        worker.kernel.table.inner["acme.notes", "trouble"].invoke(call_of(scene, worker), Fail("none"))
    )
    await entered.wait()
    assert is_refused(await worker.get("/ping"))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    worker.plugin.operations.before_end = None
    (await worker.get("/ping")).expect(200)


async def test_a_probe_is_not_tried_again(worker: Worker, jump: Callable[[], None]) -> None:
    jump()
    await fail(worker)
    (await worker.get("/trouble?kind=unavailable")).expect(503)

    assert worker.marks["look"] == 1


async def test_a_tenants_storm_is_its_own(worker: Worker) -> None:
    """Another tenant's successes keep the service's breaker closed; the tenant's own opens all the same."""
    refused = 0
    for number in range(40):
        storm = worker.get("/ping") if number % 4 == 3 else worker.post("/trouble", {"kind": "unavailable"})
        refused += is_refused(await storm)
        (await worker.get("/ping", "ada.1")).expect(200)

    assert refused == 19  # of the first 21, each a call more than 20, the last is the first failure after the twentieth
    assert is_refused(await worker.client().get("/api/v1/audit/records"))


async def test_a_tenants_breaker_may_be_one_for_each_plugin(open_scene: OpenScene) -> None:
    worker = (await open_scene(**{"gateway.tenant_breaker_scope": "tenant_service"})).workers[0]
    for _ in range(21):
        await worker.post("/trouble", {"kind": "unavailable"})
        await worker.get("/ping", "ada.1")

    assert is_refused(await worker.get("/ping"))
    (await worker.client().get("/api/v1/audit/records")).expect(200)


async def test_a_service_that_is_down_opens_no_tenants_breaker(worker: Worker, jump: Callable[[], None]) -> None:
    jump()
    for _ in range(40):
        await fail(worker, times=1)
    (await worker.client().get("/api/v1/audit/records")).expect(200)


async def test_observing_refuses_nothing(open_scene: OpenScene) -> None:
    modes = {"gateway.service_breaker": "observe_only", "gateway.tenant_breaker": "observe_only"}
    worker = (await open_scene(**modes)).workers[0]
    await fail(worker, times=30)

    (await worker.get("/ping")).expect(200)
    assert ("service", "acme.notes") in breakers_of(worker).not_closed()


async def test_switched_off_they_count_nothing(open_scene: OpenScene) -> None:
    modes = {"gateway.service_breaker": "disabled", "gateway.tenant_breaker": "disabled"}
    worker = (await open_scene(**modes)).workers[0]
    await fail(worker, times=30)

    assert breakers_of(worker).not_closed() == {("tenant", ""): 0}


def breakers_of(worker: Worker) -> breakers.Breakers:
    plugin: Any = worker.kernel.table.generations["kernel.gateway"].plugin
    found: breakers.Breakers = plugin._breakers
    return found


# ----------------------------------------------------------------------------------------------------- retry


@pytest.mark.parametrize(("failures", "status", "calls"), [(0, 200, 1), (1, 200, 2), (2, 503, 2)])
async def test_a_get_is_tried_twice(worker: Worker, failures: int, status: int, calls: int) -> None:
    async def fail_at_first(call: Call) -> None:
        call.add_response_header("X-Try", str(worker.marks["look"]))
        if worker.marks["look"] <= failures:
            raise errors.Unavailable("not yet")

    worker.plugin.operations.before_end = fail_at_first
    begun = time.monotonic()
    answer = (await worker.get("/trouble?kind=none")).expect(status)

    assert worker.marks["look"] == calls
    assert time.monotonic() - begun >= breakers.RETRY_S * (calls - 1)
    if status == 200:
        assert answer.headers.get_all("X-Try") == [str(calls)]


async def test_both_tries_count_as_one_call(worker: Worker) -> None:
    for _ in range(4):
        (await worker.get("/trouble?kind=unavailable")).expect(503)
    (await worker.get("/ping")).expect(200)
    assert worker.marks["look"] == 8


@pytest.mark.parametrize("kind", ["conflict", "bug"])
async def test_only_trouble_that_may_pass_is_tried_again(worker: Worker, kind: str) -> None:
    await worker.get(f"/trouble?kind={kind}")
    assert worker.marks["look"] == 1


@pytest.mark.parametrize("key", [None, "key-1"])
async def test_a_post_is_tried_once(worker: Worker, key: str | None) -> None:
    (await worker.post("/trouble", {"kind": "unavailable"}, key)).expect(503)
    assert worker.marks["trouble"] == 1


async def test_without_time_for_it_there_is_no_second_try(worker: Worker) -> None:
    """The operation's deadline is a second."""

    async def dawdle(call: Call) -> None:
        await asyncio.sleep(0.85)

    worker.plugin.operations.before_end = dawdle
    (await worker.get("/trouble?kind=unavailable")).expect(503)
    assert worker.marks["look"] == 1


# -------------------------------------------------------------------------------------------- calls of plugins


async def test_a_call_counts_for_the_operation_that_failed_alone(scene: Scene, worker: Worker) -> None:
    """An operation that hands on what another one raised is not to blame: neither for it nor for a refusal."""
    inner = worker.kernel.table.inner["acme.notes", "trouble"]

    async def ask_within(call: Call) -> None:
        await inner.invoke(call, Fail("bug"))

    outer = worker.kernel.table.inner["acme.notes", "add"]
    for _ in range(9):
        with pytest.raises((ValueError, errors.Unavailable)):
            await run_outer(worker, scene, outer, ask_within)

    assert ("operation", "acme.notes.trouble") in breakers_of(worker).not_closed()
    assert ("operation", "acme.notes.add") not in breakers_of(worker).not_closed()


async def run_outer(worker: Worker, scene: Scene, outer: Any, within: Callable[[Call], Any]) -> None:
    """`add`, which asks `trouble` in its middle; `trouble` itself asks nobody."""

    async def once(call: Call) -> None:
        worker.plugin.operations.before_end = None
        await within(call)

    worker.plugin.operations.before_end = once
    await outer.invoke(call_of(scene, worker), NewNote("outer"))


async def test_a_replayed_answer_says_nothing(worker: Worker) -> None:
    await worker.post("/notes", {"body": "x"}, "key-1")
    await fail(worker, times=4)
    (await worker.post("/notes", {"body": "x"}, "key-1")).expect(201)
    await fail(worker, times=1)

    assert is_refused(await worker.get("/ping"))


# ------------------------------------------------------------------------------------------------- operators


@pytest.mark.parametrize(("mode", "status"), [("forced_open", 503), ("disabled", 200), ("observe_only", 200)])
async def test_what_an_operator_sets_holds_on_every_worker(open_scene: OpenScene, mode: str, status: int) -> None:
    scene = await open_scene(2)
    first, second = scene.workers
    for worker in scene.workers:
        await fail(worker) if mode != "forced_open" else []
    path = "/api/v1/gateway/breakers/acme.notes"
    answer = (await first.client().request("PUT", path, {"mode": mode})).expect(200)
    assert answer.json == {"service": "acme.notes", "mode": mode}

    for worker in (first, second):
        await until(partial(breakers_of_kernel, worker, mode), "the worker has heard of it")
        await fail(worker, times=6) if mode == "observe_only" else []
        answer = await worker.get("/ping")
        assert answer.status == status
        listed = (await worker.client().get("/api/v1/gateway/breakers")).expect(200)
        assert {"acme.notes": mode} == {i["name"]: i["mode"] for i in listed["items"] if i["name"] == "acme.notes"}
    (await first.client().request("PUT", path, {"mode": "usual"})).expect(200)
    await until(lambda: breakers_of_kernel(second, "normal"), "the worker has heard of it")
    (await second.get("/ping")).expect(200)


async def test_an_operator_is_never_locked_out_of_the_breakers(open_scene: OpenScene) -> None:
    (worker,) = (await open_scene(1)).workers
    name = "gateway.set_breaker"
    path = f"/api/v1/gateway/breakers/{name}"
    (await worker.client().request("PUT", path, {"mode": "forced_open"})).expect(200)
    await until(lambda: breakers_of_kernel(worker, "forced_open", name), "the worker has heard of it")
    (await worker.client().request("PUT", path, {"mode": "usual"})).expect(200)


def breakers_of_kernel(worker: Worker, mode: str, service: str = "acme.notes") -> bool:
    """Whether the worker's own guard keeps to a mode."""
    guard: Any = worker.kernel.table.slots.guard
    return bool(guard.__self__.mode_of(service) == mode)
