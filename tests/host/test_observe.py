"""Log lines are JSON, carry whose work it was, and never a secret; metrics add up."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import Any

from host.observe import LINE_BYTES_MAX, LogSink, Metrics, PluginLog, log_context
from plugin_api.settings import Secret


@dataclass(frozen=True)
class Context:
    """Somebody's request."""

    request_id: str
    trace_id: str
    tenant: str
    plugin: str


def written(write: Any) -> list[dict[str, Any]]:
    """The lines that `write(sink)` leads to."""
    reader, writer = os.pipe()
    write(LogSink(writer))
    os.close(writer)
    with os.fdopen(reader, "rb") as stream:
        return [json.loads(line) for line in stream.read().splitlines()]


def test_a_line_has_time_level_message_and_fields() -> None:
    [line] = written(lambda sink: PluginLog("acme.crm", sink).info("lead closed", lead="42"))

    assert line["ts"].endswith("Z")
    assert (line["level"], line["msg"], line["plugin"], line["lead"]) == ("info", "lead closed", "acme.crm", "42")


def test_a_line_carries_the_request_that_it_was_written_for() -> None:
    token = log_context.set(Context("req-1", "t" * 32, "tenant", "kernel.iam"))
    try:
        [line] = written(lambda sink: sink.line("info", "x", {}))
    finally:
        log_context.reset(token)

    assert (line["request_id"], line["trace_id"], line["tenant"], line["plugin"]) == (
        "req-1",
        "t" * 32,
        "tenant",
        "kernel.iam",
    )


def test_the_line_of_a_request_is_whole() -> None:
    context = Context("req-1", "", "tenant", "kernel.iam")

    [line] = written(lambda sink: sink.request(context, 'GET /a"b', 200, 0.0123))

    assert line.pop("ts").endswith("Z")
    assert line == {
        "level": "info", "msg": "request", "request_id": "req-1", "trace_id": "", "tenant": "tenant",
        "plugin": "kernel.iam", "route": 'GET /a"b', "status": 200, "ms": 12.3,
    }  # fmt: skip


def test_a_secret_is_masked_wherever_it_stands() -> None:
    fields = {"password": Secret("hunter2hunter2"), "nested": [{"key": Secret("hunter2hunter2")}]}

    [line] = written(lambda sink: PluginLog("p", sink).info("log-in", **fields))

    assert "hunter2" not in json.dumps(line)


def test_an_error_inside_except_carries_its_traceback() -> None:
    def fail(sink: LogSink) -> None:
        try:
            raise RuntimeError("inner")
        except RuntimeError:
            PluginLog("p", sink).error("failed")

    [line] = written(fail)

    assert "RuntimeError: inner" in line["exception"]


def test_a_huge_line_is_shortened_and_says_so() -> None:
    [line] = written(lambda sink: sink.line("info", "x", {"body": "y" * (LINE_BYTES_MAX * 2)}))

    assert line["shortened"] is True
    assert len(json.dumps(line)) < LINE_BYTES_MAX


def test_metrics_count_every_request_once() -> None:
    metrics = Metrics()
    for seconds in (0.0004, 0.02, 99.0):
        metrics.request("rest", "iam.get_me", "/api/v1/iam/me", 200, seconds)

    families = {family["name"]: family for family in metrics.families()}
    [total] = families["pk_requests_total"]["samples"]
    samples = {(s["name"], s["labels"].get("le", "")): s["value"] for s in families["pk_request_seconds"]["samples"]}

    assert total["value"] == 3
    assert samples["pk_request_seconds_bucket", "0.001"] == 1
    assert samples["pk_request_seconds_bucket", "10.0"] == 2
    assert samples["pk_request_seconds_bucket", "+Inf"] == samples["pk_request_seconds_count", ""] == 3


def test_a_counter_with_too_many_series_sums_the_rest() -> None:
    counter = Metrics().counter("pk_x_total", "x", ["kind"])
    for number in range(500):
        counter.add(kind=str(number))

    assert sum(counter.series.values()) == 500
    assert counter.series["other",] == 300
