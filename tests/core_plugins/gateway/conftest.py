"""Kernels of this process with the gateway and one plugin, behind a real REST door and over real stores."""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal
from uuid import UUID

import asyncpg
import pytest
from msgspec import Meta, Struct

from host.generations import Generation
from host.http import RestDoor
from host.kernel import Kernel
from host.lifecycle import Lifecycle
from host.migrations import migrate
from host.own_pages import host_pages
from host.runtime import PluginCalls
from plugin_api import Call, Event, Registrar, errors, hookimpl, operation
from plugin_api.call import Actor, Identity
from plugin_api.ids import uuid7
from plugin_api.manifest import EventsPart, Manifest
from plugin_api.pipeline import Credentials, PipelineSlots
from plugin_api.ports.cache import CACHE
from plugin_api.ports.migrations import MIGRATOR
from plugin_api.testing import Answer, Client
from tests.conftest import NOTES, MakeDatabase

INSERT = "insert into notes (id, body) values ($1, $2)"
PLUGINS = ["gateway", "audit"]
NOTES_PATH = "/api/v1/x/acme.notes"
ACTORS = {"ada": "01890a5d-ac96-774b-bcce-b302099a8057", "bob": "01890a5d-ac96-774b-bcce-b302099a8058"}


class NewNote(Struct, frozen=True, forbid_unknown_fields=True):
    body: Annotated[str, Meta(min_length=1, max_length=200)]
    copies: int = 1


class Note(Struct, frozen=True):
    id: UUID
    body: str
    picture: bytes
    version: int = 1


class Ask(Struct, frozen=True, forbid_unknown_fields=True):
    name: str = ""


class Fail(Struct, frozen=True, forbid_unknown_fields=True):
    kind: Literal["unavailable", "store", "late", "conflict", "bug", "none"]


class Said(Struct, frozen=True):
    text: str


class NoteOperations:
    """Operations that leave marks which no rollback takes away."""

    def __init__(self) -> None:
        self.marks: Counter[str] = Counter()
        self.before_end: Callable[[Call], Awaitable[None]] | None = None

    async def _add(self, call: Call, request: NewNote) -> Note:
        self.marks[request.body] += 1
        note = Note(uuid7(), request.body, b"\xfb\xff")
        tx = await call.tx()
        await tx.execute(INSERT, note.id, f"{request.body} {note.id}")
        tx.emit(Event(type="note.added.v1", subject=str(note.id), data={"body": note.body}))
        call.add_response_header("X-Kept", "as it was")
        if self.before_end is not None:
            await self.before_end(call)
        return note

    @operation("POST /notes", permission="note.create", status=201)
    async def add(self, call: Call, request: NewNote) -> Note:
        """Add a note."""
        return await self._add(call, request)

    @operation("POST /pledges", permission="note.create", status=201, idempotency="required")
    async def pledge(self, call: Call, request: NewNote) -> Note:
        """Add a note with a key."""
        return await self._add(call, request)

    @operation("POST /free", permission="note.create", idempotency="none")
    async def free(self, call: Call, request: NewNote) -> Note:
        """Add a note, whatever key there is."""
        return await self._add(call, request)

    @operation("DELETE /notes", permission="note.create")
    async def clear(self, call: Call, request: Ask) -> None:
        """Answer nothing."""
        self.marks["clear"] += 1
        await (await call.tx()).execute("delete from notes")

    @operation("POST /trouble", permission="note.create")
    async def trouble(self, call: Call, request: Fail) -> Said:
        """Fail as asked."""
        self.marks["trouble"] += 1
        return await self._fail(call, request)

    @operation("GET /trouble", permission="note.create", deadline_s=1.0)
    async def look(self, call: Call, request: Fail) -> Said:
        """Fail as asked."""
        self.marks["look"] += 1
        return await self._fail(call, request)

    async def _fail(self, call: Call, request: Fail) -> Said:
        await (await call.tx()).execute(INSERT, uuid7(), f"trouble {uuid7()}")
        if self.before_end is not None:
            await self.before_end(call)
        match request.kind:
            case "unavailable":
                raise errors.Unavailable("down on purpose")
            case "store":
                raise errors.StoreUnavailable("away")
            case "late":
                raise errors.DeadlinePassed("too late")
            case "conflict":
                raise errors.Conflict("not now")
            case "bug":
                raise ValueError("inner-detail")
            case _:
                return Said("well")

    @operation("GET /ping", permission="note.create")
    async def ping(self, call: Call, request: Ask) -> Said:
        """Answer."""
        self.marks[f"ping {request.name}"] += 1
        return Said(request.name)

    @operation("POST /open", public=True)
    async def open_to_all(self, call: Call, request: Ask) -> Said:
        """Answer anybody."""
        self.marks["open"] += 1
        return Said(request.name)


@dataclass
class Names:
    """Identifies `Bearer NAME`, in tenant 0, and `Bearer NAME.N` in tenant N."""

    tenants: list[UUID]

    def recall(self, credentials: Credentials) -> Identity | None:
        name, _, number = (credentials.authorization or "").removeprefix("Bearer ").partition(".")
        if name not in ACTORS:
            return None
        return Identity(self.tenants[int(number or 0)], Actor("user", ACTORS[name]), 1, UUID(ACTORS[name]))

    async def identify(self, credentials: Credentials) -> Identity | None:
        return self.recall(credentials)


class Everything:
    """Allows whoever is somebody."""

    def check(self, permission: str) -> Callable[[Identity], bool]:
        return lambda identity: True


class NotesPlugin:
    """`acme.notes`; also fills the slots that `kernel.iam` would."""

    def __init__(self, tenants: list[UUID]) -> None:
        self.operations = NoteOperations()
        self._tenants = tenants

    @hookimpl
    def pk_register(self, registrar: Registrar) -> None:
        registrar.operations(self.operations)

    @hookimpl
    def pk_pipeline(self, slots: PipelineSlots) -> None:
        slots.identify(Names(self._tenants))
        slots.authorize(Everything())


class Found:
    """What discovery would give."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifest = Manifest(
            id="acme.notes",
            version="1.0.0",
            api=">=1.0,<2",
            summary="Notes",
            requires=["data"],
            provides=["acme.notes 1.0"],
            permissions={"note.create": "Add notes"},
            events=EventsPart(emits=["note.added.v1"]),
        )


@dataclass
class Worker:
    """One kernel of this process and its door."""

    kernel: Kernel
    plugin: NotesPlugin
    door: RestDoor
    server: asyncio.Server
    url: str

    @property
    def marks(self) -> Counter[str]:
        return self.plugin.operations.marks

    def client(self, name: str = "ada") -> Client:
        return Client(self.url, name)

    async def post(self, path: str, body: Any, key: str | None = None, name: str = "ada") -> Answer:
        headers = {"Idempotency-Key": key} if key is not None else {}
        return await self.client(name).post(f"{NOTES_PATH}{path}", body, headers=headers)

    async def get(self, path: str, name: str = "ada") -> Answer:
        return await self.client(name).get(f"{NOTES_PATH}{path}")

    async def close(self) -> None:
        self.server.close()
        await self.door.server.shutdown(1.0)


@dataclass
class Scene:
    """One database and what works over it."""

    dsn: str
    workers: list[Worker] = field(default_factory=list)
    tenants: list[UUID] = field(default_factory=lambda: [uuid7(), uuid7(), uuid7()])

    async def query(self, sql: str, *arguments: Any) -> list[Any]:
        """Ask as the administrator."""
        connection = await asyncpg.connect(self.dsn)
        try:
            return list(await connection.fetch(sql, *arguments))
        finally:
            await connection.close()

    async def bodies(self) -> list[str]:
        rows = await self.query("select split_part(body, ' ', 1) as body from x_acme_notes.notes order by 1")
        return [row["body"] for row in rows]

    async def kept(self) -> int:
        return int((await self.query("select count(*) as n from pk.kept_answer"))[0]["n"])

    def calls(self, plugin_id: str = "kernel.gateway", worker: int = 0) -> PluginCalls:
        kernel = self.workers[worker].kernel
        return PluginCalls(kernel.runtime(kernel.table.generations[plugin_id]))


OpenScene = Callable[..., Awaitable[Scene]]


@pytest.fixture
async def open_scene(
    make_database: MakeDatabase,
    open_kernel: Callable[..., Awaitable[Kernel]],
    valkey_url: str,
    tmp_path: Path,
) -> AsyncIterator[OpenScene]:
    """Opens scenes: `open_scene(workers=2, **settings)`."""
    scenes: list[Scene] = []
    folder = tmp_path / "notes"
    folder.mkdir()
    (folder / "0001_notes.sql").write_text(NOTES)

    async def open_worker(scene: Scene, **settings: Any) -> Worker:
        kernel = await open_kernel(PLUGINS, {"postgres": scene.dsn, "valkey": valkey_url}, **settings)

        async def run_migrations(generation: Generation, found: Any) -> list[str]:
            return await migrate(kernel.require(MIGRATOR), "acme.notes", "x_acme_notes", folder)

        plugin, found = NotesPlugin(scene.tenants), Found(folder)
        await Lifecycle(kernel, run_migrations).activate(found, plugin, None)  # type: ignore[arg-type]
        kernel.is_ready = True
        door = RestDoor(kernel, host_pages(kernel))
        listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        server = await asyncio.get_running_loop().create_server(door.server, sock=listener)
        return Worker(kernel, plugin, door, server, f"http://127.0.0.1:{listener.getsockname()[1]}")

    async def open_one(workers: int = 1, **settings: Any) -> Scene:
        scene = Scene(await make_database(*PLUGINS))
        scenes.append(scene)
        for _ in range(workers):
            scene.workers.append(await open_worker(scene, **settings))
        return scene

    yield open_one
    for scene in scenes:
        for worker in scene.workers:
            await worker.close()
            # Plugins are one for each process: of several kernels in one only the last one's cache would be closed.
            await worker.kernel.require(CACHE).stop()  # type: ignore[attr-defined]


@pytest.fixture
async def scene(open_scene: OpenScene) -> Scene:
    return await open_scene()


@pytest.fixture
async def worker(scene: Scene) -> Worker:
    return scene.workers[0]
