"""Idempotency keys over REST: one effect and one answer for each key, whatever is repeated or raced."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from typing import Any

import pytest

from core_plugins.gateway.operations import idempotency
from core_plugins.gateway.operations.idempotency import KeptAnswers
from plugin_api import Call
from plugin_api.call import Actor, Identity
from plugin_api.pipeline import Tenant
from plugin_api.testing import Answer
from tests.core_plugins.gateway.conftest import NewNote, OpenScene, Scene, Worker

BOTH = pytest.mark.parametrize("path", ["/notes", "/pledges"])
UNPROMISED = {"date", "x-request-id", "idempotency-replayed", "ratelimit"}


def same(first: Answer, again: Answer) -> None:
    """The very same answer, and the second says that it is a repetition."""
    assert (again.status, again.body) == (first.status, first.body), str(again)
    promised = [
        {name.lower(): value for name, value in answer.headers.items() if name.lower() not in UNPROMISED}
        for answer in (first, again)
    ]
    assert promised[0] == promised[1]
    assert again.headers["Idempotency-Replayed"] == "true"


@BOTH
async def test_a_repeated_key_has_one_effect_and_the_same_answer(scene: Scene, worker: Worker, path: str) -> None:
    first = (await worker.post(path, {"body": "twice"}, "key-1")).expect(201)
    assert first.headers["Idempotency-Replayed"] is None
    assert (first.headers["X-Kept"], first.etag) == ("as it was", '"1"')
    assert first.headers["Location"].endswith(f"{path}/{first['id']}")
    for _ in range(3):
        same(first, await worker.post(path, {"body": "twice"}, "key-1"))

    assert (worker.marks["twice"], await scene.bodies()) == (1, ["twice"])
    counted = await scene.query("select (select count(*) from pk.outbox) as o, (select count(*) from pk.record) as r")
    assert dict(counted[0]) == {"o": 1, "r": 1}


async def test_effect_and_answer_are_of_one_transaction(scene: Scene, worker: Worker) -> None:
    await worker.post("/notes", {"body": "one"}, "key-1")

    (row,) = await scene.query("select k.xmin = n.xmin as same from pk.kept_answer k, x_acme_notes.notes n")
    assert row["same"]


async def test_without_a_key_each_call_counts(scene: Scene, worker: Worker) -> None:
    for key in (None, None, "key-1", "key-2"):
        (await worker.post("/notes", {"body": "each"}, key)).expect(201)

    assert await scene.bodies() == ["each"] * 4
    assert await scene.kept() == 2


async def test_another_body_is_refused_and_spoils_nothing(scene: Scene, worker: Worker) -> None:
    first = await worker.post("/notes", {"body": "first"}, "key-1")
    for other in ({"body": "other"}, {"body": "first", "copies": 2}):
        assert (await worker.post("/notes", other, "key-1")).expect(422).code == "idempotency_key_reused"

    assert await scene.bodies() == ["first"]
    same(first, await worker.post("/notes", {"body": "first", "copies": 1}, "key-1"))


async def test_a_key_belongs_to_tenant_actor_and_operation(scene: Scene, worker: Worker) -> None:
    asked = [("/notes", "ada"), ("/notes", "bob"), ("/notes", "ada.1"), ("/pledges", "ada")]
    answers = [(await worker.post(path, {"body": "whose"}, "key-1", name)).expect(201) for path, name in asked]

    assert len({answer["id"] for answer in answers}) == 4
    for (path, name), first in zip(asked, answers, strict=True):
        same(first, await worker.post(path, {"body": "whose"}, "key-1", name))


async def test_a_required_key_is_asked_for(scene: Scene, worker: Worker) -> None:
    answer = (await worker.post("/pledges", {"body": "lacking"})).expect(400)

    assert (answer.code, await scene.bodies()) == ("idempotency_key_required", [])
    assert "Idempotency-Key" in answer["detail"]


@pytest.mark.parametrize("key", ["", '""', '"open', "k" * 256, "a b", '"a b"', '"a\\b"', '"a"b"', '"'], ids=repr)
async def test_junk_for_a_key_is_refused(scene: Scene, worker: Worker, key: str) -> None:
    assert (await worker.post("/notes", {"body": "junk"}, key)).expect(400).code == "bad_header"
    assert await scene.bodies() == []


@pytest.mark.parametrize(
    ("one", "other"), [("abc", '"abc"'), ('"a\\"b\\\\c"', 'a"b\\c'), ("k" * 255, f'"{"k" * 255}"')]
)
async def test_a_quoted_key_is_the_bare_key(worker: Worker, one: str, other: str) -> None:
    first = (await worker.post("/notes", {"body": "quoted"}, one)).expect(201)
    same(first, await worker.post("/notes", {"body": "quoted"}, other))


async def test_two_keys_at_once_are_refused(worker: Worker) -> None:
    answer = await worker.client().post(
        "/api/v1/x/acme.notes/notes", {"body": "x"}, headers={"Idempotency-Key": "a", "idempotency-key": "b"}
    )
    assert answer.expect(400).code == "bad_header"


async def test_operations_that_take_no_key_run_each_time(scene: Scene, worker: Worker) -> None:
    for _ in range(2):
        (await worker.post("/free", {"body": "free"}, "key-1")).expect(200)
        (await worker.post("/open", {"name": "anybody"}, '"junk', "nobody")).expect(200)

    assert (worker.marks["free"], worker.marks["open"], await scene.kept()) == (2, 2, 0)


async def test_an_answer_of_nothing_is_kept_too(scene: Scene, worker: Worker) -> None:
    for replayed in (None, "true"):
        answer = await worker.client().request(
            "DELETE", "/api/v1/x/acme.notes/notes", headers={"Idempotency-Key": "key-1"}
        )
        assert (answer.expect(204).body, answer.headers["Idempotency-Replayed"]) == (b"", replayed)

    assert worker.marks["clear"] == 1


@pytest.mark.parametrize(("kind", "status"), [("unavailable", 503), ("conflict", 409), ("bug", 500)])
async def test_a_failed_call_does_not_use_the_key_up(scene: Scene, worker: Worker, kind: str, status: int) -> None:
    for _ in range(2):
        (await worker.post("/trouble", {"kind": kind}, "key-1")).expect(status)

    (await worker.post("/trouble", {"kind": "none"}, "key-1")).expect(200)
    assert (worker.marks["trouble"], await scene.bodies()) == (3, ["trouble"])


async def test_a_refused_body_does_not_use_the_key_up(scene: Scene, worker: Worker) -> None:
    (await worker.post("/notes", {"body": ""}, "key-1")).expect(422)
    (await worker.post("/notes", {"body": "mended"}, "key-1")).expect(201)

    assert await scene.bodies() == ["mended"]


async def test_a_call_of_another_plugin_carries_no_key(scene: Scene, worker: Worker) -> None:
    kernel = worker.kernel
    ada = Actor("user", "01890a5d-ac96-774b-bcce-b302099a8057")
    call = Call(
        kernel.runtime(kernel.table.generations["acme.notes"]),
        tenant_id=scene.tenants[0],
        actor=ada,
        identity=Identity(scene.tenants[0], ada, 1),
        request_id="r-1",
        deadline=time.monotonic() + 5,
        allows=lambda permission: True,
        idempotency_key="key-1",
    )
    for _ in range(2):
        await kernel.table.inner["acme.notes", "pledge"].invoke(call, NewNote("inside"))

    assert (worker.marks["inside"], await scene.kept()) == (2, 0)


# ---------------------------------------------------------------------------------------------------- races


@pytest.mark.parametrize("workers", [1, 2])
async def test_a_hundred_at_once_have_one_effect(open_scene: OpenScene, workers: int) -> None:
    """Over two workers too, whose pools of four connections would not last for waiting calls."""
    scene = await open_scene(workers)

    async def dawdle(call: Call) -> None:
        await asyncio.sleep(0.3)

    for worker in scene.workers:
        worker.plugin.operations.before_end = dawdle
    asked = [scene.workers[number % workers].post("/notes", {"body": "race"}, "key-1") for number in range(100)]
    answers = await asyncio.gather(*asked)

    assert Counter(answer.status for answer in answers) == {201: 100}
    assert len({answer.body for answer in answers}) == 1
    assert sum(worker.marks["race"] for worker in scene.workers) == 1
    assert await scene.bodies() == ["race"]


async def test_calls_that_wait_hold_no_connection(open_scene: OpenScene) -> None:
    """With one connection for everybody the first one could not even end."""
    scene = await open_scene(**{"data.pool_size": 2})
    worker, entered, go_on = scene.workers[0], asyncio.Event(), asyncio.Event()

    async def hold(call: Call) -> None:
        entered.set()
        await go_on.wait()

    worker.plugin.operations.before_end = hold
    first = asyncio.create_task(worker.post("/notes", {"body": "held"}, "key-1"))
    await entered.wait()
    waiting = [asyncio.create_task(worker.post("/notes", {"body": "held"}, "key-1")) for _ in range(20)]
    worker.plugin.operations.before_end = None
    (await worker.post("/notes", {"body": "other"}, "key-2")).expect(201)
    go_on.set()

    (await first).expect(201)
    assert {(await one).status for one in waiting} == {201}
    assert worker.marks == {"held": 1, "other": 1}


@pytest.mark.parametrize("workers", [1, 2])
async def test_when_the_first_fails_one_of_those_who_wait_runs(open_scene: OpenScene, workers: int) -> None:
    scene = await open_scene(workers)
    failed: list[str] = []

    async def fail_at_first(call: Call) -> None:
        await asyncio.sleep(0.2)
        if not failed:
            failed.append("once")
            raise RuntimeError("once")

    for worker in scene.workers:
        worker.plugin.operations.before_end = fail_at_first
    answers = await asyncio.gather(
        *(scene.workers[number % workers].post("/notes", {"body": "second"}, "key-1") for number in range(20))
    )

    assert Counter(answer.status for answer in answers) == {500: 1, 201: 19}
    assert await scene.bodies() == ["second"]


@pytest.mark.parametrize("workers", [1, 2])
async def test_who_waits_until_the_deadline_is_told_so(
    open_scene: OpenScene, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = await open_scene(workers, **{"host.deadline_s": 1.5})
    entered = asyncio.Event()
    first, second = scene.workers[0], scene.workers[-1]

    async def hold(call: Call) -> None:
        entered.set()
        await asyncio.sleep(1.3)

    first.plugin.operations.before_end = hold
    monkeypatch.setattr(idempotency, "SPARE_S", 0.9)  # so that the one who comes later gives up first
    held = asyncio.create_task(first.post("/notes", {"body": "long"}, "key-1"))
    await entered.wait()
    answer = (await second.post("/notes", {"body": "long"}, "key-1")).expect(409)

    assert (answer.code, answer.headers["Retry-After"]) == ("idempotency_in_progress", "1")
    same(await held, await second.post("/notes", {"body": "long"}, "key-1"))


async def test_nothing_is_remembered_of_calls_that_ended(worker: Worker) -> None:
    keyed = worker.kernel.table.generations["kernel.gateway"].plugin._keyed  # type: ignore[attr-defined]
    await asyncio.gather(*(worker.post("/notes", {"body": "x"}, f"key-{n % 7}") for n in range(30)))
    await asyncio.gather(*(worker.post("/trouble", {"kind": "bug"}, f"key-{n % 7}") for n in range(30)))

    assert keyed.running == 0


# ---------------------------------------------------------------------------------------------------- keeping


async def test_what_is_kept_tells_nothing(scene: Scene, worker: Worker) -> None:
    answer = await worker.post("/notes", {"body": "correct-horse"}, "the-key-itself")

    (row,) = await scene.query("select * from pk.kept_answer")
    told = b"".join(bytes(row[name]) for name in ("id", "request", "answer"))
    for secret in (b"correct-horse", b"the-key-itself", answer["id"].encode(), b"X-Kept"):
        assert secret not in told
    assert row["plugin"] == "x_acme_notes"


async def test_a_kept_answer_opens_under_its_own_key_alone(scene: Scene, worker: Worker) -> None:
    for key in ("key-1", "key-2"):
        await worker.post("/notes", {"body": "x"}, key)
    await scene.query("""update pk.kept_answer k set answer = o.answer from pk.kept_answer o where o.id <> k.id""")

    answer = await worker.post("/notes", {"body": "x"}, "key-1")
    assert answer.status >= 400


async def test_the_key_may_be_used_anew_when_its_time_is_over(scene: Scene, worker: Worker) -> None:
    first = await worker.post("/notes", {"body": "first"}, "key-1")
    await scene.query("update pk.kept_answer set expires_at = now() - interval '1 s'")
    second = (await worker.post("/notes", {"body": "second"}, "key-1")).expect(201)

    assert second["id"] != first["id"]
    same(second, await worker.post("/notes", {"body": "second"}, "key-1"))


async def test_old_answers_are_forgotten_by_one_worker(open_scene: OpenScene) -> None:
    scene = await open_scene(2)
    for number in range(5):
        await scene.workers[0].post("/notes", {"body": f"n{number}"}, f"key-{number}")
    await scene.query("""update pk.kept_answer set expires_at = now() - interval '1 s'
        where id in (select id from pk.kept_answer limit 3)""")
    log: Any = scene.workers[0].kernel.log
    swept = [await KeptAnswers(scene.calls(worker=number), log).sweep_if_due() for number in (0, 1)]

    assert (swept, await scene.kept()) == ([3, None], 2)


async def test_an_erased_tenant_takes_its_answers_along(scene: Scene, worker: Worker) -> None:
    for name in ("ada", "ada.1"):
        await worker.post("/notes", {"body": "x"}, "key-1", name)
    await worker.kernel.tenant_hooks.erased(Tenant(scene.tenants[0], "acme", "Acme"))

    assert [row["tenant_id"] for row in await scene.query("select tenant_id from pk.kept_answer")] == [scene.tenants[1]]


async def test_no_plugin_reaches_another_ones_answers(scene: Scene, worker: Worker) -> None:
    await worker.post("/notes", {"body": "x"}, "key-1")
    (row,) = await scene.query("select id, request from pk.kept_answer")
    async with scene.calls("kernel.audit").open(scene.tenants[0], "look") as call:
        tx = await call.tx()
        found = await tx.fetch_one("select outcome from pk.claim_key($1, $2)", row["id"], row["request"])
        assert found is not None
        assert found["outcome"] == "new"
        with pytest.raises(Exception, match="42501"):
            await tx.execute("select pk.erase_answers(10)")
        await call.roll_back()
    async with scene.calls("kernel.audit").open(scene.tenants[0], "look") as call:
        with pytest.raises(Exception, match="42501"):
            await (await call.tx()).execute("select 1 from pk.kept_answer")
        await call.roll_back()


async def test_a_session_that_ends_after_the_effect_leaves_neither(scene: Scene, worker: Worker) -> None:
    async def end(call: Call) -> None:
        row = await (await call.tx()).fetch_one("select pg_backend_pid() as pid")
        assert row is not None
        await scene.query("select pg_terminate_backend($1, 5000)", row["pid"])

    worker.plugin.operations.before_end = end
    (await worker.post("/notes", {"body": "cut"}, "key-1")).expect(503)
    assert (await scene.bodies(), await scene.kept()) == ([], 0)
    worker.plugin.operations.before_end = None
    (await worker.post("/notes", {"body": "cut"}, "key-1")).expect(201)
    assert await scene.bodies() == ["cut"]
