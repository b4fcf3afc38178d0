"""What operators see: JSON log lines, one per event, and metrics in Prometheus' families."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
import traceback
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from datetime import UTC, datetime
from itertools import islice
from typing import Any, Final, Protocol
from uuid import UUID

import msgspec

from plugin_api.call import Trace
from plugin_api.settings import Secret

LINE_BYTES_MAX: Final = 16_384
BUFFER_BYTES_MAX: Final = 65_536
FLUSH_AFTER_S: Final = 0.05
SERIES_MAX: Final = 200
REQUEST_SERIES_MAX: Final = 10_000
"""Routes times statuses that are told apart; more go to `other`."""
_MASK: Final = "**********"
Read = Callable[[], Mapping[tuple[str, ...], float]]
"""What a gauge shows now: values of its labels, in their order -> number."""


class LogContext(Protocol):
    """Whose work is being done; every line written meanwhile carries it."""

    @property
    def request_id(self) -> str:
        """The request's id, safe to print."""
        ...

    @property
    def trace(self) -> Trace | None:
        """What it is part of."""
        ...

    @property
    def trace_id(self) -> str:
        """The trace's id, or empty."""
        ...

    @property
    def tenant(self) -> UUID | str:
        """The tenant's id, or empty."""
        ...

    @property
    def plugin(self) -> str:
        """The plugin's id, or empty."""
        ...


log_context: ContextVar[LogContext | None] = ContextVar("log_context", default=None)


def _plain(value: Any) -> Any:
    """What msgspec cannot encode by itself: secrets are masked, everything else shows its type."""
    if isinstance(value, Secret):
        return _MASK
    if isinstance(value, BaseException):
        return f"{type(value).__name__}: {value}"
    return f"<{type(value).__name__}>"


class _RequestLine(msgspec.Struct, gc=False):
    """A line with fixed fields: on every request's way, so no dictionary is made for it."""

    ts: datetime
    level: str
    msg: str
    request_id: str
    trace_id: str
    tenant: UUID | str
    plugin: str
    route: str
    status: int
    ms: float


class LogSink:
    """Writes JSON lines to a file descriptor; buffers up to BUFFER_BYTES_MAX or FLUSH_AFTER_S when a loop runs.

    Safe from any thread. Lines of level error and above are written at once, so a crash does not swallow them.
    """

    def __init__(self, descriptor: int = 2) -> None:
        self._descriptor = descriptor
        self._buffer = bytearray()
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._loop_thread = 0
        self._timer: asyncio.TimerHandle | None = None
        self._encoder = msgspec.json.Encoder(enc_hook=_plain)

    def use_loop(self, loop: asyncio.AbstractEventLoop) -> None:
        """Let lines wait for up to FLUSH_AFTER_S from now on. Call from the thread of the loop."""
        self._loop = loop
        self._loop_thread = threading.get_ident()

    def line(self, level: str, message: str, fields: Mapping[str, Any]) -> None:
        """Write one line: `ts level msg`, then who it was done for, then the fields."""
        document: dict[str, Any] = {"ts": datetime.now(UTC), "level": level, "msg": message}
        context = log_context.get()
        if context is not None:
            document.update(
                request_id=context.request_id, trace_id=context.trace_id, tenant=context.tenant, plugin=context.plugin
            )
        document.update(fields)
        self.raw(self._encode(document), urgent=level in ("error", "critical"))

    def _encode(self, document: dict[str, Any]) -> bytes:
        encoded = self._encoder.encode(document)
        if len(encoded) <= LINE_BYTES_MAX:
            return encoded
        short = {
            name: value if len(str(value)) < 1000 else f"{str(value)[:1000]}..." for name, value in document.items()
        }
        return self._encoder.encode({**short, "shortened": True})

    def request(self, context: LogContext, route: str, status: int, seconds: float) -> None:
        """Write the one line of an answered request."""
        level = "info" if status < 500 else "warning"
        line = _RequestLine(
            datetime.now(UTC),
            level,
            "request",
            context.request_id,
            context.trace_id,
            context.tenant,
            context.plugin,
            route,
            status,
            round(seconds * 1000, 2),
        )
        self.raw(self._encoder.encode(line))

    def raw(self, encoded: bytes, *, urgent: bool = False) -> None:
        """Write one encoded line."""
        with self._lock:
            self._buffer += encoded + b"\n"
            wait = not urgent and self._loop is not None and len(self._buffer) < BUFFER_BYTES_MAX
        if not wait:
            self.flush()
        elif self._timer is None:
            self._schedule()

    def _schedule(self) -> None:
        loop = self._loop
        if loop is None or loop.is_closed() or threading.get_ident() != self._loop_thread:
            self.flush()
        else:
            self._timer = loop.call_later(FLUSH_AFTER_S, self.flush)

    def flush(self) -> None:
        """Write out what waits. A terminal that is gone loses lines, never the kernel."""
        self._timer = None
        with self._lock:
            waiting, self._buffer = bytes(self._buffer), bytearray()
        view = memoryview(waiting)
        while view:
            try:
                view = view[os.write(self._descriptor, view) :]
            except BlockingIOError:
                continue
            except OSError:
                return


sink: Final = LogSink()


class PluginLog:
    """The `log` handle of one plugin."""

    def __init__(self, plugin_id: str, target: LogSink = sink) -> None:
        self._plugin = plugin_id
        self._sink = target

    def _write(self, level: str, message: str, fields: dict[str, Any]) -> None:
        fields.setdefault("plugin", self._plugin)
        if sys.exc_info()[0] is not None and level == "error":
            fields.setdefault("exception", traceback.format_exc())
        self._sink.line(level, message, fields)

    def debug(self, message: str, **fields: Any) -> None:
        """Detail for the plugin's author."""
        self._write("debug", message, fields)

    def info(self, message: str, **fields: Any) -> None:
        """Something that an operator may want to know."""
        self._write("info", message, fields)

    def warning(self, message: str, **fields: Any) -> None:
        """Something that an operator should look at."""
        self._write("warning", message, fields)

    def error(self, message: str, **fields: Any) -> None:
        """Something that failed; inside `except` with the traceback."""
        self._write("error", message, fields)


class StandardLibraryHandler(logging.Handler):
    """Turns the standard library's records (asyncio, aiohttp, third parties) into our lines."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record."""
        fields: dict[str, Any] = {"logger": record.name}
        if record.exc_info and record.exc_info[0] is not None:
            fields["exception"] = "".join(traceback.format_exception(*record.exc_info))
        sink.line(record.levelname.lower(), record.getMessage(), fields)


def install(level: int = logging.INFO) -> None:
    """Send the standard library's logging to our lines, in place of whatever was there."""
    root = logging.getLogger()
    root.handlers[:] = [StandardLibraryHandler()]
    root.setLevel(level)


# ------------------------------------------------------------------------------------------------- metrics

BUCKETS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Histogram:
    """Seconds in buckets, for one series."""

    __slots__ = ("counts", "total")

    def __init__(self) -> None:
        self.counts = [0] * (len(BUCKETS_S) + 1)
        self.total = 0.0

    def observe(self, seconds: float) -> None:
        """Count one duration."""
        self.counts[bisect_left(BUCKETS_S, seconds)] += 1
        self.total += seconds


class Owned:
    """What generations of one plugin show under one name; it goes with the last of them."""

    def __init__(self, name: str, text: str, labels: tuple[str, ...]) -> None:
        self.name = name
        self.help = text
        self.labels = labels


class CounterFamily(Owned):
    """A counter with labels; series past SERIES_MAX go to `other`. Successive generations of a plugin share it, so that an
    upgrade does not make it fall."""

    def __init__(self, name: str, text: str, labels: tuple[str, ...]) -> None:
        super().__init__(name, text, labels)
        self.series: dict[tuple[str, ...], float] = {}
        self.owners: set[str] = set()

    def add(self, by: float = 1, /, **labels: str) -> None:
        """Add to one series."""
        key = tuple(labels.get(name, "") for name in self.labels)
        if key not in self.series and len(self.series) >= SERIES_MAX:
            key = tuple("other" for _ in self.labels)
        self.series[key] = self.series.get(key, 0) + by

    def disown(self, owner: str) -> bool:
        """Let go of an owner; whether any is left."""
        self.owners.discard(owner)
        return bool(self.owners)

    def family(self) -> dict[str, Any]:
        """What it counts."""
        samples = [(self.name, _zip(self.labels, key), value) for key, value in self.series.items()]
        return _family(self.name, "counter", self.help, samples)


class GaugeFamily(Owned):
    """Numbers that are read when asked: of the generation that has shown them longest, until that one is gone."""

    def __init__(self, name: str, text: str, labels: tuple[str, ...]) -> None:
        super().__init__(name, text, labels)
        self.reads: dict[str, Read] = {}

    def disown(self, owner: str) -> bool:
        """Let go of an owner and its function; whether any is left."""
        self.reads.pop(owner, None)
        return bool(self.reads)

    def family(self) -> dict[str, Any]:
        """What is read, the first SERIES_MAX series of it; nothing when the plugin's function does not do its part."""
        owner, read = next(iter(self.reads.items()))
        try:
            shown = islice(read().items(), SERIES_MAX)
            samples = [(self.name, _zip(self.labels, key), float(value)) for key, value in shown]
        except (Exception, SystemExit, KeyboardInterrupt) as error:  # noqa: BLE001 - a plugin's fault ends no scrape
            why = f"{type(error).__name__}: {error}"
            PluginLog(owner.partition("@")[0]).warning("a metric could not be read", metric=self.name, why=why)
            samples = []
        return _family(self.name, "gauge", self.help, samples)


class Metrics:
    """Everything that this process counts."""

    def __init__(self) -> None:
        self._requests: dict[tuple[str, str, str, int], Histogram] = {}
        self._histograms: dict[str, tuple[str, Histogram]] = {}
        """By name: what it is, and its one series."""
        self._counters: dict[tuple[str, ...], CounterFamily] = {}
        """By name and labels: a later version of a plugin may have others."""
        self._gauges: dict[tuple[str, ...], GaugeFamily] = {}

    def request(self, door: str, operation: str, route: str, status: int, seconds: float) -> None:
        """Count one answered request."""
        key = (door, operation, route, status)
        histogram = self._requests.get(key)
        if histogram is None:
            if len(self._requests) >= REQUEST_SERIES_MAX:
                key = (door, "other", "other", status)
            histogram = self._requests.setdefault(key, Histogram())
        histogram.observe(seconds)

    def histogram(self, name: str, description: str) -> Histogram:
        """Make or find the host's own histogram of one series, in seconds."""
        return self._histograms.setdefault(name, (description, Histogram()))[1]

    def counter(self, name: str, description: str, labels: Sequence[str], owner: str = "") -> CounterFamily:
        """Make or find a counter; it stays until `owner` and whoever else has it is dropped."""
        family = self._counters.setdefault((name, *labels), CounterFamily(name, description, tuple(labels)))
        family.owners.add(owner)
        if not labels:
            family.add(0)  # a series that is not there until it grows hides its first growth
        return family

    def gauge(self, name: str, description: str, labels: Sequence[str], read: Read, owner: str = "") -> None:
        """Show numbers that are read when asked, until `owner` is dropped."""
        family = self._gauges.setdefault((name, *labels), GaugeFamily(name, description, tuple(labels)))
        family.reads[owner] = read

    def drop(self, owner: str) -> None:
        """Forget what nobody but this owner counts or shows."""
        self._counters = {key: one for key, one in self._counters.items() if one.disown(owner)}
        self._gauges = {key: one for key, one in self._gauges.items() if one.disown(owner)}

    def families(self) -> list[dict[str, Any]]:
        """All of it as `{name, type, help, samples: [{name, labels, value}]}`."""
        found = [self._request_total(), self._request_seconds()]
        for name, (text, histogram) in self._histograms.items():
            found.append(_family(name, "histogram", text, _histogram_samples(name, {}, histogram)))
        found += [counter.family() for counter in self._counters.values()]
        found += [gauge.family() for gauge in self._gauges.values()]
        return found

    def _request_total(self) -> dict[str, Any]:
        name = "pk_requests_total"
        samples = [(name, _request_labels(key), float(sum(h.counts))) for key, h in self._requests.items()]
        return _family(name, "counter", "Requests answered.", samples)

    def _request_seconds(self) -> dict[str, Any]:
        name = "pk_request_seconds"
        samples: list[tuple[str, dict[str, str], float]] = []
        for key, histogram in self._requests.items():
            samples += _histogram_samples(name, _request_labels(key), histogram)
        return _family(name, "histogram", "Seconds from the request's head to its answer.", samples)


def _histogram_samples(
    name: str, labels: dict[str, str], histogram: Histogram
) -> list[tuple[str, dict[str, str], float]]:
    samples: list[tuple[str, dict[str, str], float]] = []
    reached = 0
    for bound, count in zip((*map(str, BUCKETS_S), "+Inf"), histogram.counts, strict=True):
        reached += count
        samples.append((f"{name}_bucket", {**labels, "le": bound}, float(reached)))
    samples.append((f"{name}_sum", labels, histogram.total))
    samples.append((f"{name}_count", labels, float(reached)))
    return samples


def _zip(names: tuple[str, ...], values: tuple[str, ...]) -> dict[str, str]:
    return dict(zip(names, values, strict=True))


def _request_labels(key: tuple[str, str, str, int]) -> dict[str, str]:
    door, operation, route, status = key
    return {"door": door, "operation": operation, "route": route, "status": str(status)}


def _family(name: str, kind: str, text: str, samples: Sequence[tuple[str, dict[str, str], float]]) -> dict[str, Any]:
    rows = [{"name": sample, "labels": labels, "value": value} for sample, labels, value in samples]
    return {"name": name, "type": kind, "help": text, "samples": rows}
