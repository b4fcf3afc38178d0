"""Schedules: each moment once in all processes, whoever leads, whoever is killed, however long nobody ran."""

from __future__ import annotations

from uuid import UUID, uuid4

from core_plugins.eventbus import storage as leases
from core_plugins.eventbus.operations.scheduling import Scheduler
from core_plugins.eventbus.operations.tenants import KnownTenants
from core_plugins.eventbus.operations.working import JobWorker
from core_plugins.eventbus.storage import jobs as storage
from plugin_api.call import Call
from plugin_api.ports.job_queue import RunningJob, Worker
from plugin_api.testing.waiting import until

HOUR = 3_600
DAY = 86_400


async def leads(scheduler: Scheduler, clock) -> None:
    """Step until it leads: the lease of who is gone ends by the database's clock."""

    async def looks() -> bool:
        clock.advance(1)
        await scheduler.step()
        return scheduler.is_leading

    await until(looks, "it leads")


async def test_of_two_schedulers_one_fires_and_the_other_takes_over_when_it_is_killed(work) -> None:
    first, second = work.scheduler("0 * * * *", member="a"), work.scheduler("0 * * * *", member="b")
    assert [await first.step(), await second.step()] == [0, 0], "nothing has come yet"
    for _ in range(3):
        work.clock.advance(HOUR - 1)
        await first.step()
        work.clock.advance(1)
        assert await first.step() + await second.step() == 1
        assert await first.step() + await second.step() == 0
    assert (first.is_leading, second.is_leading) == (True, False)

    work.clock.advance(HOUR)  # and the first is gone, without a word
    await leads(second, work.clock)
    assert await work.fired() == ["01-01 01:00", "01-01 02:00", "01-01 03:00", "01-01 04:00"]

    work.clock.advance(HOUR)
    assert await second.step() == 1
    assert await first.step() == 0, "the first comes back, and finds that it does not lead"
    assert await work.fired() == ["01-01 01:00", "01-01 02:00", "01-01 03:00", "01-01 04:00", "01-01 05:00"]


async def test_a_clock_that_jumps_fires_nothing_twice(work) -> None:
    """Back, as when a wrong clock is set right, and on again: a moment that was fired stays fired."""
    scheduler = work.scheduler("0 * * * *", member="a")
    await scheduler.step()
    work.clock.advance(2 * HOUR)
    assert await scheduler.step() == 1, "the newest of what a jump forward leaves out"
    work.clock.jump(-90 * 60)
    for _ in range(4):
        assert await scheduler.step() == 0
        work.clock.advance(20 * 60)
    work.clock.advance(80 * 60)
    assert await scheduler.step() == 1

    fired = await work.fired()
    assert len(fired) == len(set(fired)) == 2


async def test_even_two_leaders_fire_a_moment_once(work) -> None:
    """Leases that were both held, of one schedule: the row of the moment decides."""
    names, schedule = ["eventbus:schedule/a", "eventbus:schedule/b"], work.schedule("0 * * * *")
    moments = [work.clock.now().replace(hour=hour) for hour in (1, 2)]
    async with work.bus.parts().tx("lead") as tx:
        one, other = sorted(await leases.take_leases(tx, names, "x", 60, 2), key=lambda held: held.name)
        await storage.join_schedule(tx, schedule, work.clock.now())
    came = []
    for lease in ((one.name, one.epoch), (other.name, other.epoch), (one.name, one.epoch + 1)):
        async with work.bus.parts().tx("fire") as tx:
            fired = await storage.fire(tx, schedule, lease, moments, work.clock.now(), work.clock.now())
        came.append(fired.fired)
    assert came == [2, 0, -1]
    assert await work.fired() == ["01-01 01:00", "01-01 02:00"]


async def test_what_was_missed_is_made_up_for_as_the_schedule_says(work) -> None:
    for missed in ("once", "skip", "all"):
        one = work.scheduler("0 12 * * *", name=missed, missed=missed)
        await one.step()
        await one.leave()
    work.clock.advance(3 * DAY + 13 * HOUR)
    for missed, fired in (("once", 1), ("skip", 0), ("all", 4)):
        again = work.scheduler("0 12 * * *", name=missed, missed=missed)
        assert await again.step() == fired
        work.clock.advance(2)
        assert await again.step() == 0
        await again.leave()
    assert sorted(await work.fired()) == ["01-01 12:00", "01-02 12:00", "01-03 12:00", "01-04 12:00", "01-04 12:00"]

    changed = work.scheduler("0 11 * * *", name="once")
    assert await changed.step() == 0, "another schedule begins now"


async def test_a_schedule_of_every_tenant_fires_in_each_that_is_active(work) -> None:
    known = KnownTenants(work.parts)
    tenants = [uuid4(), uuid4(), uuid4()]
    for tenant in (*tenants, tenants[0]):
        await known.note(tenant, active=True)
    await known.note(tenants[2], active=False)
    scheduler = work.scheduler("30 2 * * *", per_tenant=True, time_zone="Europe/Berlin")
    await scheduler.step()
    work.clock.advance(2 * HOUR)
    assert await scheduler.step() == 2

    seen: list[UUID] = []

    async def handle(call: Call, job: RunningJob) -> None:
        seen.append(call.tenant_id)
        assert job.data["schedule"] == "tick"

    await work.run(work.worker(handle))
    assert sorted(seen) == sorted(tenants[:2])

    await known.forget(tenants[0])
    work.clock.advance(DAY)
    assert await scheduler.step() == 1
    assert {row["tenant_id"] for row in await work.bus.query("select tenant_id from pk.job")} == {tenants[1]}


async def test_a_job_without_a_tenant_is_done_and_tried_again(work) -> None:
    scheduler = work.scheduler("0 * * * *")
    await scheduler.step()
    work.clock.advance(HOUR)
    assert await scheduler.step() == 1
    tries = []

    async def handle(call: Call, job: RunningJob) -> None:
        tries.append((job.attempt, call.has_tenant))
        assert len(tries) > 1, "not yet"

    calls = work.parts.parts.calls
    worker = JobWorker(
        work.parts,
        Worker(
            "x_acme_notes", "acme.notes.import", "0", 5, 10.0,
            calls.continued, handle,
        ),
    )  # fmt: skip
    await work.run(worker)
    work.clock.advance(31)
    await work.run(worker)
    assert tries == [(1, False), (2, False)]
    (row,) = await work.bus.query("select state from pk.job")
    assert row["state"] == "done"


async def test_a_full_queue_costs_the_moment_and_nothing_else(work) -> None:
    await work.put()
    await work.bus.query("update pk.queue set added = added + 9999")
    scheduler = work.scheduler("0 * * * *")
    await scheduler.step()
    work.clock.advance(HOUR)
    assert await scheduler.step() == 0
    await work.bus.query("update pk.queue set added = added - 9999")
    assert await scheduler.step() == 0, "it is not made up for"
    work.clock.advance(HOUR)
    assert await scheduler.step() == 1
