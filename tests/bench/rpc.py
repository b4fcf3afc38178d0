"""What a call of gRPC costs, against the library alone and against a call in the process."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
from google.protobuf import descriptor_pool, message_factory
from grpc_reflection.v1alpha import reflection_pb2
from kernel import Kernel
from measure import Figure, HttpLoad, Side, interleaved
from run import COUNT, ROUNDS, http, reference

LOAD = Path(__file__).with_name("rpc_load.py")
SERVICE = "pk.x.bench_invoice.v1.Invoice"
TEXT = "Consulting in November, thirty days net"
SPINS, SPIN = 10, 2_000


class RpcLoad:
    """Makes one prepared call over and over from a process of its own; every answer must be as long as the question."""

    def __init__(self, port: int, path: str, message: bytes, token: str) -> None:
        self._port = port
        self._length = len(message)
        asked = {"path": path, "metadata": [("authorization", f"Bearer {token}")], "message": message.hex()}
        self._asked = json.dumps(asked).encode()

    async def __call__(self, count: int) -> None:
        """Make `count` calls. AssertionError when an answer was another or did not come."""
        client = await asyncio.create_subprocess_exec(
            sys.executable, str(LOAD), str(self._port), str(count), str(self._length), stdin=asyncio.subprocess.PIPE
        )
        await client.communicate(self._asked)
        assert client.returncode == 0, f"expected {count} answers of {self._length} bytes from port {self._port}"


async def _message(port: int) -> bytes:
    """The request, made of nothing but what reflection tells; the server must answer it in kind."""
    kinds: tuple[Any, Any] = reflection_pb2.ServerReflectionRequest, reflection_pb2.ServerReflectionResponse
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        path = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
        call = channel.stream_stream(path, kinds[0].SerializeToString, kinds[1].FromString)()
        await call.write(kinds[0](file_containing_symbol=SERVICE))
        answer = await call.read()
        await call.done_writing()
    pool = descriptor_pool.DescriptorPool()
    for file in reversed(answer.file_descriptor_response.file_descriptor_proto):
        pool.AddSerializedFile(file)
    request = pool.FindServiceByName(SERVICE).methods_by_name["Echo"].input_type
    sent: bytes = message_factory.GetMessageClass(request)(text=TEXT).SerializeToString()
    return sent


async def rpc() -> list[Figure]:
    """The whole pipeline against the library's own echo, and the same call in the process against both."""
    async with Kernel() as kernel, reference("rpc") as (bare, bare_port):
        await kernel.log_in()
        port = int(kernel.places()["grpc"].rsplit(":", 1)[1])
        message, path = await _message(port), f"/{SERVICE}/Echo"
        spin = HttpLoad(
            kernel.port, http("GET", f"/api/v1/x/bench.invoice/echo_spins?count={SPIN}", token=kernel.token)
        )

        loads = [RpcLoad(one, path, message, kernel.token) for one in (bare_port, port)]
        sides = [Side([bare], loads[0]), Side([kernel.worker], loads[1]), Side([kernel.worker], lambda _: spin(SPINS))]
        alone, ours, spins = await interleaved(sides, count=COUNT, rounds=ROUNDS)
    kernel.remove()
    inner = [one * COUNT / (SPINS * SPIN) for one in spins]
    return [
        Figure("rpc", [a / o for a, o in zip(alone, ours, strict=True)], 0.8,
               "grpc.aio handing back the bytes / echo of a text with token, async operation, log line, metrics; CPU of the server"),
        Figure("rpc_inprocess", [o / i for o, i in zip(ours, inner, strict=True)], 50.0,
               "CPU of the server for that call over gRPC / for the same call in the process, checked and validated"),
    ]  # fmt: skip
