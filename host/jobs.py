"""Jobs as the host sees them: what a plugin's registrar takes, and the tasks that come of it."""

from __future__ import annotations

import inspect
import re
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError

from host.generations import Generation, RegisteredSchedule, RegisteredTask, RegisteredWorker
from host.runtime import PluginCalls
from host.services import capability_of
from plugin_api.call import Call
from plugin_api.errors import KernelBug
from plugin_api.limits import JOB_PREFETCH_MAX, TASKS_PER_PLUGIN_MAX
from plugin_api.manifest import ManifestError
from plugin_api.operation import JobSpec
from plugin_api.ports.job_queue import JOB_QUEUE, Job, JobQueue, JobView, RunningJob, Schedule, State, Worker

if TYPE_CHECKING:
    from host.kernel import Kernel

_QUEUE: Final = re.compile(r"[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)*\Z")
SCHEDULED: Final = "scheduled"
"""The queues of a plugin's schedules are named `scheduled.{method}`."""
SCHEDULED_PREFETCH: Final = 5
SCHEDULED_LIMIT_S: Final = 300.0


class PluginJobs:
    """The `jobs` handle of one plugin."""

    def __init__(self, kernel: Kernel, generation: Generation) -> None:
        self._kernel = kernel
        self._generation = generation

    def _queue(self) -> JobQueue:
        if JOB_QUEUE.name not in _required(self._generation):
            raise KernelBug(
                f'{self._generation.plugin_id} puts jobs; add "{JOB_QUEUE.name}" to requires in its manifest'
            )
        return self._kernel.require(JOB_QUEUE)

    async def put(self, call: Call, job: Job) -> UUID:
        """Put a job down in the call's transaction."""
        return await self._queue().put(call, job)

    async def cancel(self, call: Call, job_id: UUID) -> State | None:
        """End a job; the state that it had."""
        return await self._queue().cancel(call, job_id)

    async def find(self, call: Call, job_id: UUID) -> JobView | None:
        """Look at a job."""
        return await self._queue().find(call, job_id)


def _required(generation: Generation) -> set[str]:
    manifest = generation.manifest
    return {capability_of(entry) for entry in (*manifest.requires, *manifest.provides)}


def register_worker(
    generation: Generation,
    queue: str,
    handle: Callable[[Call, RunningJob], Awaitable[None]],
    prefetch: int,
    limit_s: float,
) -> None:
    """Write a worker into its generation. ManifestError when it cannot be one."""
    where = f"{generation.plugin_id}: the worker of {queue!r}"
    if JOB_QUEUE.name not in _required(generation):
        raise ManifestError(f'{where} needs the job queue; add "{JOB_QUEUE.name}" to requires in the manifest')
    if len(queue) > 100 or not _QUEUE.match(queue):
        raise ManifestError(f"{where}: write the queue in lower-case words with dots between them, like send.email")
    if any(one.queue == queue for one in generation.workers):
        raise ManifestError(f"{where} is registered twice; one queue has one worker")
    if len(generation.workers) >= TASKS_PER_PLUGIN_MAX:
        raise ManifestError(f"{generation.plugin_id}: more than {TASKS_PER_PLUGIN_MAX} workers and schedules")
    if not 1 <= prefetch <= JOB_PREFETCH_MAX or limit_s <= 0:
        raise ManifestError(f"{where}: prefetch is 1 to {JOB_PREFETCH_MAX}, and limit_s is more than 0")
    generation.workers.append(RegisteredWorker(queue, handle, prefetch, limit_s))


def register_schedule(generation: Generation, name: str, method: Callable[..., Any], spec: JobSpec) -> None:
    """Write a schedule and the worker of its queue into their generation. ManifestError when it cannot be one."""
    where = f"{generation.plugin_id}: the job {name}"
    if not inspect.iscoroutinefunction(method):
        raise ManifestError(f"{where} is no `async def`")
    if len(inspect.signature(method).parameters) != 1:
        raise ManifestError(f"{where} takes (self, call: Call)")
    if not spec.per_tenant and not generation.plugin_id.startswith("kernel."):
        raise ManifestError(
            f"{where} would be called without a tenant, which is for kernel plugins; say per_tenant=True"
        )
    _check_cron(where, spec)
    queue = f"{SCHEDULED}.{name}"
    register_worker(generation, queue, partial(_call_method, method), SCHEDULED_PREFETCH, SCHEDULED_LIMIT_S)
    generation.schedules.append(
        RegisteredSchedule(name, queue, spec.cron, spec.time_zone, spec.per_tenant, spec.missed)
    )


def _check_cron(where: str, spec: JobSpec) -> None:
    if len(spec.cron.split()) != 5:
        raise ManifestError(f"{where}: {spec.cron!r} has not five fields: minute hour day-of-month month day-of-week")
    try:
        ZoneInfo(spec.time_zone)
        next(CronSim(spec.cron, datetime(2026, 1, 1, tzinfo=UTC)))
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ManifestError(f"{where}: {spec.time_zone!r} is no time zone; write one like Europe/Berlin") from None
    except CronSimError as error:
        raise ManifestError(f"{where}: {spec.cron!r}: {error}; an example: */15 8-18 * * MON-FRI") from None
    except StopIteration:
        raise ManifestError(f"{where}: {spec.cron!r} names no day that ever comes") from None


async def _call_method(method: Callable[[Call], Awaitable[None]], call: Call, job: RunningJob) -> None:
    await method(call)


def job_tasks(kernel: Kernel, generation: Generation) -> Iterator[RegisteredTask]:
    """The tasks that do a generation's jobs and keep its schedules."""
    for worker in generation.workers:
        yield RegisteredTask(f"jobs {worker.queue}", partial(_work, kernel, generation, worker))
    for schedule in generation.schedules:
        yield RegisteredTask(f"schedule {schedule.name}", partial(_keep, kernel, generation, schedule))


async def _work(kernel: Kernel, generation: Generation, registered: RegisteredWorker) -> None:
    calls = PluginCalls(kernel.runtime(generation))
    worker = Worker(
        plugin=generation.names.schema,
        queue=f"{generation.names.area}.{registered.queue}",
        member=_member(kernel, generation),
        prefetch=registered.prefetch,
        limit_s=registered.limit_s,
        open=calls.continued,
        handle=registered.handle,
    )
    await kernel.require(JOB_QUEUE).work(worker)


async def _keep(kernel: Kernel, generation: Generation, registered: RegisteredSchedule) -> None:
    schedule = Schedule(
        plugin=generation.names.schema,
        name=registered.name,
        queue=registered.queue,
        cron=registered.cron,
        time_zone=registered.time_zone,
        per_tenant=registered.per_tenant,
        missed=registered.missed,
        member=_member(kernel, generation),
    )
    await kernel.require(JOB_QUEUE).keep(schedule)


def _member(kernel: Kernel, generation: Generation) -> str:
    return f"{kernel.state.worker}:{generation.number}"
