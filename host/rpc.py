"""The gRPC door: one generic handler over the kernel's current table, with the pipeline that REST has.

Nothing is registered with the library, which could never take it back: each call looks into the table as it is now.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

import grpc
import grpc.aio
import msgspec
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from host.expiry import Expiry, running_task
from host.observe import log_context, sink
from host.pipeline import CompiledOperation, as_kernel_error
from host.reflection import HEALTH, REFLECTION, Health, Reflection
from host.remote.errors import CLASS_KEY, class_of
from host.remote.service import KernelService
from host.rpc_call import RpcCall
from host.rpc_errors import REQUEST_ID_KEY, metadata_of, status_of, text_of, trailing_of
from host.tracing import about_call, begin, end_rpc
from host.wire.served import ServedContract, serve
from plugin_api.errors import DeadlinePassed, KernelBug, KernelError, NotFound, Unavailable
from plugin_api.limits import (
    CONNECTIONS_MAX,
    METADATA_BYTES_MAX,
    REQUESTS_IN_FLIGHT_MAX,
    STREAMS_PER_CONNECTION_MAX,
)

if TYPE_CHECKING:
    from host.generations import Generation
    from host.kernel import Kernel

MESSAGE_OVERHEAD_BYTES: Final = 65_536
"""Beyond the limit of a body: what is a little too large is refused by us, with a text, and the rest by the library."""
HANDLERS_MAX: Final = 1_000
"""Handlers that are kept, each of which knows its path and nothing else: to make one costs as much as a call's log line."""
CANCELLED: Final = 499
"""For log and metrics, where a client has gone away; HTTP has no status for it."""
_decode: Final = msgspec.json.Decoder().decode
_Answer = Callable[[bytes, Any], Awaitable[bytes]]


class NoSuchMethod(NotFound):
    """There is no such service or method, or none that gRPC has a form for."""

    grpc_status = "UNIMPLEMENTED"


def _options(body_bytes_max: int) -> list[tuple[str, int]]:
    return [
        ("grpc.so_reuseport", 1),
        ("grpc.max_receive_message_length", body_bytes_max + MESSAGE_OVERHEAD_BYTES),
        ("grpc.max_send_message_length", -1),
        ("grpc.max_metadata_size", METADATA_BYTES_MAX),
        ("grpc.absolute_max_metadata_size", METADATA_BYTES_MAX),
        ("grpc.max_allowed_incoming_connections", CONNECTIONS_MAX),
        ("grpc.max_concurrent_streams", STREAMS_PER_CONNECTION_MAX),
        ("grpc.server_handshake_timeout_ms", 10_000),
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.keepalive_timeout_ms", 20_000),
        ("grpc.http2.max_ping_strikes", 2),
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
        ("grpc.max_connection_idle_ms", 600_000),
    ]


class RpcDoor(grpc.GenericRpcHandler):  # type: ignore[misc] # the library has no types
    """Answers gRPC calls from the kernel's current table."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._in_flight = 0
        self._closing = asyncio.Event()
        self._reflection = Reflection(self._contracts)
        self._health = Health(self._reflection.services, self._is_ready)
        self._for_kernels = KernelService(kernel)
        self._own = {**self._own_handlers(), **self._for_kernels.handlers()}
        self._handlers = lru_cache(HANDLERS_MAX)(self._handler)
        self._server: Any = None

    async def start(self, address: str, credentials: Any = None) -> None:
        """Listen beside the other workers on a port that the parent holds. RuntimeError when that cannot be."""
        await asyncio.to_thread(lambda: list(self._contracts()))
        options = _options(self._kernel.body_bytes_max)
        server = self._server = grpc.aio.server(options=options, maximum_concurrent_rpcs=2 * REQUESTS_IN_FLIGHT_MAX)
        server.add_generic_rpc_handlers((self,))
        if credentials is None:
            server.add_insecure_port(address)
        else:
            server.add_secure_port(address, credentials)
        await server.start()

    async def close(self, grace_s: float) -> None:
        """Say NOT_SERVING, take nothing new, let calls end for up to `grace_s`, hang up."""
        self._closing.set()
        self._health.close()
        if self._server is not None:
            await self._server.stop(grace_s)

    def _is_ready(self) -> bool:
        return self._kernel.is_ready and not self._closing.is_set()

    # ------------------------------------------------------------------------------------ what there is

    def _contracts(self) -> Iterator[ServedContract]:
        for generation in self._kernel.table.generations.values():
            contract = self._contract_of(generation)
            if contract is not None:
                yield contract

    def _contract_of(self, generation: Generation) -> ServedContract | None:
        """Made at the first question and kept with the generation, so that it goes with it."""
        if generation.wire is None and generation.operations and not generation.has_no_wire:
            try:
                generation.wire = serve(generation, self._kernel.data_folder)
            except Exception as error:  # noqa: BLE001 - whatever is odd about one plugin, the others are served
                why = f"{type(error).__name__}: {error}"
                self._kernel.log.error("a plugin has no gRPC", plugin=generation.plugin_id, why=why)
                generation.has_no_wire = True
        return generation.wire

    def service(self, handler_call_details: Any) -> Any:
        """What the library asks for each call."""
        path = handler_call_details.method
        if path not in self._kernel.table.methods:
            return self._own.get(path) or self._handler(path)
        return self._handlers(path)

    def _handler(self, path: str) -> Any:
        async def answer(data: bytes, context: Any) -> bytes:
            return await self._answer(path, data, context)

        return grpc.unary_unary_rpc_method_handler(answer)

    # ------------------------------------------------------------------------------------ one call

    async def _answer(self, path: str, data: bytes, context: Any) -> bytes:
        expiry = Expiry(running_task(), asyncio.get_running_loop().call_later)
        call = RpcCall(context.invocation_metadata(), context.peer(), data, expiry)
        log_context.set(call)
        call.span = begin(self._kernel.tracing, call)
        self._in_flight += 1
        try:
            answer = await self._run(path, call, context)
        except asyncio.CancelledError:
            self._record(call, path, CANCELLED, grpc.StatusCode.CANCELLED)
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, the client gets an answer and the log the rest
            known = self._known(call, error)
        else:
            self._record(call, path, self._status(call), grpc.StatusCode.OK)
            return answer
        finally:
            self._in_flight -= 1
            expiry.close()
        self._record(call, path, known.status, status_of(known))
        trailing = trailing_of(known, call.request_id)
        if call.assertion is not None:
            trailing = (*trailing, (CLASS_KEY, class_of(known)))
        await context.abort(status_of(known), text_of(known), trailing)
        raise AssertionError("abort raises")

    async def _run(self, path: str, call: RpcCall, context: Any) -> bytes:
        compiled, method = self._find(path)
        call.open(compiled, method, self._kernel.body_bytes_max)
        if self._in_flight > REQUESTS_IN_FLIGHT_MAX:
            raise Unavailable(f"{REQUESTS_IN_FLIGHT_MAX} calls are under way in this worker; try again")
        call.deadline_s = context.time_remaining()
        if call.deadline_s is not None and call.deadline_s <= 0:
            raise DeadlinePassed("the deadline had passed when the call came; nothing was done")
        if call.assertion is None:
            answer = await compiled.invoke(call)
        else:
            answer = await self._for_kernels.invoke(compiled, call, path, context)
        kept = call.call.stored_answer if call.call is not None else None
        encoded = compiled.registered.encode(answer) if kept is None else kept
        self._add_trailing(call, answer, context)
        try:
            message = method.write(_decode(encoded) if encoded else None)
            written: bytes = message.SerializeToString()
        except Exception as error:
            raise KernelBug(f"the answer has no form in protobuf: {type(error).__name__}: {error}") from error
        return written

    def _find(self, path: str) -> tuple[CompiledOperation, Any]:
        compiled = self._kernel.table.methods.get(path)
        if compiled is None:
            raise NoSuchMethod("there is no such method; reflection lists what there is")
        contract = self._contract_of(compiled.generation)
        method = contract.methods.get(path) if contract is not None else None
        if method is None:
            why = contract.contract.lacking.get(compiled.registered.bound.id, "") if contract is not None else ""
            raise NoSuchMethod(f"this operation has no method in gRPC{': ' if why else ''}{why or '; use REST'}")
        return compiled, method

    def _add_trailing(self, call: RpcCall, answer: Any, context: Any) -> None:
        """What REST has in the head of its answer. Metadata before the answer would be a write of its own."""
        headers = list(call.call.response_headers or ()) if call.call is not None else []
        headers += call.compiled.registered.notices if call.compiled is not None else ()
        found = [*metadata_of(headers), (REQUEST_ID_KEY, call.request_id)]
        version = getattr(answer, "version", None)
        if isinstance(version, int) and hasattr(answer, "id"):
            found.append(("etag", f'"{version}"'))
        context.set_trailing_metadata(tuple(found))

    def _known(self, call: RpcCall, error: Exception) -> KernelError:
        known = as_kernel_error(error)
        if isinstance(known, KernelBug):
            self._kernel.log_bug(call, known)
        if call.span is not None:
            call.span.error = known.code
        return known

    def _status(self, call: RpcCall) -> int:
        return call.compiled.registered.status if call.compiled is not None else 200

    def _record(self, call: RpcCall, path: str, status: int, grpc_status: Any) -> None:
        seconds = time.monotonic() - call.started
        bound = call.compiled.registered.bound if call.compiled is not None else None
        operation, method, route = (bound.id, bound.method, bound.path) if bound is not None else ("", "", "")
        self._kernel.metrics.request("grpc", operation, route, status, seconds)
        sink.request(call, f"{method} {route}".strip() or "grpc", status, seconds)
        if (span := call.span) is not None:
            about = about_call(call.request_id, call.call, bound)
            end_rpc(span, path[1:] if bound is not None else "", grpc_status.value[0], about)

    # ------------------------------------------------------------------------------------ the door's own

    def _own_handlers(self) -> dict[str, Any]:
        info = grpc.stream_stream_rpc_method_handler(
            self._reflect,
            reflection_pb2.ServerReflectionRequest.FromString,
            reflection_pb2.ServerReflectionResponse.SerializeToString,
        )
        read, write = health_pb2.HealthCheckRequest.FromString, health_pb2.HealthCheckResponse.SerializeToString
        return {
            f"/{HEALTH}/Check": grpc.unary_unary_rpc_method_handler(self._check, read, write),
            f"/{HEALTH}/Watch": grpc.unary_stream_rpc_method_handler(self._watch, read, write),
            **{f"/{service}/ServerReflectionInfo": info for service in REFLECTION},
        }

    async def _check(self, request: Any, context: Any) -> Any:
        status = self._health.status(request.service)
        if status is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, "there is no such service here")
        return health_pb2.HealthCheckResponse(status=status)

    async def _watch(self, request: Any, context: Any) -> AsyncIterator[Any]:
        async for status in self._health.watch(request.service):
            yield health_pb2.HealthCheckResponse(status=status)

    async def _reflect(self, requests: Any, context: Any) -> AsyncIterator[Any]:
        """Answer questions until the client has no more; when the worker drains, also one that keeps its stream open."""
        closing = asyncio.create_task(self._closing.wait())
        try:
            while True:
                asked = asyncio.ensure_future(context.read())
                await asyncio.wait([asked, closing], return_when=asyncio.FIRST_COMPLETED)
                if not asked.done():
                    asked.cancel()
                    return
                request = asked.result()
                if request is grpc.aio.EOF:  # pyright: ignore[reportAttributeAccessIssue] # it has one
                    return
                yield self._reflection.answer(request)
        finally:
            closing.cancel()
