"""The gRPC door: what REST answers it answers too, from the table as it is now."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.rpc import error_details_pb2, status_pb2
from google.rpc.error_details_pb2 import BadRequest
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from host.kernel import Kernel
from host.lifecycle import Lifecycle
from host.observe import sink
from host.rpc import RpcDoor
from host.rpc_errors import DETAILS_BYTES_MAX, details_of, text_of, trailing_of
from host.sockets import reserve, show_address
from host.wire.lock import read_lock
from plugin_api.errors import InvalidRequest, Violation
from plugin_api.ids import uuid7
from plugin_api.limits import BODY_BYTES_MAX
from tests.host.conftest import MANIFEST, FoundNotes, Kept, NotesPlugin, no_migrations

SERVICE = "pk.x.acme_notes.v1.Note"
READER, WRITER = ("authorization", "Bearer reader"), ("authorization", "Bearer writer")


@dataclass
class Reply:
    """The end of one call."""

    status: str
    message: Any
    text: str
    trailing: dict[str, Any]

    def detail(self, kind: type) -> Any:
        """One of the details of a refusal."""
        status = status_pb2.Status.FromString(self.trailing["grpc-status-details-bin"])
        for one in status.details:
            found = kind()
            if one.Unpack(found):
                return found
        return None


class Client:
    """Knows nothing but what reflection tells."""

    def __init__(self, port: int) -> None:
        self.channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=[("grpc.enable_http_proxy", 0)])

    async def ask(self, version: str = "v1", **question: Any) -> Any:
        """One question to reflection."""
        path = f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo"
        kinds = reflection_pb2.ServerReflectionRequest, reflection_pb2.ServerReflectionResponse
        call = self.channel.stream_stream(path, kinds[0].SerializeToString, kinds[1].FromString)()
        await call.write(kinds[0](**question))
        answer = await call.read()
        await call.done_writing()
        assert await call.read() is grpc.aio.EOF
        return answer

    async def services(self, version: str = "v1") -> list[str]:
        """What reflection lists."""
        answer = await self.ask(version, list_services="")
        return [one.name for one in answer.list_services_response.service]

    async def method(self, service: str, name: str) -> tuple[Any, Any]:
        """The classes of a method's messages."""
        answer = await self.ask(file_containing_symbol=service)
        pool = descriptor_pool.DescriptorPool()
        for file in reversed(answer.file_descriptor_response.file_descriptor_proto):
            pool.AddSerializedFile(file)
        found = pool.FindServiceByName(service).methods_by_name[name]
        return message_factory.GetMessageClass(found.input_type), message_factory.GetMessageClass(found.output_type)

    async def call(
        self, name: str, *metadata: tuple[str, str], service: str = SERVICE, timeout: float | None = 10.0, **fields: Any
    ) -> Reply:
        """Call a method."""
        request, answer = await self.method(service, name)
        return await self.raw(
            f"/{service}/{name}", request(**fields).SerializeToString(), *metadata, timeout=timeout, into=answer
        )

    async def raw(
        self, path: str, data: bytes, *metadata: tuple[str, str], timeout: float | None = 10.0, into: Any = None
    ) -> Reply:
        """Send bytes."""
        call = self.channel.unary_unary(path)(data, metadata=metadata, timeout=timeout)
        try:
            got = await call
        except grpc.aio.AioRpcError as error:
            return Reply(error.code().name, None, error.details() or "", dict(error.trailing_metadata() or ()))
        message = into.FromString(got) if into is not None else got
        return Reply("OK", message, "", dict(await call.trailing_metadata()))


@dataclass
class Door:
    """A door that listens, the kernel behind it, and a client."""

    kernel: Kernel
    plugin: NotesPlugin
    rpc: RpcDoor
    client: Client
    lifecycle: Lifecycle


@pytest.fixture
async def door(bare_kernel: Kernel, tmp_path: Path) -> AsyncIterator[Door]:
    lifecycle, plugin = Lifecycle(bare_kernel, no_migrations), NotesPlugin()
    found: Any = FoundNotes(MANIFEST, tmp_path)
    await lifecycle.activate(found, plugin, None)
    rpc = RpcDoor(bare_kernel)
    bare_kernel.is_ready = True
    with reserve("127.0.0.1", 0, "--grpc-port") as held:
        await rpc.start(show_address(held))
        client = Client(held.getsockname()[1])
        yield Door(bare_kernel, plugin, rpc, client, lifecycle)
        await client.channel.close()
        await rpc.close(1.0)
    bare_kernel.stamps.close()  # type: ignore[attr-defined]


async def test_a_call_is_answered(door: Door) -> None:
    reply = await door.client.call("Keep", WRITER, ("x-request-id", "mine"), shelf="top", text="abc", copies=2)

    assert reply.status == "OK", reply
    assert (reply.message.shelf, reply.message.copies, reply.message.version) == ("top", 2, 1)
    assert reply.trailing["x-request-id"] == "mine"
    assert reply.trailing["etag"] == '"1"'


async def test_what_rest_answers_without_content_is_empty(door: Door) -> None:
    reply = await door.client.call("Drop", WRITER, shelf="a")

    assert (reply.status, reply.message.DESCRIPTOR.full_name) == ("OK", "google.protobuf.Empty")


async def test_a_call_knows_its_caller(door: Door) -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    given = [("x-request-id", "mine"), ("traceparent", trace), ("idempotency-key", "k-1"), ("if-match", '"3"')]
    await door.client.call("Keep", WRITER, *given, shelf="a", text="abc")

    [call] = door.plugin.operations.calls
    assert (call.actor.id, call.request_id, call.address, call.idempotency_key) == (
        "writer",
        "mine",
        "127.0.0.1",
        "k-1",
    )
    assert (call.if_match, call.trace and call.trace.trace_id) == ('"3"', "0af7651916cd43dd8448eb211c80319c")
    assert call.user_agent.startswith("grpc-python")


@pytest.mark.parametrize(
    "sent", ["", "with space", "x" * 65, "Grüße".encode().decode("latin-1")], ids=["none", "space", "long", "odd"]
)
async def test_a_request_id_that_is_none_is_made(door: Door, sent: str) -> None:
    given = [("x-request-id", sent)] if sent.isascii() and sent else []
    reply = await door.client.call("Hello", *given)

    assert reply.trailing["x-request-id"] not in ("", sent)


async def test_an_operation_may_add_a_header(door: Door) -> None:
    assert (await door.client.call("Hello")).trailing["x-greeting"] == "yes"


async def test_a_patch_needs_the_version(door: Door) -> None:
    none, other = (
        await door.client.call("Change", WRITER, shelf="a"),
        await door.client.call("Change", WRITER, ("if-match", '"2"'), shelf="a"),
    )

    assert (none.status, reason(none)) == ("FAILED_PRECONDITION", "precondition_required")
    assert (other.status, reason(other)) == ("FAILED_PRECONDITION", "precondition_failed")
    assert (await door.client.call("Change", WRITER, ("if-match", '"3"'), shelf="a")).status == "OK"


def reason(reply: Reply) -> str:
    """The code of a refusal, whose id is the one that was answered."""
    info = reply.detail(error_details_pb2.ErrorInfo)
    assert (info.domain, info.metadata["request_id"]) == ("platform-kernel", reply.trailing["x-request-id"])
    return str(info.reason)


async def test_refusals_say_what_rest_says(door: Door) -> None:
    nobody, liar = (
        await door.client.call("Drop", shelf="a"),
        await door.client.call("Drop", ("authorization", "Bearer x"), shelf="a"),
    )
    weak, closed = await door.client.call("Drop", READER, shelf="a"), await door.client.call("Closed")
    late = await door.client.call("Look", READER, shelf="a", wait_s=30)

    assert (nobody.status, reason(nobody)) == ("UNAUTHENTICATED", "not_authenticated")
    assert (liar.status, liar.text) == ("UNAUTHENTICATED", "nobody knows this name")
    assert (weak.status, reason(weak), "acme.notes.note.create" in weak.text) == (
        "PERMISSION_DENIED",
        "not_allowed",
        True,
    )
    assert (closed.status, reason(closed)) == ("ABORTED", "shelf_closed")
    assert (late.status, reason(late)) == ("DEADLINE_EXCEEDED", "deadline_passed")
    assert late.detail(error_details_pb2.RetryInfo).retry_delay.seconds == 1


async def test_all_violations_are_listed(door: Door) -> None:
    reply = await door.client.call("Keep", WRITER, shelf="a", text="x\0" + "y" * 30, copies=2**53)

    found = reply.detail(error_details_pb2.BadRequest).field_violations
    assert (reply.status, reason(reply)) == ("INVALID_ARGUMENT", "invalid_request")
    assert sorted((one.field, one.reason) for one in found) == [("copies", "bound"), ("text", "text")]
    assert not door.plugin.operations.calls


async def test_what_nobody_foresaw_is_hidden(door: Door) -> None:
    reply = await door.client.call("Trouble")

    assert (reply.status, reason(reply)) == ("INTERNAL", "kernel_bug")
    assert "inner-detail" not in repr(reply)


async def test_details_fit_into_what_clients_take() -> None:
    many = [
        Violation(f"/items/{n}/label", "length", "expected a text of 3 to 20 characters, seen " + "é" * 50)
        for n in range(100)
    ]
    error = InvalidRequest("ü" * 5_000, violations=many, headers={"Allow": "GET", "Odd": "ü", "Set-Cookie": "s=1"})

    found = BadRequest.FromString(
        next(one.value for one in unpacked(details_of(error, "id")) if one.type_url.endswith("BadRequest"))
    )
    assert len(details_of(error, "id")) <= DETAILS_BYTES_MAX
    assert len(text_of(error).encode()) <= 1_000
    assert len(found.field_violations) > 30
    assert (found.field_violations[0].field, found.field_violations[-1].reason) == ("items.0.label", "more")
    assert [name for name, _ in trailing_of(error, "id")] == ["allow", "x-request-id", "grpc-status-details-bin"]


def unpacked(details: bytes) -> Any:
    return status_pb2.Status.FromString(details).details


@pytest.mark.parametrize(
    "path", ["/nowhere/At", f"/{SERVICE}/Nothing", f"/{SERVICE}/keep", "/pk.x.acme_other.v1.Other/Do"]
)
async def test_what_is_not_there_is_unimplemented(door: Door, path: str) -> None:
    reply = await door.client.raw(path, b"", WRITER)

    assert (reply.status, reason(reply)) == ("UNIMPLEMENTED", "not_found")


@pytest.mark.parametrize(
    "data", [b"\xff\xff\xff\xff", b"\x0a\xff\x01short", b"\x0a\x02\xc3\x28"], ids=["noise", "cut", "no text"]
)
async def test_bytes_that_are_no_message_are_refused(door: Door, data: bytes) -> None:
    reply = await door.client.raw(f"/{SERVICE}/Keep", data, WRITER)

    assert (reply.status, reason(reply)) == ("INVALID_ARGUMENT", "malformed_message")


async def test_fields_that_nobody_knows_are_passed_over(door: Door) -> None:
    """As everywhere in protobuf: they are a later client's."""
    known, _ = await door.client.method(SERVICE, "Keep")
    data = known(shelf="a", text="abc").SerializeToString() + b"\xa0\x06\x01"  # field 100

    assert (await door.client.raw(f"/{SERVICE}/Keep", data, WRITER)).status == "OK"


@pytest.mark.parametrize(
    ("size", "told"), [(BODY_BYTES_MAX + 1_000, "larger than 1048576 bytes"), (32 << 20, "")], ids=["a little", "a lot"]
)
async def test_too_large_is_refused(door: Door, size: int, told: str) -> None:
    reply = await door.client.raw(f"/{SERVICE}/Keep", b"\x12" + varint(size) + b"x" * size, WRITER)

    assert reply.status == "RESOURCE_EXHAUSTED"
    assert told in reply.text
    assert (await door.client.call("Hello")).status == "OK"


def varint(value: int) -> bytes:
    found = b""
    while value > 127:
        found, value = found + bytes([value & 127 | 128]), value >> 7
    return found + bytes([value])


async def test_metadata_is_bounded(door: Door) -> None:
    assert (await door.client.call("Hello", ("x-more", "x" * 100_000))).status == "RESOURCE_EXHAUSTED"
    assert (await door.client.call("Hello", ("x-more", "x" * 4_000))).status == "OK"


async def test_metadata_that_must_be_single_stands_once(door: Door) -> None:
    reply = await door.client.call("Hello", ("idempotency-key", "a"), ("idempotency-key", "b"))

    assert (reply.status, reason(reply)) == ("INVALID_ARGUMENT", "bad_header")


async def test_a_caller_who_goes_away_ends_his_call(door: Door) -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def wait(call: Any, request: Any) -> None:
        begun.set()
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()

    swap(door, "look", wait)
    request, _ = await door.client.method(SERVICE, "Look")
    call = door.client.channel.unary_unary(f"/{SERVICE}/Look")(
        request(shelf="a").SerializeToString(), metadata=[READER]
    )
    async with asyncio.timeout(5):
        await begun.wait()
        call.cancel()
        await ended.wait()
    assert (await door.client.call("Hello")).status == "OK"


def swap(door: Door, name: str, function: Any) -> None:
    """Let an operation do something else."""
    (generation,) = door.kernel.table.generations.values()
    generation.operations[:] = [
        replace(one, function=function) if one.bound.id.endswith(f".{name}") else one for one in generation.operations
    ]
    door.kernel.publish(generation)


async def test_the_callers_deadline_shortens_ours_and_never_lengthens_it(door: Door) -> None:
    left: list[float] = []

    async def look(call: Any, request: Any) -> Any:
        left.append(call.remaining_s())
        return Kept(uuid7(), 1, "a", "", 1)

    swap(door, "look", look)
    for timeout in (None, 60.0, 0.1):
        await door.client.call("Look", READER, shelf="a", timeout=timeout)

    assert 0.1 < left[0] <= 0.2  # what the operation declares
    assert 0.1 < left[1] <= 0.2
    assert left[2] <= 0.1


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
async def test_reflection_tells_what_is_active_now(door: Door, version: str) -> None:
    own = ["grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection"]
    assert await door.client.services(version) == [*own, SERVICE]

    await door.lifecycle.deactivate("acme.notes")
    assert await door.client.services(version) == own
    assert (await door.client.ask(version, file_containing_symbol=SERVICE)).error_response.error_code == 5
    assert (await door.client.raw(f"/{SERVICE}/Hello", b"")).status == "UNIMPLEMENTED"


@pytest.mark.parametrize(
    "symbol",
    ["grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflectionRequest",
     f"{SERVICE}.Keep", "pk.x.acme_notes.v1.Kept", "pk.x.acme_notes.v1.Kept.copies", "google.protobuf.Empty"],
)  # fmt: skip
async def test_every_symbol_is_described(door: Door, symbol: str) -> None:
    answer = (await door.client.ask(file_containing_symbol=symbol)).file_descriptor_response
    pool = descriptor_pool.DescriptorPool()
    for file in reversed(answer.file_descriptor_proto):
        pool.AddSerializedFile(file)

    file = descriptor_pb2.FileDescriptorProto.FromString(answer.file_descriptor_proto[0])
    assert symbol.startswith(file.package)
    assert (await door.client.ask(file_by_filename=file.name)).file_descriptor_response == answer


async def test_reflection_says_what_it_does_not_know(door: Door) -> None:
    for question in (
        {"file_containing_symbol": "x" * 100_000},
        {"file_by_filename": "no.proto"},
        {"all_extension_numbers_of_type": "no.Type"},
    ):
        assert (await door.client.ask(**question)).error_response.error_code == 5
    assert (await door.client.ask(host="x")).error_response.error_code == 3


async def health(door: Door, service: str = "") -> str:
    reply = await door.client.raw(
        "/grpc.health.v1.Health/Check", health_pb2.HealthCheckRequest(service=service).SerializeToString()
    )
    if reply.status != "OK":
        return reply.status
    return str(
        health_pb2.HealthCheckResponse.ServingStatus.Name(
            health_pb2.HealthCheckResponse.FromString(reply.message).status
        )
    )


async def test_health_follows_the_worker(door: Door) -> None:
    assert [await health(door), await health(door, SERVICE), await health(door, "no.Such")] == [
        "SERVING",
        "SERVING",
        "NOT_FOUND",
    ]
    door.kernel.is_ready = False
    assert await health(door) == "NOT_SERVING"


async def test_who_watches_is_told_when_the_worker_drains_and_holds_nothing_up(door: Door) -> None:
    path, ask = "/grpc.health.v1.Health/Watch", health_pb2.HealthCheckRequest().SerializeToString()
    watching = door.client.channel.unary_stream(path)(ask)
    assert await watching.read() == b"\x08\x01"
    reflecting = door.client.channel.stream_stream("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo")()
    await reflecting.write(reflection_pb2.ServerReflectionRequest(list_services="").SerializeToString())
    await reflecting.read()

    begun = asyncio.get_running_loop().time()
    await door.rpc.close(30.0)
    assert asyncio.get_running_loop().time() - begun < 10
    assert await watching.read() == b"\x08\x02"
    assert await watching.read() is grpc.aio.EOF


async def test_a_call_under_way_ends_when_the_worker_drains(door: Door) -> None:
    begun, going = asyncio.Event(), asyncio.Event()

    async def wait(call: Any, request: Any) -> Any:
        begun.set()
        await going.wait()
        return Kept(uuid7(), 1, request.shelf, "", 1)

    swap(door, "keep", wait)
    call = asyncio.create_task(door.client.call("Keep", WRITER, shelf="a", text="abc"))
    await begun.wait()
    closing = asyncio.create_task(door.rpc.close(30.0))
    await asyncio.sleep(0)
    going.set()
    assert (await call).status == "OK"
    await closing


async def test_calls_are_counted_and_logged(door: Door, capfd: pytest.CaptureFixture[str]) -> None:
    await door.client.call("Keep", WRITER, ("x-request-id", "mine"), shelf="a", text="abc")
    await door.client.raw("/no.Such/Method", b"")
    sink.flush()

    lines = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    told = next(line for line in lines if line.get("request_id") == "mine")
    assert (told["msg"], told["plugin"], told["status"]) == ("request", "acme.notes", 201)
    assert told["route"] == "POST /api/v1/x/acme.notes/shelves/{shelf}/notes"
    counted = {
        (one["labels"]["door"], one["labels"]["operation"], one["labels"]["status"])
        for one in door.kernel.metrics.families()[0]["samples"]
    }
    assert counted == {("grpc", "acme.notes.keep", "201"), ("grpc", "", "404")}


async def test_a_plugin_that_has_no_form_takes_nothing_from_others(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    (generation,) = door.kernel.table.generations.values()
    generation.wire = None
    monkeypatch.setattr("host.rpc.serve", lambda *_: 1 / 0)

    assert SERVICE not in await door.client.services()
    reply = await door.client.raw(f"/{SERVICE}/Hello", b"")
    assert (reply.status, reply.text) == ("UNIMPLEMENTED", "this operation has no method in gRPC; use REST")


async def test_numbers_are_kept_for_a_plugin_without_a_lock(door: Door) -> None:
    await door.client.services()

    kept = read_lock(door.kernel.data_folder / "plugins" / "wire" / "acme.notes.lock")
    assert kept is not None
    assert kept.messages["Kept"].fields["id"].number == 1
