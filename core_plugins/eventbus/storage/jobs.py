"""Every statement about jobs and schedules; what they do is told beside the database's functions."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, cast
from uuid import UUID

from msgspec import Struct

from core_plugins.eventbus.model.jobs import ATTEMPTS, DeadJob, Taken, dead_job, taken, view
from plugin_api.ids import uuid7
from plugin_api.ports.database import Row, Tx
from plugin_api.ports.job_queue import Job, JobView, Schedule, State

At = datetime | None
"""A moment that tests choose; None is the database's own."""


class Fired(Struct, frozen=True):
    """What came of firing a schedule."""

    fired: int
    """Jobs; -1 when the lease is another's by now."""
    refused: int


async def _one(tx: Tx, sql: str, *arguments: Any) -> Row:
    row = await tx.fetch_one(sql, *arguments)
    assert row is not None, "a function answers one row"
    return row


async def _value(tx: Tx, sql: str, *arguments: Any) -> Any:
    return (await _one(tx, sql, *arguments))["value"]


# ------------------------------------------------------------------------------- as the plugin whose job it is


async def put(tx: Tx, job: Job, data: str, origin: tuple[str, str], at: At) -> UUID | None:
    """Put a job down; its id or that of the one that waits with its key, None when the queue is full."""
    sql = "select id from pk.put_job($1, $2, $3, $4, $5, $6, $7, $8, $9)"
    given = (job.queue, uuid7(), data, job.priority, job.run_at, job.key, *origin, at)
    return cast("UUID | None", (await _one(tx, sql, *given))["id"])


async def finish(tx: Tx, job: Taken, at: At) -> bool:
    """Note in the transaction of its effect that a job is done; False when it is held no more."""
    return bool(await _value(tx, "select pk.finish_job($1, $2, $3) as value", job.id, job.epoch, at))


async def cancel(tx: Tx, job_id: UUID, at: At) -> State | None:
    """End a job of the transaction's plugin and tenant; the state that it had."""
    return cast("State | None", await _value(tx, "select pk.cancel_job($1, $2) as value", job_id, at))


async def find(tx: Tx, job_id: UUID) -> JobView | None:
    """A job of the transaction's plugin and tenant."""
    row = await tx.fetch_one("select * from pk.find_job($1)", job_id)
    return None if row is None else view(row)


# -------------------------------------------------------------------------------------------------- as eventbus


async def take(tx: Tx, plugin: str, queue: str, most: int, most_left: int, lease_s: float, at: At) -> list[Taken]:
    """Take the next jobs of a queue, among them at most `most_left` that a worker ended in the middle of."""
    sql = "select * from pk.take_jobs($1, $2, $3, $4, $5, $6, $7)"
    rows = await tx.fetch(sql, plugin, queue, most, most_left, lease_s, ATTEMPTS, at)
    return [taken(row) for row in rows]


async def extend(tx: Tx, jobs: Sequence[Taken], lease_s: float, at: At) -> set[UUID]:
    """Hold on to jobs; those that are still held."""
    ids, epochs = [one.id for one in jobs], [one.epoch for one in jobs]
    rows = await tx.fetch("select * from pk.extend_jobs($1, $2, $3, $4) as id", ids, epochs, lease_s, at)
    return {row["id"] for row in rows}


async def note_progress(tx: Tx, job: Taken, percent: int, note: str) -> bool:
    """Write down how far a job is; False when it is held no more."""
    sql = "select pk.note_progress($1, $2, $3, $4) as value"
    return bool(await _value(tx, sql, job.id, job.epoch, percent, note))


async def finish_kernel_job(tx: Tx, job: Taken, at: At) -> bool:
    """Note that a job without a tenant is done."""
    return bool(await _value(tx, "select pk.finish_kernel_job($1, $2, $3) as value", job.id, job.epoch, at))


async def give_back(tx: Tx, job: Taken, pause_s: float, why: str, *, counts: bool, at: At) -> bool:
    """Let a job wait again; False when it is held no more."""
    sql = "select pk.return_job($1, $2, $3, $4, $5, $6) as value"
    return bool(await _value(tx, sql, job.id, job.epoch, pause_s, why, counts, at))


async def bury(tx: Tx, job: Taken, why: str, at: At) -> bool:
    """Let a job be dead; False when it is held no more."""
    return bool(await _value(tx, "select pk.bury_job($1, $2, $3, $4) as value", job.id, job.epoch, why, at))


async def cancel_of(tx: Tx, tenant_id: UUID | None, job_id: UUID, at: At) -> State | None:
    """End any plugin's job of a tenant, or of all; the state that it had."""
    return cast("State | None", await _value(tx, "select pk.cancel_job_of($1, $2, $3) as value", tenant_id, job_id, at))


async def find_of(tx: Tx, tenant_id: UUID, job_id: UUID) -> JobView | None:
    """Any plugin's job of a tenant."""
    row = await tx.fetch_one("select * from pk.find_job_of($1, $2)", tenant_id, job_id)
    return None if row is None else view(row)


async def list_queues(tx: Tx, at: At) -> Sequence[Row]:
    """All queues: queue, plugin, waiting, running, dead, oldest."""
    return await tx.fetch("select * from pk.list_queues($1)", at)


async def measure_queues(tx: Tx, at: At) -> Sequence[Row]:
    """All queues: queue, waiting, running, dead, oldest_s."""
    return await tx.fetch(
        """select queue, waiting, running, dead,
        coalesce(extract(epoch from coalesce($1::timestamptz, clock_timestamp()) - oldest), 0)::float8 as oldest_s
        from pk.list_queues($1::timestamptz)""",
        at,
    )


async def list_dead(tx: Tx, queue: str | None, before: UUID | None, most: int) -> list[DeadJob]:
    """Dead jobs of all tenants."""
    return [dead_job(row) for row in await tx.fetch("select * from pk.list_dead_jobs($1, $2, $3)", queue, before, most)]


async def replay(tx: Tx, queue: str | None, job_id: UUID | None, at: At) -> tuple[int, int]:
    """Let dead jobs wait again; how many, and how many there was no room for."""
    row = await _one(tx, "select * from pk.replay_jobs($1, $2, $3)", queue, job_id, at)
    return row["replayed"], row["left_over"]


async def sweep(tx: Tx, plugin: str, queue: str, keep_hours: int, keep_dead_days: int, at: At) -> int:
    """Forget jobs that ended long ago; how many."""
    sql = "select pk.sweep_jobs($1, $2, $3, $4, $5) as value"
    return cast("int", await _value(tx, sql, plugin, queue, keep_hours, keep_dead_days, at))


# ---------------------------------------------------------------------------------------------------- schedules


async def join_schedule(tx: Tx, schedule: Schedule, at: datetime) -> datetime:
    """Let a schedule begin, or go on; since when it has to be settled."""
    sql = "select join_schedule($1, $2, $3, $4, $5) as value"
    given = (schedule.plugin, schedule.name, schedule.cron, schedule.time_zone, at)
    return cast("datetime", await _value(tx, sql, *given))


async def fire(
    tx: Tx, schedule: Schedule, lease: tuple[str, int], moments: Sequence[datetime], until: datetime, at: At
) -> Fired:
    """Put the jobs of these moments, once; everything up to `until` is settled then."""
    row = await _one(
        tx,
        "select * from fire($1, $2, $3, $4, $5, $6, $7, $8, $9)",
        schedule.plugin, schedule.name, *lease, list(moments), until, schedule.queue, schedule.per_tenant, at,
    )  # fmt: skip
    return Fired(row["fired"], row["refused"])


async def know_tenant(tx: Tx, *, active: bool) -> None:
    """Note that the transaction's tenant exists, and whether it is active. Idempotent."""
    await tx.execute(
        """insert into tenants (tenant_id, active) values (pk.tenant_id(), $1)
        on conflict (tenant_id) do update set active = excluded.active, updated_at = now(), version = tenants.version + 1""",
        active,
    )


async def forget_tenant(tx: Tx, tenant_id: UUID) -> None:
    """Forget a tenant, in its own transaction, with its firings and jobs. Idempotent."""
    await tx.execute("delete from firings")
    await tx.execute("delete from tenants")
    await tx.execute("select pk.erase_jobs($1)", tenant_id)


async def forget_plugin(tx: Tx, plugin: str, most: int) -> int:
    """Forget so many jobs and firings of a plugin; how many went, 0 when it is all done."""
    jobs = cast("int", await _value(tx, "select pk.forget_jobs_of($1, $2) as value", plugin, most))
    firings = cast("int", await _value(tx, "select forget_schedules($1, $2) as value", plugin, most))
    return jobs + firings
