"""Log lines are JSON, carry whose work it was, and never a secret; metrics add up."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import Any

import pytest

from host import observe
from host.observe import LINE_BYTES_MAX, SERIES_MAX, LogSink, Metrics, PluginLog, log_context
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


@pytest.fixture
def caught(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The lines that are written meanwhile."""
    lines: list[dict[str, Any]] = []
    monkeypatch.setattr(
        observe.sink, "line", lambda level, message, fields: lines.append({"level": level, "msg": message, **fields})
    )
    return lines


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


def samples(metrics: Metrics, name: str) -> dict[tuple[str, ...], float] | None:
    """The series of a family; None when there is none."""
    found = [family for family in metrics.families() if family["name"] == name]
    return {tuple(s["labels"].values()): s["value"] for s in found[0]["samples"]} if found else None


def test_a_gauge_is_read_when_asked() -> None:
    metrics, numbers = Metrics(), {("a", "b"): 1.5}
    metrics.gauge("pk_x", "x", ["kind", "colour"], lambda: numbers)
    assert samples(metrics, "pk_x") == {("a", "b"): 1.5}
    numbers["a", "c"] = 0

    [family] = [one for one in metrics.families() if one["name"] == "pk_x"]
    assert (family["type"], family["help"]) == ("gauge", "x")
    assert [one["labels"] for one in family["samples"]] == [
        {"kind": "a", "colour": "b"},
        {"kind": "a", "colour": "c"},
    ]


def test_a_gauge_shows_so_many_series_and_no_more() -> None:
    metrics = Metrics()
    metrics.gauge("pk_x", "x", ["kind"], lambda: {(str(number),): number for number in range(500)})

    assert len(samples(metrics, "pk_x") or ()) == SERIES_MAX


def raises(error: BaseException) -> Any:
    """A function that does."""

    def read() -> Any:
        raise error

    return read


@pytest.mark.parametrize(
    "read",
    [
        raises(RuntimeError("no")),
        raises(SystemExit(3)),
        lambda: {("a", "b"): 1},
        lambda: {("a",): "much"},
        lambda: None,
    ],
    ids=["error", "exit", "labels", "text", "nothing"],
)
def test_a_gauge_that_cannot_be_read_is_logged_and_spoils_nothing(read: Any, caught: list[dict[str, Any]]) -> None:
    metrics = Metrics()
    metrics.gauge("pk_bad", "x", ["kind"], read, "acme.crm@1")
    metrics.gauge("pk_good", "x", [], lambda: {(): 1})

    assert (samples(metrics, "pk_bad"), samples(metrics, "pk_good")) == ({}, {(): 1})
    assert {(line["level"], line["plugin"], line["metric"]) for line in caught} == {("warning", "acme.crm", "pk_bad")}


def test_metrics_go_with_the_last_generation_that_has_them() -> None:
    """A former generation ends after the one in its place has begun: what it shows passes to that one."""
    metrics = Metrics()
    old = metrics.counter("pk_x_total", "x", [], "acme.crm@1")
    old.add(2)
    metrics.gauge("pk_y", "y", [], lambda: {(): 1}, "acme.crm@1")
    metrics.counter("pk_x_total", "x", [], "acme.crm@2").add(3)
    metrics.gauge("pk_y", "y", [], lambda: {(): 2}, "acme.crm@2")
    assert samples(metrics, "pk_y") == {(): 1}
    metrics.drop("acme.crm@1")

    assert (samples(metrics, "pk_x_total"), samples(metrics, "pk_y")) == ({(): 5}, {(): 2})
    metrics.drop("acme.crm@2")
    assert (samples(metrics, "pk_x_total"), samples(metrics, "pk_y")) == (None, None)
    assert samples(metrics, "pk_requests_total") == {}


def test_a_later_version_may_have_other_labels() -> None:
    metrics = Metrics()
    metrics.gauge("pk_y", "y", [], lambda: {(): 1}, "acme.crm@1")
    metrics.gauge("pk_y", "y", ["kind"], lambda: {("a",): 2}, "acme.crm@2")
    metrics.drop("acme.crm@1")

    assert samples(metrics, "pk_y") == {("a",): 2}


def test_a_histogram_of_the_host_is_shown_whole() -> None:
    metrics = Metrics()
    lag = metrics.histogram("pk_lag_seconds", "Lag.")
    for seconds in (0.0005, 0.02, 20.0):
        lag.observe(seconds)

    [family] = [one for one in metrics.families() if one["name"] == "pk_lag_seconds"]
    shown = {(s["name"], s["labels"].get("le")): s["value"] for s in family["samples"]}

    assert metrics.histogram("pk_lag_seconds", "Lag.") is lag
    assert "histogram" == family["type"]
    assert (1, 2, 2, 3) == tuple(shown["pk_lag_seconds_bucket", le] for le in ("0.001", "0.025", "10.0", "+Inf"))
    assert (3, 20.0205) == (shown["pk_lag_seconds_count", None], shown["pk_lag_seconds_sum", None])


def test_a_counter_without_labels_is_there_before_it_counts() -> None:
    metrics = Metrics()
    metrics.counter("pk_x_total", "X.", ())
    metrics.counter("pk_y_total", "Y.", ("why",))

    samples = {one["name"]: one["samples"] for one in metrics.families()}

    assert ([0.0], []) == ([one["value"] for one in samples["pk_x_total"]], samples["pk_y_total"])


def test_requests_of_too_many_routes_are_counted_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observe, "REQUEST_SERIES_MAX", 3)
    metrics = Metrics()
    for number in range(10):
        metrics.request("rest", f"a.o{number}", f"/r{number}", 200, 0.1)

    [total] = [one for one in metrics.families() if one["name"] == "pk_requests_total"]

    assert 4 == len(total["samples"]) and 10 == sum(one["value"] for one in total["samples"])
    assert {"door": "rest", "operation": "other", "route": "other", "status": "200"} in [
        s["labels"] for s in total["samples"]
    ]


def test_a_secret_is_masked_wherever_it_stands_in_a_line() -> None:
    secret = Secret("hunter2-hunter2")
    nested = {"deep": [{"er": (secret, {"x": secret})}], "said": f"it is {secret}", "shown": repr(secret)}

    def write(sink: LogSink) -> None:
        log = PluginLog("acme.crm", sink)
        log.info("connected", password=secret, options=nested, failure=ValueError(secret))
        try:
            raise ValueError(secret)
        except ValueError:
            log.error("failed")

    text = json.dumps(written(write))

    assert "hunter2" not in text and text.count("**********") >= 5
