"""Which trace a request is part of, what is sampled, and what a span of it tells."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from host import observe
from host.kernel import Kernel
from host.tracing import Span, Trace, Tracing, begin_background, end_rpc, new_trace, read_traceparent, with_span
from tests.host.conftest import Door, NotesPlugin, open_door

TRACE_ID, SPAN_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
BASE = "/api/v1/x/acme.notes"

# ------------------------------------------------------------------------------------------- traceparent


def of_length(length: int) -> st.SearchStrategy[str]:
    return st.text("0123456789abcdef", min_size=length, max_size=length)


@given(of_length(32), of_length(16), of_length(2))
def test_what_a_version_0_names_is_taken(trace_id: str, span_id: str, flags: str) -> None:
    read = read_traceparent(f"00-{trace_id}-{span_id}-{flags}")

    if set(trace_id) == {"0"} or set(span_id) == {"0"}:
        assert read is None
    else:
        assert read == Trace(trace_id, span_id, int(flags, 16) % 2 == 1)


@given(
    of_length(2).filter(lambda v: v not in ("00", "ff")),
    st.sampled_from(["", "-", "-more", "-00-x-y", "-" + "z" * 3000]),
)
def test_of_a_later_version_what_is_known_is_taken(version: str, more: str) -> None:
    assert Trace(TRACE_ID, SPAN_ID, True) == read_traceparent(f"{version}-{TRACE_ID}-{SPAN_ID}-01{more}")


@given(st.text(max_size=80))
def test_no_text_does_harm(text: str) -> None:
    read = read_traceparent(text)

    assert read is None or read.trace_id in text


BAD = {
    "empty": "",
    "upper case": f"00-{TRACE_ID.upper()}-{SPAN_ID}-01",
    "upper case span": f"00-{TRACE_ID}-{SPAN_ID.upper()}-01",
    "zero trace": f"00-{'0' * 32}-{SPAN_ID}-01",
    "zero span": f"00-{TRACE_ID}-{'0' * 16}-01",
    "forbidden version": f"ff-{TRACE_ID}-{SPAN_ID}-01",
    "more than version 0 has": f"00-{TRACE_ID}-{SPAN_ID}-01-more",
    "a dash more": f"00-{TRACE_ID}-{SPAN_ID}-01-",
    "a later version that goes on without a dash": f"01-{TRACE_ID}-{SPAN_ID}-01x",
    "too short": f"00-{TRACE_ID[1:]}-{SPAN_ID}-01",
    "too long": f"00-{TRACE_ID}0-{SPAN_ID}-01",
    "no flags": f"00-{TRACE_ID}-{SPAN_ID}",
    "a line break": f"00-{TRACE_ID}-{SPAN_ID}-01\n",
    "other digits": f"00-{'٣' * 32}-{SPAN_ID}-01",
    "spaces": f" 00-{TRACE_ID}-{SPAN_ID}-01",
    "huge": "00-" + "a" * 4000,
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_none_is_not_followed(name: str) -> None:
    assert read_traceparent(BAD[name]) is None


@given(st.booleans())
def test_a_trace_reads_back_what_it_writes(sampled: bool) -> None:
    trace = new_trace(sampled=sampled)

    assert trace == read_traceparent(trace.traceparent)


def test_made_ids_differ() -> None:
    made = [new_trace() for _ in range(1000)]

    assert 1000 == len({one.trace_id for one in made}) == len({one.parent_id for one in made})


# ---------------------------------------------------------------------------------------------- sampling


class Kept:
    """Keeps spans."""

    def __init__(self) -> None:
        self.spans: list[Span] = []

    def add(self, span: Span) -> None:
        self.spans.append(span)

    async def close(self) -> None:
        pass


@pytest.mark.parametrize("ratio", [0.0, 0.25, 1.0])
def test_as_many_are_sampled_as_the_ratio_says(ratio: float) -> None:
    tracing = Tracing(Kept(), ratio=ratio, follow=True)

    begun = [tracing.begin(None) for _ in range(4000)]

    share = sum(span is not None for _, span in begun) / len(begun)
    assert abs(share - ratio) < (0.05 if 0 < ratio < 1 else 1e-9)
    assert all(trace.sampled == (span is not None) for trace, span in begun)


@given(st.booleans(), st.floats(0, 1))
def test_a_caller_that_is_followed_decides(sampled: bool, ratio: float) -> None:
    sent = Trace(TRACE_ID, SPAN_ID, sampled)

    trace, span = Tracing(Kept(), ratio=ratio, follow=True).begin(sent)

    assert (span is not None) is sampled
    assert trace.trace_id == TRACE_ID
    assert trace.parent_id != SPAN_ID if span else trace == sent
    assert span is None or (span.parent_id, span.trace.parent_id) == (SPAN_ID, trace.parent_id)


@pytest.mark.parametrize(("ratio", "wanted"), [(0.0, False), (1.0, True)])
@pytest.mark.parametrize("sampled", [True, False])
def test_a_caller_that_is_not_followed_decides_nothing(ratio: float, wanted: bool, sampled: bool) -> None:
    trace, span = Tracing(Kept(), ratio=ratio, follow=False).begin(Trace(TRACE_ID, SPAN_ID, sampled))

    assert (trace.trace_id, trace.sampled, span is not None) == (TRACE_ID, wanted, wanted)


def test_ids_that_a_stranger_chose_do_not_sway_the_ratio() -> None:
    tracing = Tracing(Kept(), ratio=0.2, follow=False)

    begun = [tracing.begin(Trace("f" * 16 + "0" * 15 + "1", SPAN_ID, True))[1] for _ in range(2000)]

    assert 0.1 < sum(span is not None for span in begun) / len(begun) < 0.3


def test_housekeeping_without_a_tenant_makes_no_spans() -> None:
    tracing = Tracing(Kept(), ratio=1.0, follow=True)

    assert begin_background(tracing, "", None, tenant=False)[1] is None
    assert begin_background(tracing, "", None, tenant=True)[1] is not None


def test_what_an_event_continues_was_decided_when_it_was_told() -> None:
    tracing = Tracing(Kept(), ratio=1.0, follow=False)

    trace, span = begin_background(tracing, Trace(TRACE_ID, SPAN_ID, False).traceparent, None, tenant=True)

    assert (trace, span) == (Trace(TRACE_ID, SPAN_ID, False), None)


def test_without_tracing_an_operation_runs_as_it_is() -> None:
    async def run(call: Any, request: Any) -> Any: ...

    assert with_span(run, None, None) is run  # type: ignore[arg-type]  # no operation is needed for that


def test_nothing_is_loaded_for_traces_when_there_is_no_collector() -> None:
    program = "import sys, host.worker, host.startup; print([n for n in sys.modules if n.startswith('opentelemetry')])"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert "[]" == ran.stdout.strip()


# -------------------------------------------------------------------------------------------------- door


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Request lines and others, as they are written."""
    reader, writer = os.pipe()
    monkeypatch.setattr(observe.sink, "_descriptor", writer)
    monkeypatch.setattr(observe.sink, "_loop", None)

    def read() -> list[dict[str, Any]]:
        os.set_blocking(reader, False)
        try:
            return [json.loads(line) for line in os.read(reader, 1 << 20).splitlines()]
        except BlockingIOError:
            return []

    yield read
    os.close(reader)
    os.close(writer)


@pytest.fixture
def kept(bare_kernel: Kernel) -> Kept:
    """Spans of a kernel that follows its callers and samples nothing else."""
    spans = Kept()
    bare_kernel.tracing = Tracing(spans, ratio=0.0, follow=True)
    return spans


@pytest.fixture
async def traced(bare_kernel: Kernel, kept: Kept, tmp_path: Path) -> AsyncIterator[Door]:
    """A door behind which sampled requests make spans."""
    opened = await open_door(bare_kernel, NotesPlugin(), tmp_path)
    yield opened
    await opened.close()


def header(sampled: bool = True) -> tuple[str, str, str]:
    """A new trace id and span id, and the header that names them."""
    trace_id, span_id = secrets.token_hex(16), secrets.token_hex(8)
    return trace_id, span_id, f"traceparent: 00-{trace_id}-{span_id}-0{int(sampled)}"


async def test_a_sampled_request_makes_one_span(traced: Door, kept: Kept) -> None:
    trace_id, span_id, sent = header()

    await traced.ask(f"GET {BASE}/shelves/secret-shelf", "Authorization: Bearer reader", "X-Request-Id: r1", sent)

    [span] = kept.spans
    assert (span.name, span.kind, span.failed) == (f"GET {BASE}/shelves/{{shelf}}", "server", False)
    assert (span.trace.trace_id, span.parent_id, span.error) == (trace_id, span_id, "")
    assert span.trace.parent_id != span_id
    assert 0 < span.begun_ns <= span.ended_ns
    assert set(span.attributes) == {
        "http.request.method", "http.route", "http.response.status_code", "tenant.id", "pk.plugin", "pk.operation", "pk.request_id",
    }  # fmt: skip
    assert (span.attributes["pk.operation"], span.attributes["pk.request_id"]) == ("acme.notes.look", "r1")
    assert "secret-shelf" not in str(span.attributes)


async def test_the_operation_goes_on_in_the_span(traced: Door, kept: Kept) -> None:
    trace_id, _, sent = header()

    await traced.ask(
        f"POST {BASE}/shelves/s/notes", "Authorization: Bearer writer", "Content-Type: application/json", sent,
        body=b'{"text": "word"}',
    )  # fmt: skip

    [call], [span] = traced.plugin.operations.calls, kept.spans
    assert call.trace == Trace(trace_id, span.trace.parent_id, True)


@pytest.mark.parametrize(
    ("path", "status", "error", "failed"),
    [
        ("/trouble", 500, "kernel_bug", True),
        ("/closed", 409, "shelf_closed", False),
        ("/shelves/s", 401, "not_authenticated", False),
        ("/nowhere/else", 401, "not_authenticated", False),
    ],
)
async def test_a_failure_names_its_code_and_nothing_more(
    traced: Door, kept: Kept, path: str, status: int, error: str, failed: bool
) -> None:
    await traced.ask(f"GET {BASE}{path}", header()[2])

    [span] = kept.spans
    assert (span.attributes["http.response.status_code"], span.attributes["error.type"]) == (status, error)
    assert span.failed is failed
    assert "inner-detail" not in str(span.attributes) and "nowhere" not in f"{span.name} {span.attributes}"


async def test_an_odd_method_names_no_span(traced: Door, kept: Kept) -> None:
    await traced.ask(f"PROPFIND {BASE}/hello", header()[2])

    [span] = kept.spans
    assert (span.name, span.attributes["http.request.method"]) == ("HTTP", "_OTHER")


async def test_what_is_not_sampled_makes_no_span_and_keeps_its_parent(traced: Door, kept: Kept) -> None:
    trace_id, span_id, sent = header(sampled=False)

    await traced.ask(
        f"POST {BASE}/shelves/s/notes", "Authorization: Bearer writer", "Content-Type: application/json", sent,
        body=b'{"text": "word"}',
    )  # fmt: skip
    await traced.ask(f"GET {BASE}/hello")

    assert [] == kept.spans
    assert traced.plugin.operations.calls[0].trace == Trace(trace_id, span_id, False)


@pytest.mark.parametrize(
    "line",
    [
        f"GET {BASE}/hello",
        f"GET {BASE}/trouble",
        "GET /nowhere",
        f"GET {BASE}/shelves/s",
        "GET /livez",
        f"PUT {BASE}/hello",
    ],
)
async def test_every_line_of_a_request_has_its_trace_sent_or_made(door: Door, lines: Any, line: str) -> None:
    trace_id, _, sent = header()

    await door.ask(line, sent)
    await door.ask(line)

    written = lines()
    of_requests = [one for one in written if one["msg"] == "request"]
    assert trace_id == of_requests[0]["trace_id"]
    assert read_traceparent(f"00-{of_requests[1]['trace_id']}-{SPAN_ID}-00") is not None
    assert trace_id != of_requests[1]["trace_id"]
    assert all(one["trace_id"] for one in written)


async def test_two_traceparents_are_as_good_as_none(door: Door, lines: Any) -> None:
    one, two = header(), header()

    await door.ask(f"GET {BASE}/hello", one[2], two[2])

    assert lines()[-1]["trace_id"] not in (one[0], two[0], "")


async def test_bytes_that_are_no_request_have_a_trace_too(door: Door, lines: Any) -> None:
    await door.raw(b"\x00\x01 nothing\r\n\r\n")
    await door.ask("GET /livez", "Host: one", "Host: two")

    assert all(read_traceparent(f"00-{one['trace_id']}-{SPAN_ID}-00") for one in lines())


def test_a_grpc_call_is_told_in_its_own_words() -> None:
    kept = Kept()
    _, span = Tracing(kept, ratio=1.0, follow=True).begin(None)
    assert span is not None

    end_rpc(span, "pk.money.v1.Money/CreateHold", 14, {"pk.request_id": "r"})

    assert (kept.spans[0].name, kept.spans[0].failed) == ("pk.money.v1.Money/CreateHold", True)
    assert kept.spans[0].attributes == {
        "rpc.system": "grpc", "rpc.service": "pk.money.v1.Money", "rpc.method": "CreateHold", "rpc.grpc.status_code": 14,
        "pk.request_id": "r",
    }  # fmt: skip
