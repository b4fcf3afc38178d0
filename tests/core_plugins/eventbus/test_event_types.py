"""What plugins promise of the data of their events: kept from the first version on, in the database, all or nothing."""

from __future__ import annotations

import asyncio
import json
from typing import Annotated, Any, Literal

import pytest
from msgspec import UNSET, Meta, Struct, UnsetType

from core_plugins.eventbus.operations.schemas import TypeQuery
from plugin_api.errors import Conflict, KernelError, StoreUnavailable, Unreadable
from plugin_api.event_schemas import schema_of
from plugin_api.limits import EVENT_SCHEMA_BYTES_MAX, EVENT_TYPES_PER_PLUGIN_MAX
from plugin_api.ports.event_log import EVENT_LOG
from tests.core_plugins.eventbus.conftest import Bus

TYPE = "note.added.v1"
FULL = f"acme.notes.{TYPE}"


class Part(Struct, frozen=True):
    id: int


class LargerPart(Struct, frozen=True):
    id: int
    name: str


class Added(Struct, frozen=True):
    word: str
    kind: Literal["a", "b"]
    parts: list[Part]


class Gained(Struct, frozen=True):
    word: str
    kind: Literal["a", "b"]
    parts: list[LargerPart]
    by: str = ""


class Dropped(Struct, frozen=True):
    kind: Literal["a", "b"]
    parts: list[Part]


class DroppedWithin(Struct, frozen=True):
    word: str
    kind: Literal["a", "b"]
    parts: list[dict[str, int]]


class Widened(Struct, frozen=True):
    word: str | None
    kind: Literal["a", "b"]
    parts: list[Part]


class Narrowed(Struct, frozen=True):
    word: Annotated[str, Meta(max_length=3)]
    kind: Literal["a", "b"]
    parts: list[Part]


class Worded(Struct, frozen=True):
    word: str
    kind: Literal["a", "b", "c"]
    parts: list[Part]


class Loosened(Struct, frozen=True):
    kind: Literal["a", "b"]
    parts: list[Part]
    word: str | UnsetType = UNSET


class GainedOtherwise(Struct, frozen=True):
    word: str
    kind: Literal["a", "b"]
    parts: list[LargerPart]
    by: int = 0


async def declare(bus: Bus, **types: type[Struct]) -> None:
    """`added=Added` declares `note.added.v1`."""
    schemas = {f"note.{name}.v1": schema_of(struct) for name, struct in types.items()}
    await bus.kernel.require(EVENT_LOG).declare("acme.notes", schemas)


async def kept(bus: Bus) -> list[Any]:
    return await bus.query("select * from eventbus.event_types order by type")


async def known(bus: Bus, name: str = "known") -> dict[str, Any]:
    (row,) = await bus.query("select * from eventbus.event_types where type = $1", FULL)
    return dict(json.loads(row[name]))


async def test_a_first_declaration_is_kept_and_repeating_it_writes_nothing(bus: Bus) -> None:
    await declare(bus, added=Added)
    (first,) = await kept(bus)
    await declare(bus, added=Added)

    assert (first["type"], first["area"], first["gained_at"]) == (FULL, "acme.notes", None)
    assert await known(bus) == schema_of(Added) == await known(bus, "promised")
    assert await kept(bus) == [first]


async def test_what_is_gained_is_known_and_may_go_with_a_rollback(bus: Bus) -> None:
    await declare(bus, added=Added)
    await declare(bus, added=Gained)
    seen = await known(bus)
    await declare(bus, added=Added)  # the version before is rolled back to
    await declare(bus, added=Gained)

    assert set(seen["properties"]) == {"word", "kind", "parts", "by"}
    assert seen["required"] == ["kind", "parts", "word"], "what came later is not in every event"
    assert seen["properties"]["parts"]["items"]["required"] == ["id"]
    assert await known(bus) == seen
    assert await known(bus, "promised") == schema_of(Added)


BROKEN: list[tuple[type[Struct], str]] = [
    (Dropped, 'it drops /word, which was {"type":"string"}'),
    (DroppedWithin, "it changes /parts/* from"),
    (Widened, "it changes /word from"),
    (Narrowed, 'to {"type":"string","maxLength":3}'),
    (Worded, 'it changes /kind from {"enum":["a","b"]} to {"enum":["a","b","c"]}'),
    (Loosened, "it leaves /word out at times"),
]


async def test_what_breaks_the_promise_is_refused_and_nothing_is_written(bus: Bus) -> None:
    await declare(bus, added=Added)
    before = await kept(bus)

    for struct, words in BROKEN:
        with pytest.raises(Conflict) as caught:
            await declare(bus, added=struct, after=Added)
        assert (caught.value.code, words in caught.value.detail) == ("event_schema_broken", True), struct
        assert f"{FULL} breaks what was promised" in caught.value.detail
        assert "tell note.added.v2 beside note.added.v1" in caught.value.detail
        assert await kept(bus) == before


async def test_a_field_that_was_gained_keeps_its_type_too(bus: Bus) -> None:
    await declare(bus, added=Added)
    await declare(bus, added=Gained)
    with pytest.raises(Conflict, match="it changes /by from"):
        await declare(bus, added=GainedOtherwise)


async def test_of_two_at_once_that_contradict_one_another_one_wins(bus: Bus) -> None:
    class Other(Struct, frozen=True):
        word: int

    ends = await asyncio.gather(
        *(declare(bus, added=Added, later=Added) for _ in range(3)),
        *(declare(bus, added=Other, later=Other) for _ in range(3)),
        return_exceptions=True,
    )

    assert sorted(type(end).__name__ for end in ends) == [*["Conflict"] * 3, *["NoneType"] * 3]
    won = {row["promised"] for row in await kept(bus)}
    assert len(won) == 1, "both types are of one of them"


async def test_a_process_that_ends_half_way_has_written_nothing(bus: Bus) -> None:
    """The server ends its connection at the second of two types, as it does when the process is killed."""
    await bus.query(
        """create function eventbus.die() returns trigger language plpgsql as $$
        begin perform pg_terminate_backend(pg_backend_pid()); perform pg_sleep(10); return new; end $$"""
    )
    await bus.query(
        """create trigger die before insert on eventbus.event_types for each row when (new.type like '%later%')
        execute function eventbus.die()"""
    )
    # The plugin's owner may not end sessions; the trigger has to.
    await bus.query("alter function eventbus.die() security definer")

    with pytest.raises(StoreUnavailable):
        await declare(bus, added=Added, later=Added)
    assert await kept(bus) == []

    await bus.query("drop trigger die on eventbus.event_types")
    await declare(bus, added=Added, later=Added)
    assert [row["type"] for row in await kept(bus)] == [FULL, "acme.notes.note.later.v1"]


async def test_an_area_whose_data_is_destroyed_begins_afresh(bus: Bus) -> None:
    log = bus.kernel.require(EVENT_LOG)
    await declare(bus, added=Added, later=Added)
    await log.declare("acme.notes.other", {TYPE: schema_of(Added)})

    assert await log.forget_types("acme.notes") == 2
    assert await log.forget_types("acme.notes") == 0
    assert [row["type"] for row in await kept(bus)] == [f"acme.notes.other.{TYPE}"]
    await declare(bus, added=Dropped)


async def test_what_an_area_declares_over_time_is_bounded(bus: Bus) -> None:
    log, schema = bus.kernel.require(EVENT_LOG), schema_of(Part)
    await log.declare("acme.notes", {f"a.b.v{number}": schema for number in range(1, EVENT_TYPES_PER_PLUGIN_MAX + 1)})
    with pytest.raises(Conflict, match=f"at most {EVENT_TYPES_PER_PLUGIN_MAX}") as caught:
        await log.declare("acme.notes", {"c.d.v1": schema})
    assert caught.value.code == "event_schema_too_large"

    def wide(number: int) -> dict[str, Any]:
        names = {f"field_{number}_{n:03}": {"type": "string"} for n in range(300)}
        return {"type": "object", "properties": {**schema["properties"], **names}, "required": ["id"]}

    await log.declare("acme.notes", {"a.b.v1": wide(1)})
    with pytest.raises(Conflict, match=f"at most {EVENT_SCHEMA_BYTES_MAX}"):
        await log.declare("acme.notes", {"a.b.v1": wide(2)})


REACHING = [
    "select * from eventbus.event_types",
    "select eventbus.forget_event_types('acme.notes')",
    "select * from eventbus.list_event_types(null, null, 10)",
    "select * from eventbus.lock_event_types('acme.notes')",
    "select eventbus.keep_event_type('a.b.c.v1', 'acme.notes', '{}', '{}')",
]


async def test_no_other_plugin_reaches_what_was_promised(bus: Bus) -> None:
    for sql in REACHING:
        with pytest.raises(KernelError, match="permission denied"):
            async with bus.calls.open(bus.tenant, "reach") as call:
                await (await call.tx()).fetch(sql)


async def test_operators_read_what_events_hold_page_by_page(bus: Bus) -> None:
    await declare(bus, added=Added, later=Part)
    await declare(bus, added=Gained)
    await bus.kernel.require(EVENT_LOG).declare("iam", {"access.changed.v1": schema_of(Part)})
    area: Any = bus.kernel.table.services["eventbus"].implementation

    async with bus.calls.open(bus.tenant, "ask") as call:
        first = await area.list_types(call, TypeQuery(limit=2))
        rest = await area.list_types(call, TypeQuery(limit=2, cursor=first.next_cursor))
        own = await area.list_types(call, TypeQuery(area="iam"))
        with pytest.raises(Unreadable):
            await area.list_types(call, TypeQuery(area="iam", cursor=first.next_cursor))

    assert [one.type for one in first.items] == [FULL, "acme.notes.note.later.v1"]
    assert ([one.type for one in rest.items], rest.next_cursor) == (["iam.access.changed.v1"], None)
    assert [(one.topic, one.source) for one in own.items] == [("platform.auth.events", "/plugins/kernel.iam")]
    (added, later) = first.items
    assert (added.topic, added.source) == ("platform.module.events", "/plugins/acme.notes")
    assert added.schema["required"] == ["kind", "parts", "word"]
    assert "by" in added.schema["properties"]
    assert (added.gained_at is None, later.gained_at) == (False, None)
