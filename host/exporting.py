"""Sends spans to a collector by OTLP over gRPC, from a thread of its own: what a request pays is one entry of a queue.

Loaded only where a collector is set. The SDK's own batch processor is not used: it tells each failure and each dropped span
in the log, counts neither, and makes its spans in the request's way.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol
from urllib.parse import urlsplit

from host.observe import CounterFamily, PluginLog
from host.tracing import Span

if TYPE_CHECKING:
    from host.settings import ObserveSettings

QUEUE_MAX: Final = 2_048
"""Spans that wait for the collector; a further one is dropped. The SDK's own number."""
BATCH_MAX: Final = 512
SEND_AFTER_S: Final = 1.0
EXPORT_LIMIT_S: Final = 5.0
BACKOFF_S: Final = 1.0
BACKOFF_S_MAX: Final = 30.0
FLUSH_LIMIT_S: Final = 1.5
"""How long the end of a worker waits for the last spans."""

Send = Callable[[Sequence[Span], float], int]
"""(spans, seconds) -> how many of them the collector refused. Raises NotNow or NotEver."""


class NotNow(Exception):
    """The collector is away or overloaded: the same spans are sent again later."""


class NotEver(Exception):
    """The collector does not take these spans."""


class Counting(Protocol):
    """Where counters come from: `host.observe.Metrics`."""

    def counter(self, name: str, description: str, labels: Sequence[str], owner: str = "") -> CounterFamily:
        """Make or find a counter."""
        ...


class Counts:
    """What became of spans, as metrics show it; all of it is there from the start, also when nothing is traced."""

    def __init__(self, metrics: Counting) -> None:
        self.exported = metrics.counter("pk_spans_exported_total", "Spans that the collector took.", (), "host")
        self.dropped = metrics.counter(
            "pk_spans_dropped_total", "Spans that were not delivered, by why: no room, or refused.", ("reason",), "host"
        )
        self.failures = metrics.counter(
            "pk_span_export_failures_total", "Times that the collector could not be reached in time.", (), "host"
        )
        for reason in ("full", "refused"):
            self.dropped.add(0, reason=reason)


class Exporter:
    """A bounded queue and the thread that empties it; implements `host.tracing.SpanSink`.

    Away, the collector is asked again after 1 s, then 2 s, up to 30 s; the log has one line when it is lost and one when it
    is back.
    """

    def __init__(self, send: Send, hang_up: Callable[[], None], counts: Counts, log: PluginLog) -> None:
        self._send = send
        self._hang_up = hang_up
        self._counts = counts
        self._log = log
        self._queue: deque[Span] = deque()
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._is_lost = False
        self._thread = threading.Thread(target=self._run, name="span-exporter", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Spans that are not sent yet."""
        return len(self._queue)

    def add(self, span: Span) -> None:
        """Take a span that is over; drop it when QUEUE_MAX wait."""
        queue = self._queue
        if len(queue) >= QUEUE_MAX:
            self._counts.dropped.add(reason="full")
            return
        queue.append(span)
        if len(queue) == BATCH_MAX:
            self._wake.set()

    async def close(self) -> None:
        """Send what waits, within FLUSH_LIMIT_S; what is left then is lost."""
        self._closing.set()
        self._wake.set()
        await asyncio.to_thread(self._thread.join, FLUSH_LIMIT_S)
        await asyncio.to_thread(self._hang_up)  # ends an export that is still under way

    # ----------------------------------------------------------------------------------- the thread

    def _run(self) -> None:
        pause = BACKOFF_S
        while True:
            self._wake.wait(SEND_AFTER_S)
            self._wake.clear()
            while self._queue:
                if self._send_some():
                    pause = BACKOFF_S
                elif self._closing.wait(pause):
                    return  # it was away just now, or is: a stopping worker does not wait for it
                else:
                    pause = min(pause * 2, BACKOFF_S_MAX)
            if self._closing.is_set():
                return

    def _send_some(self) -> bool:
        """Send the oldest spans; False when they are to be sent again later."""
        batch = [self._queue[at] for at in range(min(len(self._queue), BATCH_MAX))]
        try:
            refused = self._send(batch, EXPORT_LIMIT_S)
        except NotNow as error:
            self._counts.failures.add()
            self._tell_lost(error)
            return False
        except Exception as error:  # noqa: BLE001 - whatever it is, these spans go and later ones are tried
            self._tell_lost(error)
            refused = len(batch)
        else:
            self._tell_back()
        for _ in batch:
            self._queue.popleft()
        self._counts.exported.add(len(batch) - refused)
        if refused:
            self._counts.dropped.add(refused, reason="refused")
        return True

    def _tell_lost(self, error: Exception) -> None:
        if not self._is_lost:
            self._is_lost = True
            self._log.warning("the collector takes no spans; it is tried again, and requests go on", why=str(error))

    def _tell_back(self) -> None:
        if self._is_lost:
            self._is_lost = False
            self._log.info("the collector takes spans again")


# -------------------------------------------------------------------------------------------------- OTLP


def make_exporter(
    settings: ObserveSettings, counts: Counts, log: PluginLog, place: Sequence[tuple[str, str]]
) -> Exporter:
    """Spans go to `observe.otlp_endpoint`; `place` are attributes of this process. Connects when the first span is sent."""
    import grpc  # noqa: PLC0415 - a quarter of a second, and only where spans are sent
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import TraceServiceStub  # noqa: PLC0415 - as above

    from host.otlp import request_of  # noqa: PLC0415 - as above

    channel = _channel(settings)
    stub: Any = TraceServiceStub(channel)  # type: ignore[no-untyped-call]  # generated without types
    headers = settings.otlp_headers.reveal() if settings.otlp_headers is not None else {}
    metadata = tuple((name.lower(), value) for name, value in headers.items())
    again = {
        grpc.StatusCode.CANCELLED, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.ABORTED, grpc.StatusCode.OUT_OF_RANGE, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DATA_LOSS,
    }  # fmt: skip  # as OTLP wants it

    def send(spans: Sequence[Span], limit_s: float) -> int:
        try:
            answer = stub.Export(request_of(spans, place), metadata=metadata, timeout=limit_s)
        except grpc.RpcError as error:
            code: Any = getattr(error, "code", lambda: None)()
            why = NotNow if code in again else NotEver
            raise why(
                f"{settings.otlp_endpoint}: {getattr(code, 'name', 'no answer')}"
            ) from None  # details may tell headers
        except ValueError as error:  # the channel was closed under it
            raise NotNow(f"{settings.otlp_endpoint}: {error}") from None
        return int(answer.partial_success.rejected_spans)

    return Exporter(send, channel.close, counts, log)


def _channel(settings: ObserveSettings) -> Any:
    import grpc  # noqa: PLC0415 - as above

    address = settings.otlp_endpoint or ""
    parts = urlsplit(address if "://" in address else f"//{address}")
    options = [
        ("grpc.initial_reconnect_backoff_ms", 500),
        ("grpc.min_reconnect_backoff_ms", 500),
        ("grpc.max_reconnect_backoff_ms", 5_000),
        ("grpc.enable_http_proxy", 0),
    ]
    if parts.scheme == "http" or settings.otlp_insecure:
        return grpc.insecure_channel(parts.netloc, options)
    return grpc.secure_channel(parts.netloc, grpc.ssl_channel_credentials(), options)
