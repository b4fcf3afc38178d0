"""Several readers of one consumer: each partition is one's alone, whoever vanishes, hangs or comes late."""

from __future__ import annotations

import asyncio
from typing import Any

from core_plugins.eventbus.model import PARTITIONS
from core_plugins.eventbus.operations.consuming import Consumer
from plugin_api.call import Call
from plugin_api.events import EventEnvelope
from plugin_api.testing.waiting import until


async def ignore(call: Call, event: EventEnvelope) -> None:
    """Take an event and do nothing."""


def make(bus: Any, handle: Any, member: str, **settings: Any) -> Consumer:
    return Consumer(bus.parts(**settings), bus.reaction(handle, member=member))


async def owners(bus: Any) -> dict[str, int]:
    rows = await bus.query("select owner, count(*) as n from pk.lease where name like 'eventbus:acme%' group by owner")
    return {row["owner"]: row["n"] for row in rows}


async def expire(bus: Any) -> None:
    """Let all leases of the consumer be over."""
    await bus.query("update pk.lease set expires_at = '-infinity' where name like 'eventbus:acme%'")


async def look_again(consumer: Consumer) -> None:
    """A step that does not wait for its time to share partitions out."""
    consumer.look_soon()
    await consumer.step()


async def test_partitions_are_shared_out_evenly_when_readers_come_and_go(bus) -> None:
    first, second = make(bus, ignore, "a"), make(bus, ignore, "b")
    await first.step()
    assert await owners(bus) == {"a": PARTITIONS}
    await second.step()
    await look_again(first)
    await look_again(second)
    assert await owners(bus) == {"a": PARTITIONS // 2, "b": PARTITIONS // 2}

    await second.leave()
    await look_again(first)
    assert await owners(bus) == {"a": PARTITIONS}
    await first.leave()
    assert await owners(bus) == {"": PARTITIONS}


async def test_a_late_reader_can_neither_do_nor_note_anything_more(bus) -> None:
    """The old holder is in the middle of an event when its lease ends: the new one waits for it, then the old one is fenced."""
    begun, go_on, handled = asyncio.Event(), asyncio.Event(), list[str]()

    async def slow(call: Call, event: EventEnvelope) -> None:
        tx = await call.tx()
        await tx.execute("insert into notes (id, body) values (gen_random_uuid(), $1)", f"by a {event.data['word']}")
        if event.data["word"] == "1":
            begun.set()
            await go_on.wait()

    async def quick(call: Call, event: EventEnvelope) -> None:
        tx = await call.tx()
        await tx.execute("insert into notes (id, body) values (gen_random_uuid(), $1)", f"by b {event.data['word']}")
        handled.append(event.data["word"])

    old, new = make(bus, slow, "a"), make(bus, quick, "b")
    await old.step()
    for word in ("1", "2", "3"):
        await bus.tell("n1", word=word)
    await bus.relayed()
    await old.step()
    await asyncio.wait_for(begun.wait(), 10)
    await expire(bus)
    await look_again(new)
    assert not handled, "the partition is passed over as long as an event is being committed"
    go_on.set()

    async def is_done() -> bool:
        await look_again(new)
        return handled == ["2", "3"]

    await until(is_done, "the new one goes on after the old one's event", 20)
    written = await bus.query("select body from x_acme_notes.notes where body like 'by %' order by body")
    assert [row["body"] for row in written] == ["by a 1", "by b 2", "by b 3"]
    await old.leave()
    await new.leave()


async def test_an_event_at_which_workers_end_is_parked_untried_the_fourth_time(bus) -> None:
    tries: list[str] = []
    others: list[str] = []

    async def hang(call: Call, event: EventEnvelope) -> None:
        if event.data["word"] != "deadly":
            others.append(event.data["word"])
            return
        tries.append("deadly")
        await asyncio.Event().wait()

    first = make(bus, hang, "a")
    await first.step()
    await bus.tell("n1", word="before")
    await bus.tell("n1", word="deadly")
    await bus.tell("n2", word="innocent")
    await bus.relayed()
    await first.step()
    for times in range(1, 5):
        await until(lambda times=times: len(tries) == min(times, 4), "it was tried")
        await first.vanish()
        first = make(bus, hang, "a")
        await first.step()
        if times == 4:
            break

    async def is_parked() -> list[Any]:
        await look_again(first)
        return await bus.query("select * from eventbus.dead_letters")

    (letter,) = await until(is_parked, "it is parked")
    assert "a worker ended while it handled the event" in letter["reason"]
    assert letter["attempts"] == 0
    assert sorted(others) == ["before", "innocent"]
    await first.leave()


async def test_a_relay_that_lost_its_lease_moves_nothing(bus) -> None:
    kernels = await bus.query("select owner from pk.lease where name = 'eventbus:relay'")
    assert [row["owner"][:7] for row in kernels] == ["worker-"], "the kernel's own relay leads"
    other = bus.relay("other")

    assert await other.step() == 0
    assert (await bus.query("select owner from pk.lease where name = 'eventbus:relay'"))[0]["owner"] != "other"
    async with bus.parts().tx("try") as tx:
        row = await tx.fetch_one("select relay($1, 100) as moved", 999)
    assert row is not None
    assert row["moved"] == -1
