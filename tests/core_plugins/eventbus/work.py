"""Jobs of `acme.notes`, with a clock that the test turns."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from core_plugins.eventbus.model.jobs import Taken
from core_plugins.eventbus.operations.job_parts import JobParts
from core_plugins.eventbus.operations.queueing import PostgresJobQueue
from core_plugins.eventbus.operations.scheduling import Scheduler
from core_plugins.eventbus.operations.working import JobWorker
from core_plugins.eventbus.storage import jobs as storage
from plugin_api.call import Call
from plugin_api.clock import SystemClock
from plugin_api.ports.job_queue import Job, JobView, RunningJob, Schedule, Worker
from plugin_api.testing.clock import FakeClock
from plugin_api.testing.waiting import until
from tests.core_plugins.eventbus.conftest import Bus

QUEUE = "acme.notes.import"
Handle = Callable[[Call, RunningJob], Awaitable[None]]


class Done:
    """A handler that keeps what came; fails as often as it is told."""

    def __init__(self, fails: int = 0) -> None:
        self.words: list[str] = []
        self.attempts: list[int] = []
        self._fails = fails

    async def __call__(self, call: Call, job: RunningJob) -> None:
        self.attempts.append(job.attempt)
        if len(self.attempts) <= self._fails:
            raise RuntimeError("cannot")
        await (await call.tx()).execute(
            "insert into notes (id, body) values (gen_random_uuid(), $1)", f"did {job.data['word']}"
        )
        self.words.append(job.data["word"])


class Held:
    """A handler that waits until the test lets it go on."""

    def __init__(self) -> None:
        self.jobs: list[RunningJob] = []
        self.go_on = asyncio.Event()

    async def __call__(self, call: Call, job: RunningJob) -> None:
        await (await call.tx()).execute(
            "insert into notes (id, body) values (gen_random_uuid(), $1)", f"held {job.data['word']}"
        )
        self.jobs.append(job)
        await self.go_on.wait()


@dataclass
class Work:
    """The queue `import` of `acme.notes`."""

    bus: Bus
    clock: FakeClock
    chance: float = 0.5
    """What the dice shows: 0.5 is a pause without jitter."""
    parts: JobParts = field(init=False)
    queue: PostgresJobQueue = field(init=False)

    def __post_init__(self) -> None:
        self.parts = JobParts(self.bus.parts(lease_s=10.0), self.clock, self.clock.now, lambda: self.chance)
        self.queue = PostgresJobQueue(self.parts)

    async def put(
        self,
        word: Any = "x",
        *,
        tenant: UUID | None = None,
        queue: str = "import",
        through: PostgresJobQueue | None = None,
        **given: Any,
    ) -> UUID:
        """Put a job in a transaction of its own."""
        async with self.bus.calls.open(tenant or self.bus.tenant, "put a job") as call:
            return await (through or self.queue).put(call, Job(queue, {"word": word}, **given))

    def real(self, **settings: Any) -> PostgresJobQueue:
        """A queue by the database's clock."""
        return PostgresJobQueue(JobParts(self.bus.parts(**settings), SystemClock()))

    async def put_in_vain(self) -> None:
        """Put a job in a transaction that is rolled back. RuntimeError, always."""
        async with self.bus.calls.open(self.bus.tenant, "put a job") as call:
            await self.queue.put(call, Job("import", {"word": "never"}))
            raise RuntimeError("it has changed its mind")

    def worker(self, handle: Handle, *, prefetch: int = 10, limit_s: float = 20.0) -> JobWorker:
        """A worker that the test steps by hand."""
        return JobWorker(self.parts, self.registered(handle, prefetch, limit_s))

    def registered(self, handle: Handle, prefetch: int = 10, limit_s: float = 20.0) -> Worker:
        """A handler, as the host hands it over."""
        return Worker(
            "x_acme_notes", QUEUE, "0", prefetch, limit_s,
            self.bus.calls.continued, handle,
        )  # fmt: skip

    def schedule(self, cron: str, *, member: str = "0", **given: Any) -> Schedule:
        """A schedule of `acme.notes` that puts jobs into `import`."""
        wanted: dict[str, Any] = {"name": "tick", "time_zone": "UTC", "per_tenant": False, "missed": "once", **given}
        return Schedule(plugin="x_acme_notes", queue="import", cron=cron, member=member, **wanted)

    def scheduler(self, cron: str, *, lease_s: float = 1.0, **given: Any) -> Scheduler:
        """A scheduler that the test steps by hand."""
        parts = JobParts(self.bus.parts(lease_s=lease_s), self.clock, self.clock.now, lambda: self.chance)
        return Scheduler(parts, self.schedule(cron, **given))

    async def fired(self) -> list[str]:
        """The moments of all jobs that were put, in order, in UTC."""
        rows = await self.bus.query("select data::json->>'moment' as moment from pk.job order by put_at, 1")
        return [f"{datetime.fromisoformat(row['moment']).astimezone(UTC):%m-%d %H:%M}" for row in rows]

    async def run(self, worker: JobWorker) -> int:
        """Let a worker take what is due, and wait until it has done it; how many jobs."""
        taken = await worker.step()
        await until(lambda: worker.is_idle, "the worker has done what it took")
        return taken

    async def take(self, most: int = 10, most_left: int = 10) -> list[Taken]:
        """Take jobs as a worker that will vanish."""
        async with self.bus.parts().tx("take") as tx:
            return await storage.take(tx, "x_acme_notes", QUEUE, most, most_left, 10.0, self.clock.now())

    async def look(self, job_id: UUID) -> JobView:
        """How a job is."""
        async with self.bus.calls.open(self.bus.tenant, "look") as call:
            found = await self.queue.find(call, job_id)
        assert found is not None
        return found

    async def notes(self) -> list[str]:
        """What handlers wrote, in order."""
        rows = await self.bus.query("select body from x_acme_notes.notes order by created_at, body")
        return [row["body"] for row in rows]

    async def waiting(self, queue: str = QUEUE) -> int:
        """What the counter of a queue says."""
        (row,) = await self.bus.query(
            "select added - gone as waiting from pk.queue join pk.queue_gone using (plugin, name) where name = $1",
            queue,
        )
        return row["waiting"]
