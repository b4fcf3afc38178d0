"""A capability of another kernel: its operations as methods, by the Protocol of its key."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple, get_type_hints

import msgspec
from msgspec import Struct

from host.encoding import compile_encoder
from host.remote.assertion import CALLER, tell_caller
from host.remote.link import Link
from host.rpc_errors import status_of
from host.stored_answers import compile_decoder
from host.tracing import Span, about_call, end_rpc
from host.wire.conversion import Converters, Read, Write
from host.wire.descriptors import file_of, pool_of
from host.wire.lock import Lock
from host.wire.model import EMPTY, Contract
from plugin_api.call import Call
from plugin_api.errors import KernelBug, KernelError, Unavailable

if TYPE_CHECKING:
    from host.kernel import Kernel

DESCRIBE: Final = "/pk.kernel.v1.Kernel/Describe"
DESCRIPTION_KEPT_S: Final = 300.0
"""Numbers of messages only grow, so an old description still holds; a new one knows more."""

_decode: Final = msgspec.json.Decoder().decode


class RemoteMethod(Struct, frozen=True):
    """Where an operation is, and what it takes and answers."""

    path: str
    request: str
    answer: str
    reads: bool
    """Whether it changes nothing, so that it may be tried again."""


class DescribeCapability(Struct, frozen=True):
    """Asks for a description."""

    capability: str


class CapabilityDescription(Struct, frozen=True):
    """What another kernel tells of a capability."""

    contract: Contract
    lock: Lock
    methods: dict[str, RemoteMethod]
    """By the names that they have in the Protocol."""


class _Known:
    """A description at work."""

    def __init__(self, description: CapabilityDescription) -> None:
        self.until = time.monotonic() + DESCRIPTION_KEPT_S
        self.methods = description.methods
        pool = pool_of(file_of(description.contract, description.lock))
        self._converters = Converters(description.contract, description.lock, pool)

    def write(self, message: str) -> Write:
        """(JSON value) -> message."""
        return self._converters.writer(message)

    def read(self, message: str) -> tuple[Callable[[bytes], Any], Read]:
        """(bytes) -> message, and (message) -> JSON value."""
        return self._converters.classes[message].FromString, self._converters.reader(message)


class _Form(NamedTuple):
    """How the values of one method travel."""

    encode: Callable[[Any], bytes]
    """(request) -> its JSON."""
    decode: Callable[[bytes], Any]
    """(JSON) -> the answer."""


class RemoteCapability:
    """One capability that another kernel serves."""

    def __init__(self, kernel: Kernel, name: str, link: Link) -> None:
        self._kernel = kernel
        self.name = name
        self.link = link
        self._known: _Known | None = None

    async def invoke(self, name: str, form: _Form, call: Call, request: Any) -> Any:
        """Call an operation as the actor of `call`.

        Raises:
            KernelError: what the other kernel raised, in its own class; Unavailable and DeadlinePassed as `Link.ask`.
        """
        known = await self._describe(call)
        method = known.methods.get(name)
        if method is None:
            raise Unavailable(f"{self.link.address} has no operation {self.name}.{name}; see `pk doctor` there")
        data = known.write(method.request)(_decode(form.encode(request))).SerializeToString()
        answer = await self._ask(method, data, call)
        if method.answer == EMPTY:
            return None
        parse, read = known.read(method.answer)
        return form.decode(msgspec.json.encode(read(parse(answer))))

    async def _ask(self, method: RemoteMethod, data: bytes, call: Call) -> bytes:
        span = self._span(call)
        trace = span.trace if span is not None else call.trace
        metadata: list[tuple[str, str | bytes]] = [
            (CALLER, tell_caller(call, method.path)),
            ("x-request-id", call.request_id),
        ]
        if trace is not None:
            metadata.append(("traceparent", trace.traceparent))
        if call.if_match is not None:
            metadata.append(("if-match", call.if_match))
        seconds = min(self._kernel.deadline_s, call.remaining_s())
        status = 0
        try:
            return await self.link.ask(method.path, data, seconds, metadata, reads=method.reads)
        except KernelError as error:
            status = int(status_of(error).value[0])
            if span is not None:
                span.error = error.code
            raise
        finally:
            if span is not None:
                end_rpc(span, method.path[1:], status, about_call(call.request_id, call, None))

    def _span(self, call: Call) -> Span | None:
        tracing, trace = self._kernel.tracing, call.trace
        return tracing.child(trace, "client") if tracing is not None and trace is not None and trace.sampled else None

    async def _describe(self, call: Call) -> _Known:
        known = self._known
        if known is None or time.monotonic() > known.until:
            question = msgspec.json.encode(DescribeCapability(self.name))
            seconds = min(self._kernel.deadline_s, call.remaining_s())
            answer = await self.link.ask(DESCRIBE, question, seconds, (), reads=True)
            known = self._known = _Known(msgspec.json.decode(answer, type=CapabilityDescription))
        return known


class RemoteProxy:
    """Stands for a capability that may be here or elsewhere: here first, as soon as something here provides it."""

    def __init__(
        self, remote: RemoteCapability, local: Any, is_local: Callable[[], bool], contract: type | None
    ) -> None:
        self._remote = remote
        self._local = local
        self._is_local = is_local
        self._contract = contract
        self._forms: dict[str, _Form] = {}

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        if self._is_local():
            return getattr(self._local, name)
        form = self._forms.get(name)
        if form is None:
            form = self._forms[name] = _form_of(self._remote.name, self._contract, name)
        method: Callable[[Call, Any], Awaitable[Any]] = partial(self._remote.invoke, name, form)
        return method


def _form_of(capability: str, contract: type | None, name: str) -> _Form:
    method = getattr(contract, name, None)
    if method is None:
        raise KernelBug(
            f"{capability}.{name} is served by another kernel, and the key of {capability} names no Protocol that has it; "
            f'give it: ServiceKey("{capability}", YourProtocol)'
        )
    hints = get_type_hints(method, include_extras=True)
    return _Form(compile_encoder(hints["request"]), compile_decoder(hints["return"]))
