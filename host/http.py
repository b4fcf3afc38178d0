"""The REST door: aiohttp's low-level server with our own dispatch, light requests and answers written in one piece.

`web.Application` is not on this path: its router scans templated routes one by one, and its responses are assembled in
several writes. aiohttp still parses, keeps connections alive and lingers on unread bodies; the few names of its
protocol class that we touch are pinned by `tests/host/test_http.py`.
"""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections import deque
from collections.abc import Awaitable, Callable
from email.utils import formatdate
from http import HTTPStatus
from itertools import count
from typing import TYPE_CHECKING, Any, Final

from aiohttp import StreamReader, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http_exceptions import HttpProcessingError, LineTooLong
from aiohttp.http_parser import RawRequestMessage
from aiohttp.web_protocol import RequestHandler
from msgspec import Struct

from host import problems
from host.observe import log_context, sink
from host.pipeline import CompiledOperation, as_kernel_error
from plugin_api.call import Call, Trace
from plugin_api.errors import (
    HeadersTooLarge,
    KernelBug,
    KernelError,
    MethodNotAllowed,
    NotAcceptable,
    NotFound,
    PayloadTooLarge,
    Unavailable,
    Unreadable,
    UnsupportedMediaType,
)
from plugin_api.limits import BODY_BYTES_MAX, CONNECTIONS_MAX, HEADER_COUNT_MAX, HEADER_LINE_BYTES_MAX, REQUESTS_IN_FLIGHT_MAX
from plugin_api.pipeline import Credentials

if TYPE_CHECKING:
    from host.kernel import Kernel

KEEP_ALIVE_S: Final = 75.0
LINGER_S: Final = 2.0
JSON: Final = "application/json"
MERGE_PATCH: Final = "application/merge-patch+json"
_SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,64}\Z")
_TRACE: Final = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?\Z")
_SINGLE: Final = frozenset({b"authorization", b"content-type", b"if-match", b"idempotency-key", b"cookie", b"host"})
_id_prefix: Final = os.urandom(6).hex()
_id_number: Final = count(1)


class Outgoing(Struct, frozen=True, gc=False):
    """One answer, not yet written."""

    status: int
    body: bytes = b""
    content_type: str = JSON
    headers: tuple[tuple[str, str], ...] = ()


class Written:
    """What aiohttp's protocol is given as a response: it has written itself by the time anybody looks."""

    __slots__ = ("_drain", "keep_alive", "status")

    def __init__(self, status: int, keep_alive: bool, drain: Callable[[], Awaitable[None]] | None) -> None:
        self.status = status
        self.keep_alive = keep_alive
        self._drain = drain

    async def prepare(self, request: Incoming) -> None:
        """Nothing is left to prepare."""

    async def write_eof(self) -> None:
        """Wait while the client reads too slowly, so that a pipeline cannot fill the memory."""
        if self._drain is not None:
            await self._drain()


class Incoming:
    """One request as our door sees it; implements `host.pipeline.Inbound`."""

    __slots__ = (
        "body_limit",
        "_drained",
        "_message",
        "_payload",
        "_protocol",
        "_task",
        "address",
        "call",
        "compiled",
        "declared_bytes",
        "fields",
        "idempotency_key",
        "if_match",
        "loop",
        "path",
        "query",
        "request_id",
        "route",
        "started",
        "trace",
        "user_agent",
        "values",
        "writer",
    )

    def __init__(
        self,
        message: RawRequestMessage,
        payload: StreamReader,
        protocol: RequestHandler,
        writer: AbstractStreamWriter,
        task: asyncio.Task[None],
    ) -> None:
        self._message = message
        self._payload = payload
        self._protocol = protocol
        self._task = task
        self.loop: asyncio.AbstractEventLoop = protocol._loop  # noqa: SLF001 - aiohttp's own request reads it too
        self.body_limit = BODY_BYTES_MAX
        self.writer = writer
        self.started = time.monotonic()
        self.call: Call | None = None
        self.compiled: CompiledOperation | None = None
        self.values: tuple[str, ...] = ()
        self.path, _, self.query = message.path.partition("?")
        self.fields: dict[bytes, bytes] = {}
        self.request_id = ""
        self.route = ""
        self.trace: Trace | None = None
        self.idempotency_key: str | None = None
        self.if_match: str | None = None
        self.user_agent = ""
        self.declared_bytes = 0
        peer = protocol.peername
        self.address = peer[0] if isinstance(peer, tuple) else ""

    def open(self) -> None:
        """Read the header fields. Unreadable (`bad_header`) when one that must be single stands twice."""
        doubled = self._collect()
        fields = self.fields
        self.request_id = self._read_request_id()
        self.if_match = _text(fields.get(b"if-match"))
        self.idempotency_key = _text(fields.get(b"idempotency-key"))
        agent = fields.get(b"user-agent")
        self.user_agent = agent.decode("latin-1")[:200] if agent else ""
        traceparent = fields.get(b"traceparent")
        if traceparent:
            self.trace = _trace(traceparent.decode("latin-1"))
        length = fields.get(b"content-length")
        self.declared_bytes = int(length) if length and length.isdigit() else 0
        if doubled:
            raise Unreadable(f"the header {doubled} stands twice; send it once", code="bad_header")

    def _collect(self) -> str:
        doubled, fields = "", self.fields
        for name, value in self._message.raw_headers:
            lower = name.lower()
            if lower in fields and lower in _SINGLE:
                doubled = lower.decode("latin-1")
            fields[lower] = value
        return doubled

    def _read_request_id(self) -> str:
        sent = self.fields.get(b"x-request-id")
        if sent:
            text = sent.decode("latin-1")
            if _REQUEST_ID.match(text):
                return text
        return f"{_id_prefix}-{next(_id_number):x}"

    @property
    def trace_id(self) -> str:
        """The trace's id, for the log."""
        return self.trace.trace_id if self.trace is not None else ""

    @property
    def tenant(self) -> str:
        """The tenant's id, for the log; empty until the caller is known."""
        call = self.call
        return str(call.tenant_id) if call is not None and call.has_tenant else ""

    @property
    def plugin(self) -> str:
        """The plugin whose operation was asked for, for the log."""
        return self.compiled.registered.bound.plugin_id if self.compiled is not None else ""

    @property
    def method(self) -> str:
        """The request's method."""
        return self._message.method

    @property
    def keep_alive(self) -> bool:
        """Whether the client wants the connection kept."""
        return not self._message.should_close

    # ------------------------------------------------------------------ what the pipeline asks

    def credentials(self) -> Credentials:
        """What the caller showed."""
        fields = self.fields
        return Credentials(
            _text(fields.get(b"authorization")),
            _text(fields.get(b"cookie")),
            _text(fields.get(b"x-csrf-token")),
            self._message.method not in _SAFE,
            self.address,
        )

    def request(self) -> Any:
        """Read and validate the request of the operation."""
        compiled = self.compiled
        if compiled is None:
            raise KernelBug("a request was read before its operation was found")
        if not compiled.takes_body:
            return compiled.bind(self.values, self.query, None)
        self._check_body_type(compiled)
        if self._payload.is_eof():
            body = self._payload.read_nowait() if self._payload.total_bytes else b""
            if len(body) > self.body_limit:
                raise _too_large(self.body_limit)
            return compiled.bind(self.values, self.query, body)
        return self._read_then_bind(compiled)

    async def _read_then_bind(self, compiled: CompiledOperation) -> Any:
        return compiled.bind(self.values, self.query, await self._read())

    async def _read(self) -> bytes:
        if self.declared_bytes > self.body_limit:
            raise _too_large(self.body_limit)
        if self.fields.get(b"expect", b"").lower() == b"100-continue":
            await self.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        pieces, size = deque[bytes](), 0
        try:
            while not self._payload.at_eof():
                piece = await self._payload.readany()
                size += len(piece)
                if size > self.body_limit:
                    raise _too_large(self.body_limit)
                pieces.append(piece)
        except (HttpProcessingError, web.RequestPayloadError) as error:
            raise Unreadable(f"the body cannot be read: {type(error).__name__}", code="malformed_body") from None
        return b"".join(pieces)

    def _check_body_type(self, compiled: CompiledOperation) -> None:
        fields = self.fields
        if fields.get(b"content-encoding", b"identity").lower() != b"identity":
            raise UnsupportedMediaType("the body is compressed; send it with no Content-Encoding")
        sent = fields.get(b"content-type")
        kind = sent.partition(b";")[0].strip().lower() if sent else b""
        if kind == b"application/json" or (kind == b"application/merge-patch+json" and self.method == "PATCH"):
            return
        accepted = f"{JSON} or {MERGE_PATCH}" if self.method == "PATCH" else JSON
        if not kind and not self.declared_bytes and b"transfer-encoding" not in fields:
            return
        shown = kind.decode("latin-1")[:60] or "no Content-Type"
        raise UnsupportedMediaType(f"the body is {shown!r}; send {accepted}", headers={"Accept": accepted})

    def reading_is_left(self) -> bool:
        """Whether bytes of the body are still unread."""
        return not self._payload.is_eof()

    # ------------------------------------------------------------- what aiohttp's protocol asks

    def _finish(self) -> None:
        """Nothing to release."""

    def _cancel(self, error: BaseException) -> None:
        self._payload.set_exception(error)


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode("latin-1")


def _trace(value: str) -> Trace | None:
    matched = _TRACE.match(value)
    if matched is None or value.startswith("ff") or not matched[1].strip("0") or not matched[2].strip("0"):
        return None
    return Trace(matched[1], matched[2], bool(int(matched[3], 16) & 1))


def _too_large(limit: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"the body is larger than {limit} bytes, the most that this operation takes; send less at once")


def raw_headers_too_large(error: BaseException | None) -> bool:
    """Whether aiohttp's parser gave up because of size."""
    return isinstance(error, LineTooLong) or "header" in str(error).lower() and "many" in str(error).lower()


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
_PHRASES: Final = {status.value: status.phrase for status in HTTPStatus}


def encoded(outgoing: Outgoing, request_id: str, *, keep_alive: bool, head: bool) -> bytes:
    """The whole answer as bytes."""
    status, body = outgoing.status, outgoing.body
    about = "" if status == HTTPStatus.NO_CONTENT else f"Content-Type: {outgoing.content_type}\r\nContent-Length: {len(body)}\r\n"
    text = (
        f"HTTP/1.1 {status} {_PHRASES[status]}\r\nDate: {_dates.text()}\r\n{about}X-Request-Id: {request_id}\r\n"
        f"X-Content-Type-Options: nosniff\r\n{_lines(outgoing.headers) if outgoing.headers else ''}"
        f"{'' if keep_alive else 'Connection: close' + _END}\r\n"
    )
    encoded_head = text.encode("latin-1", "replace")
    return encoded_head if head else encoded_head + body


_END: Final = "\r\n"


def _lines(headers: tuple[tuple[str, str], ...]) -> str:
    text = "".join([f"{name}: {value}\0" for name, value in headers])
    if "\r" in text or "\n" in text:
        raise KernelBug("a header field holds a line break")
    return text.replace("\0", _END)


class Connection(RequestHandler):
    """aiohttp's protocol, with problem documents for what is no HTTP and a bound on the number of connections."""

    __slots__ = ("_door",)

    def __init__(self, manager: HttpServer, **options: Any) -> None:
        super().__init__(manager, **options)
        self._door = manager.door

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection, or refuse it when there are too many."""
        super().connection_made(transport)
        if self._door.is_full(len(self._door.server.connections)):
            self._door.refuse(self)

    def handle_error(
        self, request: Any, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> Any:
        """Answer what could not be parsed, or what escaped a handler."""
        return self._door.answer_broken(request, self, status, exc)


class HttpServer(web.Server):
    """aiohttp's low-level server with our connections and requests."""

    def __init__(self, door: RestDoor) -> None:
        self.door = door
        factory: Any = Incoming  # aiohttp asks of a request what Incoming has, and says BaseRequest
        super().__init__(door.handle, request_factory=factory)

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
            lingering_time=LINGER_S,
            auto_decompress=False,
        )


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
        outgoing = self._problem(error, "/", request_id := f"{_id_prefix}-{next(_id_number):x}")
        transport = connection.transport
        if transport is not None:
            transport.write(encoded(outgoing, request_id, keep_alive=False, head=False))
            transport.close()

    # ----------------------------------------------------------------------------- one request

    async def handle(self, incoming: Any) -> Any:
        """Answer one request; never raises but for a cancellation."""
        self._in_flight += 1
        try:
            outgoing = await self._answer(incoming)
        finally:
            self._in_flight -= 1
        return self._write(incoming, outgoing)

    async def _answer(self, incoming: Incoming) -> Outgoing:
        try:
            incoming.body_limit = self._kernel.body_bytes_max
            incoming.open()
            log_context.set(incoming)
            if self._in_flight > REQUESTS_IN_FLIGHT_MAX:
                raise Unavailable(f"{REQUESTS_IN_FLIGHT_MAX} requests are under way in this worker; try again")
            page = self._pages.get(incoming.path)
            if page is not None:
                return self._page(incoming, page)
            compiled = self._find(incoming)
            if compiled is None:
                return await self._elsewhere(incoming)
            answer = await compiled.invoke(incoming)
            return self._success(incoming, compiled, answer)
        except Exception as error:  # noqa: BLE001 - whatever it is, the client gets an answer and the log the rest
            return self._failure(incoming, error)

    def _page(self, incoming: Incoming, page: Page) -> Outgoing:
        incoming.route = incoming.path
        if incoming.method in ("GET", "HEAD"):
            return page(incoming)
        return self._other_method(incoming, {"GET"})

    def _find(self, incoming: Incoming) -> CompiledOperation | None:
        match = self._kernel.table.dispatch.find(incoming.path)
        if match is None:
            return None
        method = incoming.method
        compiled = match.methods.get("GET" if method == "HEAD" else method)
        if compiled is not None:
            _check_accept(incoming)
            incoming.compiled, incoming.values = compiled, match.values
        return compiled

    async def _elsewhere(self, incoming: Incoming) -> Outgoing:
        """Answer a path or method that no operation has."""
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

    def _success(self, incoming: Incoming, compiled: CompiledOperation, answer: Any) -> Outgoing:
        registered, call = compiled.registered, incoming.call
        headers = tuple(call.response_headers) if call is not None and call.response_headers else ()
        if registered.answer_type is None:
            return Outgoing(registered.status, headers=headers)
        version = getattr(answer, "version", None)
        if version is not None and (identifier := getattr(answer, "id", None)) is not None:
            headers += (("ETag", f'"{version}"'),)
            if registered.status == 201:
                headers += (("Location", f"{incoming.path.rstrip('/')}/{identifier}"),)
        return Outgoing(registered.status, compiled.encode(answer), headers=headers)

    # ---------------------------------------------------------------------------------- errors

    def _failure(self, incoming: Incoming, error: Exception) -> Outgoing:
        known = as_kernel_error(error)
        if not incoming.request_id:
            incoming.request_id = f"{_id_prefix}-{next(_id_number):x}"
        if isinstance(known, KernelBug):
            self._kernel.log_bug(incoming, known)
        return self._problem(known, incoming.path, incoming.request_id)

    def _problem(self, error: KernelError, path: str, request_id: str) -> Outgoing:
        body = problems.body(error, path, request_id)
        return Outgoing(error.status, body, problems.CONTENT_TYPE, tuple(problems.headers(error)))

    def answer_broken(
        self, incoming: Incoming, connection: Connection, status: int, error: BaseException | None
    ) -> Written:
        """Answer bytes that are no HTTP, then hang up."""
        known: KernelError
        if status >= 500:
            known = as_kernel_error(error or KernelBug("a handler failed"))
        elif raw_headers_too_large(error):
            limits = f"{HEADER_LINE_BYTES_MAX} bytes a line, {HEADER_COUNT_MAX} header fields"
            known = HeadersTooLarge(f"the request line or a header field is too large; at most {limits}")
        else:
            known = Unreadable(f"the bytes are no valid HTTP/1.1 request: {type(error).__name__}", code="malformed_request")
        incoming.request_id = incoming.request_id or f"{_id_prefix}-{next(_id_number):x}"
        if isinstance(known, KernelBug):
            self._kernel.log_bug(incoming, known)
        outgoing = self._problem(known, incoming.path, incoming.request_id)
        return self._write(incoming, outgoing, keep_alive=False)

    # --------------------------------------------------------------------------------- writing

    def _write(self, incoming: Incoming, outgoing: Outgoing, *, keep_alive: bool = True) -> Written:
        keep_alive = keep_alive and incoming.keep_alive and not self.closing
        if outgoing.status == 413 and incoming.reading_is_left():
            keep_alive = False
        data = encoded(outgoing, incoming.request_id, keep_alive=keep_alive, head=incoming.method == "HEAD")
        protocol = incoming._protocol  # noqa: SLF001 - a slot of our own class
        transport = protocol.transport
        if transport is not None:
            transport.write(data)
        self._record(incoming, outgoing.status)
        drain = protocol._drain_helper if protocol.writing_paused else None  # noqa: SLF001 - aiohttp has no public name
        return Written(outgoing.status, keep_alive, drain)

    def _record(self, incoming: Incoming, status: int) -> None:
        seconds = time.monotonic() - incoming.started
        compiled = incoming.compiled
        bound = compiled.registered.bound if compiled is not None else None
        operation, route = (bound.id, bound.path) if bound is not None else ("", incoming.route)
        self._kernel.metrics.request("rest", operation, route, status, seconds)
        sink.request(incoming, f"{incoming.method[:20]} {route}".rstrip(), status, seconds)


def _check_accept(incoming: Incoming) -> None:
    accept = incoming.fields.get(b"accept")
    if accept is None:
        return
    lower = accept.lower()
    if b"*/*" in lower or b"json" in lower or b"application/*" in lower or not lower.strip():
        return
    raise NotAcceptable(f"only {JSON} is answered here; send Accept: {JSON}")
