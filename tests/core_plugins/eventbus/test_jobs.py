"""What a job goes through: put with the commit, done with effect once, tried again, dead, replayed, cancelled."""

from __future__ import annotations

import asyncio
from uuid import uuid4

import asyncpg
import pytest

from core_plugins.eventbus.storage import jobs as storage
from plugin_api.call import Call
from plugin_api.errors import KernelBug, LimitReached, PayloadTooLarge, StoreUnavailable
from plugin_api.limits import JOBS_PER_QUEUE_MAX
from plugin_api.ports.job_queue import Job, JobCancelled, RunningJob
from plugin_api.testing.waiting import until
from tests.core_plugins.eventbus.work import Done, Held


async def test_a_job_is_done_once_with_its_effect_in_its_tenant(work) -> None:
    tenants = []

    async def handle(call: Call, job: RunningJob) -> None:
        tenants.append(call.tenant_id)
        await done(call, job)

    done, other = Done(), uuid4()
    job_id = await work.put("one")
    await work.put("two", tenant=other)
    worker = work.worker(handle)

    assert (await work.look(job_id)).state == "waiting"
    assert await work.run(worker) == 2
    assert await work.run(worker) == 0
    assert set(tenants) == {work.bus.tenant, other}
    assert sorted(await work.notes()) == ["did one", "did two"]
    found = await work.look(job_id)
    assert (found.queue, found.state, found.attempt, found.progress) == ("acme.notes.import", "done", 1, 100)


async def test_a_job_exists_with_the_commit_or_not_at_all(work) -> None:
    with pytest.raises(RuntimeError, match="changed its mind"):
        await work.put_in_vain()

    assert await work.take() == []
    assert await work.bus.query("select from pk.queue") == []


async def test_a_failed_job_is_tried_five_times_more_and_then_dead(work) -> None:
    done = Done(fails=99)
    job_id = await work.put("bad")
    worker = work.worker(done)
    for work.chance, pause_s in ((0.5, 30), (0.0, 54), (0.75, 126), (1.0, 264), (0.25, 456)):
        assert await work.run(worker) == 1
        work.clock.advance(pause_s - 0.01)
        assert await work.run(worker) == 0, "not a moment sooner"
        work.clock.advance(0.01)
    assert await work.run(worker) == 1
    found = await work.look(job_id)
    assert (found.state, found.attempt, found.reason) == ("dead", 6, "RuntimeError: cannot")
    work.clock.advance(86_400)
    assert await work.run(worker) == 0
    assert done.attempts == [1, 2, 3, 4, 5, 6]
    assert await work.notes() == []
    assert await work.waiting() == 0


async def test_dead_jobs_are_replayed_from_their_first_attempt(work) -> None:
    done = Done(fails=12)
    ids = [await work.put(word) for word in ("a", "b")]
    worker = work.worker(done)
    for _ in range(6):
        await work.run(worker)
        work.clock.advance(600)
    assert {(await work.look(one)).state for one in ids} == {"dead"}

    async with work.bus.parts().tx("replay") as tx:
        assert [one.id for one in await storage.list_dead(tx, None, None, 10)] == ids[::-1]
        assert await storage.replay(tx, None, ids[0], work.clock.now()) == (1, 0)
    assert await work.run(worker) == 1
    async with work.bus.parts().tx("replay") as tx:
        assert await storage.replay(tx, "acme.notes.import", None, work.clock.now()) == (1, 0)
    assert await work.run(worker) == 1
    assert (await work.notes(), done.attempts[12:]) == (["did a", "did b"], [1, 1])
    assert await work.waiting() == 0


async def test_the_worker_alone_may_touch_jobs(work) -> None:
    await work.put()
    for sql in ("select * from pk.take_jobs('x_acme_notes', 'acme.notes.import', 1, 1, 10, 6, null)",
                "select pk.add_job(gen_random_uuid(), 'iam', 'iam.x', gen_random_uuid(), '{}', 5, null, null, '', '', null)",
                "select * from pk.job"):  # fmt: skip
        with pytest.raises(KernelBug):
            async with work.bus.calls.open(work.bus.tenant, "steal") as call:
                await (await call.tx()).fetch(sql)
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await work.bus.query("select pk.put_job('import', gen_random_uuid(), '{}', 5, null, null, '', '', null)")


async def test_another_tenant_sees_and_cancels_no_job(work) -> None:
    job_id = await work.put()
    async with work.bus.calls.open(uuid4(), "peek") as call:
        assert await work.queue.find(call, job_id) is None
        assert await work.queue.cancel(call, job_id) is None
    assert (await work.look(job_id)).state == "waiting"


# ------------------------------------------------------------------------------------------------ who vanishes


async def test_what_a_vanished_worker_held_is_begun_again_when_its_lease_ends(work) -> None:
    done = Done()
    await work.put("left")
    assert len(await work.take()) == 1
    worker = work.worker(done)
    work.clock.advance(9.9)
    assert await work.run(worker) == 0
    work.clock.advance(0.2)
    assert await work.run(worker) == 1
    assert (await work.notes(), done.attempts) == (["did left"], [2])


async def test_a_job_that_ends_its_workers_is_dead_after_its_retries(work) -> None:
    job_id = await work.put("poison")
    for _ in range(6):
        assert len(await work.take()) == 1
        work.clock.advance(11)
    assert await work.take() == []
    found = await work.look(job_id)
    assert (found.state, found.attempt) == ("dead", 6)
    assert found.reason == "its worker ended in the middle of it at attempt 6"


async def test_jobs_that_workers_ended_at_are_begun_one_at_a_time(work) -> None:
    for word in ("poison", "innocent", "bystander"):
        await work.put(word)
    assert len(await work.take()) == 3
    work.clock.advance(11)
    held = Held()
    worker = work.worker(held)
    await work.put("fresh")
    assert await worker.step() == 2
    assert await worker.step() == 0
    await until(lambda: len(held.jobs) == 2, "both are being done")
    held.go_on.set()
    await until(lambda: worker.is_idle, "both are done")
    assert [job.data["word"] for job in held.jobs if job.attempt == 2] == ["poison"]
    assert await worker.step() == 1, "and then the next one"
    await until(lambda: worker.is_idle, "the next one is done")


async def test_who_lost_a_job_has_no_effect(work) -> None:
    """The lease ends while a worker is stalled; another does the job; the first one wakes up and writes nothing."""
    held, done = Held(), Done()
    await work.put("slow")
    stalled = work.worker(held)
    await stalled.step()
    await until(lambda: held.jobs, "it is being done")
    work.clock.advance(11)
    assert await work.run(work.worker(done)) == 1
    held.go_on.set()
    await until(lambda: stalled.is_idle, "the stalled one has ended")
    assert held.jobs[0].cancelled.is_set()
    assert await work.notes() == ["did slow"]


async def test_a_long_job_is_held_on_to(work) -> None:
    held = Held()
    await work.put("long")
    worker = work.worker(held, limit_s=100)
    await worker.step()
    await until(lambda: held.jobs, "it is being done")
    for _ in range(10):
        work.clock.advance(5)
        await worker.step()
    assert await work.take() == []
    held.go_on.set()
    await until(lambda: worker.is_idle, "it is done")
    assert await work.notes() == ["held long"]


async def test_a_worker_that_leaves_gives_back_what_it_has_begun(work) -> None:
    held = Held()
    job_id = await work.put("begun")
    worker = work.worker(held)
    await worker.step()
    await until(lambda: held.jobs, "it is being done")
    await worker.leave()
    found = await work.look(job_id)
    assert (found.state, found.attempt) == ("waiting", 0)
    assert await work.waiting() == 1
    assert await work.run(work.worker(done := Done())) == 1
    assert (done.attempts, await work.notes()) == ([1], ["did begun"])


# ------------------------------------------------------------------------------------------------ what puts choose


async def test_the_urgent_first_then_the_oldest(work) -> None:
    done = Done()
    for word, priority in (("low", 0), ("first", 5), ("second", 5), ("high", 9)):
        await work.put(word, priority=priority)
    worker = work.worker(done, prefetch=1)
    while await work.run(worker):
        pass
    assert done.words == ["high", "first", "second", "low"]


async def test_a_second_job_with_the_key_of_one_that_waits_is_that_one(work) -> None:
    first = await work.put("a", key="k")
    assert await work.put("b", key="k") == first
    assert await work.put("c", key="k", tenant=uuid4()) != first
    assert await work.put("d", key="other") != first
    assert await work.waiting() == 3
    worker = work.worker(done := Done())
    await work.run(worker)
    assert sorted(done.words) == ["a", "c", "d"]
    assert await work.put("e", key="k") != first, "one that waits no more is in nobody's way"


async def test_a_job_that_another_counts_on_is_not_begun_before_that_one_commits(work) -> None:
    """Whoever put it again with its key has written what the job is to see."""
    done = Done()
    first = await work.put("a", key="k")
    async with work.bus.calls.open(work.bus.tenant, "put again") as call:
        await (await call.tx()).execute("insert into notes (id, body) values (gen_random_uuid(), 'seen')")
        assert await work.queue.put(call, Job("import", {"word": "b"}, key="k")) == first
        async with asyncio.timeout(3):
            assert await work.take() == [], "nobody waits for it either"
    assert await work.run(work.worker(done)) == 1
    assert await work.notes() == ["seen", "did a"]


async def test_a_store_that_is_away_costs_an_attempt_and_is_waited_for(work) -> None:
    async def blame(call: Call, job: RunningJob) -> None:
        attempts.append(job.attempt)
        raise StoreUnavailable("the disk of the blobs is full", code="disk_full")

    attempts: list[int] = []
    job_id = await work.put()
    worker = work.worker(blame)
    for _ in range(3):
        await work.run(worker)
    assert attempts == [1]
    work.clock.advance(30)
    await work.run(worker)
    assert attempts == [1, 2]
    assert (await work.look(job_id)).reason == "StoreUnavailable: the disk of the blobs is full"


async def test_who_is_stopped_while_he_takes_jobs_gives_them_back(work) -> None:
    """Cancelled when the database has them down as taken, and before he knows of it."""
    for number in range(3):
        await work.put(str(number))
    held = Held()
    worker = work.worker(held)
    blocker = await asyncpg.connect(work.bus.dsn)
    hold = blocker.transaction()
    await hold.start()
    await blocker.execute("select from pk.queue_gone for update")
    task = asyncio.create_task(worker.step())
    waiting = "select from pg_stat_activity where wait_event_type = 'Lock' and query like '%take_jobs%'"
    await until(lambda: work.bus.query(waiting), "it is taking them")
    task.cancel()
    await hold.rollback()
    await blocker.close()
    with pytest.raises(asyncio.CancelledError):
        await task
    await worker.leave()

    rows = await work.bus.query("select state, attempt, left_behind from pk.job")
    assert [tuple(row) for row in rows] == [("waiting", 0, False)] * 3


async def test_who_is_stopped_while_taking_fails_is_stopped(work) -> None:
    """The failure does not take the place of the order to end, after which it would go on for ever."""
    await work.put()
    blocker = await asyncpg.connect(work.bus.dsn)
    hold = blocker.transaction()
    await hold.start()
    await blocker.execute("select from pk.queue_gone for update")
    task = asyncio.create_task(work.worker(Done()).run())
    waiting = "select pid from pg_stat_activity where wait_event_type = 'Lock' and query like '%take_jobs%'"
    ((pid,),) = await until(lambda: work.bus.query(waiting), "it is taking it")
    task.cancel()
    await asyncio.sleep(0)  # the order arrives before the failure
    await work.bus.query("select pg_terminate_backend($1)", pid)
    try:
        await until(lambda: task.done(), "it has ended")
    finally:
        task.cancel()
        await hold.rollback()
        await blocker.close()
    assert task.cancelled()


async def test_a_key_that_many_put_at_once_is_one_job(work) -> None:
    ids = await asyncio.gather(*(work.put(str(number), key="k") for number in range(8)))
    assert len(set(ids)) == 1
    assert await work.waiting() == 1


async def test_a_retry_whose_key_another_took_lets_go_of_it(work) -> None:
    done = Done(fails=1)
    await work.put("old", key="k")
    held = Held()
    worker = work.worker(held)
    await worker.step()
    await until(lambda: held.jobs, "the old one runs")
    await work.put("new", key="k")
    await worker.leave()
    assert await work.waiting() == 2
    work.clock.advance(60)
    second = work.worker(done)
    await work.run(second)
    work.clock.advance(60)
    await work.run(second)
    assert sorted(done.words) == ["new", "old"]


async def test_a_job_waits_for_its_time(work) -> None:
    done = Done()
    await work.put("later", run_at=work.clock.now().replace(hour=1))
    worker = work.worker(done)
    work.clock.advance(3_599)
    assert await work.run(worker) == 0
    work.clock.advance(1)
    assert await work.run(worker) == 1


async def test_data_up_to_64_kib_is_taken(work) -> None:
    room = 65_536 - len('{"word":""}')
    await work.put("x" * room)
    with pytest.raises(PayloadTooLarge, match="65537 bytes of JSON") as caught:
        await work.put("x" * (room + 1))
    assert caught.value.code == "job_too_large"


# ------------------------------------------------------------------------------------------------ progress, cancel


async def test_progress_is_seen_while_the_job_runs(work) -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def handle(call: Call, job: RunningJob) -> None:
        await job.progress(40, "two of five")
        begun.set()
        await go_on.wait()

    job_id = await work.put()
    worker = work.worker(handle)
    await worker.step()
    await asyncio.wait_for(begun.wait(), 10)
    found = await work.look(job_id)
    assert (found.state, found.progress, found.note) == ("running", 40, "two of five")
    go_on.set()
    await until(lambda: worker.is_idle, "it is done")


async def test_progress_out_of_bounds_fails_the_job(work) -> None:
    async def handle(call: Call, job: RunningJob) -> None:
        await job.progress(*job.data["word"])

    ids = [await work.put(word) for word in ((101, ""), (-1, ""), (1, "x" * 201))]
    await work.run(work.worker(handle))
    for job_id in ids:
        assert "progress is 0 to 100" in (await work.look(job_id)).reason


async def test_a_waiting_job_that_is_cancelled_goes(work) -> None:
    job_id = await work.put()
    async with work.bus.calls.open(work.bus.tenant, "cancel") as call:
        assert await work.queue.cancel(call, job_id) == "waiting"
    assert await work.run(work.worker(Done())) == 0
    assert (await work.look(job_id)).state == "cancelled"
    assert await work.waiting() == 0
    async with work.bus.calls.open(work.bus.tenant, "cancel") as call:
        assert await work.queue.cancel(call, job_id) == "cancelled"


async def test_who_cancels_holds_up_nobody_and_the_place_is_free_again(work) -> None:
    """Neither workers nor whoever puts more wait for a transaction that has cancelled something."""
    gone, other = await work.put("gone"), await work.put("other")
    async with work.bus.calls.open(work.bus.tenant, "cancel") as call:
        assert await work.queue.cancel(call, gone) == "waiting"
        async with asyncio.timeout(3):
            assert [job.id for job in await work.take()] == [other]
            await work.put("more")
    await work.bus.query("update pk.queue set added = added + $1", JOBS_PER_QUEUE_MAX - 2)
    await work.put("in its place")
    with pytest.raises(LimitReached):
        await work.put("one too many")
    async with work.bus.parts().tx("list") as tx:
        (row,) = await storage.list_queues(tx, work.clock.now())
    assert row["waiting"] == JOBS_PER_QUEUE_MAX == await work.waiting()


async def test_a_running_job_that_is_cancelled_is_told_and_has_no_effect(work) -> None:
    held = Held()
    job_id = await work.put()
    worker = work.worker(held)
    await worker.step()
    await until(lambda: held.jobs, "it is being done")
    async with work.bus.parts().tx("cancel") as tx:
        assert await storage.cancel_of(tx, work.bus.tenant, job_id, work.clock.now()) == "running"
    work.clock.advance(4)
    await worker.step()
    assert held.jobs[0].cancelled.is_set()
    with pytest.raises(JobCancelled):
        await held.jobs[0].progress(50, "")
    held.go_on.set()
    await until(lambda: worker.is_idle, "it has ended")
    assert (await work.look(job_id)).state == "cancelled"
    assert await work.notes() == []


async def test_a_job_that_takes_too_long_is_cut_off(work) -> None:
    job_id = await work.put()
    await work.run(work.worker(Held(), limit_s=0.2))
    found = await work.look(job_id)
    assert (found.state, found.attempt) == ("waiting", 1)
    assert found.reason == "TimeoutError: it took longer than the 0.2 s that its worker allows"


async def test_whatever_a_handler_raises_is_its_own_failure(work) -> None:
    raised: list[BaseException] = [SystemExit(3), KeyboardInterrupt(), asyncio.CancelledError(), GeneratorExit()]
    done = Done()

    async def handle(call: Call, job: RunningJob) -> None:
        if raised:
            raise raised.pop()
        await done(call, job)

    await work.put("wild")
    worker = work.worker(handle)
    for _ in range(5):
        assert await work.run(worker) == 1
        work.clock.advance(600)
    assert done.words == ["wild"]


async def test_what_ended_long_ago_is_forgotten(work) -> None:
    job_id = await work.put()
    worker = work.worker(Done())
    await work.run(worker)
    work.clock.advance(23 * 3_600)
    await worker.step()
    assert (await work.look(job_id)).state == "done"
    work.clock.advance(2 * 3_600)
    await worker.step()
    assert await work.bus.query("select from pk.job") == []


# ------------------------------------------------------------------------------------------------ as in real life


async def test_a_worker_is_woken_by_a_put_and_gives_back_when_it_is_stopped(work) -> None:
    """By the database's clock, with a poll so rare that only a wake-up can be in time."""
    queue, done, held = work.real(poll_s=10.0), Done(), Held()

    async def handle(call: Call, job: RunningJob) -> None:
        await (held if job.data["word"] == "hold" else done)(call, job)

    working = asyncio.create_task(queue.work(work.registered(handle)))
    try:
        for word in ("one", "two"):
            await work.put(word, through=queue)
            await until(lambda word=word: word in done.words, "it is done at once", 5)
        held_id = await work.put("hold", through=queue)
        await until(lambda: held.jobs, "it is being done", 5)
    finally:
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)

    found = await work.look(held_id)
    assert (found.state, found.attempt, found.reason) == ("waiting", 0, "its worker was stopped")
    assert await work.notes() == ["did one", "did two"]
