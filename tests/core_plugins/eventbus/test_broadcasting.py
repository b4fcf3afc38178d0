"""What every process hears: each event of the types that it listens to, in order, also when no wake-up comes."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from core_plugins.eventbus.operations.broadcasting import BATCH, Broadcast
from plugin_api.events import EventEnvelope
from plugin_api.testing.waiting import until
from tests.core_plugins.eventbus.conftest import ADDED


class DeafBell:
    """Hears nothing."""

    is_only = False

    async def wait(self, at_most_s: float) -> None:
        await asyncio.sleep(at_most_s)

    def close(self) -> None:
        """Nothing to do."""


class LostWakeups:
    """Each wake-up is lost."""

    def ring(self, name: str) -> None:
        """Nobody hears it."""

    def bell(self, name: str) -> DeafBell:
        """A bell that never rings."""
        return DeafBell()


@pytest.fixture
async def deaf(bus) -> Any:
    """A process that listens, to which no wake-up comes."""
    parts = replace(bus.parts(poll_s=0.2), wakeups=LostWakeups())
    broadcast = Broadcast(parts)
    await broadcast.step()
    task = asyncio.create_task(broadcast.run())
    yield broadcast
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_all_processes_hear_all_events_in_order_also_without_a_wake_up(bus, deaf) -> None:
    other = Broadcast(bus.parts())
    await other.step()
    heard: dict[str, list[str]] = {"deaf": [], "other": []}
    deaf.listen([ADDED], lambda event: heard["deaf"].append(event.data["word"]))
    other.listen([ADDED], lambda event: heard["other"].append(event.data["word"]))
    task = asyncio.create_task(other.run())

    words = [str(number) for number in range(20)]
    for word in words:
        await bus.tell("n1", word=word)

    await until(lambda: heard == {"deaf": words, "other": words}, "both heard all", 20)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_what_was_told_before_is_not_heard(bus) -> None:
    await bus.tell("n1", word="before")
    await bus.relayed()
    broadcast, heard = Broadcast(bus.parts()), list[str]()
    broadcast.listen([ADDED], lambda event: heard.append(event.data["word"]))
    await broadcast.step()
    await bus.tell("n1", word="since")
    await bus.relayed()
    await broadcast.step()

    assert heard == ["since"]


async def test_a_listener_that_fails_is_no_trouble_for_others_and_a_closed_one_hears_no_more(bus) -> None:
    broadcast, heard = Broadcast(bus.parts()), list[str]()
    await broadcast.step()

    def fail(event: EventEnvelope) -> None:
        raise RuntimeError("not me")

    broadcast.listen([ADDED], fail)
    closed = broadcast.listen([ADDED], lambda event: heard.append("closed"))
    broadcast.listen([ADDED], lambda event: heard.append("open"))
    broadcast.listen(["acme.notes.note.changed.v1"], lambda event: heard.append("other type"))
    closed.close()
    await bus.tell("n1", word="x")
    await bus.relayed()
    await broadcast.step()

    assert heard == ["open"]


async def test_more_than_one_batch_is_heard_whole(bus) -> None:
    broadcast, heard = Broadcast(bus.parts()), list[int]()
    await broadcast.step()
    broadcast.listen([ADDED], lambda event: heard.append(event.data["n"]))
    number = BATCH + 20
    async with bus.calls.open(bus.tenant, "tell many") as call:
        tx = await call.tx()
        for n in range(number):
            tx.emit(bus.event("n1", n=n))
    await bus.relayed()

    assert await broadcast.step(), "there may be more"
    assert not await broadcast.step()
    assert heard == list(range(number))
