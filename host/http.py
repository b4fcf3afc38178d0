"""The REST door: our own dispatch over aiohttp's parser, light requests, answers written in one piece.

`web.Application` is not on this path: its router scans templated routes one by one, and its responses are assembled in
several writes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from email.utils import formatdate
from functools import cache
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

from aiohttp.http_exceptions import LineTooLong
from msgspec import Struct, structs

from host import problems, streaming
from host.connection import Connection, HttpServer
from host.incoming import JSON, Incoming, new_request_id
from host.observe import log_context, sink
from host.pipeline import CompiledOperation, as_kernel_error
from host.tracing import about_call, begin, end_http, new_trace
from plugin_api.errors import (
    HeadersTooLarge,
    KernelBug,
    KernelError,
    MethodNotAllowed,
    NotAcceptable,
    NotFound,
    Unavailable,
    Unreadable,
)
from plugin_api.limits import CONNECTIONS_MAX, HEADER_COUNT_MAX, HEADER_LINE_BYTES_MAX, REQUESTS_IN_FLIGHT_MAX
from plugin_api.streams import Stream

if TYPE_CHECKING:
    from host.kernel import Kernel


class Outgoing(Struct, frozen=True, gc=False):
    """One answer, not yet written."""

    status: int
    body: bytes = b""
    content_type: str = JSON
    headers: tuple[tuple[str, str], ...] = ()


def _is_too_large(error: BaseException) -> bool:
    """Whether aiohttp's parser gave up because of size."""
    return isinstance(error, LineTooLong) or ("header" in str(error).lower() and "many" in str(error).lower())


class _Dates:
    """The Date header's value, made once a second."""

    def __init__(self) -> None:
        self._second = 0
        self._text = ""

    def text(self) -> str:
        """The current date (RFC 9110)."""
        now = int(time.time())
        if now != self._second:
            self._second, self._text = now, formatdate(now, usegmt=True)
        return self._text


_dates: Final = _Dates()
_END: Final = "\r\n"
_NO_CONTENT: Final = 204


@cache
def _first_lines(status: int) -> str:
    return f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nX-Content-Type-Options: nosniff\r\n"


def encoded(outgoing: Outgoing, request_id: str, *, keep_alive: bool, head: bool) -> bytes:
    """The whole answer as bytes."""
    status, body = outgoing.status, outgoing.body
    about = f"Content-Type: {outgoing.content_type}\r\nContent-Length: {len(body)}\r\n" if status != _NO_CONTENT else ""
    text = (
        f"{_first_lines(status)}Date: {_dates.text()}\r\n{about}X-Request-Id: {request_id}\r\n"
        f"{_lines(outgoing.headers) if outgoing.headers else ''}"
        f"{_END if keep_alive else 'Connection: close' + _END + _END}"
    )
    encoded_head = text.encode("latin-1", "replace")
    return encoded_head if head else encoded_head + body


def _lines(headers: tuple[tuple[str, str], ...]) -> str:
    text = "".join([f"{name}: {value}\0" for name, value in headers])
    if "\r" in text or "\n" in text:
        raise KernelBug("a header field holds a line break")
    return text.replace("\0", _END)


def stream_head(stream: Stream, request_id: str, added: tuple[tuple[str, str], ...], *, keep_alive: bool) -> bytes:
    """The head of an answer whose body is sent as it is made."""
    about = (("Content-Type", stream.content_type),) if stream.status not in (204, 304) else ()
    framing = streaming.framing(stream, keeps_alive=keep_alive)
    text = (
        f"{_first_lines(stream.status)}Date: {_dates.text()}\r\nX-Request-Id: {request_id}\r\n"
        f"{_lines((*about, *framing, *stream.headers, *added))}"
        f"{_END if keep_alive else 'Connection: close' + _END + _END}"
    )
    return text.encode("latin-1", "replace")


def _cut_off(error: Exception) -> KernelBug:
    bug = KernelBug("a streamed answer was cut off")
    bug.__cause__ = error
    return bug


Page = Callable[[Incoming], Outgoing]


class RestDoor:
    """Answers HTTP requests from the kernel's current table and from a few pages of the host's own."""

    def __init__(self, kernel: Kernel, pages: dict[str, Page]) -> None:
        self._kernel = kernel
        self._pages = pages
        self._in_flight = 0
        self.closing = False
        self.server = HttpServer(self)

    def is_full(self, connections: int) -> bool:
        """Whether a new connection is one too many."""
        return connections > CONNECTIONS_MAX

    def refuse(self, connection: Connection) -> None:
        """Tell a client that there are too many connections, and hang up."""
        error = Unavailable(f"this worker has {CONNECTIONS_MAX} connections already; try again", retry_after_s=1)
        outgoing = self._problem(error, "/", request_id := new_request_id())
        connection.write(encoded(outgoing, request_id, keep_alive=False, head=False))
        connection.close()
        if connection.transport is not None:
            connection.transport.close()

    def close(self) -> None:
        """Let connections end with their next answer, and endless streams now."""
        self.closing = True
        for generation in self._kernel.table.generations.values():
            generation.end_streams()

    async def drain(self, idle_s: float, calls_s: float) -> None:
        """Hang up, after `close`: connections without a call get `idle_s` for one more, calls get `calls_s` to end.

        A client that keeps its connection may be sending its next request at this moment; closing now would lose that.
        """
        server = self.server
        server.emptied.clear()
        if server.connections and idle_s > 0:
            with suppress(TimeoutError):
                async with asyncio.timeout(idle_s):
                    await server.emptied.wait()
        server.pre_shutdown()
        await server.shutdown(calls_s)

    # ----------------------------------------------------------------------------- one request

    async def handle(self, incoming: Incoming) -> bool:
        """Answer one request; whether the connection may stay open. Raises nothing but a cancellation."""
        self._in_flight += 1
        outgoing: Outgoing | bool
        try:
            compiled = self._open(incoming)
            if compiled is None:
                outgoing = await self._elsewhere(incoming)
            elif compiled.registered.bound.spec.stream:
                outgoing = await self._streamed(incoming, compiled)
            else:
                outgoing = self._success(incoming, compiled, await compiled.invoke(incoming))
        except Exception as error:  # noqa: BLE001 - whatever it is, the client gets an answer and the log the rest
            outgoing = self._failure(incoming, error)
        finally:
            self._in_flight -= 1
        keep = self._write(incoming, outgoing) if isinstance(outgoing, Outgoing) else outgoing
        incoming.compiled = incoming.call = None  # its connection remembers its last request, and a generation must go
        return keep

    def _open(self, incoming: Incoming) -> CompiledOperation | None:
        """Read the head, and find the operation that it asks for."""
        incoming.open(self._kernel.body_bytes_max)
        incoming.span = begin(self._kernel.tracing, incoming)
        log_context.set(incoming)
        if self._in_flight > REQUESTS_IN_FLIGHT_MAX:
            raise Unavailable(f"{REQUESTS_IN_FLIGHT_MAX} requests are under way in this worker; try again")
        match = self._kernel.table.dispatch.find(incoming.path)
        if match is None:
            return None
        method = incoming.method
        compiled = match.methods.get("GET" if method == "HEAD" else method)
        if compiled is not None:
            if not compiled.registered.bound.spec.stream:
                _check_accept(incoming)
            incoming.compiled, incoming.values = compiled, match.values
            incoming.refuse_large(compiled.registered)
        return compiled

    def _page(self, incoming: Incoming, page: Page) -> Outgoing:
        incoming.route = incoming.path
        if incoming.method in ("GET", "HEAD"):
            return page(incoming)
        return self._other_method(incoming, {"GET"})

    async def _elsewhere(self, incoming: Incoming) -> Outgoing:
        """Answer a path or method that no operation has."""
        page = self._pages.get(incoming.path)
        if page is not None:
            return self._page(incoming, page)
        match = self._kernel.table.dispatch.find(incoming.path)
        if match is not None:
            return self._other_method(incoming, set(match.methods))
        if incoming.path.startswith("/api/v1/x/"):
            await self._kernel.require_identity(incoming.credentials())
        raise NotFound("there is nothing at this path; /docs lists what there is")

    def _other_method(self, incoming: Incoming, methods: set[str]) -> Outgoing:
        allowed = sorted(methods | ({"HEAD"} if "GET" in methods else set()) | {"OPTIONS"})
        allow = ("Allow", ", ".join(allowed))
        if incoming.method == "OPTIONS":
            return Outgoing(204, headers=(allow,))
        raise MethodNotAllowed(f"{incoming.method[:20]} is not possible here; use {allow[1]}", headers=dict([allow]))

    async def _streamed(self, incoming: Incoming, compiled: CompiledOperation) -> Outgoing | bool:
        """Run a streaming operation; its generation is held until its answer is sent. False or True once it is: whether
        the connection may stay open."""
        with compiled.generation.held():
            answer = await compiled.invoke(incoming)
            if not isinstance(answer, Stream):
                return self._success(incoming, compiled, answer)
            try:
                return await self._send(incoming, compiled, answer)
            finally:
                if answer.close is not None:
                    await answer.close()

    async def _send(self, incoming: Incoming, compiled: CompiledOperation, stream: Stream) -> bool:
        """Send an answer while it is made; whether the connection may stay open. Raises nothing once it has begun."""
        keep = incoming.keep_alive and not self.closing and (stream.length is not None or incoming.is_chunkable)
        added = tuple(incoming.call.response_headers or ()) if incoming.call is not None else ()
        added += compiled.registered.notices
        head = stream_head(stream, incoming.request_id, added, keep_alive=keep)
        connection, status = incoming.connection, stream.status
        try:
            connection.write(head)
            if stream.endless and streaming.has_body(stream, incoming.method):
                await self._send_endless(incoming, compiled, stream)
            elif streaming.has_body(stream, incoming.method):
                await streaming.send_body(connection, stream, chunked=stream.length is None and incoming.is_chunkable)
        except Exception as error:  # noqa: BLE001 - the head is sent: all that is left is to cut and to log
            connection.cut()
            keep = False
            if not isinstance(error, ConnectionError):
                self._kernel.log_bug(incoming, _cut_off(error))
        self._record(incoming, status)
        return keep

    async def _send_endless(self, incoming: Incoming, compiled: CompiledOperation, stream: Stream) -> None:
        """Send until it is ended; a request that is in flight for hours is none that the door is full of."""

        async def goes_on() -> bool:
            match = self._kernel.table.dispatch.find(incoming.path)
            now = match.methods.get(incoming.method) if match is not None else None
            return now is not None and now.generation is compiled.generation and await now.still_allows(incoming)

        self._in_flight -= 1
        try:
            with compiled.generation.ending() as ending:
                if self.closing:
                    ending.set()
                await streaming.send_endless(
                    incoming.connection, stream, ending, goes_on, chunked=incoming.is_chunkable
                )
        finally:
            self._in_flight += 1

    def _success(self, incoming: Incoming, compiled: CompiledOperation, answer: Any) -> Outgoing:
        registered, call = compiled.registered, incoming.call
        headers = tuple(call.response_headers) if call is not None and call.response_headers else ()
        if registered.notices:
            headers += registered.notices
        if registered.answer_type is None:
            return Outgoing(registered.status, headers=headers)
        version = getattr(answer, "version", None)
        if isinstance(version, int) and (identifier := getattr(answer, "id", None)) is not None:
            headers += (("ETag", f'"{version}"'),)
            if registered.status == 201 and not any(name == "Location" for name, _ in headers):
                headers += (("Location", f"{incoming.path.rstrip('/')}/{identifier}"),)
        kept = call.stored_answer if call is not None else None
        return Outgoing(registered.status, registered.encode(answer) if kept is None else kept, headers=headers)

    # ---------------------------------------------------------------------------------- errors

    def _failure(self, incoming: Incoming, error: Exception) -> Outgoing:
        known = as_kernel_error(error)
        if not incoming.request_id:
            incoming.request_id = new_request_id()
        if incoming.trace is None:
            incoming.trace = new_trace()
        if incoming.span is not None:
            incoming.span.error = known.code
        if isinstance(known, KernelBug):
            self._kernel.log_bug(incoming, known)
        outgoing = self._problem(known, incoming.path, incoming.request_id)
        compiled = incoming.compiled
        if compiled is None or not compiled.registered.notices:
            return outgoing
        return structs.replace(outgoing, headers=outgoing.headers + compiled.registered.notices)

    def _problem(self, error: KernelError, path: str, request_id: str) -> Outgoing:
        body = problems.body(error, path, request_id)
        return Outgoing(error.status, body, problems.CONTENT_TYPE, tuple(problems.headers(error)))

    def answer_broken(self, incoming: Incoming, error: BaseException) -> bool:
        """Answer bytes that are no HTTP; the connection is closed then (False)."""
        known: KernelError
        if _is_too_large(error):
            limits = f"{HEADER_LINE_BYTES_MAX} bytes a line, {HEADER_COUNT_MAX} header fields"
            known = HeadersTooLarge(f"the request line or a header field is too large; at most {limits}")
        else:
            known = Unreadable(
                f"the bytes are no valid HTTP/1.1 request: {type(error).__name__}", code="malformed_request"
            )
        incoming.request_id, incoming.trace = new_request_id(), new_trace()
        outgoing = self._problem(known, incoming.path, incoming.request_id)
        return self._write(incoming, outgoing, keep_alive=False)

    # --------------------------------------------------------------------------------- writing

    def _write(self, incoming: Incoming, outgoing: Outgoing, *, keep_alive: bool = True) -> bool:
        keep_alive = keep_alive and incoming.keep_alive and not self.closing
        if outgoing.status == 413 and incoming.reading_is_left():
            keep_alive = False
        head = incoming.method == "HEAD"
        incoming.connection.write(encoded(outgoing, incoming.request_id, keep_alive=keep_alive, head=head))
        self._record(incoming, outgoing.status)
        return keep_alive

    def _record(self, incoming: Incoming, status: int) -> None:
        seconds = time.monotonic() - incoming.started
        compiled = incoming.compiled
        bound = compiled.registered.bound if compiled is not None else None
        operation, route = (bound.id, bound.path) if bound is not None else ("", incoming.route)
        self._kernel.metrics.request("rest", operation, route, status, seconds)
        sink.request(incoming, f"{incoming.method[:20]} {route}".rstrip(), status, seconds)
        if (span := incoming.span) is not None:
            end_http(span, incoming.method, route, status, about_call(incoming.request_id, incoming.call, bound))


def _check_accept(incoming: Incoming) -> None:
    accept = incoming.fields.get(b"accept")
    if accept is None:
        return
    lower = accept.lower()
    if b"*/*" in lower or b"json" in lower or b"application/*" in lower or not lower.strip():
        return
    raise NotAcceptable(f"only {JSON} is answered here; send Accept: {JSON}")
