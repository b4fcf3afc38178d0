"""Jobs of a plugin: workers and schedules are registered, or refused with what to write; they run from publish to stop."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from host.kernel import Kernel
from host.lifecycle import ActivationFailed, Lifecycle
from host.runtime import PluginCalls
from plugin_api import Call, Registrar, job
from plugin_api.errors import KernelBug
from plugin_api.ports.job_queue import JOB_QUEUE, Job, RunningJob, Schedule, Worker
from plugin_api.testing.waiting import until
from tests.host.conftest import no_migrations
from tests.host.registering import activate

JOBS: dict[str, Any] = {"requires": ["jobs"]}


async def send(call: Call, job: RunningJob) -> None:
    """Does nothing."""


def scheduled(cron: str, **given: Any) -> object:
    class Owner:
        @job(cron, **{"per_tenant": True, **given})
        async def tick(self, call: Call) -> None:
            """Come."""

    return Owner()


class NotAsync:
    @job("0 * * * *", per_tenant=True)
    def tick(self, call: Call) -> None:
        """Cannot be awaited."""


class TakesMore:
    @job("0 * * * *", per_tenant=True)
    async def tick(self, call: Call, more: int) -> None:
        """Wants what nobody gives."""


@pytest.mark.parametrize(
    ("owner", "manifest", "words"),
    [
        (scheduled("0 * * * *"), {}, 'add "jobs" to requires'),
        (scheduled("0 * * * *", per_tenant=False), JOBS, "per_tenant=True"),
        (scheduled("0 * * *"), JOBS, "five fields"),
        (scheduled("61 * * * *"), JOBS, "Bad minute"),
        (scheduled("0 0 31 2 *"), JOBS, "Bad day"),
        (scheduled("0 * * * *", time_zone="Mars/Olympus"), JOBS, "no time zone"),
        (NotAsync(), JOBS, "no `async def`"),
        (TakesMore(), JOBS, "takes \\(self, call: Call"),
    ],
    ids=["not-required", "no-tenant", "four-fields", "bad-field", "never", "no-zone", "not-async", "takes-more"],
)
async def test_what_cannot_be_scheduled_is_refused_with_the_remedy(
    bare_kernel: Kernel, tmp_path: Path, owner: object, manifest: dict[str, Any], words: str
) -> None:
    with pytest.raises(ActivationFailed, match=words):
        await activate(bare_kernel, tmp_path, lambda registrar: registrar.reactions(owner), **manifest)


@pytest.mark.parametrize(
    ("queues", "given", "manifest", "words"),
    [
        (["send.email"], {}, {}, 'add "jobs" to requires'),
        (["Send"], {}, JOBS, "lower-case words"),
        (["send", "send"], {}, JOBS, "registered twice"),
        (["send"], {"prefetch": 0}, JOBS, "prefetch is 1 to 100"),
        (["send"], {"limit_s": 0}, JOBS, "limit_s is more than 0"),
    ],
    ids=["not-required", "bad-name", "twice", "no-prefetch", "no-limit"],
)
async def test_what_cannot_work_is_refused_with_the_remedy(
    bare_kernel: Kernel,
    tmp_path: Path,
    queues: list[str],
    given: dict[str, Any],
    manifest: dict[str, Any],
    words: str,
) -> None:
    def register(registrar: Registrar) -> None:
        for queue in queues:
            registrar.worker(queue, send, **given)

    with pytest.raises(ActivationFailed, match=words):
        await activate(bare_kernel, tmp_path, register, **manifest)


class Queue:
    """Keeps what it was asked."""

    def __init__(self) -> None:
        self.kept: list[Worker | Schedule] = []
        self.put_jobs: list[Job] = []

    async def work(self, worker: Worker) -> None:
        await self.keep(worker)

    async def keep(self, one: Worker | Schedule) -> None:
        self.kept.append(one)
        try:
            await asyncio.Event().wait()
        finally:
            self.kept.remove(one)

    async def put(self, call: Call, job: Job) -> UUID:
        self.put_jobs.append(job)
        return uuid4()

    async def cancel(self, call: Call, job_id: UUID) -> None:
        raise AssertionError("nobody cancels here")

    async def find(self, call: Call, job_id: UUID) -> None:
        raise AssertionError("nobody looks here")


async def test_workers_and_schedules_run_until_their_plugin_stops(bare_kernel: Kernel, tmp_path: Path) -> None:
    queue = Queue()
    await activate(
        bare_kernel, tmp_path, lambda one: one.service(JOB_QUEUE, queue), "kernel.eventbus", provides=["jobs 1.0"]
    )

    def register(registrar: Registrar) -> None:
        registrar.worker("send.email", send, prefetch=3, limit_s=7)
        registrar.reactions(scheduled("5 4 * * *", time_zone="Europe/Berlin", missed="all"))

    generation = await activate(bare_kernel, tmp_path, register, **JOBS)
    await until(lambda: len(queue.kept) == 3, "a worker, a schedule and the worker of its queue")

    workers = {one.queue: one for one in queue.kept if isinstance(one, Worker)}
    (schedule,) = [one for one in queue.kept if isinstance(one, Schedule)]
    email = workers["acme.crm.send.email"]
    assert (email.plugin, email.prefetch, email.limit_s, email.handle) == ("x_acme_crm", 3, 7, send)
    assert email.member == f"0:{generation.number}"
    assert set(workers) == {"acme.crm.send.email", f"acme.crm.{schedule.queue}"}
    assert (schedule.name, schedule.cron, schedule.time_zone) == ("tick", "5 4 * * *", "Europe/Berlin")
    assert (schedule.per_tenant, schedule.missed) == (True, "all")

    await Lifecycle(bare_kernel, no_migrations).deactivate("acme.crm")
    assert not queue.kept


async def test_a_plugin_puts_jobs_through_its_registrar_alone(bare_kernel: Kernel, tmp_path: Path) -> None:
    """What is behind the capability hands out jobs of every tenant."""
    queue, handles = Queue(), {}
    await activate(
        bare_kernel, tmp_path, lambda one: one.service(JOB_QUEUE, queue), "kernel.eventbus", provides=["jobs 1.0"]
    )

    def register(registrar: Registrar) -> None:
        handles["wired"] = registrar.jobs
        with pytest.raises(KernelBug, match="jobs"):
            registrar.services.get(JOB_QUEUE)

    generation = await activate(bare_kernel, tmp_path, register, **JOBS)
    await activate(bare_kernel, tmp_path, lambda one: handles.update(bare=one.jobs), "acme.shop")

    async with PluginCalls(bare_kernel.runtime(generation)).open(uuid4(), "put") as call:
        await handles["wired"].put(call, Job("send", {}))
        with pytest.raises(KernelBug, match='add "jobs" to requires'):
            await handles["bare"].put(call, Job("send", {}))
    assert [one.queue for one in queue.put_jobs] == ["send"]
