"""One client connection: aiohttp parses and keeps the timers, the loop over its requests is ours.

aiohttp makes a task, a writer and a response object for each request; here the connection's own task answers one request
after the other and writes each answer in one piece. Every name of aiohttp's that this touches is listed in
`tests/host/test_http.py`, and aiohttp is pinned to one minor version.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, cast

from aiohttp import StreamReader, web
from aiohttp.web_protocol import ERROR, RequestHandler, _ErrInfo

from host.expiry import Expiry, running_task
from host.incoming import Incoming
from host.observe import PluginLog
from plugin_api.limits import HEADER_COUNT_MAX, HEADER_LINE_BYTES_MAX

if TYPE_CHECKING:
    from host.http import RestDoor

KEEP_ALIVE_S: Final = 75.0
LINGER_S: Final = 2.0
_log = PluginLog("host")


class Connection(RequestHandler):
    """aiohttp's protocol with our loop, problem documents for what is no HTTP, and a bound on connections."""

    __slots__ = ("_door", "address", "expiry")

    expiry: Expiry
    """Ends the calls of this connection's task."""

    def __init__(self, manager: HttpServer, **options: Any) -> None:
        super().__init__(manager, **options)
        self._door = manager.door
        self.address = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection, or refuse it when there are too many."""
        peer = transport.get_extra_info("peername")
        self.address = peer[0] if isinstance(peer, tuple) else ""
        super().connection_made(transport)
        if self._door.is_full(len(self._door.server.connections)):
            self._door.refuse(self)

    def write(self, data: bytes) -> None:
        """Send bytes, if the client is still there."""
        if self.transport is not None:
            self.transport.write(data)

    async def send(self, data: bytes) -> None:
        """Send bytes and wait until the client has read enough of them. ConnectionResetError when it has gone."""
        self.write(data)
        if self._paused:
            await self._drain_helper()
        if self.transport is None or self.transport.is_closing():
            raise ConnectionResetError("the client has gone")

    def cut(self) -> None:
        """End the connection in the middle: the client must not take for whole what it has got."""
        self.force_close()
        if self.transport is not None:
            self.transport.abort()

    async def start(self) -> None:
        """Answer requests until the connection is to be closed; called by aiohttp as the connection's task."""
        self.expiry = Expiry(running_task(), self._loop.call_later)
        try:
            while not self._force_close and await self._answer_next():
                pass
        finally:
            self.expiry.close()
        if not self._force_close:
            self._task_handler = None
            if self.transport is not None:
                self.transport.close()

    async def _answer_next(self) -> bool:
        """Wait for a request and answer it; whether the connection stays open."""
        message, payload = await self._next()
        broken = isinstance(message, _ErrInfo)
        incoming = Incoming(ERROR if broken else message, payload, self)
        self._current_request = cast("Any", incoming)  # aiohttp says BaseRequest and calls nothing but `_cancel`
        self._request_in_progress = True
        try:
            keep = self._door.answer_broken(incoming, message.exc) if broken else await self._door.handle(incoming)
        except asyncio.CancelledError:
            self.force_close()
            raise
        except ConnectionError:
            return False
        except Exception:  # noqa: BLE001 - one request's fault ends its connection, never the server
            _log.error("a connection failed")
            return False
        finally:
            self._current_request, self._request_in_progress = None, False
            if self._handler_waiter is not None:
                self._handler_waiter.set_result(None)
        if broken:
            await self._part()
            return False
        if self._force_close:
            return False
        if self._paused or not payload.is_eof():
            keep = await self._settle(payload, keep)
        return self._stays(keep)

    async def _next(self) -> tuple[Any, StreamReader]:
        if not self._messages:
            self._waiter = self._loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        message, payload = self._messages.popleft()
        if self._parser is not None:
            self._parser.message_consumed()
        if self._buffer_paused and len(self._messages) <= self._msg_queue_resume_size:
            self._resume_reading_if_drained()
        return message, payload

    async def _settle(self, payload: StreamReader, keep: bool) -> bool:
        """Let the client read its answers and send the rest of its body; whether the connection may stay open."""
        if self._paused:
            await self._drain_helper()  # a pipeline of requests whose answers nobody reads waits here
        if not payload.is_eof() and not self._force_close:
            keep = await self._linger(payload) and keep
        return keep

    def _stays(self, keep: bool) -> bool:
        """Whether the connection waits for another request; if so, no longer than KEEP_ALIVE_S."""
        self._keepalive = keep
        if not keep or self._close or self._force_close:
            return False
        self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
        if self._keepalive_handle is None:
            self._keepalive_handle = self._loop.call_at(self._next_keepalive_close_time, self._process_keepalive)
        return True

    async def _part(self) -> None:
        """Send our end and drop what still comes, for a moment: closing over unread bytes would reset the connection, and
        the client would not get to read why."""
        self._close = True
        if self.transport is None:
            return
        self.transport.write_eof()
        self._waiter = self._loop.create_future()  # aiohttp cancels it when the client has gone
        try:
            async with asyncio.timeout(LINGER_S):
                await self._waiter
        except TimeoutError:
            pass
        finally:
            self._waiter = None

    async def _linger(self, payload: StreamReader) -> bool:
        """Read on for a moment, so that a client that still sends gets to read its refusal; whether the body has ended."""
        try:
            async with asyncio.timeout(LINGER_S):
                while not payload.is_eof():
                    await payload.readany()
        except TimeoutError:
            return False
        except Exception:  # noqa: BLE001 - the body is broken, or its client has gone
            return False
        return True


class HttpServer(web.Server):
    """aiohttp's low-level server with our connections."""

    def __init__(self, door: RestDoor) -> None:
        self.door = door
        self.emptied = asyncio.Event()
        """Set whenever the last connection has gone."""
        super().__init__(_unused)

    def connection_lost(self, handler: RequestHandler, exc: BaseException | None = None) -> None:
        """Forget a connection; called by it."""
        super().connection_lost(handler, exc)
        if not self.connections:
            self.emptied.set()

    def __call__(self) -> RequestHandler:
        """Make the protocol of one connection."""
        return Connection(
            self,
            loop=self._loop,
            keepalive_timeout=KEEP_ALIVE_S,
            access_log=None,
            max_line_size=HEADER_LINE_BYTES_MAX,
            max_field_size=HEADER_LINE_BYTES_MAX,
            max_headers=HEADER_COUNT_MAX,
            auto_decompress=False,
        )


async def _unused(request: web.BaseRequest) -> web.StreamResponse:
    """Stand in for the handler that aiohttp wants; `Connection` calls the door itself."""
    raise NotImplementedError
