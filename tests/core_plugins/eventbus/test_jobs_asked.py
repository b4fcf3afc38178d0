"""What operators and tenants ask about jobs over REST."""

from __future__ import annotations

from collections.abc import AsyncIterator
from uuid import uuid4

import pytest

from core_plugins.eventbus.operations.administering_jobs import (
    AllQueues,
    DeadJobQuery,
    JobOperations,
    ReplayJobs,
    WhichJob,
)
from plugin_api.call import Call
from plugin_api.errors import Conflict, LimitReached, NotFound
from tests.core_plugins.eventbus.work import Done


@pytest.fixture
def asked(work) -> JobOperations:
    return JobOperations(work.parts, work.queue)


@pytest.fixture
async def call(work) -> AsyncIterator[Call]:
    """A call of the event bus's own in the tenant."""
    async with work.parts.parts.calls.open(work.bus.tenant, "ask") as made:
        yield made


async def die(work, *words: str) -> None:
    """Put jobs that fail for good."""
    for word in words:
        await work.put(word)
    worker = work.worker(Done(fails=99))
    for _ in range(6):
        await work.run(worker)
        work.clock.advance(600)


async def test_operators_see_how_full_queues_are(work, asked, call) -> None:
    assert (await asked.list_queues(call, AllQueues())).items == []
    await die(work, "dead")
    due = work.clock.now()
    await work.put("due")
    await work.put("later", run_at=due.replace(year=2027))
    await work.put("running", priority=9)
    await work.put("x", queue="send.email")
    assert len(await work.take(most=1)) == 1
    work.clock.advance(5)

    imports, emails = (await asked.list_queues(call, AllQueues())).items
    assert (imports.exchange, imports.queue, imports.limit) == ("notify.direct", "acme.notes.import", 10_000)
    assert (imports.waiting, imports.running, imports.dead, imports.oldest) == (2, 1, 1, due)
    assert (emails.queue, emails.waiting) == ("acme.notes.send.email", 1)


async def test_dead_jobs_are_listed_page_by_page_and_replayed(work, asked, call) -> None:
    await die(work, "a", "b", "c")
    first = await asked.list_dead_jobs(call, DeadJobQuery(limit=2))
    rest = await asked.list_dead_jobs(call, DeadJobQuery(limit=2, cursor=first.next_cursor))
    found = [*first.items, *rest.items]
    assert (len(first.items), len(rest.items), rest.next_cursor) == (2, 1, None)
    assert [one.view.reason for one in found] == ["RuntimeError: cannot"] * 3
    assert found == sorted(found, key=lambda one: one.id, reverse=True)
    assert (await asked.list_dead_jobs(call, DeadJobQuery(queue="acme.notes.other"))).items == []

    assert (await asked.replay_dead_jobs(call, ReplayJobs(job_id=found[0].id))).jobs == 1
    with pytest.raises(NotFound, match="no dead job"):
        await asked.replay_dead_jobs(call, ReplayJobs(job_id=found[0].id))
    await work.bus.query("update pk.queue set added = added + 9998")
    some = await asked.replay_dead_jobs(call, ReplayJobs(queue="acme.notes.import"))
    assert (some.jobs, some.left_over) == (1, 1)
    with pytest.raises(LimitReached, match="wait"):
        await asked.replay_dead_jobs(call, ReplayJobs())


async def test_a_tenant_sees_and_cancels_its_own_jobs(work, asked, call) -> None:
    mine, theirs = await work.put(), await work.put(tenant=uuid4())
    assert (await asked.get_job(call, WhichJob(job_id=mine))).state == "waiting"
    for ask in (asked.get_job, asked.cancel_job):
        with pytest.raises(NotFound):
            await ask(call, WhichJob(job_id=theirs))
    assert (await asked.cancel_job(call, WhichJob(job_id=mine))).was == "waiting"
    assert (await asked.cancel_job(call, WhichJob(job_id=mine))).was == "cancelled"
    assert (await asked.cancel_any_job(call, WhichJob(job_id=theirs))).was == "waiting"


async def test_what_has_ended_cannot_be_cancelled(work, asked, call) -> None:
    job_id = await work.put()
    await work.run(work.worker(Done()))
    with pytest.raises(Conflict, match="is done") as caught:
        await asked.cancel_job(call, WhichJob(job_id=job_id))
    assert caught.value.code == "job_ended"
