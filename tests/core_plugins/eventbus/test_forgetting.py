"""A plugin leaves with its data: what the event bus keeps for it goes, what is others' stays, and it may come again afresh."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import asyncpg
import pytest
from msgspec import Struct

from core_plugins.eventbus import storage
from core_plugins.eventbus.storage import jobs as job_storage
from host.data_removal import dispose
from host.migrations import migrate
from plugin_api.errors import KernelBug
from plugin_api.event_schemas import schema_of
from plugin_api.ports.event_log import EVENT_LOG
from plugin_api.ports.job_queue import JOB_QUEUE
from plugin_api.ports.migrations import MIGRATOR
from plugin_api.testing.waiting import until
from tests.conftest import NOTES
from tests.core_plugins.eventbus.test_consuming import Heard
from tests.core_plugins.eventbus.work import Done


class Added(Struct, frozen=True):
    word: str


KEPT = {
    "eventbus.progress": "starts_with(consumer, 'acme.notes')",
    "eventbus.members": "starts_with(consumer, 'acme.notes')",
    "eventbus.dead_letters": "starts_with(consumer, 'acme.notes')",
    "eventbus.schedules": "plugin like 'x_acme_notes%'",
    "eventbus.firings": "plugin like 'x_acme_notes%'",
    "eventbus.event_types": "area like 'acme.notes%'",
    "pk.inbox": "plugin like 'x_acme_notes%'",
    "pk.entity": "area like 'acme.notes%'",
    "pk.outbox": "source like '/plugins/acme.notes%'",
    "pk.job": "plugin like 'x_acme_notes%'",
    "pk.queue": "plugin like 'x_acme_notes%'",
    "pk.queue_gone": "plugin like 'x_acme_notes%'",
    "pk.lease": "name like 'eventbus:acme.notes%' or name like 'eventbus:schedule/x_acme_notes%'",
}
"""Where the event bus keeps something for plugins, and how that of `acme.notes` and its namesakes is found."""
COLUMNS = ("consumer", "plugin", "area", "source", "type", "name")


async def kept(bus: Any) -> dict[str, int]:
    """How many rows there are, by table."""
    return {
        table: (await bus.query(f"select count(*) as n from {table} where {where}"))[0]["n"]
        for table, where in KEPT.items()
    }


async def double(bus: Any) -> None:
    """Give another plugin, whose id begins with that of `acme.notes`, the same rows."""
    for table, where in KEPT.items():
        (columns,) = await bus.query(
            "select array_agg(attname::text order by attnum) as all from pg_attribute where attrelid = $1::regclass::oid "
            "and attnum > 0 and not attisdropped and attidentity = ''",
            table,
        )
        chosen = [_as_others(table, one) for one in columns["all"]]
        names = ", ".join(f'"{one}"' for one in columns["all"])
        await bus.query(f"insert into {table} ({names}) select {', '.join(chosen)} from {table} where {where}")


def _as_others(table: str, column: str) -> str:
    if column == "id" and table in ("pk.job", "eventbus.dead_letters", "pk.outbox"):
        return "gen_random_uuid()"
    if column in COLUMNS or column == "queue":
        return f"""replace(replace("{column}", 'acme.notes', 'acme.notes.more'), 'x_acme_notes', 'x_acme_notes_more')"""
    return f'"{column}"'


@pytest.fixture
async def used(bus, work) -> Any:
    """A plugin that has told, heard, failed, put jobs and kept a schedule; and another one beside it."""
    async with bus.reader(Heard({"bad": 99})) as consumer:
        for word in ("bad", "fine"):
            await bus.tell(word, word=word)
        await bus.relayed()

        async def are_done() -> bool:
            await consumer.step()
            counted = await kept(bus)
            return counted["eventbus.dead_letters"] == 1 and counted["pk.inbox"] == 1

        await until(are_done, "one was handled and one parked", 20)
        schedule = work.scheduler("* * * * *", lease_s=30)
        await schedule.step()
        work.clock.advance(120)
        assert await schedule.step() > 0
        for _ in range(3):
            await work.put()
        await work.run(work.worker(Done(), prefetch=1))
        await bus.query("update pk.lease set expires_at = 'infinity', owner = 'nobody' where name = 'eventbus:relay'")
        await bus.query("update pk.lease set epoch = epoch + 1 where name = 'eventbus:relay'")
        await bus.tell("late", word="not relayed")
        await bus.kernel.require(EVENT_LOG).declare("acme.notes", {"note.added.v1": schema_of(Added)})
        before = await kept(bus)
        assert all(before.values()), before
        await double(bus)
        yield before


async def rows_of_others(bus: Any) -> dict[str, int]:
    """How many rows the other plugin has."""
    mores = {table: where.replace("acme.notes", "acme.notes.more").replace("x_acme_notes", "x_acme_notes_more")
             for table, where in KEPT.items()}  # fmt: skip
    return {
        table: (await bus.query(f"select count(*) as n from {table} where {where}"))[0]["n"]
        for table, where in mores.items()
    }


@pytest.mark.parametrize("data", ["purge", "export"])
async def test_everything_that_is_kept_for_a_plugin_goes_and_what_is_others_stays(bus, used, data: str) -> None:
    told = await bus.query("select id from eventbus.log order by position")
    assert await rows_of_others(bus) == used

    await dispose(bus.kernel, "acme.notes", data)  # type: ignore[arg-type]

    assert await rows_of_others(bus) == used
    assert await kept(bus) == used, "what is left is the other's"
    assert await bus.query("select id from eventbus.log order by position") == told, "what was told is others' history"
    assert not await bus.query("select from pg_namespace where nspname = 'x_acme_notes'")


async def test_what_is_kept_stays_when_the_data_does(bus, used) -> None:
    before = await kept(bus)

    await dispose(bus.kernel, "acme.notes", "keep")

    assert await kept(bus) == before


async def test_a_plugin_that_comes_again_begins_afresh(bus, used, work, tmp_path) -> None:
    await dispose(bus.kernel, "acme.notes", "purge")
    (tmp_path / "again").mkdir()
    (tmp_path / "again" / "0001_notes.sql").write_text(NOTES)
    await migrate(bus.kernel.require(MIGRATOR), "acme.notes", "x_acme_notes", tmp_path / "again")
    await bus.query("update pk.lease set expires_at = '-infinity' where name = 'eventbus:relay'")
    heard = Heard()

    async with bus.reader(heard, member="new") as consumer:
        await bus.tell("bad", word="new")
        await bus.relayed()

        async def has_heard() -> bool:
            await consumer.step()
            return bool(heard.words)

        await until(has_heard, "it hears", 20)
        assert heard.words == ["new"], "nothing of what was before"
    (event,) = await bus.query("select sequence from eventbus.log order by position desc limit 1")
    assert event["sequence"] == 1
    done = Done()
    await work.put("first")
    assert await work.waiting() == 1
    await work.run(work.worker(done))
    assert done.words == ["first"]
    now = datetime.now(UTC)
    async with bus.parts().tx("join") as tx:
        assert await job_storage.join_schedule(tx, work.schedule("* * * * *"), now) == now


async def test_whoever_is_cut_off_in_the_middle_is_finished_by_the_next_try(bus, used) -> None:
    """Row by row, each in a transaction of its own: the last one ends in the middle."""

    async def one_row_more(at: int) -> None:
        async with bus.parts().tx("forget") as tx:
            await storage.forget_plugin(tx, "x_acme_notes", "acme.notes", 1)
            await job_storage.forget_plugin(tx, "x_acme_notes", 1)
            if at == 2:
                raise asyncpg.ConnectionDoesNotExistError("its process was killed")

    before = await kept(bus)
    await one_row_more(0)
    await one_row_more(1)
    between = await kept(bus)
    with pytest.raises(asyncpg.ConnectionDoesNotExistError):
        await one_row_more(2)
    assert await kept(bus) == between != before
    assert any(between[table] > used[table] for table in KEPT), "there is something left"

    for _ in range(2):
        await dispose(bus.kernel, "acme.notes", "purge")
    assert await kept(bus) == used == await rows_of_others(bus)


async def test_only_the_event_bus_may_forget(bus) -> None:
    for statement in ("select pk.forget_jobs_of('money', 9)", "select pk.forget_told_by('money', 'money', 9)"):
        with pytest.raises(KernelBug, match=r"kernel\.eventbus alone"):
            async with bus.calls.open(bus.tenant, "try") as call:
                await (await call.tx()).execute(statement)


async def test_a_kernel_without_an_event_log_removes_the_rest(open_kernel, make_database) -> None:
    kernel = await open_kernel(["data"], {"postgres": await make_database("data")})
    assert kernel.find(JOB_QUEUE) is None
    await kernel.require(MIGRATOR).prepare("x_acme_notes")

    assert (await dispose(kernel, "acme.notes", "purge"))["tables"] == {}
    assert await kernel.require(MIGRATOR).applied("x_acme_notes") == []
