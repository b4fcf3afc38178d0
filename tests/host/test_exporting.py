"""Spans reach a real collector, or are dropped and counted; whatever it does, nobody waits for it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest

from host import exporting
from host.exporting import BATCH_MAX, QUEUE_MAX, Counts, Exporter, make_exporter
from host.observe import Metrics
from host.settings import ObserveSettings
from host.tracing import Span, Tracing, about_call, end_http
from plugin_api.settings import Secret
from plugin_api.testing import until
from tests.host.collector import Collector, collecting


class Lines:
    """Keeps log lines."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str, dict[str, Any]]] = []

    def warning(self, message: str, **fields: Any) -> None:
        self.lines.append(("warning", message, fields))

    def info(self, message: str, **fields: Any) -> None:
        self.lines.append(("info", message, fields))


class Sending:
    """An exporter to a collector, with what it counts and logs."""

    def __init__(self, collector: Collector, **settings: Any) -> None:
        self.metrics = Metrics()
        self.log = Lines()
        wanted = ObserveSettings(otlp_endpoint=collector.url, **settings)
        place = [("service.name", "kernel-under-test")]
        self.exporter: Exporter = make_exporter(wanted, Counts(self.metrics), self.log, place)  # type: ignore[arg-type]
        self.tracing = Tracing(self.exporter, ratio=1.0, follow=True)

    def spans(self, count: int) -> list[Span]:
        """Make some and end them."""
        made = []
        for number in range(count):
            _, span = self.tracing.begin(None)
            assert span is not None
            end_http(span, "GET", "/api/v1/things/{thing_id}", 200, about_call(f"r{number}", None, None))
            made.append(span)
        return made

    def count(self, name: str, **labels: str) -> float:
        """What a counter says."""
        [family] = [one for one in self.metrics.families() if one["name"] == name]
        return sum(sample["value"] for sample in family["samples"] if sample["labels"] == labels)


@pytest.fixture
def collector() -> Iterator[Collector]:
    with collecting() as one:
        yield one


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits are a hundredth of what they are."""
    monkeypatch.setattr(exporting, "SEND_AFTER_S", 0.01)
    monkeypatch.setattr(exporting, "BACKOFF_S", 0.02)
    monkeypatch.setattr(exporting, "EXPORT_LIMIT_S", 0.3)


async def arrived(collector: Collector, count: int) -> None:
    await until(lambda: len(collector.spans) >= count, f"{count} spans have come")


async def test_a_span_arrives_whole(collector: Collector, quick: None) -> None:
    sending = Sending(collector, otlp_headers=Secret({"Api-Key": "s3cret"}))
    [span] = sending.spans(1)

    await arrived(collector, 1)
    await sending.exporter.close()

    [received] = collector.spans
    assert (received.trace_id, received.span_id, received.parent_id) == (span.trace.trace_id, span.trace.parent_id, "")
    assert (received.name, received.kind, received.failed) == ("GET /api/v1/things/{thing_id}", "server", False)
    assert received.attributes == {
        "http.request.method": "GET", "http.route": "/api/v1/things/{thing_id}", "http.response.status_code": 200,
        "pk.request_id": "r0",
    }  # fmt: skip
    assert "kernel-under-test" == received.resource["service.name"]
    assert "s3cret" == collector.metadata["api-key"]
    assert 0 <= received.seconds < 60
    assert (sending.count("pk_spans_exported_total"), sending.log.lines) == (1, [])


async def test_the_end_sends_what_waits(collector: Collector) -> None:
    sending = Sending(collector)
    sending.spans(BATCH_MAX + 3)

    await sending.exporter.close()

    assert BATCH_MAX + 3 == len(collector.spans) == len({span.span_id for span in collector.spans})


async def test_a_collector_that_is_away_is_told_once_and_gets_all_when_it_is_back(
    collector: Collector, quick: None
) -> None:
    port = collector.port
    collector.stop()
    sending = Sending(collector)
    sending.spans(5)
    await until(lambda: sending.count("pk_span_export_failures_total") >= 3, "it was tried again and again")
    assert ["warning"] == [level for level, _, _ in sending.log.lines]

    collector.start(port)
    await arrived(collector, 5)
    await until(lambda: len(sending.log.lines) == 2, "it is told to be back")
    await sending.exporter.close()

    assert 5 == len({span.span_id for span in collector.spans})
    assert "info" == sending.log.lines[1][0]
    assert 0 == sending.count("pk_spans_dropped_total", reason="full")


async def test_past_the_bound_spans_are_dropped_and_counted(collector: Collector, quick: None) -> None:
    collector.stop()
    sending = Sending(collector)

    begun = time.thread_time()
    sending.spans(QUEUE_MAX + 100)
    took = time.thread_time() - begun

    assert QUEUE_MAX == sending.exporter.waiting
    assert 100 == sending.count("pk_spans_dropped_total", reason="full")
    assert took < 2.0  # nobody waited: it is CPU time, and 1 ms each would be slow
    await sending.exporter.close()


async def test_a_collector_that_hangs_holds_up_neither_requests_nor_the_end(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "SEND_AFTER_S", 0.01)
    monkeypatch.setattr(exporting, "FLUSH_LIMIT_S", 0.3)
    collector.hold.clear()
    sending = Sending(collector)
    sending.spans(1)
    await until(lambda: collector.exports, "the export is under way")

    sending.spans(10)
    begun = time.monotonic()
    await sending.exporter.close()
    took = time.monotonic() - begun
    collector.hold.set()

    assert took < 3.0
    assert 0 == sending.count("pk_spans_exported_total")


@pytest.mark.parametrize("status", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED])
async def test_a_collector_that_says_later_gets_them_later(collector: Collector, quick: None, status: Any) -> None:
    collector.refuses = status
    sending = Sending(collector)
    sending.spans(2)
    await until(lambda: collector.exports >= 2, "it was tried again")

    collector.refuses = None
    await arrived(collector, 2)
    await sending.exporter.close()

    assert 2 == sending.count("pk_spans_exported_total")
    assert all("secret" not in str(line) for line in sending.log.lines)


@pytest.mark.parametrize("status", [grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.INVALID_ARGUMENT])
async def test_a_collector_that_says_never_is_told_once(collector: Collector, quick: None, status: Any) -> None:
    collector.refuses = status
    sending = Sending(collector)
    for number in range(1, 4):
        sending.spans(1)
        await until(partial_dropped(sending, number), f"{number} were refused")

    await sending.exporter.close()

    assert ["warning"] == [level for level, _, _ in sending.log.lines]
    assert status.name in sending.log.lines[0][2]["why"] and "secret" not in str(sending.log.lines)


def partial_dropped(sending: Sending, count: int) -> Callable[[], bool]:
    return lambda: sending.count("pk_spans_dropped_total", reason="refused") == count


async def test_a_part_that_is_refused_is_counted(collector: Collector, quick: None) -> None:
    collector.rejects = 1
    sending = Sending(collector)
    sending.spans(3)

    await arrived(collector, 3)
    await sending.exporter.close()

    counted = sending.count("pk_spans_exported_total"), sending.count("pk_spans_dropped_total", reason="refused")
    assert sum(counted) == 3 and counted[1] == collector.exports
