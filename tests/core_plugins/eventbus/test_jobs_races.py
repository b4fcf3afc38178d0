"""Jobs under races and kills: the bound is exact, a killed worker's job has its effect once."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest

from core_plugins.eventbus.storage import jobs as storage
from plugin_api.errors import LimitReached
from plugin_api.ports.job_queue import JOB_QUEUE, Job
from plugin_api.testing.waiting import until
from tests.core_plugins.eventbus.work import Done

PROGRAM = Path(__file__).parent / "programs" / "job_worker.py"
BOUND = 10_000
WRITERS = 8
MANY = """with more as (
  insert into pk.job (tenant_id, id, plugin, queue, priority, run_at, data, actor, traceparent, put_at)
  select $1, gen_random_uuid(), 'x_acme_notes', 'acme.notes.import', 5, '2025-01-01', '{"word":"x"}', '', '', '2025-01-01'
  from generate_series(1, $2::int) returning 1)
update pk.queue set added = added + (select count(*) from more)"""


async def fill(work, jobs: int) -> None:
    """Have so many jobs wait, one of them put in earnest; the others as the administrator writes them, which is quicker."""
    await work.put()
    await work.bus.query(MANY, work.bus.tenant, jobs - 1)


async def test_the_10_001st_job_is_refused_by_whomever_it_is_put(work) -> None:
    """Eight writers race for the last places; then one place that becomes free is taken, and no more."""
    await fill(work, BOUND - 50)
    ids: list[object] = []
    refused: list[LimitReached] = []

    async def write() -> None:
        for _ in range(20):
            try:
                ids.append(await work.put())
            except LimitReached as error:
                refused.append(error)

    await asyncio.gather(*(write() for _ in range(WRITERS)))
    assert (len(ids), len(refused)) == (50, WRITERS * 20 - 50)
    (row,) = await work.bus.query("select count(*) as jobs from pk.job where state = 'waiting'")
    assert row["jobs"] == BOUND == await work.waiting()
    assert refused[0].code == "limit_reached"
    assert "10000 jobs of the queue import wait" in refused[0].detail
    await work.put(queue="other")

    assert len(await work.take(most=1)) == 1
    await work.put()
    with pytest.raises(LimitReached):
        await work.put()


async def test_what_is_rolled_back_takes_no_place(work) -> None:
    await fill(work, 1)
    with pytest.raises(RuntimeError, match="changed its mind"):
        await work.put_in_vain()
    assert await work.waiting() == 1


async def test_workers_take_each_job_once(work) -> None:
    done = Done()
    for number in range(60):
        await work.put(str(number))
    workers = [work.worker(done, prefetch=7) for _ in range(4)]

    async def drain(worker) -> None:
        while await work.run(worker):
            pass

    await asyncio.gather(*(drain(worker) for worker in workers))
    assert sorted(done.words, key=int) == [str(number) for number in range(60)]
    assert done.attempts == [1] * 60
    assert await work.waiting() == 0


async def test_who_takes_jobs_does_not_wait_for_who_puts_them(work) -> None:
    await work.put("first")
    async with work.bus.calls.open(work.bus.tenant, "linger") as call:
        await work.queue.put(call, Job("import", {"word": "second"}))
        async with asyncio.timeout(3):
            assert [job.data["word"] for job in await work.take()] == ["first"]
    assert await work.waiting() == 1


async def test_a_replay_stops_at_the_bound(work) -> None:
    for _ in range(3):
        await work.put()
    async with work.bus.parts().tx("bury") as tx:
        for job in await storage.take(tx, "x_acme_notes", "acme.notes.import", 3, 3, 10.0, work.clock.now()):
            await storage.bury(tx, job, "for the test", work.clock.now())
    await work.bus.query("update pk.queue set added = added + $1", BOUND - 2)
    async with work.bus.parts().tx("replay") as tx:
        assert await storage.replay(tx, None, None, work.clock.now()) == (2, 1)
    assert await work.waiting() == BOUND


# --------------------------------------------------------------------------------------------------------- kill -9


async def start(work, member: int, *more: str) -> asyncio.subprocess.Process:
    """A worker in a process of its own, once it is ready."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(PROGRAM), work.bus.dsn, str(work.bus.kernel.data_folder), str(member), *more,
        env=environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    await hear(process, b"ready")
    return process


async def hear(process: asyncio.subprocess.Process, word: bytes) -> None:
    assert process.stdout is not None
    async with asyncio.timeout(60):
        while word not in (line := await process.stdout.readline()):
            assert line, "the process has ended"


async def stop(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.kill()
    await process.wait()


async def test_a_job_whose_worker_is_killed_is_done_by_another_with_effect_once(work) -> None:
    first, second = await asyncio.gather(start(work, 1, "hang"), start(work, 2, "hang"))
    try:
        async with work.bus.calls.open(work.bus.tenant, "put") as call:
            job_id = await work.bus.kernel.require(JOB_QUEUE).put(call, Job("import", {"word": "job"}))
        listening = [asyncio.create_task(hear(one, b"begun")) for one in (first, second)]
        await asyncio.wait(listening, return_when=asyncio.FIRST_COMPLETED)
        holder, other = (first, second) if listening[0].done() else (second, first)
        await stop(holder)
        await asyncio.gather(*listening, return_exceptions=True)
        await stop(other)
        third = await start(work, 3)
        try:

            async def is_done() -> bool:
                return (await work.look(job_id)).state == "done"

            await until(is_done, "the job is done", 20)
        finally:
            await stop(third)
    finally:
        await asyncio.gather(stop(first), stop(second))
    assert await work.notes() == ["job 3 3"]
