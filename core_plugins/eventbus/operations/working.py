"""A worker of one queue in this process: it takes jobs that are due, does some at once, and holds on to them meanwhile.

What holds it together is the database: a job's epoch grows whenever it changes hands, and the note that it is done is made
under its epoch in the very transaction of its effect, so that whoever lost the job can have no effect any more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Final
from uuid import UUID

from core_plugins.eventbus.model.jobs import Taken, pause_after, told
from core_plugins.eventbus.operations.job_parts import JOBS, JobParts
from core_plugins.eventbus.operations.parts import first_of
from core_plugins.eventbus.storage import jobs as storage
from plugin_api.call import Call
from plugin_api.errors import KernelBug, KernelError
from plugin_api.limits import JOB_NOTE_CHARACTERS_MAX
from plugin_api.ports.job_queue import JobCancelled, RunningJob, Worker

AGAIN_S: Final = 0.5
LEAVE_S: Final = 5.0
FINISH_S: Final = 5.0
"""What a call may take longer than its handler, to note that the job is done."""
SWEEP_EVERY_S: Final = 3_600.0


@dataclass
class Doing:
    """A job that is being done."""

    job: Taken
    handle: RunningJob
    task: asyncio.Task[None] | None = None


class JobWorker:
    """One queue, as far as this process works it off."""

    def __init__(self, jobs: JobParts, worker: Worker) -> None:
        self._jobs = jobs
        self._parts = jobs.parts
        self._worker = worker
        self._doing: dict[tuple[UUID, int], Doing] = {}
        """By id and epoch: a job that came back may be taken again while its former attempt still ends."""
        self._hold_at = 0.0
        self._sweep_at = 0.0
        self._finished = asyncio.Event()

    @property
    def is_idle(self) -> bool:
        """Whether nothing is being done."""
        return not self._doing

    # --------------------------------------------------------------------------------------- round and round

    async def run(self) -> None:
        """Work until it is cancelled; then give back what is not done."""
        bell = self._parts.wakeups.bell(JOBS)
        try:
            while True:
                taken = 0
                try:
                    taken = await self.step()
                except KernelError as error:
                    self._parts.log.warning("jobs wait; it is tried again", queue=self._worker.queue, why=error.detail)
                    await asyncio.sleep(AGAIN_S)
                if taken == 0 or self._room() == 0:
                    # Until a job was put, one has ended, or it is time to look.
                    await first_of(bell.wait(self._parts.settings.poll_s), self._finished.wait())
                    self._finished.clear()
        finally:
            bell.close()
            await self.leave()

    async def step(self) -> int:
        """Hold on to what is being done when it is time, and begin what is due; how many jobs."""
        await self._hold()
        await self._sweep()
        room = self._room()
        if room == 0:
            return 0
        has_suspect = any(one.job.left_behind for one in self._doing.values())
        taking = asyncio.create_task(self._take(room, 0 if has_suspect else 1))
        try:
            taken = await asyncio.shield(taking)
        except asyncio.CancelledError:
            with suppress(KernelError):  # none was taken; whoever stops this is not to be told of that instead
                for job in await taking:
                    self._begin(job)  # it is given back with the others
            raise
        for job in taken:
            self._begin(job)
        return len(taken)

    async def _take(self, most: int, most_left: int) -> list[Taken]:
        worker, lease_s = self._worker, self._parts.settings.lease_s
        async with self._parts.tx("take jobs") as tx:
            return await storage.take(tx, worker.plugin, worker.queue, most, most_left, lease_s, self._jobs.at())

    def _room(self) -> int:
        return self._worker.prefetch - len(self._doing)

    def _begin(self, job: Taken) -> None:
        handle = RunningJob(job.id, job.queue, job.data, job.attempt, partial(self._progress, job))
        doing = self._doing[job.id, job.epoch] = Doing(job, handle)
        doing.task = asyncio.create_task(self._do(doing), name=f"{self._worker.queue}/{job.id}")
        doing.task.add_done_callback(lambda _: self._ended(doing))

    def _ended(self, doing: Doing) -> None:
        self._doing.pop((doing.job.id, doing.job.epoch), None)
        self._finished.set()

    async def _hold(self) -> None:
        """Extend the leases; whoever's job was cancelled or lost is told."""
        now = self._jobs.clock.monotonic()
        if not self._doing or now < self._hold_at:
            return
        doing, lease_s = list(self._doing.values()), self._parts.settings.lease_s
        async with self._parts.tx("hold jobs") as tx:
            held = await storage.extend(tx, [one.job for one in doing], lease_s, self._jobs.at())
        self._hold_at = now + lease_s / 3
        for one in doing:
            if one.job.id not in held:
                one.handle.cancelled.set()

    async def _sweep(self) -> None:
        """Forget what ended long ago."""
        now = self._jobs.clock.monotonic()
        if now < self._sweep_at:
            return
        self._sweep_at = now + SWEEP_EVERY_S
        settings = self._parts.settings
        async with self._parts.tx("forget jobs") as tx:
            await storage.sweep(
                tx, self._worker.plugin, self._worker.queue, settings.keep_jobs_hours, settings.keep_dead_jobs_days,
                self._jobs.at(),
            )  # fmt: skip

    async def leave(self) -> None:
        """Stop what is being done, and give it back: it counts as no attempt."""
        doing = list(self._doing.values())
        for one in doing:
            if one.task is not None:
                one.task.cancel()
        await asyncio.gather(*(one.task for one in doing if one.task is not None), return_exceptions=True)
        if doing:
            try:
                async with asyncio.timeout(LEAVE_S):
                    await self._give_back([one.job for one in doing], "its worker was stopped")
            except (KernelError, TimeoutError) as error:
                self._parts.log.warning("jobs were not given back; their leases end", why=told(error))

    async def _give_back(self, jobs: Sequence[Taken], why: str) -> None:
        """Let jobs wait again that did not fail; those that are done by now stay so."""
        async with self._parts.tx("give jobs back") as tx:
            for job in jobs:
                await storage.give_back(tx, job, 0.0, why, counts=False, at=self._jobs.at())
        self._parts.wakeups.ring(JOBS)

    # ---------------------------------------------------------------------------------------------- one job

    async def _do(self, doing: Doing) -> None:
        """Do one job, and note what came of it. What cannot be noted is found when the lease ends."""
        job = doing.job
        try:
            failure = await self._attempt(doing)
            if failure is not None:
                await self._fail(job, failure)
            else:
                self._parts.counts.jobs_done.add(queue=job.queue)
        except JobCancelled:
            return
        except KernelError as error:
            self._parts.log.warning("what came of a job was not noted", job=job.id, why=error.detail)

    async def _attempt(self, doing: Doing) -> str | None:
        """Do it once, whatever the plugin's code raises; why it failed.

        A store that is away counts as well: which one it was cannot be told, and what a handler did elsewhere must not be
        repeated without end.

        Raises:
            JobCancelled: it is held no more; its effect was rolled back.
        """
        task = asyncio.current_task()
        begun_cancelling = task.cancelling() if task is not None else 0
        try:
            await self._handle(doing)
        except JobCancelled:
            raise
        except BaseException as error:
            if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling() > begun_cancelling:
                raise
            return told(error)
        return None

    async def _handle(self, doing: Doing) -> None:
        job, worker = doing.job, self._worker
        limit_s = worker.limit_s + FINISH_S
        async with worker.open(job.tenant_id, f"job {job.queue}", limit_s, job.traceparent) as call:
            limit = asyncio.timeout(worker.limit_s)
            try:
                async with limit:
                    await worker.handle(call, doing.handle)
            except TimeoutError:
                if limit.expired():
                    raise TimeoutError(f"it took longer than the {worker.limit_s:g} s that its worker allows") from None
                raise
            if not await self._finish(call, job):
                doing.handle.cancelled.set()
                raise JobCancelled

    async def _finish(self, call: Call, job: Taken) -> bool:
        """In the transaction of the effect; a job without a tenant has none."""
        if job.tenant_id is not None:
            return await storage.finish(await call.tx(), job, self._jobs.at())
        async with self._parts.tx("finish a job") as tx:
            return await storage.finish_kernel_job(tx, job, self._jobs.at())

    async def _fail(self, job: Taken, why: str) -> None:
        """Let it wait for its next attempt, or be dead after the last."""
        pause_s, at = pause_after(job.attempt, self._jobs.dice), self._jobs.at()
        async with self._parts.tx("note a failed job") as tx:
            if pause_s is None:
                is_noted, counter = await storage.bury(tx, job, why, at), self._parts.counts.jobs_dead
            else:
                is_noted = await storage.give_back(tx, job, pause_s, why, counts=True, at=at)
                counter = self._parts.counts.jobs_failed
        if is_noted:
            counter.add(queue=job.queue)
        self._parts.log.warning(
            "a job failed", queue=job.queue, job=job.id, attempt=job.attempt, why=why,
            again_after_s=None if pause_s is None else round(pause_s, 1),
        )  # fmt: skip

    async def _progress(self, job: Taken, percent: int, note: str) -> None:
        if not 0 <= percent <= 100 or len(note) > JOB_NOTE_CHARACTERS_MAX:
            raise KernelBug(f"progress is 0 to 100 with a note of at most {JOB_NOTE_CHARACTERS_MAX} characters")
        async with self._parts.tx("note progress") as tx:
            is_held = await storage.note_progress(tx, job, percent, note)
        if not is_held:
            if (doing := self._doing.get((job.id, job.epoch))) is not None:
                doing.handle.cancelled.set()
            raise JobCancelled
