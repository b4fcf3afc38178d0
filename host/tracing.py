"""Traces: which request is part of which (W3C Trace Context), and spans of those that are sampled.

Whether something is sampled is decided before anything is made for it: what is not costs two ids for its log line, or
nothing where its caller sent them. A span is kept in plain fields until its end; the exporter's thread does the rest.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol

from plugin_api.call import Call, Trace
from plugin_api.errors import KernelError

if TYPE_CHECKING:
    from host.recording import Run
    from plugin_api.pipeline import BoundOperation

Kind = Literal["internal", "server", "client", "producer", "consumer"]
Attributes = dict[str, str | int]

_TRACEPARENT: Final = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?\Z")
_IDS_AT_ONCE: Final = 128
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"})
_RATIO_BITS: Final = 1 << 64


def read_traceparent(value: str) -> Trace | None:
    """The trace that a `traceparent` names; None for what is none, after which a new one begins.

    Of a version that is not known yet what this one knows is taken, as the standard wants it.
    """
    matched = _TRACEPARENT.match(value)
    if matched is None:
        return None
    version, trace_id, parent_id, flags, more = matched.groups()
    if version == "ff" or (version == "00" and more is not None):
        return None
    if not trace_id.strip("0") or not parent_id.strip("0"):
        return None
    return Trace(trace_id, parent_id, bool(int(flags, 16) & 1))


def _random_ids() -> Iterator[tuple[str, str]]:
    """Ids of a trace and of a span, from random bytes that are fetched for many at once."""
    while True:
        text = os.urandom(24 * _IDS_AT_ONCE).hex()
        for at in range(0, len(text), 48):
            yield text[at : at + 32], text[at + 32 : at + 48]


_ids: Final = _random_ids()


def new_trace(*, sampled: bool = False) -> Trace:
    """A trace that nobody sent; made in the thread of the loop only."""
    trace_id, span_id = next(_ids)
    return Trace(trace_id, span_id, sampled)


class Span:
    """Something sampled: under way until `end`; `trace` is what it begins goes on in."""

    __slots__ = ("_sink", "attributes", "begun_ns", "ended_ns", "error", "failed", "kind", "name", "parent_id", "trace")

    def __init__(self, sink: SpanSink, trace: Trace, parent_id: str, kind: Kind) -> None:
        self._sink = sink
        self.trace = trace
        self.parent_id = parent_id
        """Empty for the first of its trace."""
        self.kind: Kind = kind
        self.begun_ns = time.time_ns()
        self.ended_ns = 0
        self.error = ""
        """Code or class of what it failed with; never its text, which may hold anything."""
        self.name = ""
        self.attributes: Attributes = {}
        self.failed = False

    def end(self, name: str, attributes: Attributes, *, failed: bool) -> None:
        """Hand it to the exporter. It is over, and must not be ended again."""
        self.ended_ns = time.time_ns()
        self.name, self.attributes, self.failed = name, attributes, failed
        if self.error:
            attributes["error.type"] = self.error
        self._sink.add(self)


class SpanSink(Protocol):
    """Takes spans that are over."""

    def add(self, span: Span) -> None:
        """Take one. Never waits and never raises: when there is no room, it is dropped and counted."""
        ...

    async def close(self) -> None:
        """Send what waits, for a bounded time, and take no more."""
        ...


class Traced(Protocol):
    """A request as doors know it, as far as traces go."""

    trace: Trace | None
    """As it was sent; `begin` puts in its place what the request goes on in."""


class Tracing:
    """Decides what is sampled, and makes spans of it."""

    def __init__(self, sink: SpanSink, *, ratio: float, follow: bool) -> None:
        self._sink = sink
        self._bound = round(ratio * _RATIO_BITS)
        self._follows_callers = follow

    async def close(self) -> None:
        """Send what waits, for a bounded time."""
        await self._sink.close()

    def _chosen(self, trace_id: str) -> bool:
        """By the id's last 64 bits, as OpenTelemetry's own ratio does: services with one ratio choose the same traces."""
        bound = self._bound
        return bound > 0 and (bound == _RATIO_BITS or int(trace_id[16:], 16) < bound)

    def begin(self, sent: Trace | None) -> tuple[Trace, Span | None]:
        """Begin what somebody outside asks for: its trace, and its span if sampled."""
        return self._begin(sent, "server", follow=self._follows_callers)

    def begin_background(self, sent: Trace | None, kind: Kind) -> tuple[Trace, Span | None]:
        """Begin what no request asks for; of what it continues, we have decided ourselves."""
        return self._begin(sent, kind, follow=True)

    def _begin(self, sent: Trace | None, kind: Kind, *, follow: bool) -> tuple[Trace, Span | None]:
        if sent is not None and follow and not sent.sampled:
            return sent, None
        trace_id, span_id = next(_ids)
        if sent is None:
            trace = Trace(trace_id, span_id, self._chosen(trace_id))
            return trace, Span(self._sink, trace, "", kind) if trace.sampled else None
        # A caller that is not followed could choose ids that are always sampled, so fresh ones decide.
        if not (follow or self._chosen(trace_id)):
            return (Trace(sent.trace_id, sent.parent_id, False) if sent.sampled else sent), None
        trace = Trace(sent.trace_id, span_id, True)
        return trace, Span(self._sink, trace, sent.parent_id, kind)

    def child(self, trace: Trace, kind: Kind) -> Span:
        """Begin something within a sampled trace."""
        return Span(self._sink, Trace(trace.trace_id, next(_ids)[1], True), trace.parent_id, kind)


# -------------------------------------------------------------------------------------------------- doors


def begin(tracing: Tracing | None, inbound: Traced) -> Span | None:
    """Give a request its trace, and a span when it is sampled. For doors: once its head is read; the span is ended by
    `end_http` or `end_rpc`."""
    if tracing is not None:
        inbound.trace, span = tracing.begin(inbound.trace)
        return span
    if inbound.trace is None:
        inbound.trace = new_trace()
    return None


def begin_background(
    tracing: Tracing | None, traceparent: str, around: Trace | None, *, tenant: bool
) -> tuple[Trace, Span | None]:
    """The same for work that is no request: of an event or a job it continues the trace, else that of what it is done
    in. The kernel's own housekeeping, which is in no tenant, makes no spans."""
    told = read_traceparent(traceparent) if traceparent else None
    sent = told or around
    if tracing is None or not (tenant or sent is not None):
        return sent or new_trace(), None
    return tracing.begin_background(sent, "internal" if told is None else "consumer")


def end_http(span: Span, method: str, route: str, status: int, about: Attributes) -> None:
    """End the span of a request over HTTP; `route` is a template, empty when nothing is there."""
    known = method if method in _METHODS else "_OTHER"
    attributes: Attributes = {"http.request.method": known, "http.response.status_code": status, **about}
    if route:
        attributes["http.route"] = route
    span.end(f"{'HTTP' if known == '_OTHER' else known} {route}".rstrip(), attributes, failed=status >= 500)


def end_rpc(span: Span, method: str, status: int, about: Attributes) -> None:
    """End the span of a gRPC call; `method` is `package.Service/Method`, empty when nothing is there; `status` gRPC's."""
    attributes: Attributes = {"rpc.system": "grpc", "rpc.grpc.status_code": status, **about}
    service, _, name = method.rpartition("/")
    if method:
        attributes["rpc.service"], attributes["rpc.method"] = service, name
    span.end(method or "grpc", attributes, failed=status in _RPC_OURS)


_RPC_OURS: Final = frozenset({2, 4, 12, 13, 14, 15})
"""Statuses that are the server's fault: UNKNOWN DEADLINE_EXCEEDED UNIMPLEMENTED INTERNAL UNAVAILABLE DATA_LOSS."""


def about_call(request_id: str, call: Call | None, bound: BoundOperation | None) -> Attributes:
    """What every span of a call tells. Ids only: no names of people, no paths, no texts."""
    found: Attributes = {"pk.request_id": request_id}
    if call is not None and call.has_tenant:
        found["tenant.id"] = str(call.tenant_id)
    if bound is not None:
        found["pk.plugin"], found["pk.operation"] = bound.plugin_id, bound.id
    return found


def end_background(span: Span, name: str, call: Call, plugin_id: str, error: BaseException | None) -> None:
    """End the span of work that no request began."""
    if error is not None:
        span.error = error_type(error)
    span.end(name, {**about_call(call.request_id, call, None), "pk.plugin": plugin_id}, failed=error is not None)


def error_type(error: BaseException) -> str:
    """What an error is called: its code, or its class."""
    return error.code if isinstance(error, KernelError) else type(error).__name__


# ----------------------------------------------------------------------------------------------- pipeline


def with_span(run: Run, tracing: Tracing | None, bound: BoundOperation) -> Run:
    """Run as a child of the caller's span; the very `run` when nothing is traced."""
    if tracing is None:
        return run

    async def spanned(call: Call, request: Any) -> Any:
        trace = call.trace
        if trace is None or not trace.sampled:
            return await run(call, request)
        span = tracing.child(trace, "internal")
        call.trace = span.trace
        failed = False
        try:
            return await run(call, request)
        except BaseException as error:
            span.error, failed = error_type(error), _is_ours(error)
            raise
        finally:
            span.end(bound.id, about_call(call.request_id, call, bound), failed=failed)

    return spanned


def _is_ours(error: BaseException) -> bool:
    """Whether it is no refusal: those are answers, and make a span no failure."""
    return not (isinstance(error, KernelError) and error.status < 500)
