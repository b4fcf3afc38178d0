"""The gRPC door: what REST answers it answers too, from the table as it is now."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf import descriptor_pool, message_factory
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from host.kernel import Kernel
from host.lifecycle import Lifecycle
from host.rpc import RpcDoor
from tests.host.conftest import MANIFEST, FoundNotes, NotesPlugin, no_migrations

SERVICE = "pk.x.acme_notes.v1.Note"
READER, WRITER = ("authorization", "Bearer reader"), ("authorization", "Bearer writer")


@dataclass
class Reply:
    """The end of one call."""

    status: str
    message: Any
    text: str
    initial: dict[str, Any]
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
        return await self.raw(f"/{service}/{name}", request(**fields).SerializeToString(), *metadata, timeout=timeout, into=answer)

    async def raw(self, path: str, data: bytes, *metadata: tuple[str, str], timeout: float | None = 10.0, into: Any = None) -> Reply:
        """Send bytes."""
        call = self.channel.unary_unary(path)(data, metadata=metadata, timeout=timeout)
        try:
            got = await call
        except grpc.aio.AioRpcError as error:
            ends = [dict(one or ()) for one in (error.initial_metadata(), error.trailing_metadata())]
            return Reply(error.code().name, None, error.details() or "", *ends)
        message = into.FromString(got) if into is not None else got
        return Reply("OK", message, "", dict(await call.initial_metadata()), dict(await call.trailing_metadata()))


@dataclass
class Door:
    """A door that listens, the kernel behind it, and a client."""

    kernel: Kernel
    plugin: NotesPlugin
    rpc: RpcDoor
    client: Client
    lifecycle: Lifecycle


@pytest.fixture
async def door(bare_kernel: Kernel, tmp_path: Path, unused_tcp_port: int) -> AsyncIterator[Door]:
    lifecycle, plugin = Lifecycle(bare_kernel, no_migrations), NotesPlugin()
    found: Any = FoundNotes(MANIFEST, tmp_path)
    await lifecycle.activate(found, plugin, None)
    rpc = RpcDoor(bare_kernel)
    bare_kernel.is_ready = True
    await rpc.start(f"127.0.0.1:{unused_tcp_port}")
    client = Client(unused_tcp_port)
    yield Door(bare_kernel, plugin, rpc, client, lifecycle)
    await client.channel.close()
    await rpc.close(1.0)
    bare_kernel.stamps.close()  # type: ignore[attr-defined]


async def test_a_call_is_answered(door: Door) -> None:
    reply = await door.client.call("Keep", WRITER, ("x-request-id", "mine"), shelf="top", text="abc", copies=2)

    assert reply.status == "OK", reply
    assert (reply.message.shelf, reply.message.copies, reply.message.version) == ("top", 2, 1)
    assert reply.initial["x-request-id"] == "mine"
    assert reply.trailing["etag"] == '"1"'
