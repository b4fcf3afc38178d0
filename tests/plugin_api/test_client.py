"""The client for tests: one whole answer, or `Unreachable`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from plugin_api.testing import Answer, Client, Unreachable


@asynccontextmanager
async def answering(reply: bytes | Callable[[bytes], bytes], *, hang: bool = False) -> AsyncIterator[Client]:
    """A client of a server that reads one request and answers with these bytes."""
    over = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.readuntil(b"\r\n\r\n")
        for line in request.split(b"\r\n"):
            if line.lower().startswith(b"content-length:"):
                request += await reader.readexactly(int(line.split(b":")[1]))
        writer.write(reply(request) if callable(reply) else reply)
        if hang:
            await over.wait()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        yield Client(f"http://127.0.0.1:{port}", "token", "127.3.3.1", limit_s=1.0)
    finally:
        over.set()
        server.close()
        await asyncio.sleep(0)


async def test_it_sends_what_it_was_told_and_reads_the_answer() -> None:
    def echo(request: bytes) -> bytes:
        return b'HTTP/1.1 201 Created\r\nETag: "1"\r\nContent-Length: %d\r\n\r\n%s' % (len(request), request)

    async with answering(echo) as client:
        answer = await client.patch("/path?x=1", {"name": "ä"}, etag='"7"')

    head, _, body = answer.body.decode().partition("\r\n\r\n")
    assert (answer.status, answer.etag, body) == (201, '"1"', '{"name": "\\u00e4"}')
    assert head.startswith("PATCH /path?x=1 HTTP/1.1\r\n")
    assert {"Authorization: Bearer token", 'If-Match: "7"', "Content-Type: application/json"} <= set(head.split("\r\n"))


async def test_it_reads_an_answer_in_pieces() -> None:
    async with answering(
        b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n{"a\r\n4\r\n": 1\r\n1\r\n}\r\n0\r\n\r\n'
    ) as client:
        assert (await client.get("/")).json == {"a": 1}


@pytest.mark.parametrize(
    "reply", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort", b"HTTP/1.1 200", b"SSH-2.0\r\n"]
)
async def test_what_is_no_whole_answer_is_unreachable(reply: bytes) -> None:
    async with answering(reply) as client:
        with pytest.raises(Unreachable, match="GET /path"):
            await client.get("/path")


async def test_silence_ends_at_the_limit() -> None:
    async with answering(b"", hang=True) as client:
        with pytest.raises(Unreachable, match="TimeoutError"):
            await Client(client.url, limit_s=0.05).get("/")


async def test_nobody_there_is_unreachable() -> None:
    with pytest.raises(Unreachable):
        await Client("http://127.0.0.1:1").get("/")


async def test_an_answer_shows_itself_when_it_is_not_what_was_expected() -> None:
    reply = b'HTTP/1.1 409 Conflict\r\nContent-Length: 19\r\n\r\n{"code":"conflict"}'
    async with answering(reply) as client:
        answer = await client.post("/things", {})

    assert answer.expect(409) is answer
    assert (answer.code, answer["code"]) == ("conflict", "conflict")
    with pytest.raises(AssertionError, match=r"expected 200 or 201, saw 409 for POST /things: .*conflict"):
        answer.expect(200, 201)
    with pytest.raises(AssertionError, match="no 'id' in 409"):
        _ = answer["id"]


def test_what_is_no_json_has_none() -> None:
    import http.client

    answer = Answer("GET /", 200, http.client.HTTPMessage(), b"<html>")
    assert (answer.json, answer.code, answer.etag) == (None, "", "")
