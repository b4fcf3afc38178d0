"""Jobs: how long a failed one waits, and what its rows mean. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final
from uuid import UUID

from msgspec import Struct

from plugin_api.errors import KernelBug, KernelError
from plugin_api.limits import JOB_KEY_BYTES_MAX, JOB_RETRIES
from plugin_api.ports.database import Row
from plugin_api.ports.job_queue import EXCHANGE, Job, JobView

RETRY_BASE_S: Final = 30.0
RETRY_JITTER: Final = 0.1
"""A retry comes up to this part of its pause sooner or later, so that what failed together does not come back together."""
ATTEMPTS: Final = 1 + JOB_RETRIES
REASON_LENGTH_MAX: Final = 1_000
NOBODY: Final = UUID(int=0)
"""Stands in the tables for no tenant."""
_QUEUE: Final = re.compile(r"[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)*\Z")


def pause_after(attempt: int, dice: Callable[[], float]) -> float | None:
    """Seconds until the attempt after `attempt` (from 1): 30 s * 2^(attempt - 1), give or take 10 %; None after the last.

    `dice` gives numbers from 0 to 1.
    """
    if attempt >= ATTEMPTS:
        return None
    return RETRY_BASE_S * 2.0 ** (attempt - 1) * (1 + RETRY_JITTER * (2 * dice() - 1))


class Taken(Struct, frozen=True):
    """A job that was taken, until its lease ends."""

    id: UUID
    tenant_id: UUID | None
    queue: str
    data: Any
    attempt: int
    epoch: int
    left_behind: bool
    """A worker had ended in the middle of it."""
    traceparent: str = ""
    """Whose trace it continues; empty for one that a schedule put."""


class DeadJob(Struct, frozen=True):
    """A job that failed too often."""

    id: UUID
    tenant_id: UUID | None
    exchange: str
    view: JobView


def taken(row: Row) -> Taken:
    """Read a row of a job that was taken."""
    return Taken(
        row["id"],
        tenant_of(row),
        row["queue"],
        row["data"],
        row["attempt"],
        row["epoch"],
        row["left_behind"],
        row["traceparent"],
    )


def view(row: Row) -> JobView:
    """Read a row as a plugin or a user sees it."""
    return JobView(
        row["id"],
        row["queue"],
        row["state"],
        row["attempt"],
        row["progress"],
        row["note"],
        row["reason"],
        row["put_at"],
        row["run_at"],
        row["ended_at"],
    )


def dead_job(row: Row) -> DeadJob:
    """Read a row of a dead job."""
    return DeadJob(row["id"], tenant_of(row), EXCHANGE, view(row))


def tenant_of(row: Row) -> UUID | None:
    """The tenant of a row; None for the zero tenant."""
    tenant: UUID = row["tenant_id"]
    return None if tenant == NOBODY else tenant


def is_queue(name: str) -> bool:
    """Whether a queue may have this name."""
    return len(name) <= 100 and _QUEUE.match(name) is not None


def check_job(job: Job) -> None:
    """KernelBug when a plugin's code gives what no job may have."""
    if not is_queue(job.queue):
        raise KernelBug(f"{job.queue!r} names no queue; write lower-case words with dots between them, like send.email")
    if not 0 <= job.priority <= 9:
        raise KernelBug(f"a job's priority is from 0 to 9, and {job.priority} is not")
    if job.key is not None and not 1 <= len(job.key.encode()) <= JOB_KEY_BYTES_MAX:
        raise KernelBug(f"a job's key is 1 to {JOB_KEY_BYTES_MAX} bytes long, and {len(job.key.encode())} is not")
    if job.run_at is not None and job.run_at.tzinfo is None:
        raise KernelBug("a job's run_at is without a time zone; give an aware datetime")


def told(error: BaseException) -> str:
    """What an error says, for whoever looks at the job."""
    text = error.detail if isinstance(error, KernelError) else str(error)
    return f"{type(error).__name__}: {text}"[:REASON_LENGTH_MAX]
