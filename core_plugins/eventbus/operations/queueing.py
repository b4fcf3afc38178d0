"""The capability `jobs`: puts jobs down in their callers' transactions, hands them out, keeps schedules."""

from __future__ import annotations

from typing import Final
from uuid import UUID

import msgspec

from core_plugins.eventbus.model.jobs import check_job
from core_plugins.eventbus.operations.job_parts import JOBS, JobParts
from core_plugins.eventbus.operations.parts import FORGOTTEN_AT_ONCE
from core_plugins.eventbus.operations.scheduling import Scheduler
from core_plugins.eventbus.operations.working import JobWorker
from core_plugins.eventbus.storage import jobs as storage
from plugin_api.call import Call
from plugin_api.errors import LimitReached, PayloadTooLarge
from plugin_api.limits import JOB_BYTES_MAX, JOBS_PER_QUEUE_MAX
from plugin_api.ports.job_queue import Job, JobView, Schedule, State, Worker

FULL_AGAIN_S: Final = 30


class PostgresJobQueue:
    """Implements `plugin_api.ports.job_queue.JobQueue`."""

    def __init__(self, parts: JobParts) -> None:
        self._jobs = parts

    async def put(self, call: Call, job: Job) -> UUID:
        """Put a job down in the call's transaction; see the port."""
        check_job(job)
        data = _encoded(job)
        job_id = await storage.put(await call.tx(), job, data, _origin(call), self._jobs.at())
        if job_id is None:
            raise LimitReached(
                f"{JOBS_PER_QUEUE_MAX} jobs of the queue {job.queue} wait, which is the most that may; try again when its "
                "workers have caught up, or let more of them run",
                retry_after_s=FULL_AGAIN_S,
            )
        call.after_commit(self.ring)
        return job_id

    def ring(self) -> None:
        """Let workers look."""
        self._jobs.parts.wakeups.ring(JOBS)

    async def cancel(self, call: Call, job_id: UUID) -> State | None:
        """End one of the plugin's jobs; see the port."""
        return await storage.cancel(await call.tx(), job_id, self._jobs.at())

    async def find(self, call: Call, job_id: UUID) -> JobView | None:
        """One of the plugin's jobs; see the port."""
        return await storage.find(await call.tx(), job_id)

    async def work(self, worker: Worker) -> None:
        """Do the jobs of a queue; see the port."""
        await JobWorker(self._jobs, worker).run()

    async def keep(self, schedule: Schedule) -> None:
        """Put down the jobs of a schedule; see the port."""
        await Scheduler(self._jobs, schedule).run()

    async def forget(self, plugin: str) -> None:
        """Forget the jobs of a plugin that has left; see the port."""
        went = 1
        while went:
            async with self._jobs.parts.tx("forget a plugin") as tx:
                went = await storage.forget_plugin(tx, plugin, FORGOTTEN_AT_ONCE)


def _encoded(job: Job) -> str:
    data = msgspec.json.encode(job.data)
    if len(data) > JOB_BYTES_MAX:
        raise PayloadTooLarge(
            f"the job's data is {len(data)} bytes of JSON, and at most {JOB_BYTES_MAX} are taken; put what is large into a blob "
            "and let the job say which",
            code="job_too_large",
        )
    return data.decode()


def _origin(call: Call) -> tuple[str, str]:
    """On whose behalf: actor and trace."""
    return str(call.actor), call.trace.traceparent if call.trace is not None else ""
