"""What a kernel answers other kernels, beside the operations themselves: what a capability is, and who somebody is."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import grpc
import msgspec

from host.generations import Generation
from host.pipeline import CompiledOperation, InnerOperation, as_kernel_error, refusal_of
from host.remote.assertion import Caller, read_caller, require_kernel
from host.remote.capability import DESCRIBE, CapabilityDescription, DescribeCapability, RemoteMethod
from host.remote.errors import CLASS_KEY, class_of
from host.remote.identity import IDENTIFY, RESOLVE, IdentifyCaller, RecognisedCaller, ResolveActor
from host.rpc_errors import status_of, text_of, trailing_of
from host.services import capability_of
from host.wire.numbering import numbered
from plugin_api.call import Call, Identity
from plugin_api.errors import InvalidRequest, KernelError, NotAllowed, NotFound, Unavailable

if TYPE_CHECKING:
    from host.kernel import Kernel
    from host.rpc_call import RpcCall

_ENCODED: Callable[[Any], bytes] = msgspec.json.encode


class KernelService:
    """Serves other kernels."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel

    # ----------------------------------------------------------------------------- operations, as an actor

    async def invoke(self, compiled: CompiledOperation, rpc: RpcCall, path: str, context: Any) -> Any:
        """Run an operation as another plugin's call of this process would: for the actor that the other kernel names.

        Raises:
            NotAllowed: code `not_a_kernel`: whoever calls may not name anybody.
            KernelError: whatever the operation raises.
        """
        require_kernel(context)
        caller = read_caller(rpc.assertion or b"", path)
        inner = self._inner(compiled)
        kernel, expiry = self._kernel, rpc.expiry
        willing = kernel.deadline_s if rpc.deadline_s is None else min(rpc.deadline_s, kernel.deadline_s)
        deadline = expiry.start(willing)
        kernel.load.calls += 1
        try:
            call = rpc.call = await self._call_of(caller, rpc, compiled.generation, deadline)
            is_refused = refusal_of(compiled.registered.bound, call) is not None  # then nobody reads the request
            return await inner.invoke(call, None if is_refused else rpc.request())
        except asyncio.CancelledError as error:
            raise expiry.translate(error) from None
        except (SystemExit, KeyboardInterrupt) as error:
            raise as_kernel_error(error) from error  # past here it would end the process
        finally:
            expiry.stop()
            kernel.load.calls -= 1

    def _inner(self, compiled: CompiledOperation) -> InnerOperation:
        name = compiled.registered.bound.id.rsplit(".", 1)[1]
        for provided in compiled.generation.manifest.provides:
            inner = self._kernel.table.inner.get((capability_of(provided), name))
            if inner is not None:
                return inner
        raise NotFound("this operation is no part of a capability")

    async def _call_of(self, caller: Caller, rpc: RpcCall, generation: Generation, deadline: float) -> Call:
        identity = await self._identity_of(caller)
        allows = _everything if caller.kind == "plugin" else None
        return Call(
            self._kernel.runtime(generation),
            tenant_id=caller.tenant_id,
            actor=caller.actor,
            request_id=rpc.request_id,
            deadline=deadline,
            identity=identity,
            allows=partial(self._allows, identity) if identity is not None else allows,
            if_match=rpc.if_match,
            trace=rpc.trace,
            address=caller.address,
            user_agent=caller.user_agent,
        )

    async def _identity_of(self, caller: Caller) -> Identity | None:
        """Who a person or a key is here and now; what they may do is never taken from the other kernel."""
        if caller.kind in ("plugin", "anonymous"):
            return None
        resolver = self._kernel.table.slots.resolve
        if resolver is None or caller.tenant_id is None:
            raise Unavailable("nothing here can tell who acts; see `pk doctor`")
        identity = await resolver.resolve(caller.tenant_id, caller.actor, caller.session_id)
        if identity.tenant_id != caller.tenant_id or identity.actor != caller.actor:
            raise NotAllowed("the actor is another's")
        return identity

    def _allows(self, identity: Identity, permission: str) -> bool:
        checks = self._kernel.table.checks
        return checks is not None and checks.allows(identity, permission)

    # ------------------------------------------------------------------------------------ the host's own

    def handlers(self) -> dict[str, Any]:
        """By path; none is part of what reflection lists."""
        found = {DESCRIBE: self._describe, IDENTIFY: self._identify, RESOLVE: self._resolve}
        return {path: grpc.unary_unary_rpc_method_handler(self._guarded(answer)) for path, answer in found.items()}

    def _guarded(self, answer: Callable[[bytes], Awaitable[Any]]) -> Callable[[bytes, Any], Awaitable[bytes]]:
        async def guarded(data: bytes, context: Any) -> bytes:
            try:
                require_kernel(context)
                return _ENCODED(await answer(data))
            except msgspec.MsgspecError:
                error: KernelError = InvalidRequest("the message is none of this version")
            except Exception as raised:  # noqa: BLE001 - whatever it is, the other kernel gets an answer
                error = as_kernel_error(raised)
            trailing = (*trailing_of(error, ""), (CLASS_KEY, class_of(error)))
            await context.abort(status_of(error), text_of(error), trailing)
            raise AssertionError("abort raises")

        return guarded

    async def _describe(self, data: bytes) -> CapabilityDescription:
        asked = msgspec.json.decode(data, type=DescribeCapability)
        provided = self._kernel.table.services.get(asked.capability)
        if provided is None:
            raise Unavailable(f"nothing provides the capability {asked.capability} here; see `pk doctor`")
        generation = provided.generation
        kept = self._kernel.data_folder / "plugins" / "wire"
        package = generation.names.grpc_package
        contract, lock = numbered(generation.plugin_id, package, generation.operations, generation.folder, kept)
        reads = {one.bound.id: one.bound.method == "GET" for one in generation.operations}
        methods = {
            method.operation.rsplit(".", 1)[1]: RemoteMethod(
                f"/{contract.package}.{service.name}/{method.name}",
                method.request,
                method.answer,
                reads.get(method.operation, False),
            )
            for service in contract.services
            for method in service.methods
        }
        return CapabilityDescription(contract, lock, methods)

    async def _identify(self, data: bytes) -> RecognisedCaller | None:
        asked = msgspec.json.decode(data, type=IdentifyCaller)
        slots = self._kernel.table.slots
        if slots.identify is None or slots.resolve is None:
            raise Unavailable("nothing here can tell who calls; see `pk doctor`")
        identity = slots.identify.recall(asked.credentials) or await slots.identify.identify(asked.credentials)
        if identity is None:
            return None
        return RecognisedCaller.of(identity, await slots.resolve.held(identity, asked.permissions))

    async def _resolve(self, data: bytes) -> RecognisedCaller:
        asked = msgspec.json.decode(data, type=ResolveActor)
        resolver = self._kernel.table.slots.resolve
        if resolver is None:
            raise Unavailable("nothing here can tell who acts; see `pk doctor`")
        identity = await resolver.resolve(asked.tenant_id, asked.actor, asked.session_id)
        return RecognisedCaller.of(identity, await resolver.held(identity, asked.permissions))


def _everything(permission: str) -> bool:
    return True
