"""What is asked about jobs over REST: operators see queues and have dead jobs done again, tenants see and cancel their own."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated
from uuid import UUID

from msgspec import Meta, Struct

from core_plugins.eventbus.model.jobs import DeadJob
from core_plugins.eventbus.operations.job_parts import JobParts
from core_plugins.eventbus.operations.queueing import PostgresJobQueue
from core_plugins.eventbus.storage import jobs as storage
from plugin_api import Call, operation
from plugin_api.errors import Conflict, LimitReached, NotFound, Unreadable
from plugin_api.limits import JOBS_PER_QUEUE_MAX
from plugin_api.pages import Page
from plugin_api.ports.database import Tx
from plugin_api.ports.job_queue import EXCHANGE, JobView, State

QueueName = Annotated[
    str,
    Meta(min_length=1, max_length=160, description="A routing key, as the list of queues has it: `notify.send.email`."),
]


class AllQueues(Struct, frozen=True, forbid_unknown_fields=True):
    """Nothing to choose."""


class QueueState(Struct, frozen=True):
    """How full a queue is."""

    exchange: str
    queue: str
    """Its routing key."""
    waiting: int
    """Of those that `limit` bounds: due, not yet due, or waiting for another attempt."""
    running: int
    dead: int
    oldest: datetime | None
    """Since when the oldest job that is due has been; None when none is."""
    limit: int
    """Jobs that may wait."""


class QueueStates(Struct, frozen=True):
    """All of them."""

    items: list[QueueState]


class DeadJobQuery(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which dead jobs."""

    queue: QueueName | None = None
    limit: Annotated[int, Meta(ge=1, le=200)] = 50
    cursor: Annotated[str, Meta(max_length=2_048)] | None = None


class ReplayJobs(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What to do again: the dead jobs of a queue, or one; without either all."""

    queue: QueueName | None = None
    job_id: UUID | None = None


class ReplayedJobs(Struct, frozen=True):
    """What came of it."""

    jobs: int
    """That wait again now, for their first attempt."""
    left_over: int
    """That stay dead, because their queue has no room."""


class WhichJob(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One job."""

    job_id: UUID


class CancelledJob(Struct, frozen=True):
    """What came of it."""

    was: State
    """`running`: its worker is told, and its effect does not count."""


class JobOperations:
    """For operators of all tenants, for a tenant of its own jobs."""

    def __init__(self, jobs: JobParts, queue: PostgresJobQueue) -> None:
        self._jobs = jobs
        self._parts = jobs.parts
        self._queue = queue

    @operation("GET /queues", permission="queue.read", operator=True)
    async def list_queues(self, call: Call, request: AllQueues) -> QueueStates:
        """List queues with how full they are, how long the oldest job has been due, and how many jobs are dead."""
        async with self._parts.tx("list queues") as tx:
            rows = await storage.list_queues(tx, self._jobs.at())
        return QueueStates(
            [
                QueueState(
                    EXCHANGE,
                    row["queue"],
                    row["waiting"],
                    row["running"],
                    row["dead"],
                    row["oldest"],
                    JOBS_PER_QUEUE_MAX,
                )
                for row in rows
            ]
        )

    @operation("GET /dead-jobs", permission="queue.read", operator=True)
    async def list_dead_jobs(self, call: Call, request: DeadJobQuery) -> Page[DeadJob]:
        """List jobs that failed too often, those that were put last first."""
        bound = f"dead-jobs {request.queue}".encode()
        before = _before(call.open_cursor(bound, request.cursor)) if request.cursor is not None else None
        async with self._parts.tx("list dead jobs") as tx:
            found = await storage.list_dead(tx, request.queue, before, request.limit + 1)
        items, more = found[: request.limit], len(found) > request.limit
        return Page(items, call.seal_cursor(bound, [str(items[-1].id)]) if more else None)

    @operation("POST /dead-jobs/replay", permission="queue.replay", operator=True, status=200)
    async def replay_dead_jobs(self, call: Call, request: ReplayJobs) -> ReplayedJobs:
        """Have dead jobs done again, from their first attempt on, as far as their queues have room; the oldest first."""
        async with self._parts.tx("replay dead jobs") as tx:
            replayed, left_over = await storage.replay(tx, request.queue, request.job_id, self._jobs.at())
        if request.job_id is not None and replayed + left_over == 0:
            raise NotFound(f"there is no dead job {request.job_id}; GET /api/v1/eventbus/dead-jobs lists them")
        if replayed == 0 and left_over > 0:
            raise LimitReached(
                f"{JOBS_PER_QUEUE_MAX} jobs of the queue wait, which is the most that may; try again when its workers have "
                "caught up",
                retry_after_s=30,
            )
        self._queue.ring()
        return ReplayedJobs(replayed, left_over)

    @operation("POST /jobs/cancel", permission="queue.cancel", operator=True, status=200)
    async def cancel_any_job(self, call: Call, request: WhichJob) -> CancelledJob:
        """Cancel a job of any tenant: one that waits goes, one that runs is told and has no effect."""
        async with self._parts.tx("cancel a job") as tx:
            return await self._cancel(tx, None, request.job_id)

    @operation("GET /jobs/{job_id}", permission="job.read")
    async def get_job(self, call: Call, request: WhichJob) -> JobView:
        """Tell how a job of one's tenant is, and how far. Those that ended are kept for a day, dead ones for a month."""
        async with self._parts.tx("look at a job") as tx:
            found = await storage.find_of(tx, call.tenant_id, request.job_id)
        if found is None:
            raise _no_job(request.job_id)
        return found

    @operation("POST /jobs/{job_id}/cancel", permission="job.cancel", status=200)
    async def cancel_job(self, call: Call, request: WhichJob) -> CancelledJob:
        """Cancel a job of one's tenant: one that waits goes, one that runs is told and has no effect."""
        return await self._cancel(await call.tx(), call.tenant_id, request.job_id)

    async def _cancel(self, tx: Tx, tenant_id: UUID | None, job_id: UUID) -> CancelledJob:
        was = await storage.cancel_of(tx, tenant_id, job_id, self._jobs.at())
        if was is None:
            raise _no_job(job_id)
        if was in ("done", "dead"):
            raise Conflict(f"the job {job_id} is {was}; only one that waits or runs can be cancelled", code="job_ended")
        return CancelledJob(was)


def _no_job(job_id: UUID) -> NotFound:
    return NotFound(f"there is no job {job_id}; it may have ended so long ago that it was forgotten")


def _before(values: list[object]) -> UUID:
    if len(values) != 1 or not isinstance(values[0], str):
        raise Unreadable("the cursor is of another list; begin again without it", code="bad_cursor")
    return UUID(values[0])
