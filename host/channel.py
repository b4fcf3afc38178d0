"""Messages between the parent and a worker: bounded JSON lines over a socket pair, the same code at both ends.

A message has a kind and fields. `send` forgets it; `request` waits for the reply that the other end's handler gives.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any, Final, cast

import msgspec
from msgspec import Struct

from host.observe import PluginLog

MESSAGE_BYTES_MAX: Final = 8 * 1_048_576
BACKLOG_BYTES_MAX: Final = 2 * MESSAGE_BYTES_MAX
"""Bytes that may wait for an end that does not read."""
REQUESTS_MAX: Final = 256
"""Requests of one end that wait for their reply at once."""

Fields = dict[str, Any]
Reply = Mapping[str, Any] | None
Handler = Callable[[Fields], Awaitable[Reply] | Reply]
"""Answers one message; what it returns is the reply to a request and is dropped for a plain message."""

_log = PluginLog("host")


class ChannelClosed(Exception):
    """The other end is gone, or closed the channel."""


class ChannelFull(Exception):
    """Too much waits for the other end already; nothing was sent."""


class RemoteFailed(Exception):
    """The handler at the other end raised, or there is none; the text says so."""


class _Message(Struct, omit_defaults=True):
    kind: str
    fields: Fields = {}
    request: int = 0
    """Number of a request, from 1; its reply carries the same in `reply`."""
    reply: int = 0
    error: str | None = None


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(_Message)


class Channel(asyncio.Protocol):
    """One end of the channel. Belongs to the event loop that attached it, except `send_from_thread`.

    `on_close` is called once, when the other end is gone. A handler may be async; at most REQUESTS_MAX of them run at
    once, and a further message is refused.
    """

    def __init__(self, handlers: Mapping[str, Handler], on_close: Callable[[], None] | None = None) -> None:
        self._handlers = dict(handlers)
        self._on_close = on_close
        self._transport: asyncio.Transport | None = None
        self._socket: socket.socket | None = None
        self._received = bytearray()
        self._waiting: dict[int, asyncio.Future[Fields]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._last_request = 0

    @classmethod
    async def open(
        cls, end: socket.socket, handlers: Mapping[str, Handler], on_close: Callable[[], None] | None = None
    ) -> Channel:
        """A channel that is attached at once."""
        channel = cls(handlers, on_close)
        await channel.attach(end)
        return channel

    async def attach(self, end: socket.socket) -> None:
        """Take over one end of a socket pair; messages are handled from now on."""
        end.setblocking(False)
        self._socket = end
        await asyncio.get_running_loop().create_unix_connection(lambda: self, sock=end)

    @property
    def is_open(self) -> bool:
        """Whether messages can be sent."""
        return self._transport is not None and not self._transport.is_closing()

    def send(self, kind: str, /, **fields: Any) -> None:
        """Send a message and forget it.

        Raises:
            ChannelClosed: the other end is gone.
            ChannelFull: it is there but does not read, or the message is longer than MESSAGE_BYTES_MAX.
        """
        self._write(_Message(kind, fields))

    async def request(self, kind: str, /, *, limit_s: float, **fields: Any) -> Fields:
        """Send a message and wait for its reply.

        Raises:
            ChannelClosed, ChannelFull: as for `send`; ChannelClosed also when the other end goes while we wait.
            RemoteFailed: its handler raised.
            TimeoutError: no reply within `limit_s`; one that comes later is dropped.
        """
        if len(self._waiting) >= REQUESTS_MAX:
            raise ChannelFull(f"{REQUESTS_MAX} requests wait for their replies")
        self._last_request += 1
        number = self._last_request
        future: asyncio.Future[Fields] = asyncio.get_running_loop().create_future()
        self._waiting[number] = future
        try:
            self._write(_Message(kind, fields, request=number))
            async with asyncio.timeout(limit_s):
                return await future
        finally:
            del self._waiting[number]

    def send_from_thread(self, kind: str, /, **fields: Any) -> bool:
        """Send a short message past an event loop that has stalled; whether it went out whole.

        Safe from any thread. False when messages of the loop still wait, or the other end does not read.
        """
        transport, end = self._transport, self._socket
        if transport is None or end is None or transport.get_write_buffer_size():
            return False
        line = _encoder.encode(_Message(kind, fields)) + b"\n"
        try:
            return end.send(line) == len(line)
        except OSError:
            return False

    def close(self) -> None:
        """Close this end; what was sent still arrives. `on_close` is called here as well."""
        if self._transport is not None:
            self._transport.close()

    # -- asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Take the complete lines; a line without an end that grows past the bound closes the channel."""
        self._received += data
        *lines, rest = self._received.split(b"\n")
        self._received = rest
        if max(len(rest), *(len(line) for line in lines), 0) > MESSAGE_BYTES_MAX:
            self._break("a message is longer than the bound")
            return
        for line in lines:
            self._take(bytes(line))

    def connection_lost(self, exc: Exception | None) -> None:
        """End: whoever waits is told."""
        self._transport = None
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(ChannelClosed("the other process is gone"))
        if self._on_close is not None:
            self._on_close()

    # -- messages

    def _write(self, message: _Message) -> None:
        transport = self._transport
        if transport is None or transport.is_closing():
            raise ChannelClosed("the other process is gone")
        line = _encoder.encode(message) + b"\n"
        if len(line) > MESSAGE_BYTES_MAX:
            raise ChannelFull(f"message {message.kind} has {len(line)} bytes; at most {MESSAGE_BYTES_MAX}")
        if transport.get_write_buffer_size() + len(line) > BACKLOG_BYTES_MAX:
            raise ChannelFull("the other process does not read its messages")
        transport.write(line)

    def _take(self, line: bytes) -> None:
        try:
            message = _decoder.decode(line)
        except msgspec.DecodeError as error:
            self._break(f"a message cannot be read: {error}")
            return
        if message.reply:
            self._settle(message)
        else:
            self._handle(message)

    def _settle(self, message: _Message) -> None:
        future = self._waiting.get(message.reply)
        if future is None or future.done():
            return
        if message.error is None:
            future.set_result(message.fields)
        else:
            future.set_exception(RemoteFailed(message.error))

    def _handle(self, message: _Message) -> None:
        handler = self._handlers.get(message.kind)
        if handler is None:
            self._answer(message, None, f"no handler for {message.kind}")
            return
        try:
            result = handler(message.fields)
        except Exception as error:  # noqa: BLE001 - a raising handler fails its own message only
            self._failed(message, error)
            return
        if not isinstance(result, Awaitable):
            self._answer(message, result, None)
        elif len(self._tasks) < REQUESTS_MAX:
            task = asyncio.ensure_future(self._finish(message, result))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        else:
            cast("Any", result).close()
            self._answer(message, None, f"{REQUESTS_MAX} messages are being handled already")

    async def _finish(self, message: _Message, result: Awaitable[Reply]) -> None:
        try:
            reply = await result
        except Exception as error:  # noqa: BLE001 - as above
            self._failed(message, error)
        else:
            self._answer(message, reply, None)

    def _failed(self, message: _Message, error: Exception) -> None:
        _log.error("a message could not be handled", kind=message.kind)
        self._answer(message, None, f"{type(error).__name__}: {error}")

    def _answer(self, message: _Message, reply: Reply, error: str | None) -> None:
        if not message.request:
            return
        with suppress(ChannelClosed, ChannelFull):  # the one who asks then hears of the end, or waits out its limit
            try:
                self._write(_Message(message.kind, dict(reply or {}), reply=message.request, error=error))
            except (ChannelFull, TypeError, ValueError) as unsent:
                self._write(_Message(message.kind, reply=message.request, error=f"no reply: {unsent}"))

    def _break(self, why: str) -> None:
        _log.error("the channel to another process is closed", why=why)
        if self._transport is not None:
            self._transport.abort()
