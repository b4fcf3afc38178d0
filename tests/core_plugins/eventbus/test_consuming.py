"""What a consumer sees: every event, in order, with its effect once."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from plugin_api.call import Call
from plugin_api.errors import StoreUnavailable
from plugin_api.events import EventEnvelope
from plugin_api.pipeline import Tenant
from plugin_api.testing.waiting import until


class Heard:
    """Keeps what came; may fail as often as it is told."""

    def __init__(self, fails: dict[str, int] | None = None) -> None:
        self.words: list[str] = []
        self.tries: list[str] = []
        self._fails = fails or {}

    async def __call__(self, call: Call, event: EventEnvelope) -> None:
        word = event.data["word"]
        self.tries.append(word)
        if self._fails.get(word, 0) > 0:
            self._fails[word] -= 1
            raise RuntimeError(f"cannot take {word}")
        self.words.append(word)


async def test_an_event_arrives_whole_in_its_tenant(bus) -> None:
    got: list[tuple[UUID, EventEnvelope]] = []

    async def hear(call: Call, event: EventEnvelope) -> None:
        got.append((call.tenant_id, event))

    async with bus.reader(hear) as consumer:
        event_id = await bus.tell("n1", word="hello")
        await bus.relayed()
        await consumer.step()
        await until(lambda: got, "it arrived")

    ((tenant, event),) = got
    assert tenant == bus.tenant == event.tenantid
    assert (event.id, event.subject, event.sequence) == (event_id, "n1", "1")
    assert (event.type, event.source) == ("acme.notes.note.added.v1", "/plugins/acme.notes")
    assert (event.data, event.actor) == ({"word": "hello"}, "plugin:acme.notes")


async def test_events_of_an_entity_come_in_order_and_once(bus) -> None:
    heard = Heard()
    bus.read(heard)

    async def is_reading() -> bool:
        await bus.tell("probe", word="probe")
        return "probe" in heard.words

    await until(is_reading, "it reads")
    for number in range(40):
        await bus.tell(f"e{number % 4}", word=f"{number % 4}.{number}")

    def arrived() -> list[str]:
        return [word for word in heard.words if word != "probe"]

    await until(lambda: len(arrived()) == 40, "all arrived", 20)
    for entity in range(4):
        mine = [word for word in heard.words if word.startswith(f"{entity}.")]
        assert mine == [f"{entity}.{number}" for number in range(40) if number % 4 == entity]
    assert len(set(arrived())) == 40


async def test_a_failure_is_tried_again_after_100_200_and_400_ms_and_then_parked(bus, clock) -> None:
    heard = Heard({"bad": 99})
    async with bus.reader(heard, sleep=clock.sleep) as consumer:
        await bus.tell("n1", word="bad")
        await bus.relayed()
        await consumer.step()
        for tries, pause_s in enumerate((0.1, 0.2, 0.4), 1):
            await until(lambda tries=tries: len(heard.tries) == tries and clock.sleepers, "it failed and waits")
            clock.advance(pause_s - 0.01)
            assert clock.sleepers == 1, "not a moment sooner"
            clock.advance(0.01)

        async def is_parked() -> list[Any]:
            return await bus.query("select * from eventbus.dead_letters")

        (letter,) = await until(is_parked, "it is parked")
    assert len(heard.tries) == 4
    assert (letter["consumer"], letter["topic"], letter["attempts"]) == ("acme.notes.hear", "platform.module.events", 4)
    assert letter["reason"] == "RuntimeError: cannot take bad"


async def test_what_follows_a_parked_event_waits_behind_it_and_others_go_on(bus) -> None:
    heard = Heard({"bad": 99})
    async with bus.reader(heard) as consumer:
        for subject, word in (("n1", "bad"), ("n1", "after"), ("n2", "other"), ("n1", "later")):
            await bus.tell(subject, word=word)
        await bus.relayed()

        async def are_parked() -> list[Any]:
            await consumer.step()
            rows = await bus.query('select * from eventbus.dead_letters order by topic, partition, "offset"')
            return rows if len(rows) == 3 else []

        letters = await until(are_parked, "all three of n1 are parked")
        await until(lambda: "other" in heard.words, "n2 went on")

    assert heard.words == ["other"]
    assert [letter["attempts"] for letter in letters] == [4, 0, 0]
    assert "waits behind" in letters[1]["reason"]


async def test_a_replay_restores_the_order_and_new_events_wait_for_it(bus) -> None:
    heard = Heard({"bad": 4})
    async with bus.reader(heard) as consumer:
        for word in ("bad", "after"):
            await bus.tell("n1", word=word)
        await bus.relayed()

        async def left() -> int:
            await consumer.step()
            return len(await bus.query("select from eventbus.dead_letters"))

        async def both() -> bool:
            return await left() == 2

        async def none() -> bool:
            return await left() == 0

        await until(both, "both are parked")
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await bus.query("select eventbus.ask_replay('acme.notes.hear', null)")
        async with bus.parts().tx("ask") as tx:
            await tx.fetch("select ask_replay('acme.notes.hear', null)")
        await bus.tell("n1", word="new")
        await until(none, "all were delivered")

        async def all_three() -> bool:
            await consumer.step()
            return len(heard.words) == 3

        await until(all_three, "the new one too")

    assert heard.words == ["bad", "after", "new"]


async def test_an_effect_and_its_note_are_one_transaction(bus) -> None:
    """A handler that writes and then fails has written nothing; when it succeeds at last, once."""
    fails = [True, True]

    async def write(call: Call, event: EventEnvelope) -> None:
        tx = await call.tx()
        await tx.execute("insert into notes (id, body) values (gen_random_uuid(), $1)", f"heard {event.id}")
        if fails:
            fails.pop()
            raise RuntimeError("not yet")

    async with bus.reader(write) as consumer:
        await bus.tell("n1", word="x")
        await bus.relayed()
        await consumer.step()

        async def written() -> list[Any]:
            return await bus.query("select * from x_acme_notes.notes where body like 'heard %'")

        assert len(await until(written, "it was written")) == 1
    assert not fails


async def test_an_event_told_again_has_no_second_effect(bus) -> None:
    heard = Heard()
    async with bus.reader(heard) as consumer:
        await bus.tell("n1", word="once")
        await bus.relayed()
        await consumer.step()
        await until(lambda: heard.words == ["once"], "it was heard")
        async with bus.parts().tx("rewind") as tx:
            await tx.fetch("select rewind('acme.notes.hear', now() - interval '1 hour')")
        await bus.tell("n1", word="next")
        await bus.relayed()

        async def heard_next() -> bool:
            await consumer.step()
            return "next" in heard.words

        await until(heard_next, "reading went on", 20)
    assert heard.words == ["once", "next"]


async def test_a_replay_while_events_come_doubles_and_loses_nothing(bus) -> None:
    """Told again and again from the beginning while others tell: what comes twice, and behind what is newer, has no effect."""
    heard = Heard()

    async def rewind() -> None:
        async with bus.parts().tx("rewind") as tx:
            await tx.fetch("select rewind('acme.notes.hear', now() - interval '1 hour')")

    bus.read(heard)
    await until(lambda: is_joined(bus), "it reads")
    for number in range(40):
        await bus.tell(f"n{number % 3}", word=f"{number % 3} {number:02}")
        if number % 5 == 0:
            await rewind()
    await until(lambda: len(heard.words) >= 40, "all were heard", 60)
    await rewind()
    last = await bus.tell("n0", word="0 last")
    await until(lambda: heard.words[-1] == "0 last", "it goes on after a last replay", 60)

    assert len(heard.words) == len(set(heard.words)) == 41, f"each once, {last} too"
    for entity in "012":
        mine = [word for word in heard.words if word.startswith(entity)]
        assert mine == sorted(mine)


async def is_joined(bus) -> list[Any]:
    return await bus.query("select from eventbus.progress where consumer = 'acme.notes.hear'")


async def test_an_event_that_stands_in_the_log_twice_has_one_effect(bus) -> None:
    """As where a log takes an event again that it had written, and did not say so."""
    heard = Heard()
    async with bus.reader(heard) as consumer:
        await bus.tell("n1", word="once")
        await bus.relayed()
        await bus.query(
            """with head as (update eventbus.heads h set next_offset = next_offset + 1 from eventbus.log l
              where h.topic = l.topic and h.partition = l.partition returning h.next_offset - 1 as at),
            tip as (update eventbus.tip set position = position + 1 returning position)
            insert into eventbus.log select bucket, tip.position, topic, partition, head.at, appended_at, tenant_id, id, source,
              type, subject, time, sequence, data, actor, traceparent from eventbus.log, head, tip"""
        )
        await bus.tell("n1", word="next")
        await bus.relayed()

        async def heard_next() -> bool:
            await consumer.step()
            return "next" in heard.words

        await until(heard_next, "reading went on", 20)
    assert heard.words == ["once", "next"]
    assert len(await bus.query("select from eventbus.log")) == 3


async def test_a_handler_that_hangs_is_cut_off_and_others_are_not_held_up(bus) -> None:
    heard = Heard()

    async def hear(call: Call, event: EventEnvelope) -> None:
        if event.data["word"] == "hang":
            await asyncio.Event().wait()
        await heard(call, event)

    async with bus.reader(hear, handler_s=0.3) as consumer:
        await bus.tell("n1", word="hang")
        for number in range(5):
            await bus.tell(f"other{number}", word=f"fine{number}")
        await bus.relayed()

        async def are_done() -> bool:
            await consumer.step()
            return len(heard.words) == 5 and len(await bus.query("select from eventbus.dead_letters")) == 1

        await until(are_done, "five were heard and one parked", 30)
        (letter,) = await bus.query("select * from eventbus.dead_letters")
    assert "eventbus.handler_s" in letter["reason"]


async def test_whatever_a_handler_raises_is_its_own_failure(bus) -> None:
    raised: list[BaseException] = [SystemExit(3), KeyboardInterrupt(), asyncio.CancelledError(), GeneratorExit()]
    heard = Heard()

    async def hear(call: Call, event: EventEnvelope) -> None:
        if raised:
            raise raised.pop()
        await heard(call, event)

    async with bus.reader(hear) as consumer:
        await bus.tell("n1", word="wild")
        await bus.tell("n1", word="tame")
        await bus.relayed()

        async def is_parked() -> bool:
            await consumer.step()
            return len(await bus.query("select from eventbus.dead_letters")) == 2

        await until(is_parked, "the event is parked, and the one behind it")
    assert not heard.words


async def test_a_handler_that_blames_a_store_each_time_holds_up_nobody(bus) -> None:
    """What it raises is its own failure; only the event's own transaction tells that the database is away."""
    heard = Heard()

    async def hear(call: Call, event: EventEnvelope) -> None:
        if event.data["word"] == "bad":
            raise StoreUnavailable("the cache is away")
        await heard(call, event)

    async with bus.reader(hear) as consumer:
        await bus.tell("n1", word="bad")
        await bus.tell("n2", word="fine")
        await bus.relayed()

        async def is_parked() -> list[Any]:
            await consumer.step()
            return await bus.query("select * from eventbus.dead_letters")

        (letter,) = await until(is_parked, "it is parked")
        await until(lambda: heard.words == ["fine"], "others go on")
    assert letter["reason"] == "StoreUnavailable: the cache is away"


async def test_a_new_consumer_begins_with_what_is_told_from_then_on(bus) -> None:
    await bus.tell("n1", word="before")
    await bus.relayed()
    heard = Heard()
    async with bus.reader(heard) as consumer:
        await bus.tell("n1", word="since")
        await bus.relayed()
        await consumer.step()
        await until(lambda: heard.words, "it was heard")
    assert heard.words == ["since"]


async def test_an_erased_tenant_leaves_nothing_and_others_go_on(bus) -> None:
    gone, heard = uuid4(), Heard({"bad": 99})
    async with bus.reader(heard) as consumer:
        await bus.tell("n1", tenant=gone, word="bad")
        await bus.tell("n1", word="mine")
        await bus.relayed()

        async def are_done() -> bool:
            await consumer.step()
            return len(await bus.query("select from eventbus.dead_letters")) == 1 and heard.words == ["mine"]

        await until(are_done, "one was heard and one parked")
        await bus.tell("n2", tenant=gone, word="untold")
        await bus.kernel.tenant_hooks.erased(Tenant(gone, "gone", "Gone"))
        await bus.tell("n1", word="still mine")
        await bus.relayed()

        async def goes_on() -> bool:
            await consumer.step()
            return heard.words == ["mine", "still mine"]

        await until(goes_on, "the other tenant's events go on")
    for table in ("eventbus.log", "eventbus.dead_letters", "pk.outbox", "pk.inbox", "pk.entity"):
        assert await bus.query(f"select 1 from {table} where tenant_id = $1", gone) == [], table
        assert table in ("eventbus.dead_letters", "pk.outbox") or await bus.query(f"select 1 from {table}"), table
