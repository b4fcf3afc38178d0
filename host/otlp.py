"""Spans as OTLP has them on the wire. Loaded only where spans are sent."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Final

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, InstrumentationScope, KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Status
from opentelemetry.proto.trace.v1.trace_pb2 import Span as OtlpSpan

from host.tracing import Span

SCOPE: Final = "platform-kernel"
_KINDS: Final[Mapping[str, OtlpSpan.SpanKind.ValueType]] = {
    "internal": OtlpSpan.SPAN_KIND_INTERNAL,
    "server": OtlpSpan.SPAN_KIND_SERVER,
    "client": OtlpSpan.SPAN_KIND_CLIENT,
    "producer": OtlpSpan.SPAN_KIND_PRODUCER,
    "consumer": OtlpSpan.SPAN_KIND_CONSUMER,
}
_IS_REMOTE_KNOWN: Final = 0x100
_IS_REMOTE: Final = 0x200


def request_of(spans: Sequence[Span], place: Sequence[tuple[str, str]]) -> ExportTraceServiceRequest:
    """One export of spans, all of this process."""
    scope = ScopeSpans(scope=InstrumentationScope(name=SCOPE), spans=[_span(span) for span in spans])
    return ExportTraceServiceRequest(
        resource_spans=[ResourceSpans(resource=_resource(tuple(place)), scope_spans=[scope])]
    )


@cache
def _resource(place: tuple[tuple[str, str], ...]) -> Resource:
    return Resource(attributes=[*_attributes(place), _attribute("process.pid", os.getpid())])


def _span(span: Span) -> OtlpSpan:
    is_entry = span.kind in ("server", "consumer")
    return OtlpSpan(
        trace_id=bytes.fromhex(span.trace.trace_id),
        span_id=bytes.fromhex(span.trace.parent_id),
        parent_span_id=bytes.fromhex(span.parent_id),
        name=span.name,
        kind=_KINDS[span.kind],
        start_time_unix_nano=span.begun_ns,
        end_time_unix_nano=max(span.begun_ns, span.ended_ns),
        attributes=list(_attributes(span.attributes.items())),
        status=Status(code=Status.STATUS_CODE_ERROR) if span.failed else None,
        flags=1 | _IS_REMOTE_KNOWN | (_IS_REMOTE if is_entry and span.parent_id else 0),
    )


def _attributes(pairs: Iterable[tuple[str, str | int]]) -> Iterable[KeyValue]:
    return (_attribute(name, value) for name, value in pairs)


def _attribute(name: str, value: str | int) -> KeyValue:
    shown = AnyValue(int_value=value) if isinstance(value, int) else AnyValue(string_value=value)
    return KeyValue(key=name, value=shown)
