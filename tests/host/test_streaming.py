"""Bodies in pieces: whole or visibly cut, no faster than they are read, and always closed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal

import pytest
from msgspec import Struct

from host.kernel import Kernel
from host.lifecycle import ActivationFailed, Lifecycle
from plugin_api import Call
from plugin_api.operation import operation
from plugin_api.streams import Stream
from plugin_api.testing import until
from tests.host.conftest import (
    MANIFEST,
    Door,
    FoundNotes,
    NoteOperations,
    NotesPlugin,
    Nothing,
    no_migrations,
    open_door,
    parsed,
)

BASE = "/api/v1/x/acme.notes"
PIECES = [b"first", b"", b"x" * 300_000, b"last"]
WHOLE = b"".join(PIECES)


class Wanted(Struct, frozen=True, forbid_unknown_fields=True):
    how: Literal["chunked", "length", "short", "long", "broken", "endless", "unchanged", "bad_header"] = "chunked"


class Received(Struct, frozen=True):
    size: int
    content_type: str
    length: int | None


class StreamOperations(NoteOperations):
    """Streams in every way."""

    def __init__(self) -> None:
        super().__init__()
        self.ended = 0
        self.given = 0
        self.refuse_body = False
        self.heard: asyncio.Queue[bytes] = asyncio.Queue()

    async def _pieces(self, how: str) -> AsyncIterator[bytes]:
        for piece in PIECES:
            self.given += len(piece)
            yield piece
            if how == "broken":
                raise RuntimeError("inner-detail")
        while how == "endless":
            self.given += 65_536
            yield b"y" * 65_536

    async def _close(self) -> None:
        self.ended += 1

    @operation("GET /streams", public=True, stream=True)
    async def stream(self, call: Call, request: Wanted) -> Stream:
        """Stream."""
        lengths = {"length": len(WHOLE), "short": len(WHOLE) + 1, "long": len(WHOLE) - 1, "broken": len(WHOLE)}
        return Stream(
            self._pieces(request.how),
            content_type="text/event-stream",
            length=lengths.get(request.how),
            status=304 if request.how == "unchanged" else 200,
            headers=(("X-Bad", "a\r\nb"),) if request.how == "bad_header" else (("X-Streamed", "yes"),),
            close=self._close,
        )

    @operation("GET /followed", permission="note.read", stream=True)
    async def follow(self, call: Call, request: Nothing) -> Stream:
        """Follow."""
        return Stream(self._heard(), content_type="text/event-stream", close=self._close, endless=True)

    async def _heard(self) -> AsyncIterator[bytes]:
        yield b"begun\n"
        while True:
            yield await self.heard.get()

    @operation("PUT /streams", public=True, stream=True, status=200)
    async def receive(self, call: Call, request: Nothing) -> Received:
        """Count what comes."""
        assert call.transfer is not None
        size = 0
        if not self.refuse_body:
            async for piece in call.transfer.chunks():
                size += len(piece)
        return Received(size, call.transfer.content_type, call.transfer.length)


@pytest.fixture
def operations() -> StreamOperations:
    return StreamOperations()


@pytest.fixture
async def door(bare_kernel: Kernel, operations: StreamOperations, tmp_path: Path) -> AsyncIterator[Door]:
    opened = await open_door(bare_kernel, NotesPlugin(operations=operations), tmp_path)
    yield opened
    await opened.close()


def unchunked(body: bytes) -> tuple[bytes, bool]:
    """(what the chunks hold, whether they came to their end)."""
    held = b""
    while body:
        size, _, rest = body.partition(b"\r\n")
        length = int(size, 16)
        if length == 0:
            return held, rest == b"\r\n"
        held, body = held + rest[:length], rest[length + 2 :]
    return held, False


async def test_an_answer_of_unknown_length_comes_in_chunks(door: Door, operations: StreamOperations) -> None:
    status, headers, body = parsed(
        await door.raw(
            f"GET {BASE}/streams HTTP/1.1\r\nHost: x\r\n\r\nGET {BASE}/hello HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode()
        )
    )
    first, _, second = body.partition(b"0\r\n\r\n")

    assert (status, headers["transfer-encoding"], headers["content-type"]) == (200, "chunked", "text/event-stream")
    assert headers["x-streamed"] == "yes"
    assert unchunked(first + b"0\r\n\r\n") == (WHOLE, True)
    assert second.startswith(b"HTTP/1.1 200"), "the connection goes on"
    assert operations.ended == 1


async def test_an_answer_of_known_length_comes_plain(door: Door, operations: StreamOperations) -> None:
    status, headers, body = await door.ask(f"GET {BASE}/streams?how=length")

    assert (status, headers["content-length"], body) == (200, str(len(WHOLE)), WHOLE)
    assert operations.ended == 1


async def test_an_old_client_gets_no_chunks(door: Door) -> None:
    _, headers, body = parsed(await door.raw(f"GET {BASE}/streams HTTP/1.0\r\n\r\n".encode()))

    assert "transfer-encoding" not in headers
    assert (headers["connection"], body) == ("close", WHOLE)


@pytest.mark.parametrize("how", ["chunked", "length", "endless"])
async def test_head_gets_no_body(door: Door, operations: StreamOperations, how: str) -> None:
    status, headers, body = await door.ask(f"HEAD {BASE}/streams?how={how}")

    assert (status, headers["content-type"], body) == (200, "text/event-stream", b"")
    assert (operations.given, operations.ended) == (0, 1)


async def test_not_modified_has_no_body(door: Door) -> None:
    status, headers, body = await door.ask(f"GET {BASE}/streams?how=unchanged")

    assert (status, body) == (304, b"")
    assert not {"content-length", "transfer-encoding", "content-type"} & headers.keys()


@pytest.mark.parametrize("how", ["short", "long", "broken"])
async def test_an_answer_that_goes_wrong_is_cut_and_logged(
    door: Door, operations: StreamOperations, how: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """A client must never take a part for the whole."""
    try:
        _, headers, body = await door.ask(f"GET {BASE}/streams?how={how}")
        assert len(body) < int(headers["content-length"])
    except ConnectionResetError:
        pass
    await until(lambda: operations.ended == 1, "the stream is closed")

    told = ""

    def is_logged() -> bool:
        nonlocal told
        told += capfd.readouterr().err
        return "kernel bug" in told

    await until(is_logged, "it is logged")


async def test_a_header_that_cannot_be_sent_is_a_fault_of_ours(door: Door, operations: StreamOperations) -> None:
    status, headers, _ = await door.ask(f"GET {BASE}/streams?how=bad_header")

    assert (status, headers["content-type"]) == (500, "application/problem+json")
    assert operations.ended == 1


async def test_it_is_made_no_faster_than_it_is_read_and_ends_with_its_client(
    door: Door, operations: StreamOperations
) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", door.port)
    writer.write(f"GET {BASE}/streams?how=endless HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    await reader.readexactly(100_000)
    [generation] = door.kernel.table.generations.values()
    before = -1
    while operations.given != before:
        before = operations.given
        await asyncio.sleep(0.1)

    assert operations.given < 32 * 2**20
    assert generation.in_flight == 1, "nobody unloads the plugin under it"
    writer.transport.abort()
    await until(lambda: operations.ended == 1, "the stream is closed")
    await until(lambda: generation.in_flight == 0, "the plugin is let go")


@asynccontextmanager
async def following(door: Door) -> AsyncIterator[asyncio.StreamReader]:
    """An endless stream that has begun."""
    reader, writer = await asyncio.open_connection("127.0.0.1", door.port)
    writer.write(f"GET {BASE}/followed HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer reader\r\n\r\n".encode())
    await reader.readuntil(b"begun\n\r\n")
    try:
        yield reader
    finally:
        writer.close()


async def heard_to_the_end(reader: asyncio.StreamReader) -> bytes:
    async with asyncio.timeout(5):
        return await reader.readuntil(b"0\r\n\r\n")


async def close_the_door(door: Door) -> None:
    door.rest.close()


async def replace_the_plugin(door: Door) -> None:
    found: Any = FoundNotes(MANIFEST, Path())
    await Lifecycle(door.kernel, no_migrations).activate(found, NotesPlugin(operations=StreamOperations()), None)


async def drop_the_plugin(door: Door) -> None:
    await Lifecycle(door.kernel, no_migrations).deactivate("acme.notes")


ENDS = [close_the_door, replace_the_plugin, drop_the_plugin]


@pytest.mark.parametrize("end", ENDS, ids=[one.__name__ for one in ENDS])
async def test_an_endless_stream_ends_when_its_host_is_about_to(
    door: Door, operations: StreamOperations, end: Callable[[Door], Awaitable[None]]
) -> None:
    """Nobody waits for it, and its client sees a whole answer."""
    [generation] = door.kernel.table.generations.values()
    async with following(door) as reader:
        operations.heard.put_nowait(b"more\n")
        await reader.readuntil(b"more\n\r\n")
        async with asyncio.timeout(5):
            await end(door)

        assert await heard_to_the_end(reader) == b"0\r\n\r\n"
    await until(lambda: generation.in_flight == 0, "the plugin is let go")
    assert operations.ended == 1


async def test_one_that_nobody_reads_ends_too(door: Door, operations: StreamOperations) -> None:
    [generation] = door.kernel.table.generations.values()
    async with following(door):
        for _ in range(64):
            operations.heard.put_nowait(b"z" * 2**20)
        await until(lambda: operations.heard.qsize() < 64, "some is on its way")
        door.rest.close()
        await until(lambda: generation.in_flight == 0, "the plugin is let go")


async def test_who_begins_one_while_the_door_closes_gets_its_end(door: Door) -> None:
    door.rest.close()
    answer = await door.raw(f"GET {BASE}/followed HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer reader\r\n\r\n".encode())

    assert answer.startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("lost", ["permission", "credentials"])
async def test_who_may_follow_no_more_gets_nothing_more(
    door: Door, operations: StreamOperations, lost: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with following(door) as reader:
        masks = {"permission": {"reader": 0}, "credentials": {}}[lost]
        monkeypatch.setattr("tests.host.conftest.MASKS", masks)
        operations.heard.put_nowait(b"secret\n")

        assert await heard_to_the_end(reader) == b"0\r\n\r\n"


async def test_a_followed_stream_is_no_request_that_the_door_is_full_of(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("host.http.REQUESTS_IN_FLIGHT_MAX", 1)
    async with following(door), following(door):
        status, _, _ = await door.ask(f"GET {BASE}/hello")
    assert status == 200


async def test_a_body_may_be_larger_than_what_is_read_at_once(door: Door) -> None:
    body = b"x" * 3_000_000
    status, _, answer = await door.ask(f"PUT {BASE}/streams", "Content-Type: image/png", body=body)

    assert status == 200
    assert answer == b'{"size":3000000,"content_type":"image/png","length":3000000}'


async def test_a_body_may_come_in_chunks(door: Door) -> None:
    head = f"PUT {BASE}/streams HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
    _, _, answer = parsed(await door.raw(head.encode() + b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"))

    assert answer == b'{"size":5,"content_type":"","length":null}'


async def test_a_body_that_breaks_off_is_told(door: Door) -> None:
    head = f"PUT {BASE}/streams HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    status, _, answer = parsed(await door.raw(head.encode() + b"3\r\nabc\r\nno chunk\r\n"))

    assert status == 400
    assert b"malformed" in answer


async def test_a_body_that_nobody_reads_does_no_harm(door: Door, operations: StreamOperations) -> None:
    operations.refuse_body = True
    request = f"PUT {BASE}/streams HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nabcde"
    again = f"GET {BASE}/hello HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    answers = await door.raw((request + again).encode())

    assert answers.count(b"HTTP/1.1 200") == 2


async def test_a_client_is_asked_to_go_on(door: Door) -> None:
    head = f"PUT {BASE}/streams HTTP/1.1\r\nHost: x\r\nConnection: close\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n"

    assert (await door.raw(head.encode() + b"ab")).startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200")


async def test_an_undeclared_stream_is_refused(bare_kernel: Kernel, tmp_path: Path) -> None:
    class Undeclared(NoteOperations):
        @operation("GET /streams", public=True)
        async def stream(self, call: Call, request: Nothing) -> Stream:
            """Stream."""
            raise AssertionError

    with pytest.raises(ActivationFailed, match="stream=True"):
        await open_door(bare_kernel, NotesPlugin(operations=Undeclared()), tmp_path)
    bare_kernel.stamps.close()  # type: ignore[attr-defined]


async def test_streams_are_described(door: Door) -> None:
    paths: Any = door.kernel.state.openapi()["paths"][f"{BASE}/streams"]

    assert list(paths["get"]["responses"]["200"]["content"]) == ["*/*"]
    assert list(paths["put"]["requestBody"]["content"]) == ["*/*"]
    assert "416" in paths["get"]["responses"]
