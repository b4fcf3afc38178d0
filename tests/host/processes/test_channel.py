"""The channel between parent and worker: in order, bounded, and never a hang."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest

from host.channel import (
    MESSAGE_BYTES_MAX,
    REQUESTS_MAX,
    Channel,
    ChannelClosed,
    ChannelFull,
    RemoteFailed,
)

LIMIT_S = 5.0


class Ends:
    """Two ends of one channel; the second one answers."""

    def __init__(self) -> None:
        self.got: list[dict[str, Any]] = []
        self.arrived = asyncio.Event()
        self.closed = asyncio.Event()
        self.release = asyncio.Event()
        self.near: Channel
        self.far: Channel

    async def open(self) -> Ends:
        one, other = socket.socketpair()
        handlers = {"note": self.note, "echo": lambda fields: fields, "late": self.late, "broken": self.broken,
                    "odd": lambda _: {"value": object()}, "huge": lambda _: {"value": "x" * MESSAGE_BYTES_MAX}}  # fmt: skip
        self.near = await Channel.open(one, {}, self.closed.set)
        self.far = await Channel.open(other, handlers)
        return self

    def note(self, fields: dict[str, Any]) -> None:
        self.got.append(fields)
        self.arrived.set()

    async def late(self, fields: dict[str, Any]) -> dict[str, Any]:
        await self.release.wait()
        return fields

    def broken(self, fields: dict[str, Any]) -> None:
        raise ValueError("no such thing")


@pytest.fixture
async def ends() -> AsyncIterator[Ends]:
    opened = await Ends().open()
    yield opened
    opened.release.set()
    opened.near.close()
    opened.far.close()
    await asyncio.wait_for(opened.closed.wait(), LIMIT_S)


async def test_messages_arrive_in_order(ends: Ends) -> None:
    for number in range(500):
        ends.near.send("note", number=number)
    await ends.near.request("echo", limit_s=LIMIT_S)

    assert [fields["number"] for fields in ends.got] == list(range(500))


async def test_request_gets_the_reply_of_its_handler(ends: Ends) -> None:
    replies = await asyncio.gather(*(ends.near.request("echo", limit_s=LIMIT_S, n=n) for n in range(50)))

    assert [reply["n"] for reply in replies] == list(range(50))


async def test_slow_handler_does_not_hold_up_others(ends: Ends) -> None:
    slow = asyncio.ensure_future(ends.near.request("late", limit_s=LIMIT_S, n=1))
    quick = await ends.near.request("echo", limit_s=LIMIT_S, n=2)
    ends.release.set()

    assert (quick, await slow) == ({"n": 2}, {"n": 1})


@pytest.mark.parametrize(
    ("kind", "told"),
    [("broken", "ValueError: no such thing"), ("nothing", "no handler"), ("odd", "no reply"), ("huge", "no reply")],
)
async def test_a_handler_that_fails_fails_its_request_alone(ends: Ends, kind: str, told: str) -> None:
    with pytest.raises(RemoteFailed, match=told):
        await ends.near.request(kind, limit_s=LIMIT_S)

    assert await ends.near.request("echo", limit_s=LIMIT_S, n=1) == {"n": 1}


async def test_request_gives_up_in_time_and_drops_the_late_reply(ends: Ends) -> None:
    with pytest.raises(TimeoutError):
        await ends.near.request("late", limit_s=0.01)
    ends.release.set()

    assert await ends.near.request("echo", limit_s=LIMIT_S, n=1) == {"n": 1}


async def test_end_of_the_other_side_is_told_to_all_who_wait(ends: Ends) -> None:
    waiting = asyncio.ensure_future(ends.near.request("late", limit_s=LIMIT_S))
    await ends.near.request("echo", limit_s=LIMIT_S)
    ends.far.close()

    with pytest.raises(ChannelClosed):
        await waiting
    await asyncio.wait_for(ends.closed.wait(), LIMIT_S)
    with pytest.raises(ChannelClosed):
        ends.near.send("note")


async def test_message_past_the_bound_is_not_sent(ends: Ends) -> None:
    with pytest.raises(ChannelFull, match="bytes"):
        ends.near.send("note", text="x" * MESSAGE_BYTES_MAX)

    assert await ends.near.request("echo", limit_s=LIMIT_S, text="y" * 1_000_000) == {"text": "y" * 1_000_000}


async def test_requests_are_bounded(ends: Ends) -> None:
    waiting = [asyncio.ensure_future(ends.near.request("late", limit_s=LIMIT_S)) for _ in range(REQUESTS_MAX)]
    await asyncio.sleep(0)

    with pytest.raises(ChannelFull):
        await ends.near.request("late", limit_s=LIMIT_S)
    ends.release.set()
    assert len(await asyncio.gather(*waiting)) == REQUESTS_MAX


async def test_an_end_that_does_not_read_fills_up() -> None:
    one, other = socket.socketpair()
    near = await Channel.open(one, {})

    def fill() -> None:
        for _ in range(1_000):
            near.send("note", text="x" * 1_000_000)

    with pytest.raises(ChannelFull, match="does not read"):
        fill()
    other.close()
    near.close()
    await asyncio.sleep(0)


@pytest.mark.parametrize(
    "sent", [b"not json\n", b'{"kind":5}\n', b"x" * (MESSAGE_BYTES_MAX + 2)], ids=["text", "type", "endless"]
)
async def test_what_is_no_message_closes_the_channel(sent: bytes) -> None:
    closed = asyncio.Event()
    one, other = socket.socketpair()
    other.setblocking(False)
    await Channel.open(one, {}, closed.set)
    with other:
        sending = asyncio.ensure_future(asyncio.get_running_loop().sock_sendall(other, sent))
        await asyncio.wait_for(closed.wait(), LIMIT_S)
        await asyncio.gather(sending, return_exceptions=True)


async def test_a_message_may_come_in_pieces() -> None:
    got: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
    one, other = socket.socketpair()
    near = await Channel.open(one, {"note": got.set_result})
    with other:
        for piece in (b'{"kind":"no', b'te","fields":{"a"', b":1}}", b"\n"):
            other.sendall(piece)
            await asyncio.sleep(0)
        assert await asyncio.wait_for(got, LIMIT_S) == {"a": 1}
        near.close()
        await asyncio.sleep(0)


async def test_a_thread_sends_past_a_loop_that_hangs(ends: Ends) -> None:
    sent: list[bool] = []
    thread = threading.Thread(target=lambda: sent.append(ends.near.send_from_thread("note", plugin="acme.crm")))
    thread.start()
    thread.join()  # the loop does not turn meanwhile
    await asyncio.wait_for(ends.arrived.wait(), LIMIT_S)

    assert (sent, ends.got) == ([True], [{"plugin": "acme.crm"}])
