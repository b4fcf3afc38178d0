"""What a transaction tells: with it or not at all, numbered per entity in the order of commits, in its own tenant and name."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from random import Random
from typing import Annotated, Any, Literal
from uuid import UUID, uuid4

import asyncpg
import pytest
from msgspec import Meta, Struct

from plugin_api.errors import Conflict, DeadlinePassed, KernelBug, KernelError, PayloadTooLarge
from plugin_api.event_schemas import Payload
from plugin_api.events import Event, Origin
from plugin_api.limits import EVENT_BYTES_MAX, EVENTS_PER_TRANSACTION_MAX

TYPE = "note.added.v1"
ORIGIN = Origin("user:ada", "00-trace-parent-01", frozenset({TYPE}))


TALKATIVE = {
    "log_min_error_statement": "error",
    "log_statement": "mod",
    "log_min_duration_statement": "100",
    "log_min_duration_sample": "100",
}
"""Each lets a server write statements into its log."""


@pytest.mark.parametrize("setting", [None, *TALKATIVE])
async def test_statements_hold_data_only_where_none_are_logged(
    open_notes: Callable[..., Awaitable[Any]], setting: str | None
) -> None:
    notes = await open_notes()
    if setting is not None:
        await notes.administrator("do $$ begin execute format('alter role pk_app in database %I set "
            f"{setting} = {TALKATIVE[setting]}', current_database()); end $$")  # fmt: skip

    link = await notes.database.open_beside(10.0)
    await link.connection.close()
    assert link.is_discreet == (setting is None)


@pytest.fixture(params=["one round trip", "two round trips"])
async def notes(request: pytest.FixtureRequest, open_notes: Callable[..., Awaitable[Any]]) -> Any:
    """With a server that keeps statements which fail out of its log, and one that does not."""
    notes = await open_notes()
    if request.param == "two round trips":
        await notes.administrator("do $$ begin execute format('alter role pk_app in database %I "
            "set log_min_error_statement = error', current_database()); end $$")  # fmt: skip
        await (await notes.begin()).rollback()
        await notes.administrator(
            "select pg_terminate_backend(pid) from pg_stat_activity where usename = 'pk_app' and datname = current_database()"
        )
    return notes


class Part(Struct, frozen=True):
    id: UUID


class Added(Struct, frozen=True):
    word: Annotated[str, Meta(max_length=5)]
    kind: Literal["a", "b"] = "a"
    parts: list[Part] = []


class MoreAdded(Added, frozen=True):
    more: int = 1


DECLARED = Origin("user:ada", "", frozenset({TYPE}), {TYPE: Payload.of(Added)})


def told(subject: str, **data: Any) -> Event:
    return Event(TYPE, subject, data)


async def emit(notes: Any, *events: Event, tenant: UUID | None = None, origin: Origin = ORIGIN) -> None:
    tx = await notes.begin(tenant, origin=lambda: origin)
    for event in events:
        tx.emit(event)
    await tx.commit()


async def outbox(notes: Any) -> Sequence[Any]:
    return await notes.administrator("select * from pk.outbox order by position")


async def test_an_event_is_written_with_its_transaction_and_in_its_name(notes) -> None:
    event = told("note-1", word="hello", sum="1.10")
    tx = await notes.begin(origin=lambda: ORIGIN)
    await tx.execute("insert into notes (id, body) values ($1, 'x')", uuid4())
    tx.emit(event)

    assert await outbox(notes) == []
    await tx.commit()

    (row,) = await outbox(notes)
    assert (row["id"], row["tenant_id"], row["sequence"]) == (event.id, notes.tenant, 1)
    assert (row["source"], row["type"]) == ("/plugins/acme.notes", "acme.notes.note.added.v1")
    assert (row["actor"], row["traceparent"]) == ("user:ada", "00-trace-parent-01")
    assert (row["topic"], json.loads(row["data"])) == ("platform.module.events", {"word": "hello", "sum": "1.10"})


async def test_a_rollback_tells_nothing_and_leaves_no_gap(notes) -> None:
    await emit(notes, told("a"))
    tx = await notes.begin(origin=lambda: ORIGIN)
    tx.emit(told("a"))
    await tx.rollback()
    await emit(notes, told("a"))

    assert [row["sequence"] for row in await outbox(notes)] == [1, 2]


async def test_the_events_of_one_transaction_keep_their_order(notes) -> None:
    await emit(notes, told("a", n=1), told("b", n=2), told("a", n=3), told("a", n=4))
    await emit(notes, told("b", n=5), told("a", n=6))

    rows = await outbox(notes)
    assert [json.loads(row["data"])["n"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert [(row["subject"], row["sequence"]) for row in rows] == [
        ("a", 1), ("b", 1), ("a", 2), ("a", 3), ("b", 2), ("a", 4),
    ]  # fmt: skip


@pytest.mark.parametrize("conforming", ["on", "off"])
async def test_text_arrives_as_it_was_told_whatever_it_looks_like(notes, conforming: str) -> None:
    hostile = """it's "so", \\ \\' \\\\'; drop table pk.outbox; -- $1 $$ ${x} %s \u2028 \x00 E'\\n' /* */ 🐍"""
    tx = await notes.begin(origin=lambda: Origin("user:o'hara \\'", "", frozenset({TYPE})))
    await tx.execute("select set_config('standard_conforming_strings', $1, false)", conforming)
    tx.emit(told("o'hara \\' x", text=hostile))
    await tx.commit()

    (row,) = await outbox(notes)
    assert json.loads(row["data"]) == {"text": hostile}
    assert (row["subject"], row["actor"]) == ("o'hara \\' x", "user:o'hara \\'")


async def test_an_event_that_waits_for_its_entity_ends_at_the_deadline_and_nothing_stays(notes) -> None:
    await emit(notes, told("a"))
    holder = await asyncpg.connect(notes.dsn)
    held = holder.transaction()
    await held.start()
    await holder.execute("select from pk.entity for update")
    tx = await notes.begin(origin=lambda: ORIGIN, for_s=0.3)
    await tx.execute("insert into notes (id, body) values ($1, 'late')", uuid4())
    tx.emit(told("a"))

    with pytest.raises(DeadlinePassed):
        await tx.commit()
    await held.rollback()
    await holder.close()
    await emit(notes, told("a"))

    assert [row["sequence"] for row in await outbox(notes)] == [1, 2]
    assert await notes.administrator("select from x_acme_notes.notes") == []


async def test_what_is_told_after_a_failed_statement_is_not_and_the_connection_serves_on(notes) -> None:
    tx = await notes.begin(origin=lambda: ORIGIN)
    (before,) = await tx.fetch("select pg_backend_pid() as pid")
    with pytest.raises(Conflict):
        await tx.execute("insert into notes (id, body) values ($1, 'forbidden')", uuid4())
    tx.emit(told("a"))
    with pytest.raises(KernelBug, match="had failed"):
        await tx.commit()

    tx = await notes.begin(origin=lambda: ORIGIN)
    (after,) = await tx.fetch("select pg_backend_pid() as pid")
    await tx.rollback()
    assert (after["pid"], await outbox(notes)) == (before["pid"], [])


async def test_what_is_written_last_is_written_with_the_commit(notes) -> None:
    hostile, record = "/it's/\\\\'/--;$1", uuid4()
    tx = await notes.begin(origin=lambda: ORIGIN)
    tx.at_commit("pk.record", record, "acme.notes.add", "user:ada", "", None, hostile, "r-1", "")
    tx.emit(told("a"))
    assert await notes.administrator("select from pk.record") == []
    await tx.commit()

    (row,) = await notes.administrator("select * from pk.record")
    assert (row["id"], row["target"], row["session_id"], row["tenant_id"]) == (record, hostile, None, notes.tenant)
    assert len(await outbox(notes)) == 1


@pytest.mark.parametrize("argument", ["another.plugin.add", "acme.notes.\0"], ids=["refused", "nul"])
async def test_when_what_is_written_last_fails_nothing_is_committed(notes, argument: str) -> None:
    tx = await notes.begin(origin=lambda: ORIGIN)
    (before,) = await tx.fetch("select pg_backend_pid() as pid")
    await tx.execute("insert into notes (id, body) values ($1, 'gone')", uuid4())
    tx.at_commit("pk.record", uuid4(), argument, "user:ada", "", None, "/", "r-1", "")
    with pytest.raises(KernelError):
        await tx.commit()

    tx = await notes.begin()
    (after,) = await tx.fetch("select pg_backend_pid() as pid")
    await tx.rollback()
    assert after["pid"] == before["pid"], "the connection serves on"
    assert await notes.administrator("select from x_acme_notes.notes") == []


@pytest.mark.parametrize("name", ["record", "pk.record; drop table notes", "x_acme_notes.own", "pk.Record", "pk."])
async def test_only_functions_of_the_kernel_are_called_last(notes, name: str) -> None:
    tx = await notes.begin()
    with pytest.raises(KernelBug, match="no function of the kernel's schema"):
        tx.at_commit(name)
    await tx.rollback()


async def test_each_tenant_and_each_plugin_counts_for_itself(notes, tmp_path) -> None:
    await notes.add_schema("billing", tmp_path / "billing", "-- phase: expand\n-- up\nselect 1;\n-- down\nselect 1;\n")
    other = uuid4()
    await emit(notes, told("a"))
    await emit(notes, told("a"), tenant=other)
    tx = await notes.begin(schema="billing", origin=lambda: ORIGIN)
    tx.emit(told("a"))
    await tx.commit()

    rows = await outbox(notes)
    assert [row["sequence"] for row in rows] == [1, 1, 1]
    assert (rows[2]["source"], rows[2]["type"]) == ("/plugins/kernel.billing", "billing.note.added.v1")
    assert rows[2]["topic"] == "platform.billing.events"


async def test_writers_of_the_same_entities_neither_lose_order_nor_lock_one_another(notes) -> None:
    """Eight writers, one to three of five entities each, in any order: no deadlock, no gap, positions as the numbers."""
    entities = ["e1", "e2", "e3", "e4", "e5"]

    async def write(seed: int) -> None:
        dice = Random(seed)
        for _ in range(15):
            await emit(notes, *(told(entity) for entity in dice.sample(entities, dice.randint(1, 3))))

    await asyncio.gather(*(write(seed) for seed in range(8)))

    rows = await outbox(notes)
    for entity in entities:
        numbers = [row["sequence"] for row in rows if row["subject"] == entity]
        assert numbers == list(range(1, len(numbers) + 1))
        assert len({row["partition"] for row in rows if row["subject"] == entity}) == 1


@pytest.mark.parametrize(
    ("event", "kind", "words"),
    [
        (Event("note.gone.v1", "a", {}), KernelBug, 'add it to "emits"'),
        (told(""), KernelBug, "the id of the entity"),
        (told("x" * 201), KernelBug, "201 bytes"),
        (told("a\nb"), KernelBug, "cannot be printed"),
        (told("a", it=object()), KernelBug, "is no JSON"),
        (told("a", it="x" * EVENT_BYTES_MAX), PayloadTooLarge, f"at most {EVENT_BYTES_MAX}"),
    ],
    ids=["undeclared", "no-subject", "long-subject", "control-character", "no-json", "too-large"],
)
async def test_what_cannot_be_told_is_refused_at_once(notes, event: Event, kind: type[KernelError], words: str) -> None:
    tx = await notes.begin(origin=lambda: ORIGIN)
    with pytest.raises(kind, match=words):
        tx.emit(event)
    await tx.rollback()


PART = UUID(int=7)


@pytest.mark.parametrize(
    "data",
    [
        Added("hello", "a", [Part(PART)]),
        {"word": "hello", "kind": "a", "parts": [{"id": str(PART)}]},
        {"word": "hello", "parts": [Part(PART)]},
    ],
    ids=["struct", "dict", "dict-without-default"],
)
async def test_declared_data_is_written_whole(notes, data: Any) -> None:
    await emit(notes, Event(TYPE, "a", data), origin=DECLARED)

    (row,) = await outbox(notes)
    assert json.loads(row["data"]) == {"word": "hello", "kind": "a", "parts": [{"id": str(PART)}]}


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (Added(7), r"does not fit Added: Expected `str`, got `int` - at `\$\.word`"),
        (Added("longer"), r"length <= 5 - at `\$\.word`"),
        (Added("x", "c"), r"at `\$\.kind`"),
        (Added("x", "a", [Part("no id")]), r"at `\$\.parts\[0\]\.id`"),
        (Part(PART), "is a Part, and Added is declared"),
        (MoreAdded("x"), "is a MoreAdded, and Added is declared"),
        ({"kind": "a"}, "missing required field `word`"),
        ({"word": 7}, r"at `\$\.word`"),
        ({"word": "7", "kind": None}, r"at `\$\.kind`"),
        ({"word": "x", "colour": "red", "parts": [{"id": str(PART), "size": 1}]}, "has /colour, /parts/0/size, which Added"),
        ({"word": object()}, "is no JSON"),
        (["word"], "does not fit Added: Expected `object`, got `array`"),
    ],
    ids=[
        "type", "bound", "word", "within", "other-struct", "subclass", "missing", "dict-type", "null", "unknown", "no-json",
        "no-object",
    ],
)  # fmt: skip
async def test_data_that_does_not_fit_what_was_declared_is_refused(notes, data: Any, words: str) -> None:
    tx = await notes.begin(origin=lambda: DECLARED)
    with pytest.raises(KernelBug, match=words):
        tx.emit(Event(TYPE, "a", data))
    await tx.commit()

    assert await outbox(notes) == []


async def test_a_transaction_tells_so_many_and_no_more(notes) -> None:
    tx = await notes.begin(origin=lambda: ORIGIN)
    for number in range(EVENTS_PER_TRANSACTION_MAX):
        tx.emit(told(f"e{number % 7}"))
    with pytest.raises(KernelBug, match=f"at most {EVENTS_PER_TRANSACTION_MAX}"):
        tx.emit(told("one more"))
    await tx.commit()

    assert len(await outbox(notes)) == EVENTS_PER_TRANSACTION_MAX


async def test_who_may_emit_nothing_says_so(notes) -> None:
    tx = await notes.begin()
    with pytest.raises(KernelBug, match="does not declare"):
        tx.emit(told("a"))
    await tx.rollback()


@pytest.mark.parametrize(
    "sql",
    [
        "select * from pk.outbox",
        "select * from pk.entity",
        "select * from pk.inbox",
        "select * from pk.lease",
        "select pk.take_outbox(10)",
        "select pk.sweep_inbox(0)",
        "select pk.take_leases(array['eventbus:relay'], 'me', 10, 1)",
        "select pk.fence_leases(array['eventbus:relay'])",
        "delete from pk.outbox",
    ],
)
async def test_no_plugin_reaches_what_others_tell(notes, sql: str) -> None:
    await emit(notes, told("a"))
    tx = await notes.begin()
    with pytest.raises(KernelError) as caught:
        await tx.fetch(sql)
    await tx.rollback()

    assert not isinstance(caught.value, Conflict)
    assert len(await outbox(notes)) == 1


async def test_an_injected_statement_tells_in_its_own_name_only(notes) -> None:
    """With SQL in its hands a plugin can tell what it may tell anyway: source, area, tenant are not arguments."""
    tx = await notes.begin()
    await tx.execute(
        "select pk.emit(array[$1]::uuid[], array['user.deleted.v1'], array['x'], array['{}'], 'user:root', '')", uuid4()
    )
    await tx.commit()

    (row,) = await outbox(notes)
    assert (row["source"], row["type"]) == ("/plugins/acme.notes", "acme.notes.user.deleted.v1")
    assert (row["tenant_id"], row["topic"]) == (notes.tenant, "platform.module.events")
