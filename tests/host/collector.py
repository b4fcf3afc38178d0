"""A real OTLP collector for tests: a small gRPC server that keeps the spans that it is sent."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import (
    TraceServiceServicer,
    add_TraceServiceServicer_to_server,
)

KINDS = ("", "internal", "server", "client", "producer", "consumer")


@dataclass(frozen=True)
class Received:
    """One span as it came."""

    name: str
    kind: str
    trace_id: str
    span_id: str
    parent_id: str
    attributes: dict[str, Any]
    resource: dict[str, Any]
    failed: bool
    seconds: float


def _plain(pairs: Any) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in pairs}


class Collector(TraceServiceServicer):
    """Keeps what it is sent; `answer` says what becomes of an export before it is kept."""

    def __init__(self) -> None:
        self.spans: list[Received] = []
        self.exports = 0
        self.metadata: dict[str, str] = {}
        self.refuses: grpc.StatusCode | None = None
        self.rejects = 0
        self.hold = threading.Event()
        self.hold.set()
        self.port = 0
        self._server: Any = None

    def Export(self, request: Any, context: Any) -> Any:  # noqa: N802 - the name in the service
        """Take an export."""
        self.exports += 1
        self.hold.wait(20)
        self.metadata = dict(context.invocation_metadata())
        if self.refuses is not None:
            context.abort(self.refuses, "not now, and here is a secret that nobody may log")
        for group in request.resource_spans:
            resource = _plain(group.resource.attributes)
            for scope in group.scope_spans:
                self.spans += [_received(span, resource) for span in scope.spans]
        answer = ExportTraceServiceResponse()
        if self.rejects:
            answer.partial_success.rejected_spans = self.rejects
        return answer

    def start(self, port: int = 0) -> None:
        """Listen; on the port of before when one is given."""
        self._server = grpc.server(ThreadPoolExecutor(4), options=[("grpc.so_reuseport", 0)])
        add_TraceServiceServicer_to_server(self, self._server)
        self.port = self._server.add_insecure_port(f"127.0.0.1:{port}")
        self._server.start()

    def stop(self) -> None:
        """Hang up."""
        if self._server is not None:
            self._server.stop(0).wait()
            self._server = None

    @property
    def url(self) -> str:
        """What to set `observe.otlp_endpoint` to."""
        return f"http://127.0.0.1:{self.port}"

    def of(self, trace_id: str) -> list[Received]:
        """The spans of one trace."""
        return [span for span in self.spans if span.trace_id == trace_id]


def _received(span: Any, resource: dict[str, Any]) -> Received:
    seconds = (span.end_time_unix_nano - span.start_time_unix_nano) / 1e9
    return Received(
        span.name, KINDS[span.kind], span.trace_id.hex(), span.span_id.hex(), span.parent_span_id.hex(),
        _plain(span.attributes), resource, span.status.code == 2, seconds,
    )  # fmt: skip


@contextmanager
def collecting() -> Iterator[Collector]:
    """A collector that listens until the end of the block."""
    collector = Collector()
    collector.start()
    try:
        yield collector
    finally:
        collector.hold.set()
        collector.stop()
