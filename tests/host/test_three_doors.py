"""One table through REST, through gRPC and from another plugin in the process: one value, one error, the same violations."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest
from google.protobuf import json_format
from google.rpc import error_details_pb2
from msgspec.structs import replace

from host.kernel import Kernel
from host.lifecycle import Lifecycle
from host.pipeline import as_kernel_error
from host.rpc import RpcDoor
from host.sockets import reserve, show_address
from plugin_api import hookimpl
from plugin_api.call import Call
from plugin_api.manifest import Manifest
from plugin_api.operation import operation
from plugin_api.registrar import Registrar
from plugin_api.services import ServiceKey, Services
from tests.host.conftest import MANIFEST, Door, FoundNotes, Note, NotesPlugin, Nothing, Shelf, no_migrations, open_door
from tests.host.test_rpc import Client

NOTES: ServiceKey[Any] = ServiceKey("acme.notes")
ASKER = Manifest(id="acme.asker", version="1.0.0", api=">=1.0,<2", summary="Asks", requires=["acme.notes >=1"])
Outcome = tuple[str, Any]
"""`OK` and the answer as REST has it, or the code of a refusal with the words of its violations by their places."""


@dataclass(frozen=True)
class Asked:
    """A row of the table."""

    name: str
    verb: str
    path: str
    request: Any
    caller: str = "writer"
    version: str = ""
    outcome: str = "OK"

    @property
    def headers(self) -> list[tuple[str, str]]:
        """What both doors are told beside the request."""
        found = [("authorization", f"Bearer {self.caller}")] if self.caller else []
        return [*found, *([("if-match", self.version)] if self.version else [])]


ROWS = {
    "a value": Asked("keep", "POST", "/shelves/{shelf}/notes", Note("a", "abc", 3)),
    "a default": Asked("keep", "POST", "/shelves/{shelf}/notes", Note("a", "abc")),
    "too short": Asked("keep", "POST", "/shelves/{shelf}/notes", Note("a", "x"), outcome="invalid_request"),
    "all wrong": Asked("keep", "POST", "/shelves/{shelf}/notes", Note("a", "x" * 30, 0), outcome="invalid_request"),
    "NUL": Asked("keep", "POST", "/shelves/{shelf}/notes", Note("a", "a\0b", 3), outcome="invalid_request"),
    "NUL and all wrong": Asked("keep", "POST", "/shelves/{shelf}/notes", Note("a", "\0" * 30, 2**60), outcome="invalid_request"),
    "not allowed": Asked("keep", "POST", "/shelves/{shelf}/notes", Note("a", "abc"), "reader", outcome="not_allowed"),
    "no answer": Asked("drop", "DELETE", "/shelves/{shelf}", Shelf("a")),
    "reads": Asked("look", "GET", "/shelves/{shelf}", Shelf("a"), "reader"),
    "that version": Asked("change", "PATCH", "/shelves/{shelf}", Shelf("a"), version='"3"'),
    "another version": Asked("change", "PATCH", "/shelves/{shelf}", Shelf("a"), version='"2"', outcome="precondition_failed"),
    "its own refusal": Asked("closed", "GET", "/closed", Nothing(), "", outcome="shelf_closed"),
    "a bug": Asked("trouble", "GET", "/trouble", Nothing(), "", outcome="kernel_bug"),
    "a stranger": Asked("keep", "POST", "/shelves/{shelf}/notes", Note("a", "abc"), "", outcome="not_authenticated"),
    "anybody": Asked("hello", "GET", "/hello", Nothing(), ""),
}  # fmt: skip


class AskingOperations:
    """Asks the plugin of notes for what the test has put here, with the caller's own rights."""

    def __init__(self, services: Services) -> None:
        self._notes = services.get(NOTES)
        self.asked: Asked = ROWS["anybody"]
        self.answer: Any = None
        self.error: BaseException | None = None

    async def _ask(self, call: Call) -> Nothing:
        self.answer = self.error = None
        try:
            self.answer = await getattr(self._notes, self.asked.name)(call, self.asked.request)
        except Exception as error:
            self.error = error
        return Nothing()

    @operation("POST /known")
    async def ask(self, call: Call, request: Nothing) -> Nothing:
        """Ask as somebody."""
        return await self._ask(call)

    @operation("POST /unknown", public=True)
    async def ask_as_nobody(self, call: Call, request: Nothing) -> Nothing:
        """Ask as nobody."""
        return await self._ask(call)


@dataclass
class Asker:
    """The other plugin."""

    operations: list[AskingOperations] = field(default_factory=list)

    @hookimpl
    def pk_register(self, registrar: Registrar) -> None:
        self.operations.append(AskingOperations(registrar.services))
        registrar.operations(self.operations[0])


@dataclass
class Doors:
    """Both doors of one kernel, and the plugin that asks inside it."""

    rest: Door
    rpc: Client
    asker: Asker

    async def by_rest(self, asked: Asked) -> Outcome:
        fields = msgspec.to_builtins(asked.request)
        path = asked.path.format(shelf=fields.pop("shelf", ""))
        headers = [f"{name}: {value}" for name, value in asked.headers]
        body = json.dumps(fields).encode() if asked.verb in ("POST", "PATCH") else b""
        headers += ["Content-Type: application/json"] if body else []
        status, _, answer = await self.rest.ask(f"{asked.verb} /api/v1/x/acme.notes{path}", *headers, body=body)
        document = json.loads(answer or b"{}")
        if status < 400:
            return "OK", document
        places = {".".join(one["pointer"].split("/")[1:]): one["code"] for one in document.get("errors", ())}
        return document["code"], places

    async def by_grpc(self, asked: Asked) -> Outcome:
        fields = msgspec.to_builtins(asked.request)
        reply = await self.rpc.call(asked.name.capitalize(), *asked.headers, **fields)
        if reply.status == "OK":
            told = json_format.MessageToDict(
                reply.message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
            )
            return "OK", {name: int(one) if name in ("version", "copies") else one for name, one in told.items()}
        bad = reply.detail(error_details_pb2.BadRequest)
        places = {one.field: one.reason for one in bad.field_violations} if bad is not None else {}
        return reply.detail(error_details_pb2.ErrorInfo).reason, places

    async def inside(self, asked: Asked) -> Outcome:
        (asking,) = self.asker.operations
        asking.asked = asked
        headers = ["Content-Type: application/json", *(f"{name}: {value}" for name, value in asked.headers)]
        place = "known" if asked.caller else "unknown"
        status, _, answer = await self.rest.ask(f"POST /api/v1/x/acme.asker/{place}", *headers, body=b"{}")
        assert status == 200, answer
        if asking.error is None:
            return "OK", msgspec.to_builtins(asking.answer) if asking.answer is not None else {}
        known = as_kernel_error(asking.error)
        return known.code, {".".join(one.pointer.split("/")[1:]): one.code for one in known.violations}


@pytest.fixture
async def doors(bare_kernel: Kernel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Doors]:
    monkeypatch.setattr("tests.host.conftest.MANIFEST", replace(MANIFEST, provides=["acme.notes 1.0"]))
    rest, asker = await open_door(bare_kernel, NotesPlugin(), tmp_path), Asker()
    found: Any = FoundNotes(ASKER, tmp_path)
    await Lifecycle(bare_kernel, no_migrations).activate(found, asker, None)
    rpc = RpcDoor(bare_kernel)
    with reserve("127.0.0.1", 0, "--grpc-port") as held:
        await rpc.start(show_address(held))
        client = Client(held.getsockname()[1])
        yield Doors(rest, client, asker)
        await client.channel.close()
        await rpc.close(1.0)
    await rest.close()


@pytest.mark.parametrize("row", ROWS)
async def test_all_three_say_the_same(doors: Doors, row: str) -> None:
    asked = ROWS[row]
    told = [await way(asked) for way in (doors.by_rest, doors.by_grpc, doors.inside)]
    for code, value in told:
        if code == "OK":
            value.pop("id", None)

    assert told[0] == told[1] == told[2]
    assert told[0][0] == asked.outcome
    assert (told[0][1] == {}) == (asked.outcome not in ("OK", "invalid_request") or asked.name == "drop")


async def test_only_callers_outside_have_to_tell_the_version(doors: Doors) -> None:
    """Inside, what was read before is read in the same request as a rule; who wants to can still be held to a version."""
    asked = Asked("change", "PATCH", "/shelves/{shelf}", Shelf("a"))

    assert await doors.by_rest(asked) == await doors.by_grpc(asked) == ("precondition_required", {})
    assert (await doors.inside(asked))[0] == "OK"
