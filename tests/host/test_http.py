"""The REST door: every answer is whole, every refusal a problem document, and no connection gets out of step."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from aiohttp import StreamReader
from aiohttp.web_protocol import RequestHandler, _ErrInfo

from plugin_api.limits import BODY_BYTES_MAX, HEADER_COUNT_MAX

BASE = "/api/v1/x/acme.notes"
READER, WRITER = "Authorization: Bearer reader", "Authorization: Bearer writer"
JSON = "Content-Type: application/json"
GOOD = json.dumps({"text": "abc", "copies": 2}).encode()


def problem(answer: tuple[int, dict[str, str], bytes], status: int, code: str) -> dict[str, Any]:
    """The problem document, checked for shape."""
    seen, headers, body = answer
    document: dict[str, Any] = json.loads(body)
    assert (status, code) == (seen, document["code"]), document
    assert headers["content-type"] == "application/problem+json"
    assert document["request_id"] == headers["x-request-id"]
    assert document["type"] == f"urn:platform-kernel:problem:{code}"
    return document


async def test_a_creation_answers_location_and_etag(door: Any) -> None:
    status, headers, body = await door.ask(f"POST {BASE}/shelves/top%20shelf/notes", WRITER, JSON, body=GOOD)

    kept = json.loads(body)
    assert (status, kept["shelf"], kept["copies"]) == (201, "top shelf", 2)
    assert headers["etag"] == '"1"'
    assert headers["location"] == f"{BASE}/shelves/top%20shelf/notes/{kept['id']}"


async def test_a_call_knows_its_caller(door: Any) -> None:
    await door.ask(f"POST {BASE}/shelves/a/notes", WRITER, JSON, "X-Request-Id: mine", "User-Agent: test", body=GOOD)

    [call] = door.plugin.operations.calls
    assert (call.actor.id, call.request_id, call.user_agent, call.address) == ("writer", "mine", "test", "127.0.0.1")


async def test_nobody_without_credentials_gets_in(door: Any) -> None:
    answer = await door.ask(f"GET {BASE}/shelves/a")

    problem(answer, 401, "not_authenticated")
    assert answer[1]["www-authenticate"] == "Bearer"


async def test_a_refusal_names_the_permission(door: Any) -> None:
    answer = await door.ask(f"POST {BASE}/shelves/a/notes", READER, JSON, body=GOOD)

    assert "acme.notes.note.create" in problem(answer, 403, "not_allowed")["detail"]
    assert not door.plugin.operations.calls


async def test_with_unfilled_slots_only_public_operations_answer(unguarded_door: Any) -> None:
    """Deny by default: a kernel in which nobody identifies lets nobody in."""
    problem(await unguarded_door.ask(f"GET {BASE}/shelves/a", WRITER), 401, "not_authenticated")
    assert (await unguarded_door.ask(f"GET {BASE}/hello"))[0] == 200


async def test_a_patch_needs_the_version(door: Any) -> None:
    patch = f"PATCH {BASE}/shelves/a"

    problem(await door.ask(patch, WRITER, JSON, body=b"{}"), 428, "precondition_required")
    problem(await door.ask(patch, WRITER, JSON, 'If-Match: "2"', body=b"{}"), 412, "precondition_failed")
    status, headers, _ = await door.ask(
        patch, WRITER, "Content-Type: application/merge-patch+json", 'If-Match: "3"', body=b"{}"
    )
    assert (status, headers["etag"]) == (200, '"4"')


async def test_no_answer_is_204_without_a_body(door: Any) -> None:
    status, headers, body = await door.ask(f"DELETE {BASE}/shelves/a", WRITER)

    assert (status, body) == (204, b"")
    assert "content-length" not in headers


async def test_an_operation_may_add_a_header(door: Any) -> None:
    _, headers, body = await door.ask(f"GET {BASE}/hello")

    assert headers["x-greeting"] == "yes"
    assert json.loads(body) == {"text": "hello"}


async def test_what_nobody_foresaw_is_hidden(door: Any) -> None:
    document = problem(await door.ask(f"GET {BASE}/trouble"), 500, "kernel_bug")

    assert "inner-detail" not in json.dumps(document)


async def test_an_operations_own_code_is_shown(door: Any) -> None:
    problem(await door.ask(f"GET {BASE}/closed"), 409, "shelf_closed")


async def test_a_late_operation_is_504(door: Any) -> None:
    answer = await door.ask(f"GET {BASE}/shelves/a?wait_s=30", READER)

    problem(answer, 504, "deadline_passed")
    assert answer[1]["retry-after"] == "1"
    assert (await door.ask(f"GET {BASE}/shelves/a", READER))[0] == 200


@pytest.mark.parametrize("path", ["/", "/api", "/api/v1/nowhere", "/metrics", "/startupz"])
async def test_unknown_paths_are_404(door: Any, path: str) -> None:
    problem(await door.ask(f"GET {path}"), 404, "not_found")


async def test_unknown_paths_of_plugins_tell_the_anonymous_nothing(door: Any) -> None:
    problem(await door.ask("GET /api/v1/x/acme.other/things"), 401, "not_authenticated")
    problem(await door.ask("GET /api/v1/x/acme.other/things", READER), 404, "not_found")


async def test_another_method_is_405_with_allow(door: Any) -> None:
    answer = await door.ask(f"PUT {BASE}/shelves/a", WRITER)

    problem(answer, 405, "method_not_allowed")
    assert answer[1]["allow"] == "DELETE, GET, HEAD, OPTIONS, PATCH"
    assert (await door.ask(f"OPTIONS {BASE}/shelves/a"))[0] == 204


async def test_head_is_get_without_a_body(door: Any) -> None:
    get, head = await door.ask(f"GET {BASE}/hello"), await door.ask(f"HEAD {BASE}/hello")

    assert (head[0], head[2]) == (200, b"")
    assert head[1]["content-length"] == get[1]["content-length"]


@pytest.mark.parametrize("kind", ["text/plain", "application/jsonish", "multipart/form-data; boundary=x"])
async def test_other_media_types_are_415(door: Any, kind: str) -> None:
    answer = await door.ask(f"POST {BASE}/shelves/a/notes", WRITER, f"Content-Type: {kind}", body=GOOD)

    assert "application/json" in problem(answer, 415, "unsupported_media_type")["detail"]


OCTETS = "Content-Type: application/octet-stream"


async def test_a_body_that_is_one_field_is_taken_as_it_is(door: Any) -> None:
    answer = await door.ask(f"POST {BASE}/shelves/top/scans", WRITER, OCTETS, body=b"\x00\xff" * 1_500)
    assert (answer[0], json.loads(answer[2])) == (200, {"text": "top None 3000"})
    told = await door.ask(f"POST {BASE}/shelves/top/scans", WRITER, JSON, body=b'{"address": "here"}')
    assert json.loads(told[2]) == {"text": "top here 0"}


@pytest.mark.parametrize(
    ("headers", "body", "status", "code"),
    [
        ((OCTETS,), b"x" * 3_001, 413, "payload_too_large"),
        ((OCTETS, "Content-Encoding: gzip"), b"x", 415, "unsupported_media_type"),
        (("Content-Type: image/png",), b"x", 415, "unsupported_media_type"),
        ((JSON,), b'{"picture": "eA"}', 422, "invalid_request"),
    ],
)
async def test_a_body_that_is_one_field_has_its_own_limit(
    door: Any, headers: tuple[str, ...], body: bytes, status: int, code: str
) -> None:
    problem(await door.ask(f"POST {BASE}/shelves/top/scans", WRITER, *headers, body=body), status, code)


async def test_where_no_field_is_the_body_octets_are_415(door: Any) -> None:
    problem(await door.ask(f"POST {BASE}/shelves/a/notes", WRITER, OCTETS, body=b"x"), 415, "unsupported_media_type")


async def test_both_ways_to_send_it_are_described(door: Any) -> None:
    described = door.kernel.description.document()["paths"][f"{BASE}/shelves/{{shelf}}/scans"]["post"]
    content = described["requestBody"]["content"]

    assert content["application/octet-stream"] == {"schema": {"type": "string", "format": "binary"}}
    assert set(content) == {"application/json", "application/octet-stream"}
    assert "picture" not in json.dumps(content["application/json"])


async def test_a_compressed_body_is_415(door: Any) -> None:
    """Nothing is unpacked, so nothing can explode."""
    answer = await door.ask(f"POST {BASE}/shelves/a/notes", WRITER, JSON, "Content-Encoding: gzip", body=GOOD)

    problem(answer, 415, "unsupported_media_type")


async def test_an_answer_nobody_accepts_is_406(door: Any) -> None:
    problem(await door.ask(f"GET {BASE}/hello", "Accept: image/png"), 406, "not_acceptable")
    assert (await door.ask(f"GET {BASE}/hello", "Accept: image/png, */*"))[0] == 200


async def test_a_body_past_the_limit_is_413(door: Any) -> None:
    answer = await door.ask(f"POST {BASE}/shelves/a/notes", WRITER, JSON, body=b" " * (BODY_BYTES_MAX + 1))

    assert f"{BODY_BYTES_MAX} bytes" in problem(answer, 413, "payload_too_large")["detail"]


async def test_a_chunked_body_past_the_limit_is_413(door: Any) -> None:
    head = (
        f"POST {BASE}/shelves/a/notes HTTP/1.1\r\nHost: x\r\n{WRITER}\r\n{JSON}\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    chunk = b"10000\r\n" + b" " * 65536 + b"\r\n"

    answer = await door.raw(head.encode() + chunk * 17)

    assert answer.startswith(b"HTTP/1.1 413 ")


async def test_a_chunked_body_is_read(door: Any) -> None:
    head = (
        f"POST {BASE}/shelves/a/notes HTTP/1.1\r\nHost: x\r\n{WRITER}\r\n{JSON}\r\n"
        "Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    pieces = b"".join(b"%x\r\n%s\r\n" % (1, GOOD[i : i + 1]) for i in range(len(GOOD))) + b"0\r\n\r\n"

    assert (await door.raw(head.encode() + pieces)).startswith(b"HTTP/1.1 201 ")


async def test_expect_continue_is_answered(door: Any) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", door.port)
    head = (
        f"POST {BASE}/shelves/a/notes HTTP/1.1\r\nHost: x\r\n{WRITER}\r\n{JSON}\r\n"
        f"Expect: 100-continue\r\nContent-Length: {len(GOOD)}\r\n\r\n"
    )
    writer.write(head.encode())

    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100 Continue")

    writer.write(GOOD)
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 201 ")
    writer.close()


SMUGGLING = [
    b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef",
    b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: +5\r\n\r\nabcde",
    b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\nX: a\rb\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\n X: folded\r\n\r\n",
    b"GET\x00/ HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET / HTTP/9.9\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
]


@pytest.mark.parametrize("data", SMUGGLING)
async def test_ambiguous_bytes_end_the_connection(door: Any, data: bytes) -> None:
    """A request that two readers could read differently is refused, and nothing behind it is taken for a request."""
    smuggled = f"GET {BASE}/hello HTTP/1.1\r\nHost: x\r\n\r\n".encode()

    answer = await door.raw(data + smuggled)

    assert b"hello" not in answer
    assert answer.startswith((b"HTTP/1.1 400 ", b"HTTP/1.0 400 ")) or answer == b""
    assert (await door.ask(f"GET {BASE}/hello"))[0] == 200


@pytest.mark.parametrize("name", ["Authorization", "If-Match", "Idempotency-Key", "Cookie"])
async def test_a_doubled_header_is_400(door: Any, name: str) -> None:
    problem(await door.ask(f"GET {BASE}/hello", f"{name}: a", f"{name.lower()}: b"), 400, "bad_header")


@pytest.mark.parametrize("name", ["Content-Type", "Host", "Content-Length"])
async def test_a_doubled_header_of_the_message_itself_is_no_http(door: Any, name: str) -> None:
    assert (await door.ask(f"GET {BASE}/hello", f"{name}: 0", f"{name.lower()}: 0"))[0] == 400


async def test_headers_past_the_limits_are_refused(door: Any) -> None:
    long = await door.ask("GET /livez", f"X-Big: {'x' * 200_000}")
    many = await door.ask("GET /livez", *(f"X-{n}: y" for n in range(HEADER_COUNT_MAX + 50)))

    for answer in (long, many):
        problem(answer, 431, "headers_too_large")


async def test_pipelined_requests_are_answered_in_order(door: Any) -> None:
    one = f"GET {BASE}/hello HTTP/1.1\r\nHost: x\r\nX-Request-Id: n{{}}\r\n\r\n"
    requests = "".join(one.format(n) for n in range(40)) + "GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"

    answer = (await door.raw(requests.encode())).decode()

    assert [part.split("\r\n")[0] for part in answer.split("X-Request-Id: ")[1:41]] == [f"n{n}" for n in range(40)]


async def test_a_refused_body_leaves_the_connection_in_step(door: Any) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", door.port)
    refused = f"POST {BASE}/shelves/a/notes HTTP/1.1\r\nHost: x\r\n{JSON}\r\nContent-Length: 5000\r\n\r\n".encode()
    writer.write(refused + b"{" * 5000 + f"GET {BASE}/hello HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())

    whole = await reader.read()

    assert whole.startswith(b"HTTP/1.1 401 ")
    assert whole.endswith(b'{"text":"hello"}')
    writer.close()


@pytest.mark.parametrize("sent", ["", "two words", "<script>", "x" * 65, "a;b"])
async def test_an_unsafe_request_id_is_replaced(door: Any, sent: str) -> None:
    _, headers, _ = await door.ask("GET /livez", f"X-Request-Id: {sent}")

    assert headers["x-request-id"] not in ("", sent)


async def test_a_draining_door_says_close(door: Any) -> None:
    door.rest.closing = True

    answer = await door.raw(f"GET {BASE}/hello HTTP/1.1\r\nHost: x\r\n\r\n".encode())

    assert b"\r\nConnection: close\r\n" in answer


def test_the_names_of_aiohttp_that_we_touch_are_there() -> None:
    """These are not aiohttp's public surface; a new version that drops one must fail here first."""
    slots = {name for cls in RequestHandler.__mro__ for name in getattr(cls, "__slots__", ())}
    touched = {
        "_manager", "_force_close", "_task_handler", "_paused", "_close", "_keepalive", "_keepalive_handle", "_keepalive_timeout",
        "_next_keepalive_close_time", "_waiter", "_messages", "_parser", "_buffer_paused", "_msg_queue_resume_size",
        "_current_request", "_request_in_progress", "_handler_waiter", "_loop", "transport",
    }  # fmt: skip
    methods = (
        "_drain_helper",
        "_process_keepalive",
        "_resume_reading_if_drained",
        "force_close",
        "start",
        "connection_made",
    )

    assert touched <= slots | {"_loop", "transport"}
    assert all(hasattr(RequestHandler, name) for name in methods)
    assert {"_buffer", "total_bytes"} <= set(StreamReader.__slots__)
    assert {"status", "exc", "message"} <= {field.name for field in _ErrInfo.__attrs_attrs__}
