"""What operators ask of the log: reading it from any place on, and putting a consumer back without leaving anything out."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest

from core_plugins.eventbus.operations import reading
from core_plugins.eventbus.operations.administering import AdministerOperations, Place, Rewind
from core_plugins.eventbus.operations.reading import LogPart, LogQuery, ReadOperations
from host.control_operations import Wanted, run_operation
from plugin_api.call import Call
from plugin_api.errors import InvalidRequest, NotFound
from plugin_api.testing.waiting import until
from tests.core_plugins.eventbus.conftest import ADDED
from tests.core_plugins.eventbus.test_consuming import Heard

TOPIC = "platform.module.events"


@pytest.fixture
async def call(bus) -> AsyncIterator[Call]:
    """A call of the event bus's own."""
    async with bus.parts().calls.open(bus.tenant, "ask") as made:
        yield made


@pytest.fixture
def read(bus, call) -> Any:
    """Reads the log."""

    async def ask(**given: Any) -> LogPart:
        return await ReadOperations(bus.parts()).read_log(call, LogQuery(**given))

    return ask


def subjects(part: LogPart) -> list[str]:
    return [one.event.subject for one in part.items]


async def tell(bus: Any, *words: str) -> None:
    for word in words:
        await bus.tell(word, word=word)
    await bus.relayed()


async def test_the_log_is_read_part_by_part(bus, read) -> None:
    await tell(bus, "a", "b", "c")
    await bus.tell("d", tenant=uuid4(), word="d")
    await bus.relayed()
    first = await read(limit=2)
    rest = await read(begin=str(first.next_position))

    assert (subjects(first), subjects(rest)) == (["a", "b"], ["c", "d"])
    assert rest.next_position == rest.tip + 1 == rest.items[-1].position + 1
    assert (await read(begin=str(rest.next_position))).items == []
    assert subjects(await read(tenant_id=bus.tenant)) == ["a", "b", "c"]
    assert subjects(await read(subject="b", type=ADDED)) == ["b"]
    assert (await read(begin="now")).next_position == rest.tip + 1


async def test_what_is_rare_is_found_in_several_short_questions(bus, read, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "POSITIONS_AT_ONCE", 3)
    await tell(bus, *(f"n{number}" for number in range(8)), "rare")
    begin, asked, found = "beginning", 0, list[str]()
    while not found:
        part = await read(begin=begin, subject="rare")
        begin, asked, found = str(part.next_position), asked + 1, subjects(part)

    assert asked == 3
    assert part.next_position == part.tip + 1


async def test_a_time_is_found_whatever_is_missing(bus, read) -> None:
    await tell(bus, *(f"n{number}" for number in range(9)))
    await bus.query("update eventbus.log set appended_at = timestamptz '2026-01-01Z' + position * interval '1 hour'")
    await bus.query("delete from eventbus.log where position in (1, 4, 5)")
    (row,) = await bus.query("select appended_at as at from eventbus.log where position = 7")

    for hours, wanted in ((0, 7), (-1, 6), (-3, 6), (0.5, 8), (99, 10), (-9_999, 2)):
        part = await read(begin=(row["at"] + timedelta(hours=hours)).isoformat())
        assert (part.items[0].position if part.items else part.next_position) == wanted, hours


@pytest.mark.parametrize(
    ("begin", "told"),
    [("yesterday", "no place in the log"), ("2026-01-01T00:00:00", "with its zone"), ("999", "ends at position 1")],
)
async def test_what_is_no_place_is_refused_with_the_remedy(bus, read, begin: str, told: str) -> None:
    await tell(bus, "a")
    with pytest.raises(InvalidRequest, match=told):
        await read(begin=begin)


async def place_of(bus: Any, word: str) -> Place:
    (row,) = await bus.query('select topic, partition, "offset" from eventbus.log where subject = $1', word)
    return Place(topic=row["topic"], partition=row["partition"], offset=row["offset"])


async def test_a_consumer_is_put_back_in_one_partition_and_has_no_second_effect(bus, call) -> None:
    heard, operations = Heard(), AdministerOperations(bus.parts())
    async with bus.reader(heard) as consumer:
        await tell(bus, "a", "b")

        async def hears(*words: str) -> bool:
            consumer.look_soon()
            await consumer.step()
            return sorted(heard.words) == sorted(words)

        await until(lambda: hears("a", "b"), "both are heard", 20)
        place = await place_of(bus, "a")
        await bus.query("delete from pk.inbox where id = (select id from eventbus.log where subject = 'a')")
        for _ in range(2):
            moved = await operations.rewind_consumer(call, Rewind(consumer="acme.notes.hear", place=place))
            assert moved.partitions == 1
            await until(lambda: hears("a", "b", "a"), "the one that is not noted has its effect again", 20)


async def test_a_consumer_is_never_put_forwards(bus, call) -> None:
    """What it has not passed yet would be left out."""
    heard, operations = Heard(), AdministerOperations(bus.parts())
    async with bus.reader(heard) as consumer:
        await tell(bus, "a")
        place = await place_of(bus, "a")
        beyond = Place(topic=place.topic, partition=place.partition, offset=place.offset + 1)
        with pytest.raises(InvalidRequest, match=f"give one from 0 to {place.offset}$"):
            await operations.rewind_consumer(call, Rewind(consumer="acme.notes.hear", place=beyond))
        (now,) = await bus.query("select now() as at")
        rewound = await operations.rewind_consumer(call, Rewind(consumer="acme.notes.hear", since=now["at"]))
        assert rewound.partitions == 12

        async def has_heard() -> bool:
            consumer.look_soon()
            await consumer.step()
            return heard.words == ["a"]

        await until(has_heard, "it is heard all the same", 20)


async def test_bad_rewinds_are_refused(bus, call) -> None:
    operations, place = AdministerOperations(bus.parts()), Place(topic=TOPIC, partition=0, offset=0)
    with pytest.raises(InvalidRequest, match="either `since` or `place`"):
        await operations.rewind_consumer(call, Rewind(consumer="acme.notes.hear"))
    with pytest.raises(NotFound, match="no consumer acme.nobody.hear"):
        await operations.rewind_consumer(call, Rewind(consumer="acme.nobody.hear", place=place))


# ------------------------------------------------------------------------------------------ through the control door


async def test_the_command_line_may_do_what_operators_may_and_no_more(bus) -> None:
    await tell(bus, "a", "b")
    events = "/api/v1/eventbus/events"
    told = await run_operation(bus.kernel, Wanted("GET", events, {"limit": "1"}))
    assert (told["items"][0]["event"]["subject"], told["tip"]) == ("a", 2)
    answer = await run_operation(bus.kernel, Wanted("POST", "/api/v1/eventbus/dead-letters/replay", {}, {}))
    assert answer == {"letters": 0}

    tenants = Wanted("GET", f"/api/v1/eventbus/jobs/{uuid4()}")
    for wanted in (
        tenants,
        Wanted("GET", "/api/v1/eventbus/stream"),
        Wanted("PUT", events),
        Wanted("GET", "/api/v1/no"),
    ):
        with pytest.raises(NotFound, match="for operators"):
            await run_operation(bus.kernel, wanted)
    for wanted in (Wanted("GET", events, {"colour": "red"}), Wanted("GET", events, {"limit": "201"})):
        with pytest.raises(InvalidRequest):
            await run_operation(bus.kernel, wanted)


async def test_pages_of_the_command_line_follow_one_another(bus) -> None:
    async with bus.reader(Heard({"a": 99, "b": 99})) as consumer:
        await tell(bus, "a", "b")

        async def are_parked() -> bool:
            await consumer.step()
            return len(await bus.query("select from eventbus.dead_letters")) == 2

        await until(are_parked, "both are parked", 20)
    letters = "/api/v1/eventbus/dead-letters"
    first = await run_operation(bus.kernel, Wanted("GET", letters, {"limit": "1"}))
    rest = await run_operation(bus.kernel, Wanted("GET", letters, {"limit": "1", "cursor": first["next_cursor"]}))
    assert {one["event"]["subject"] for page in (first, rest) for one in page["items"]} == {"a", "b"}
    assert rest["next_cursor"] is None
