"""Bodies in pieces, both ways: what the REST door gives streaming operations, and how it sends their answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Final

from aiohttp import StreamReader, web
from aiohttp.http_exceptions import HttpProcessingError

from plugin_api.errors import DeadlinePassed, KernelBug, Unreadable
from plugin_api.streams import Stream

if TYPE_CHECKING:
    from host.connection import Connection

SILENCE_S: Final = 30.0
"""How long a client may send nothing of a body."""
STALL_S: Final = 60.0
"""How long a client may read nothing of an answer."""
_WITHOUT_BODY: Final = frozenset({204, 304})


class BodyTransfer:
    """The `Transfer` of one request; its body is read as it is asked for."""

    def __init__(
        self, method: str, fields: Mapping[bytes, bytes], payload: StreamReader, connection: Connection
    ) -> None:
        length = fields.get(b"content-length", b"")
        self.method = method
        self.content_type = _text(fields.get(b"content-type"))
        self.length = int(length) if length.isdigit() else None
        self.byte_range = _text(fields.get(b"range"))
        self.if_none_match = _text(fields.get(b"if-none-match"))
        self.last_event_id = _text(fields.get(b"last-event-id"))
        self._is_awaited = fields.get(b"expect", b"").lower() == b"100-continue"
        self._payload = payload
        self._connection = connection

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body, once, in pieces as they come; see `Transfer`."""
        if self._is_awaited:
            self._connection.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        while not self._payload.at_eof():
            piece = await self._next()
            if piece:
                yield piece

    async def _next(self) -> bytes:
        try:
            async with asyncio.timeout(SILENCE_S):
                return await self._payload.readany()
        except TimeoutError:
            raise DeadlinePassed(f"nothing of the body came for {SILENCE_S:g} s; send it again") from None
        except (HttpProcessingError, web.RequestPayloadError, ConnectionError) as error:
            raise Unreadable(f"the body cannot be read: {type(error).__name__}", code="malformed_body") from None


def _text(value: bytes | None) -> str:
    return value.decode("latin-1").strip() if value else ""


def framing(stream: Stream, *, keeps_alive: bool) -> tuple[tuple[str, str], ...]:
    """The header fields that say where the answer ends (RFC 9112, section 6)."""
    if stream.status in _WITHOUT_BODY:
        return ()
    if stream.length is not None:
        return (("Content-Length", str(stream.length)),)
    return (("Transfer-Encoding", "chunked"),) if keeps_alive else ()


async def send_body(connection: Connection, stream: Stream, *, chunked: bool) -> None:
    """Send everything that the stream gives, no faster than the client reads.

    Raises:
        ConnectionError: the client has gone, or reads nothing for STALL_S.
        KernelBug: there is more or less than the stream has announced. What was sent cannot be taken back: whoever calls
            this cuts the connection, so that the client notices.
    """
    sent = 0
    async for piece in stream.chunks:
        sent += len(piece)
        if stream.length is not None and sent > stream.length:
            raise KernelBug(f"a streamed answer announced {stream.length} bytes and has more")
        if piece:
            await _send(connection, b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
    if stream.length is not None and sent != stream.length:
        raise KernelBug(f"a streamed answer announced {stream.length} bytes and has {sent}")
    if chunked:
        await _send(connection, b"0\r\n\r\n")


async def send_endless(
    connection: Connection,
    stream: Stream,
    ending: asyncio.Event,
    goes_on: Callable[[], Awaitable[bool]],
    *,
    chunked: bool,
) -> None:
    """Send what the stream gives until `ending` is set or `goes_on`, asked before each piece, says no.

    Raises:
        ConnectionError: the client has gone, or reads nothing for STALL_S.
    """
    sending = asyncio.create_task(_send_while(connection, stream, goes_on, chunked=chunked))
    told = asyncio.create_task(ending.wait())
    try:
        await asyncio.wait([sending, told], return_when=asyncio.FIRST_COMPLETED)
    finally:
        has_ended = sending.done()
        for task in (sending, told):
            task.cancel()
        await asyncio.gather(sending, told, return_exceptions=True)
    if has_ended:
        sending.result()
    if chunked:
        connection.write(b"0\r\n\r\n")  # nobody waits for a client that reads nothing


async def _send_while(
    connection: Connection, stream: Stream, goes_on: Callable[[], Awaitable[bool]], *, chunked: bool
) -> None:
    async for piece in stream.chunks:
        if not await goes_on():
            return
        if piece:
            await _send(connection, b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)


async def _send(connection: Connection, data: bytes) -> None:
    try:
        async with asyncio.timeout(STALL_S):
            await connection.send(data)
    except TimeoutError:
        raise ConnectionResetError(f"the client has read nothing for {STALL_S:g} s") from None


def has_body(stream: Stream, method: str) -> bool:
    """Whether anything follows the head of the answer."""
    return method != "HEAD" and stream.status not in _WITHOUT_BODY
