"""One request as the REST door sees it: its header fields, its body, and what the pipeline asks of it."""

from __future__ import annotations

import os
import re
import time
from collections import deque
from itertools import count
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

import msgspec
from aiohttp import StreamReader, web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.http_parser import RawRequestMessage

from host.generations import RegisteredOperation
from host.pipeline import CompiledOperation
from host.request_plan import OCTETS, Octets
from host.streaming import BodyTransfer
from host.tracing import Span, read_traceparent
from plugin_api.call import Call, Trace
from plugin_api.errors import KernelBug, PayloadTooLarge, Unreadable, UnsupportedMediaType
from plugin_api.limits import BODY_BYTES_MAX
from plugin_api.pipeline import Credentials

if TYPE_CHECKING:
    from host.connection import Connection

JSON: Final = "application/json"
MERGE_PATCH: Final = "application/merge-patch+json"
_OCTETS: Final = OCTETS.encode()
_SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,64}\Z")
_SINGLE: Final = frozenset({b"authorization", b"content-type", b"if-match", b"idempotency-key", b"cookie", b"host"})
_id_prefix: Final = os.urandom(8).hex()
_id_number: Final = count(1)


def new_request_id() -> str:
    """An id that no other request of this machine has: a random prefix for each process, and a number. All are as long."""
    return f"{_id_prefix}-{next(_id_number):08x}"


class CallOfDoor:
    """What lines of the log tell of a call, whatever door it came through."""

    __slots__ = ()

    trace: Trace | None
    call: Call | None
    compiled: CompiledOperation | None

    @property
    def trace_id(self) -> str:
        """The trace's id, for the log."""
        return self.trace.trace_id if self.trace is not None else ""

    @property
    def tenant(self) -> UUID | str:
        """The tenant's id, for the log; empty until the caller is known."""
        call = self.call
        return call.tenant_id if call is not None and call.has_tenant else ""

    @property
    def plugin(self) -> str:
        """The plugin whose operation was asked for, for the log."""
        return self.compiled.registered.bound.plugin_id if self.compiled is not None else ""


class Incoming(CallOfDoor):
    """One request as our door sees it; implements `host.pipeline.Inbound`."""

    __slots__ = (
        "_message",
        "_payload",
        "address",
        "body_limit",
        "call",
        "compiled",
        "connection",
        "declared_bytes",
        "expiry",
        "fields",
        "idempotency_key",
        "if_match",
        "path",
        "query",
        "request_id",
        "route",
        "span",
        "started",
        "trace",
        "user_agent",
        "values",
    )

    deadline_s: float | None = None
    """HTTP has no word for it."""

    def __init__(self, message: RawRequestMessage, payload: StreamReader, connection: Connection) -> None:
        self._message = message
        self._payload = payload
        self.connection = connection
        self.expiry = connection.expiry
        self.body_limit = BODY_BYTES_MAX
        self.started = time.monotonic()
        self.call: Call | None = None
        self.compiled: CompiledOperation | None = None
        self.values: tuple[str, ...] = ()
        self.path, _, self.query = message.path.partition("?")
        self.fields: dict[bytes, bytes] = {}
        self.request_id = ""
        self.route = ""
        self.trace: Trace | None = None
        """What its header names; from the moment it is begun, what it goes on in."""
        self.span: Span | None = None
        self.idempotency_key: str | None = None
        self.if_match: str | None = None
        self.user_agent = ""
        self.declared_bytes = 0
        self.address = connection.address

    def open(self, body_limit: int) -> None:
        """Read the header fields; the body may have `body_limit` bytes.

        Raises:
            Unreadable: code `bad_header`, when a field that must be single stands twice.
        """
        self.body_limit = body_limit
        doubled = self._collect()
        fields = self.fields
        self.request_id = self._read_request_id()
        self.if_match = _text(fields.get(b"if-match"))
        self.idempotency_key = _text(fields.get(b"idempotency-key"))
        agent = fields.get(b"user-agent")
        self.user_agent = agent.decode("latin-1")[:200] if agent else ""
        traceparent = fields.get(b"traceparent")
        if traceparent:
            self.trace = read_traceparent(traceparent.decode("latin-1"))
        length = fields.get(b"content-length")
        self.declared_bytes = int(length) if length and length.isdigit() else 0
        if doubled:
            raise Unreadable(f"the header {doubled} stands twice; send it once", code="bad_header")

    def refuse_large(self, registered: RegisteredOperation) -> None:
        """Refuse a body that says itself that it is too large, before anybody looks at who sends it.

        Raises:
            PayloadTooLarge: the operation takes less.
        """
        if self.declared_bytes > self.body_limit and registered.takes_body and registered.octets is None:
            raise _too_large(self.body_limit)

    def _collect(self) -> str:
        doubled, fields = "", self.fields
        for name, value in self._message.raw_headers:
            lower = name.lower()
            if lower in fields:
                if lower in _SINGLE:
                    doubled = lower.decode("latin-1")
                elif lower == b"traceparent":
                    fields[lower] = b""  # of two, neither is followed, as the standard wants it
                    continue
            fields[lower] = value
        return doubled

    def _read_request_id(self) -> str:
        sent = self.fields.get(b"x-request-id")
        return read_request_id(sent.decode("latin-1") if sent else "")

    @property
    def method(self) -> str:
        """The request's method."""
        return self._message.method

    @property
    def keep_alive(self) -> bool:
        """Whether the client wants the connection kept."""
        return not self._message.should_close and not self._message.upgrade

    @property
    def is_chunkable(self) -> bool:
        """Whether the client understands an answer in chunks (HTTP/1.1)."""
        return self._message.version >= (1, 1)

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
        if compiled.registered.bound.spec.stream and self.call is not None:
            self.call.transfer = BodyTransfer(self.method, self.fields, self._payload, self.connection)
        if not compiled.registered.takes_body:
            return compiled.registered.bind(self.values, self.query, None)
        if compiled.registered.octets is not None and self._body_type() == _OCTETS:
            return self._read_octets(compiled, compiled.registered.octets)
        self._check_body_type(compiled)
        if self._payload.is_eof():
            # All of it is here: taking its pieces spares the reader's turn through flow control and parser.
            body = b"".join(self._payload._buffer) if self._payload.total_bytes else b""  # noqa: SLF001 - pinned by a test
            if len(body) > self.body_limit:
                raise _too_large(self.body_limit)
            return compiled.registered.bind(self.values, self.query, body)
        return self._read_then_bind(compiled)

    async def _read_then_bind(self, compiled: CompiledOperation) -> Any:
        return compiled.registered.bind(self.values, self.query, await self._read())

    async def _read_octets(self, compiled: CompiledOperation, octets: Octets) -> Any:
        """The body itself is one field of the request; path and query give the others."""
        self._refuse_encoded()
        request = compiled.registered.bind(self.values, self.query, b"{}")
        self.body_limit = octets.bytes_max
        return msgspec.structs.replace(request, **{octets.field: await self._read()})

    async def _read(self) -> bytes:
        if self.declared_bytes > self.body_limit:
            raise _too_large(self.body_limit)
        if self.fields.get(b"expect", b"").lower() == b"100-continue":
            self.connection.write(b"HTTP/1.1 100 Continue\r\n\r\n")
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

    def _body_type(self) -> bytes:
        sent = self.fields.get(b"content-type")
        return sent.partition(b";")[0].strip().lower() if sent else b""

    def _refuse_encoded(self) -> None:
        if self.fields.get(b"content-encoding", b"identity").lower() != b"identity":
            raise UnsupportedMediaType("the body is compressed; send it with no Content-Encoding")

    def _check_body_type(self, compiled: CompiledOperation) -> None:
        fields = self.fields
        self._refuse_encoded()
        kind = self._body_type()
        if kind == b"application/json" or (kind == b"application/merge-patch+json" and self.method == "PATCH"):
            return
        accepted = f"{JSON} or {MERGE_PATCH}" if self.method == "PATCH" else JSON
        accepted = accepted if compiled.registered.octets is None else f"{JSON} or {OCTETS}"
        if not kind and not self.declared_bytes and b"transfer-encoding" not in fields:
            return
        shown = kind.decode("latin-1")[:60] or "no Content-Type"
        raise UnsupportedMediaType(f"the body is {shown!r}; send {accepted}", headers={"Accept": accepted})

    def reading_is_left(self) -> bool:
        """Whether bytes of the body are still unread."""
        return not self._payload.is_eof()

    # ------------------------------------------------------------- what aiohttp's protocol asks

    def _cancel(self, error: BaseException) -> None:
        """The connection is gone: whoever reads the body is told."""
        self._payload.set_exception(error)


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode("latin-1")


def read_request_id(sent: str) -> str:
    """The id that a request goes by: what its caller sent, where that can be one."""
    return sent if _REQUEST_ID.match(sent) else new_request_id()


def _too_large(limit: int) -> PayloadTooLarge:
    return PayloadTooLarge(
        f"the body is larger than {limit} bytes, the most that this operation takes; send less at once"
    )
