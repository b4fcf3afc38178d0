"""Records of a plugin's operations, in a kernel of this process over a real database."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
from msgspec import Struct

from core_plugins.audit import operations
from core_plugins.audit.operations import Retention
from core_plugins.audit.settings import Settings
from host.generations import Generation
from host.kernel import Kernel
from host.lifecycle import Lifecycle
from host.migrations import migrate
from host.runtime import PluginCalls
from plugin_api import Call, Registrar, hookimpl, operation
from plugin_api.call import Actor, Identity
from plugin_api.errors import Conflict, KernelError, NotAllowed, StoreUnavailable
from plugin_api.ids import uuid7
from plugin_api.manifest import Manifest
from plugin_api.pipeline import Tenant
from plugin_api.ports.migrations import MIGRATOR
from plugin_api.streams import Stream
from tests.conftest import NOTES, MakeDatabase

INSERT = "insert into notes (id, body) values ($1, $2)"
ADA = Actor("user", "01890a5d-ac96-774b-bcce-b302099a8057")


class NewNote(Struct, frozen=True, forbid_unknown_fields=True):
    body: str
    password: str = ""


class NoteRef(Struct, frozen=True, forbid_unknown_fields=True):
    note_id: UUID


class Note(Struct, frozen=True):
    id: UUID


class NoteOperations:
    """Operations with a transaction, and what may happen in the middle of them."""

    def __init__(self) -> None:
        self.then: Callable[[Call], Awaitable[None]] | None = None

    @operation("POST /notes", permission="note.create", status=201)
    async def add(self, call: Call, request: NewNote) -> Note:
        """Add a note."""
        note_id = uuid7()
        await (await call.tx()).execute(INSERT, note_id, request.body)
        if self.then is not None:
            await self.then(call)
        return Note(note_id)

    @operation("POST /notes/{note_id}/forget", permission="note.create")
    async def forget(self, call: Call, request: NoteRef) -> None:
        """Do something that needs no transaction."""

    @operation("PUT /notes/{note_id}/picture", permission="note.create", stream=True)
    async def draw(self, call: Call, request: NoteRef) -> Stream:
        """Answer in pieces."""
        await (await call.tx()).execute(INSERT, request.note_id, "picture")
        return Stream(pieces(), content_type="image/png")


async def pieces() -> AsyncIterator[bytes]:
    yield b"piece"


class NotesPlugin:
    """`acme.notes`."""

    def __init__(self) -> None:
        self.operations = NoteOperations()

    @hookimpl
    def pk_register(self, registrar: Registrar) -> None:
        registrar.operations(self.operations)


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
        )


@dataclass
class Scene:
    """A kernel with records, and `acme.notes` in it."""

    kernel: Kernel
    dsn: str
    plugin: NotesPlugin
    tenant: UUID = field(default_factory=uuid7)

    async def act(self, name: str, request: Any, *, allowed: bool = True, tenant: UUID | None = None) -> Any:
        """Call an operation as Ada."""
        tenant = tenant or self.tenant
        generation = self.kernel.table.generations["acme.notes"]
        call = Call(
            self.kernel.runtime(generation),
            tenant_id=tenant,
            actor=ADA,
            identity=Identity(tenant, ADA, 0, UUID(ADA.id)),
            request_id="r-1",
            deadline=time.monotonic() + 20,
            allows=lambda permission: allowed,
        )
        return await self.kernel.table.inner["acme.notes", name].invoke(call, request)

    async def query(self, sql: str, *arguments: Any) -> list[Any]:
        """Ask as the administrator."""
        connection = await asyncpg.connect(self.dsn)
        try:
            return list(await connection.fetch(sql, *arguments))
        finally:
            await connection.close()

    async def records(self) -> list[tuple[str, str, str, str]]:
        """(outcome, operation, actor, target) of all, the oldest first."""
        rows = await self.query("select outcome, operation, actor, target from pk.record order by at")
        return [(row["outcome"], row["operation"], row["actor"], row["target"]) for row in rows]

    async def bodies(self) -> list[str]:
        return [row["body"] for row in await self.query("select body from x_acme_notes.notes")]

    async def backdate(self, count: int, days: int) -> None:
        """Put records there that are so old."""
        await self.query(
            """insert into pk.record select $1, now() - make_interval(days => $3), gen_random_uuid(), 'p', 'o', 'user:a', '',
            null, '/', 'done', 'r', '' from generate_series(1, $2)""",
            self.tenant, count, days,
        )  # fmt: skip

    @property
    def audit(self) -> PluginCalls:
        """The calls of `kernel.audit`."""
        return PluginCalls(self.kernel.runtime(self.kernel.table.generations["kernel.audit"]))

    def retention(self, keep_days: int) -> Retention:
        return Retention(self.audit, keep_days, self.kernel.log)  # type: ignore[arg-type]


@pytest.fixture
async def scene(make_database: MakeDatabase, open_kernel: Callable[..., Awaitable[Kernel]], tmp_path: Path) -> Scene:
    dsn = await make_database("audit")
    kernel = await open_kernel(["audit"], {"postgres": dsn})
    folder = tmp_path / "notes"
    folder.mkdir()
    (folder / "0001_notes.sql").write_text(NOTES)

    async def run_migrations(generation: Generation, found: Any) -> list[str]:
        return await migrate(kernel.require(MIGRATOR), "acme.notes", "x_acme_notes", folder)

    plugin, found = NotesPlugin(), Found(folder)
    await Lifecycle(kernel, run_migrations).activate(found, plugin, None)  # type: ignore[arg-type]
    return Scene(kernel, dsn, plugin)


async def test_an_effect_and_its_record_are_there_together(scene: Scene) -> None:
    note = await scene.act("add", NewNote("hello", password="correct-horse"))

    assert await scene.bodies() == ["hello"]
    target = f"/api/v1/x/acme.notes/notes/{note.id}"
    assert await scene.records() == [("done", "acme.notes.add", str(ADA), target)]
    (row,) = await scene.query("select * from pk.record")
    assert (row["tenant_id"], row["plugin"], row["request_id"]) == (scene.tenant, "acme.notes", "r-1")
    assert "correct-horse" not in str(dict(row))
    assert "hello" not in str(dict(row))


async def test_effect_and_record_are_of_one_transaction(scene: Scene) -> None:
    await scene.act("add", NewNote("hello"))

    (row,) = await scene.query("select r.xmin = n.xmin as same from pk.record r, x_acme_notes.notes n")
    assert row["same"]


async def test_what_is_rolled_back_leaves_no_record(scene: Scene) -> None:
    async def fail(call: Call) -> None:
        raise Conflict("no")

    scene.plugin.operations.then = fail
    with pytest.raises(Conflict):
        await scene.act("add", NewNote("hello"))

    assert (await scene.records(), await scene.bodies()) == ([], [])


async def test_a_session_that_ends_after_the_effect_leaves_neither(scene: Scene) -> None:
    async def end(call: Call) -> None:
        row = await (await call.tx()).fetch_one("select pg_backend_pid() as pid")
        assert row is not None
        await scene.query("select pg_terminate_backend($1, 5000)", row["pid"])

    scene.plugin.operations.then = end
    with pytest.raises(StoreUnavailable):
        await scene.act("add", NewNote("hello"))

    assert (await scene.records(), await scene.bodies()) == ([], [])


async def test_a_session_that_ends_after_the_record_leaves_neither(scene: Scene) -> None:
    """The last statement before the commit waits until it is ended: a trigger that is checked at the commit."""
    await scene.query("""create function public.end_it() returns trigger language plpgsql as $$
        begin perform pg_terminate_backend(pg_backend_pid()); perform pg_sleep(10); return null; end $$""")
    await scene.query("""create constraint trigger end_it after insert on pk.record deferrable initially deferred
        for each row execute function public.end_it()""")
    with pytest.raises(KernelError):
        await scene.act("add", NewNote("hello"))

    assert (await scene.records(), await scene.bodies()) == ([], [])


async def test_an_effect_that_cannot_be_recorded_is_none(scene: Scene) -> None:
    await scene.query("alter table pk.record rename to record_away")
    with pytest.raises(KernelError):
        await scene.act("add", NewNote("hello"))

    assert await scene.bodies() == []


async def test_what_has_no_transaction_is_recorded_in_one_of_its_own(scene: Scene) -> None:
    note_id = uuid4()
    await scene.act("forget", NoteRef(note_id))

    target = f"/api/v1/x/acme.notes/notes/{note_id}/forget"
    assert await scene.records() == [("done", "acme.notes.forget", str(ADA), target)]
    (row,) = await scene.query("select plugin, tenant_id from pk.record")
    assert (row["plugin"], row["tenant_id"]) == ("acme.notes", scene.tenant)


async def test_what_is_done_in_no_tenant_is_done_and_leaves_no_record(scene: Scene) -> None:
    """By the command line of a kernel that has no tenants: nobody could read it."""
    await scene.act("forget", NoteRef(uuid4()), tenant=UUID(int=0))
    with pytest.raises(NotAllowed):
        await scene.act("forget", NoteRef(uuid4()), tenant=UUID(int=0), allowed=False)

    assert await scene.query("select from pk.record") == []


async def test_what_is_streamed_is_recorded_when_it_begins(scene: Scene) -> None:
    note_id = uuid4()
    await scene.act("draw", NoteRef(note_id))

    target = f"/api/v1/x/acme.notes/notes/{note_id}/picture"
    assert await scene.records() == [("done", "acme.notes.draw", str(ADA), target)]


async def test_a_missing_permission_is_recorded_and_nothing_of_the_request(scene: Scene) -> None:
    with pytest.raises(NotAllowed):
        await scene.act("add", NewNote("hello", password="correct-horse"), allowed=False)

    assert await scene.records() == [("refused", "acme.notes.add", str(ADA), "/api/v1/x/acme.notes/notes")]
    (row,) = await scene.query("select * from pk.record")
    assert "correct-horse" not in str(dict(row))


async def test_a_refusal_after_the_effect_leaves_the_refusal_alone(scene: Scene) -> None:
    async def refuse(call: Call) -> None:
        raise NotAllowed("you hold too little")

    scene.plugin.operations.then = refuse
    with pytest.raises(NotAllowed):
        await scene.act("add", NewNote("hello"))

    assert await scene.bodies() == []
    assert [outcome for outcome, *_ in await scene.records()] == ["refused"]


async def test_a_refusal_stands_though_it_cannot_be_recorded(scene: Scene) -> None:
    await scene.query("alter table pk.record rename to record_away")
    with pytest.raises(NotAllowed):
        await scene.act("add", NewNote("hello"), allowed=False)

    assert await scene.query("select from pk.record_away") == []


async def test_refusals_at_once_are_all_recorded(scene: Scene) -> None:
    tries = (scene.act("forget", NoteRef(uuid4()), allowed=False) for _ in range(40))
    answers = await asyncio.gather(*tries, return_exceptions=True)

    assert {type(answer) for answer in answers} == {NotAllowed}
    assert len(await scene.records()) == 40


# ------------------------------------------------------------------------------------------------ forgetting


async def test_old_records_go_and_others_stay(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operations, "FORGET_BATCH", 10)
    await scene.backdate(25, 31)
    await scene.backdate(5, 29)

    assert await scene.retention(30).sweep_if_due()
    assert len(await scene.records()) == 5


async def test_of_all_workers_one_sweeps_in_an_hour(scene: Scene) -> None:
    first, second = scene.retention(30), scene.retention(30)
    turns = await asyncio.gather(*(one.sweep_if_due() for one in (first, second, first)))
    await scene.backdate(1, 31)

    assert sorted(turns) == [False, False, True]
    assert not await first.sweep_if_due()
    await scene.query("update pk.lease set expires_at = now() - interval '1 s' where name = 'audit:sweep'")
    assert await second.sweep_if_due()
    assert await scene.records() == []


async def test_one_sweep_deletes_so_many_and_no_more(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operations, "FORGET_BATCH", 10)
    monkeypatch.setattr(operations, "SWEEP_BATCHES_MAX", 2)
    await scene.backdate(25, 31)

    assert await scene.retention(30).sweep_if_due()

    assert len(await scene.records()) == 5


async def test_a_tenant_that_is_erased_leaves_no_record(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operations, "FORGET_BATCH", 10)
    await scene.backdate(25, 1)
    other = uuid7()
    await scene.act("add", NewNote("hello"), tenant=other)
    await scene.kernel.tenant_hooks.erased(Tenant(scene.tenant, "acme", "Acme"))
    await scene.kernel.tenant_hooks.erased(Tenant(scene.tenant, "acme", "Acme"))

    (row,) = await scene.query("select tenant_id from pk.record")
    assert row["tenant_id"] == other


async def test_records_are_kept_for_seven_years() -> None:
    assert Settings().keep_days == 7 * 365 + 2
