"""A kernel of this process with one small plugin and no stores: enough for what only the door and the pipeline do."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

import pytest
from msgspec import Meta, Struct

from host.generations import Generation
from host.http import RestDoor
from host.kernel import Kernel, Place
from host.lifecycle import Lifecycle
from host.own_pages import host_pages
from host.stamps import FileStamps, create_stamps
from plugin_api import hookimpl
from plugin_api.call import Actor, Call, Identity
from plugin_api.errors import Conflict, NotAuthenticated
from plugin_api.ids import uuid7
from plugin_api.manifest import Manifest
from plugin_api.operation import operation
from plugin_api.pipeline import Credentials, PipelineSlots
from plugin_api.registrar import Registrar

TENANT = uuid7()


class Note(Struct, frozen=True, forbid_unknown_fields=True):
    shelf: str
    text: Annotated[str, Meta(min_length=2, max_length=20)]
    copies: Annotated[int, Meta(ge=1, le=1000)] = 1


class Kept(Struct, frozen=True):
    id: UUID
    version: int
    shelf: str
    text: str
    copies: int


class Shelf(Struct, frozen=True, forbid_unknown_fields=True):
    shelf: str
    wait_s: float = 0.0


class Nothing(Struct, frozen=True, forbid_unknown_fields=True):
    pass


class Greeting(Struct, frozen=True):
    text: str


class Scan(Struct, frozen=True, forbid_unknown_fields=True):
    shelf: str
    address: str | None = None
    picture: Annotated[bytes | None, Meta(extra={"in": "octets", "bytes_max": 3_000})] = None


class NoteOperations:
    """Keeps nothing, answers everything."""

    def __init__(self) -> None:
        self.calls: list[Call] = []

    @operation("POST /shelves/{shelf}/notes", permission="note.create", status=201)
    async def keep(self, call: Call, request: Note) -> Kept:
        """Keep a note."""
        self.calls.append(call)
        return Kept(uuid7(), 1, request.shelf, request.text, request.copies)

    @operation("PATCH /shelves/{shelf}", permission="note.create")
    async def change(self, call: Call, request: Shelf) -> Kept:
        """Change a shelf."""
        call.expect_version(3)
        return Kept(uuid7(), 4, request.shelf, "", 1)

    @operation("GET /shelves/{shelf}", permission="note.read", deadline_s=0.2)
    async def look(self, call: Call, request: Shelf) -> Kept:
        """Look at a shelf, after a while."""
        await asyncio.sleep(request.wait_s)
        return Kept(uuid7(), 3, request.shelf, "", 1)

    @operation("DELETE /shelves/{shelf}", permission="note.create")
    async def drop(self, call: Call, request: Shelf) -> None:
        """Drop a shelf."""

    @operation("POST /shelves/{shelf}/scans", permission="note.create")
    async def scan(self, call: Call, request: Scan) -> Greeting:
        """Take a picture as it is, or the address of one."""
        return Greeting(f"{request.shelf} {request.address} {len(request.picture or b'')}")

    @operation("GET /trouble", public=True)
    async def trouble(self, call: Call, request: Nothing) -> Kept:
        """Fail in a way nobody foresaw."""
        raise RuntimeError("inner-detail")

    @operation("GET /closed", public=True)
    async def closed(self, call: Call, request: Nothing) -> Kept:
        """Refuse."""
        raise Conflict("the shelf is closed; open it first", code="shelf_closed")

    @operation("GET /hello", public=True)
    async def hello(self, call: Call, request: Nothing) -> Greeting:
        """Greet."""
        call.add_response_header("X-Greeting", "yes")
        return Greeting("hello")


MASKS = {"reader": 1, "writer": 3}


class Names:
    """Identifies `Bearer NAME`; `reader` may read, `writer` may do both."""

    def recall(self, credentials: Credentials) -> Identity | None:
        return None

    async def identify(self, credentials: Credentials) -> Identity | None:
        if credentials.authorization is None:
            return None
        name = credentials.authorization.removeprefix("Bearer ")
        if name not in MASKS:
            raise NotAuthenticated("nobody knows this name")
        return Identity(TENANT, Actor("user", name), MASKS[name])


class Bits:
    """One bit for each of the two permissions."""

    def check(self, permission: str) -> Callable[[Identity], bool]:
        bit = {"acme.notes.note.read": 1, "acme.notes.note.create": 2}.get(permission, 0)
        return lambda identity: bool(identity.mask & bit)


@dataclass
class NotesPlugin:
    """The plugin of these tests; `guards` says whether it fills identify and authorize."""

    guards: bool = True
    operations: NoteOperations = field(default_factory=NoteOperations)

    @hookimpl
    def pk_register(self, registrar: Registrar) -> None:
        registrar.operations(self.operations)

    @hookimpl
    def pk_pipeline(self, slots: PipelineSlots) -> None:
        if self.guards:
            slots.identify(Names())
            slots.authorize(Bits())


MANIFEST = Manifest(
    id="acme.notes",
    version="1.0.0",
    api=">=1.0,<2",
    summary="Notes",
    permissions={"note.read": "See notes", "note.create": "Keep notes"},
)


@dataclass
class FoundNotes:
    """What discovery would give for the plugin."""

    manifest: Manifest
    folder: Path


@dataclass
class Door:
    """A door that listens, and the kernel behind it."""

    kernel: Kernel
    plugin: NotesPlugin
    rest: RestDoor
    server: asyncio.Server
    port: int

    async def close(self) -> None:
        """Take nothing more and hang up."""
        self.server.close()
        await self.rest.server.shutdown(1.0)
        self.kernel.stamps.close()  # type: ignore[attr-defined]

    async def raw(self, data: bytes, *, read_s: float = 5.0) -> bytes:
        """Send bytes on a connection of their own; everything that comes back until it is closed."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(data)
        try:
            async with asyncio.timeout(read_s):
                return await reader.read()
        finally:
            writer.close()

    async def ask(self, line: str, *headers: str, body: bytes = b"") -> tuple[int, dict[str, str], bytes]:
        """One request; (status, headers in lower case, body)."""
        head = [line + " HTTP/1.1", "Host: x", "Connection: close", *headers]
        if body:
            head += [f"Content-Length: {len(body)}"]
        answer = await self.raw("\r\n".join([*head, "", ""]).encode("latin-1") + body)
        return parsed(answer)


def parsed(answer: bytes) -> tuple[int, dict[str, str], bytes]:
    """Split one whole answer."""
    head, _, body = answer.partition(b"\r\n\r\n")
    first, *rest = head.decode("latin-1").split("\r\n")
    fields = dict(line.split(": ", 1) for line in rest)
    return int(first.split(" ")[1]), {name.lower(): value for name, value in fields.items()}, body


async def no_migrations(generation: Generation, found: Any) -> list[str]:
    """There is no database here."""
    return []


@pytest.fixture
def bare_kernel(tmp_path: Path) -> Kernel:
    """A kernel in which nothing is active."""
    create_stamps(tmp_path / "stamps")
    return Kernel(Place(tmp_path, "embedded", 0, {}), FileStamps(tmp_path / "stamps"), b"k" * 32, lambda text: None)


async def open_door(kernel: Kernel, plugin: NotesPlugin, tmp_path: Path) -> Door:
    """Activate the plugin and listen."""
    found: Any = FoundNotes(MANIFEST, tmp_path)
    await Lifecycle(kernel, no_migrations).activate(found, plugin, None)
    rest = RestDoor(kernel, host_pages(kernel))
    kernel.is_ready = True
    listener = socket.create_server(("127.0.0.1", 0))
    server = await asyncio.get_running_loop().create_server(rest.server, sock=listener)
    await server.start_serving()
    return Door(kernel, plugin, rest, server, listener.getsockname()[1])


@pytest.fixture
async def door(bare_kernel: Kernel, tmp_path: Path) -> AsyncIterator[Door]:
    """A door with the notes plugin behind it."""
    opened = await open_door(bare_kernel, NotesPlugin(), tmp_path)
    yield opened
    await opened.close()


@pytest.fixture
async def unguarded_door(bare_kernel: Kernel, tmp_path: Path) -> AsyncIterator[Door]:
    """The same, but nobody fills identify and authorize."""
    opened = await open_door(bare_kernel, NotesPlugin(guards=False), tmp_path)
    yield opened
    await opened.close()
