"""The slot `record`: who is told of what was done and of what was refused, and that it costs nobody their answer."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from msgspec import Struct

from host import recording
from host.generations import Generation
from host.kernel import Kernel
from host.lifecycle import ActivationFailed, Lifecycle
from host.observe import sink
from plugin_api import Call, Registrar, hookimpl, operation
from plugin_api.call import Actor
from plugin_api.errors import Conflict, NotAllowed, NotFound
from plugin_api.ids import uuid7
from plugin_api.manifest import Manifest
from plugin_api.pipeline import BoundOperation, PipelineSlots, Recorder
from tests.host.conftest import TENANT, Door, NotesPlugin, open_door

NOTE = b'{"text": "hello"}'
JSON = "Content-Type: application/json"
Told = tuple[str, str, Any]


class Thing(Struct, frozen=True, forbid_unknown_fields=True):
    name: str


class Made(Struct, frozen=True):
    id: str


class Things:
    """Operations that end in every way that there is."""

    @operation("POST /things/{name}", permission="thing.create")
    async def make(self, call: Call, request: Thing) -> Made:
        """Make one; what the name says may go wrong."""
        if request.name == "forbidden":
            raise NotAllowed("not this one")
        if request.name == "taken":
            raise Conflict("there is one")
        if request.name == "broken":
            raise RuntimeError("inner detail")
        return Made(request.name)

    @operation("GET /things/{name}", permission="thing.create")
    async def look(self, call: Call, request: Thing) -> Made:
        """Look at one."""
        return await self.make(call, request)

    @operation("PUT /things/{name}", public=True)
    async def offer(self, call: Call, request: Thing) -> Made:
        """Offer one, whoever one is."""
        return await self.make(call, request)


class Quiet:
    """One that changes nothing."""

    @operation("POST /ask/{name}", permission="thing.create", recorded=False)
    async def ask(self, call: Call, request: Thing) -> Made:
        """Ask."""
        return Made(request.name)


@dataclass
class Notebook:
    """A plugin that fills `record`, and keeps what it is told."""

    told: list[Told] = field(default_factory=list)
    made_for: list[str] = field(default_factory=list)
    fault: BaseException | None = None
    hangs: bool = False

    @hookimpl
    def pk_pipeline(self, slots: PipelineSlots) -> None:
        slots.record(self.recorder)

    def recorder(self, bound: BoundOperation) -> Recorder:
        self.made_for.append(bound.id)
        return Page(self, bound)


@dataclass
class Page:
    """Records one operation."""

    book: Notebook
    bound: BoundOperation

    async def done(self, call: Call, request: Any, answer: Any) -> None:
        self.book.told.append(("done", self.bound.id, (request, answer)))
        if self.book.fault is not None:
            raise self.book.fault

    async def refused(self, call: Call, parameters: Mapping[str, str], error: NotAllowed) -> None:
        self.book.told.append(("refused", self.bound.id, (str(call.actor), call.tenant_id, dict(parameters))))
        if self.book.hangs:
            await asyncio.Event().wait()
        if self.book.fault is not None:
            raise self.book.fault


class Found:
    """What discovery would give."""

    def __init__(self, plugin_id: str, folder: Path, **more: Any) -> None:
        self.manifest = Manifest(id=plugin_id, version="1.0.0", api=">=1.0,<2", summary="x", **more)
        self.folder = folder


async def no_migrations(generation: Generation, found: Any) -> list[str]:
    return []


def registering(owner: object) -> Any:
    class Plugin:
        @hookimpl
        def pk_register(self, registrar: Registrar) -> None:
            registrar.operations(owner)

    return Plugin()


async def activate(kernel: Kernel, plugin_id: str, folder: Path, plugin: Any, **manifest: Any) -> Generation:
    found: Any = Found(plugin_id, folder, **manifest)
    return await Lifecycle(kernel, no_migrations).activate(found, plugin, None)


@dataclass
class Scene:
    """A door, and the notebook of what is recorded."""

    door: Door
    book: Notebook
    folder: Path

    @property
    def kernel(self) -> Kernel:
        return self.door.kernel

    async def ask(self, line: str, who: str = "writer", body: bytes = b"") -> int:
        status, _, _ = await self.door.ask(line, f"Authorization: Bearer {who}", JSON, body=body)
        return status

    async def call(self, name: str, *, allowed: bool = True) -> Any:
        """Call `make` of the things as another plugin would."""
        generation = self.kernel.table.generations["acme.things"]
        call = Call(
            self.kernel.runtime(generation),
            tenant_id=TENANT,
            actor=Actor("plugin", "acme.caller"),
            request_id="r",
            deadline=1e12,
            allows=lambda permission: allowed,
        )
        return await self.kernel.table.inner["acme.things", "make"].invoke(call, Thing(name))


@pytest.fixture
async def scene(bare_kernel: Kernel, tmp_path: Path) -> AsyncIterator[Scene]:
    door, book = await open_door(bare_kernel, NotesPlugin(), tmp_path), Notebook()
    permissions = {"thing.create": "Make things"}
    things = registering(Things())
    await activate(bare_kernel, "acme.things", tmp_path, things, provides=["acme.things 1.0"], permissions=permissions)
    await activate(bare_kernel, "kernel.quiet", tmp_path, registering(Quiet()), permissions=permissions)
    await activate(bare_kernel, "kernel.book", tmp_path, book)
    yield Scene(door, book, tmp_path)
    await door.close()


# ---------------------------------------------------------------------------------------------------- at the door


async def test_what_was_done_is_told_with_request_and_answer(scene: Scene) -> None:
    assert await scene.ask("POST /api/v1/x/acme.notes/shelves/top/notes", body=NOTE) == 201

    ((outcome, name, (request, answer)),) = scene.book.told
    assert (outcome, name) == ("done", "acme.notes.keep")
    assert (request.shelf, request.text, answer.text) == ("top", "hello", "hello")


async def test_a_missing_permission_is_told_before_the_request_is_read(scene: Scene) -> None:
    assert await scene.ask("POST /api/v1/x/acme.notes/shelves/a%2Fb/notes", "reader", b"no JSON at all") == 403

    assert scene.book.told == [("refused", "acme.notes.keep", ("user:reader", TENANT, {"shelf": "a/b"}))]


@pytest.mark.parametrize(
    ("line", "who", "status"),
    [
        ("GET /api/v1/x/acme.notes/shelves/top", "reader", 200),
        ("GET /api/v1/x/acme.things/things/forbidden", "reader", 403),
        ("POST /api/v1/x/acme.notes/shelves/top/notes", "nobody", 401),
        ("PATCH /api/v1/x/acme.notes/shelves/top", "writer", 428),
        ("PUT /api/v1/x/acme.things/things/forbidden", "reader", 403),
        ("POST /api/v1/quiet/ask/x", "reader", 403),
    ],
    ids=["read", "read-refused", "unknown", "no-version", "no-tenant", "unrecorded"],
)
async def test_what_is_nobodys_record_is_told_to_nobody(scene: Scene, line: str, who: str, status: int) -> None:
    assert await scene.ask(line, who, NOTE if line.endswith("notes") else b"") == status

    assert scene.book.told == []


async def test_a_public_operation_is_told_though_it_is_in_no_tenant(scene: Scene) -> None:
    assert await scene.ask("PUT /api/v1/x/acme.things/things/x", body=b"{}") == 200

    ((outcome, name, _),) = scene.book.told
    assert (outcome, name) == ("done", "acme.things.offer")


def test_only_operations_that_change_something_have_recorders(scene: Scene) -> None:
    assert {"acme.notes.keep", "acme.notes.change", "acme.notes.drop", "acme.things.make"} <= set(scene.book.made_for)
    assert not {"acme.notes.look", "acme.notes.hello", "acme.things.look", "quiet.ask"} & set(scene.book.made_for)


async def test_a_record_that_cannot_be_written_fails_the_call(scene: Scene) -> None:
    scene.book.fault = Conflict("the book is full")

    assert await scene.ask("POST /api/v1/x/acme.notes/shelves/top/notes", body=NOTE) == 409


@pytest.mark.parametrize("fault", [RuntimeError("no ink"), SystemExit(3)], ids=["raises", "exits"])
async def test_a_refusal_that_cannot_be_written_is_logged_and_stands(
    scene: Scene, fault: BaseException, capfd: pytest.CaptureFixture[str]
) -> None:
    scene.book.fault = fault

    assert await scene.ask("DELETE /api/v1/x/acme.notes/shelves/top", "reader") == 403

    sink.flush()
    (line,) = [json.loads(one) for one in capfd.readouterr().err.splitlines() if "a refusal was not recorded" in one]
    assert (line["level"], line["operation"]) == ("error", "acme.notes.drop")
    assert line["why"].startswith(type(fault).__name__)


async def test_a_refusal_waits_for_its_record_so_long_and_no_longer(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(recording, "RECORD_REFUSED_S", 0.01)
    scene.book.hangs = True

    assert await scene.ask("DELETE /api/v1/x/acme.notes/shelves/top", "reader") == 403

    sink.flush()
    assert "a refusal was not recorded" in capfd.readouterr().err


# ---------------------------------------------------------------------------------------------- between plugins


async def test_a_call_of_another_plugin_is_told_as_any_other(scene: Scene) -> None:
    assert (await scene.call("x")).id == "x"

    assert scene.book.told == [("done", "acme.things.make", (Thing("x"), Made("x")))]


@pytest.mark.parametrize(("name", "allowed"), [("x", False), ("forbidden", True)], ids=["no-permission", "inside"])
async def test_a_refused_call_of_another_plugin_is_told(scene: Scene, name: str, allowed: bool) -> None:
    with pytest.raises(NotAllowed):
        await scene.call(name, allowed=allowed)

    who = ("plugin:acme.caller", TENANT, {"name": name})
    assert scene.book.told == [("refused", "acme.things.make", who)]


@pytest.mark.parametrize(("name", "error"), [("taken", Conflict), ("broken", RuntimeError)])
async def test_what_fails_otherwise_is_told_to_nobody(scene: Scene, name: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        await scene.call(name)

    assert scene.book.told == []


async def test_several_plugins_may_record(scene: Scene) -> None:
    other = Notebook()
    await activate(scene.kernel, "acme.book", scene.folder, other)
    await scene.call("x")

    assert scene.book.told == other.told != []


async def test_without_recorders_nothing_stands_between_run_and_transaction(scene: Scene) -> None:
    bound = next(
        o.registered.bound for o in scene.kernel.table.operations if o.registered.bound.id == "acme.things.make"
    )
    await Lifecycle(scene.kernel, no_migrations).deactivate("kernel.book")

    async def run(call: Call, request: Any) -> None:
        raise NotFound("never asked")

    assert recording.recorders_of(bound, scene.kernel.table) == []
    assert recording.with_done(run, []) is run
    assert recording.compile_refused(bound, []) is None


async def test_only_the_kernels_plugins_may_go_unrecorded(scene: Scene) -> None:
    with pytest.raises(ActivationFailed, match="recorded=False, which only kernel plugins may; leave it out"):
        await activate(
            scene.kernel, "acme.quiet", scene.folder, registering(Quiet()), permissions={"thing.create": "x"}
        )


def test_an_id_in_the_path_is_text() -> None:
    class Ref(Struct, frozen=True):
        thing_id: Any

    spec = operation("POST /things/{thing_id}")(lambda: None).__pk_operation__  # type: ignore[attr-defined]
    bound = BoundOperation("a.b", "acme.a", "a", spec, "POST", spec.path, None)
    thing_id = uuid7()

    assert bound.parameters(Ref(thing_id)) == {"thing_id": str(thing_id)}
    assert bound.parameters(Ref(7)) == {"thing_id": "7"}
    assert bound.parameters(object()) == {"thing_id": ""}
