"""The job queue and its schedules: work that is done later, in any process. Kept by the plugin `kernel.eventbus`.

A job is put down in the caller's own transaction, in the exchange `notify.direct` under a routing key `{area}.{queue}`
(`notify.send.email`); each routing key is one queue. Only the plugin that put a job down works it off.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Literal, Protocol
from uuid import UUID

from msgspec import Struct

from plugin_api.call import Call
from plugin_api.services import ServiceKey

EXCHANGE: Final = "notify.direct"
State = Literal["waiting", "running", "done", "dead", "cancelled"]
MissedRuns = Literal["skip", "once", "all"]


class Job(Struct, frozen=True):
    """What a plugin puts down."""

    queue: str
    """Relative to the plugin's area: `send.email` of `kernel.notify` has the routing key `notify.send.email`."""
    data: Struct | dict[str, Any]
    """Payload; its JSON is at most JOB_BYTES_MAX bytes long."""
    run_at: datetime | None = None
    """Not before then; at once when it is None."""
    key: str | None = None
    """While a job of the same queue, tenant and key waits, putting another answers the one that waits. At most 200 bytes."""
    priority: int = 5
    """From 0 to 9; of the jobs that are due, those with the highest are taken first."""


class JobView(Struct, frozen=True):
    """How a job is."""

    id: UUID
    queue: str
    """Its routing key."""
    state: State
    """`running` also when its worker has vanished: it is begun anew as soon as its lease ends."""
    attempt: int
    """How often it was begun."""
    progress: int
    """0 to 100, as its worker told."""
    note: str
    reason: str
    """Why its last attempt failed; empty when none did."""
    put_at: datetime
    run_at: datetime
    """When it may be taken; of one that runs, when its lease ends."""
    ended_at: datetime | None


class JobCancelled(Exception):
    """The job was cancelled, or is another worker's by now: what it does more does not count."""


@dataclass(frozen=True)
class RunningJob:
    """A job in the hands of its worker."""

    id: UUID
    queue: str
    """Its routing key."""
    data: Any
    """Decoded JSON."""
    attempt: int
    """From 1."""
    progress: Callable[[int, str], Awaitable[None]]
    """(0 to 100, a note of at most 200 characters): seen at once, whatever becomes of the job. Raises JobCancelled."""
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the job was cancelled or lost; then whatever the call's transaction did is rolled back."""


@dataclass(frozen=True)
class Worker:
    """A method of a plugin that does the jobs of one queue."""

    plugin: str
    """The plugin's schema."""
    queue: str
    """The routing key."""
    member: str
    """Which process this is, for the log."""
    prefetch: int
    """How many jobs it does at once."""
    limit_s: float
    """Seconds that one attempt may take."""
    open: Callable[[UUID | None, str, float, str], AbstractAsyncContextManager[Call]]
    """(tenant, reason, seconds, traceparent of the job) -> a call of the plugin itself, in the trace of whoever put the job."""
    handle: Callable[[Call, RunningJob], Awaitable[None]]


@dataclass(frozen=True)
class Schedule:
    """When a job of a plugin is put down again and again."""

    plugin: str
    """The plugin's schema."""
    name: str
    """Unique within the plugin."""
    queue: str
    """Relative to the plugin's area."""
    cron: str
    """Five fields: minute, hour, day of the month, month, day of the week."""
    time_zone: str
    per_tenant: bool
    missed: MissedRuns
    member: str


class Jobs(Protocol):
    """A plugin's own jobs: the handle `registrar.jobs`."""

    async def put(self, call: Call, job: Job) -> UUID:
        """Put a job down in the call's transaction: it exists with the commit or not at all. Its id; that of the job that
        waits with the same key, when one does.

        Whoever puts jobs into several queues in one transaction does so in the order of their names, or two of them may
        wait for one another; the database then ends one with a Conflict.

        Raises:
            LimitReached: `limit_reached`, JOBS_PER_QUEUE_MAX jobs of the queue wait.
            PayloadTooLarge: `job_too_large`, the data's JSON is longer than JOB_BYTES_MAX.
            KernelBug: the queue's name, the key or the priority is none.
        """
        ...

    async def cancel(self, call: Call, job_id: UUID) -> State | None:
        """End one of the plugin's jobs in the call's tenant and transaction; the state that it had, None when there is none.

        One that waits goes; one that runs is told, and its effect does not count. Idempotent.
        """
        ...

    async def find(self, call: Call, job_id: UUID) -> JobView | None:
        """One of the plugin's jobs in the call's tenant; those that ended are kept for a while."""
        ...


class JobQueue(Jobs, Protocol):
    """Puts jobs down and hands them out.

    `handle` is called at least once for a job, and what it writes in the call's transaction has its effect once: it commits
    together with the note that the job is done. An attempt that fails is made again after 30 s * 2^(attempt - 1), give or
    take 10 %; after five such retries the job is dead, until an operator has it replayed. A job without a tenant has no such
    transaction, and its effects must bear to be repeated.
    """

    async def work(self, worker: Worker) -> None:
        """Do jobs as they come; never returns. Cancel it to stop: what was begun goes back and counts as no attempt."""
        ...

    async def keep(self, schedule: Schedule) -> None:
        """Put down a job at each moment of a schedule, once in all processes; never returns."""
        ...

    async def forget(self, plugin: str) -> None:
        """Forget the jobs, queues and schedules of a plugin that has left with its data, by its schema. Idempotent: whoever is
        cut off in the middle calls it again.

        Raises:
            StoreUnavailable: the database is away.
        """
        ...


JOB_QUEUE: ServiceKey[JobQueue] = ServiceKey("jobs")
