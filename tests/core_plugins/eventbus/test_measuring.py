"""How far everything is behind, as metrics: real numbers, shown by the process that leads alone, and back at nought."""

from __future__ import annotations

import time
from typing import Any
from uuid import uuid4

import pytest

from core_plugins.eventbus import storage
from core_plugins.eventbus.operations.counting import Counts, make_counts
from core_plugins.eventbus.operations.job_parts import JobParts
from core_plugins.eventbus.operations.measuring import GAUGES, Meter
from core_plugins.eventbus.storage import jobs as job_storage
from host.kernel import Kernel
from host.observe import Metrics
from plugin_api.clock import SystemClock
from plugin_api.testing.waiting import until
from tests.core_plugins.eventbus.test_consuming import Heard
from tests.core_plugins.eventbus.work import QUEUE, Done, Held, Work

TOPIC = "platform.module.events"
HEAR = ("acme.notes.hear", TOPIC)
Numbers = dict[tuple[str, ...], float]


def shown(metrics: Metrics, name: str) -> Numbers:
    """The series of a metric of the event bus."""
    families = {family["name"]: family for family in metrics.families()}
    samples = families.get(f"pk_eventbus_{name}", {"samples": []})["samples"]
    return {tuple(one["labels"].values()): one["value"] for one in samples}


def is_shown(kernel: Kernel, name: str, wanted: Numbers) -> Any:
    """Whether a metric shows just that."""
    return lambda: shown(kernel.metrics, name) == wanted


async def test_a_consumer_that_is_behind_is_seen_and_catches_up(bus) -> None:
    metrics = bus.kernel.metrics
    async with bus.reader(Heard()) as consumer:
        for number in range(5):
            await bus.tell(f"n{number}", word="x")
        await bus.relayed()
        await until(is_shown(bus.kernel, "consumer_behind_events", {HEAR: 5}), "it is five behind")
        await bus.query("update eventbus.log set appended_at = appended_at - interval '1 hour'")
        await until(lambda: shown(metrics, "consumer_behind_seconds")["acme.notes.hear",] > 3_600, "for an hour")

        async def has_caught_up() -> bool:
            await consumer.step()
            return shown(metrics, "consumer_behind_events") == {HEAR: 0}

        await until(has_caught_up, "it caught up", 20)
    await until(is_shown(bus.kernel, "consumer_behind_seconds", {("acme.notes.hear",): 0}), "nothing is old")
    assert shown(metrics, "dead_letters") == {HEAR: 0}


async def test_dead_letters_are_counted_until_they_are_delivered(bus) -> None:
    async with bus.reader(Heard({"bad": 4})) as consumer:
        for word in ("bad", "after"):
            await bus.tell("n1", word=word)
        await bus.relayed()

        async def shows(letters: int) -> bool:
            await consumer.step()
            return shown(bus.kernel.metrics, "dead_letters") == {HEAR: letters}

        await until(lambda: shows(2), "both are dead letters", 20)
        async with bus.parts().tx("ask") as tx:
            await tx.fetch("select ask_replay('acme.notes.hear', null)")
        await until(lambda: shows(0), "none is left", 20)


async def test_what_the_relay_has_not_moved_is_seen(bus) -> None:
    """As long as a transaction holds the log's tip, nothing is moved."""
    await until(is_shown(bus.kernel, "outbox_events", {(): 0}), "it measures")
    async with bus.parts().tx("hold up the relay") as tx:
        await tx.fetch("select relay(0, 1)")
        await bus.tell("n1", word="x")
        await until(is_shown(bus.kernel, "outbox_events", {(): 1}), "one waits")
        await until(lambda: shown(bus.kernel.metrics, "outbox_seconds")[()] > 0, "and grows old")
    await until(is_shown(bus.kernel, "outbox_events", {(): 0}), "it was moved")
    assert shown(bus.kernel.metrics, "outbox_seconds") == {(): 0}
    assert shown(bus.kernel.metrics, "events_relayed_total")[()] >= 1


async def test_queues_are_seen_and_run_empty(bus, work) -> None:
    queue, of_queue = work.real(), (QUEUE,)
    held = Held()
    for word in ("a", "b"):
        await work.put(word, through=queue)
    await until(is_shown(bus.kernel, "waiting_jobs", {of_queue: 2}), "two wait")
    await bus.query("update pk.job set run_at = run_at - interval '1 hour'")
    await until(lambda: shown(bus.kernel.metrics, "due_jobs_seconds")[of_queue] > 3_600, "they have been due")
    worker = work.worker(held)
    work.parts.clock.advance(3_600 * 24 * 365)
    await worker.step()
    await until(is_shown(bus.kernel, "running_jobs", {of_queue: 2}), "two are being done", 20)
    assert shown(bus.kernel.metrics, "due_jobs_seconds") == {of_queue: 0}
    held.go_on.set()
    await until(is_shown(bus.kernel, "running_jobs", {of_queue: 0}), "they are done", 20)
    assert (shown(bus.kernel.metrics, "waiting_jobs"), shown(bus.kernel.metrics, "dead_jobs")) == ({of_queue: 0},) * 2
    await bus.query("update pk.job set state = 'dead'")
    await until(is_shown(bus.kernel, "dead_jobs", {of_queue: 2}), "two are dead")


async def test_of_two_kernels_only_the_one_that_leads_shows_numbers(bus, open_kernel) -> None:
    second = await open_kernel(["data", "eventbus"], {"postgres": bus.dsn}, **{"eventbus.measure_s": 0.1})
    await until(lambda: shown(bus.kernel.metrics, "outbox_events"), "the first leads and shows")
    assert {name: shown(second.metrics, name) for name in GAUGES} == {name: {} for name in GAUGES}

    await bus.query(
        "update pk.lease set owner = 'another', epoch = epoch + 1, expires_at = clock_timestamp() + interval '1 hour' "
        "where name = 'eventbus:relay'"
    )
    await until(lambda: not shown(bus.kernel.metrics, "outbox_events"), "it leads no more and shows nothing", 20)
    assert {name: shown(bus.kernel.metrics, name) for name in GAUGES} == {name: {} for name in GAUGES}
    assert shown(second.metrics, "outbox_events") == {}


async def test_a_process_that_slept_past_its_lease_shows_nothing(bus, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its relay believes that it leads, and another has led since."""
    await bus.query("update pk.lease set expires_at = '-infinity', owner = '' where name = 'eventbus:relay'")
    relay = bus.relay("sleepy")
    meter = Meter(JobParts(bus.parts(), SystemClock()), relay)

    async def leads() -> bool:
        await relay.step()
        return relay.is_leading

    await until(leads, "it leads", 20)
    await meter.step()
    assert meter.read("outbox_events") == {(): 0}
    slept = time.monotonic() + bus.parts().settings.lease_s + 0.1
    monkeypatch.setattr("core_plugins.eventbus.operations.relaying.time.monotonic", lambda: slept)

    assert meter.read("outbox_events") == {}


class Registering:
    """Makes counters of a `Metrics`, as a registrar does."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def counter(self, name: str, description: str, labels: Any = ()) -> Any:
        return self._metrics.counter(f"pk_eventbus_{name}_total", description, labels)


def count(bus: Any) -> Metrics:
    """Let what the test steps be counted."""
    metrics = Metrics()
    counts: Counts = make_counts(Registering(metrics))  # type: ignore[arg-type]
    bus.counts = counts
    return metrics


async def test_what_consumers_do_is_counted(bus) -> None:
    metrics, heard = count(bus), Heard({"bad": 99, "late": 1})
    async with bus.reader(heard) as consumer:
        for word in ("bad", "fine", "late"):
            await bus.tell(word, word=word)
        await bus.relayed()

        async def is_done() -> bool:
            await consumer.step()
            return shown(metrics, "events_parked_total") == {("acme.notes.hear",): 1} and len(heard.words) == 2

        await until(is_done, "two were handled and one parked", 20)
        async with bus.parts().tx("rewind") as tx:
            await tx.fetch("select rewind('acme.notes.hear', now() - interval '1 hour')")
        await bus.tell("again", word="again")
        await bus.relayed()

        async def has_heard() -> bool:
            await consumer.step()
            return "again" in heard.words

        await until(has_heard, "what was handled before is passed", 20)
    assert shown(metrics, "events_handled_total") == {("acme.notes.hear",): 3}
    assert shown(metrics, "events_retried_total") == {("acme.notes.hear",): 4}


async def test_what_workers_do_is_counted(bus, clock) -> None:
    metrics = count(bus)
    work = Work(bus, clock)
    await work.put("x")
    await work.run(work.worker(Done()))
    await work.put("y", tenant=uuid4())
    worker = work.worker(Done(fails=99))
    for _ in range(6):
        await work.run(worker)
        clock.advance(600)

    of_queue = (QUEUE,)
    assert shown(metrics, "jobs_done_total") == {of_queue: 1}
    assert shown(metrics, "jobs_failed_total") == {of_queue: 5}
    assert shown(metrics, "jobs_dead_total") == {of_queue: 1}


TOUCHED = """select coalesce(sum(pg_stat_get_xact_tuples_returned(c.oid)), 0)::bigint as n from pg_class c
  where c.relname like 'log%' or c.relname like 'job%' or c.relname like 'dead_letters%'"""
"""Rows and index entries of the large tables that this transaction has read."""


async def touched(bus: Any) -> int:
    """How many rows one measurement reads."""
    async with bus.parts().tx("measure") as tx:
        await storage.measure_consumers(tx)
        await job_storage.measure_queues(tx, None)
        row = await tx.fetch_one(TOUCHED)
    return int(row["n"])


async def test_measuring_reads_no_more_rows_when_there_are_many(bus, work) -> None:
    await bus.tell("n1", word="x")
    await bus.relayed()
    await work.put()
    await bus.query(
        """insert into eventbus.progress (consumer, topic, partition, next_offset)
        select 'acme.notes.hear', topic, partition, 0 from eventbus.heads"""
    )
    before = await touched(bus)
    assert before > 0
    await bus.query(
        """insert into eventbus.log select bucket, position + n, topic, partition, "offset" + n, appended_at, tenant_id,
          gen_random_uuid(), source, type, subject, time, sequence + n, data, actor, traceparent
        from (select * from eventbus.log limit 1) l, generate_series(1, 20000) n"""
    )
    await bus.query("update eventbus.heads set next_offset = next_offset + 20000 where next_offset > 0")
    await bus.query(
        """insert into pk.job (tenant_id, id, plugin, queue, state, priority, run_at, data, actor, traceparent, put_at, ended_at)
        select tenant_id, gen_random_uuid(), plugin, queue, 'done', 5, run_at, data, actor, '', put_at, now()
        from pk.job, generate_series(1, 20000)"""
    )
    for table in ("eventbus.log", "pk.job"):
        await bus.query(f"analyze {table}")

    await until(lambda: shown(bus.kernel.metrics, "consumer_behind_events").get(HEAR) == 20_001, "it is far behind")
    assert await touched(bus) < before + 100
