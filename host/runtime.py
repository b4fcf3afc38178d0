"""What stands behind the calls of one generation: its transactions, its cursors, its background calls."""

from __future__ import annotations

import base64
import hmac
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final, cast
from uuid import UUID

import msgspec

from host.observe import log_context
from host.pipeline import settle
from host.tracing import Tracing, begin_background, end_background
from plugin_api.call import Actor, Call, Trace
from plugin_api.errors import KernelBug, Unavailable, Unreadable
from plugin_api.event_schemas import Payload
from plugin_api.events import Origin
from plugin_api.ids import uuid7
from plugin_api.limits import DEADLINE_S
from plugin_api.ports.database import Database, Transaction, Tx

if TYPE_CHECKING:
    from host.generations import Generation
    from host.kernel import Kernel

MAC_BYTES: Final = 16


class CursorSeal:
    """Signs the places where pages begin; bound to tenant, list and query."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def _mac(self, tenant_id: UUID, bound: bytes, payload: bytes) -> bytes:
        return hmac.digest(self._key, tenant_id.bytes + bound + payload, "sha256")[:MAC_BYTES]

    def seal(self, tenant_id: UUID, bound: bytes, values: Sequence[Any]) -> str:
        """Encode and sign."""
        payload = msgspec.msgpack.encode(list(values))
        return base64.urlsafe_b64encode(self._mac(tenant_id, bound, payload) + payload).rstrip(b"=").decode()

    def open(self, tenant_id: UUID, bound: bytes, cursor: str) -> list[Any]:
        """Check and decode; Unreadable (`bad_cursor`) for anything that `seal` did not make for this tenant and query."""
        try:
            raw = base64.b64decode(cursor.encode("ascii") + b"=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        except ValueError:
            raise _bad_cursor() from None
        mac, payload = raw[:MAC_BYTES], raw[MAC_BYTES:]
        if not hmac.compare_digest(mac, self._mac(tenant_id, bound, payload)):
            raise _bad_cursor()
        if self.seal(tenant_id, bound, values := cast("list[Any]", msgspec.msgpack.decode(payload))) != cursor:
            raise _bad_cursor()
        return values


def _bad_cursor() -> Unreadable:
    return Unreadable(
        "the cursor was not made for this list, order and filter; begin again without it, and take each next one from "
        "`next_cursor`",
        code="bad_cursor",
    )


def cursor_key(secret: bytes) -> bytes:
    """Derive the key of cursors from the kernel's own secret."""
    return hmac.digest(secret, b"cursor", sha256)


class GenerationRuntime:
    """The `CallRuntime` of one generation."""

    def __init__(self, kernel: Kernel, generation: Generation) -> None:
        self._kernel = kernel
        self._schema = generation.names.schema
        self._number = generation.number
        self._emits = frozenset(generation.manifest.events.emits)
        self._payloads = generation.payloads  # filled by `pk_register`, before the first call
        self.plugin_id = generation.plugin_id
        self.is_kernel = generation.plugin_id.startswith("kernel.")

    @property
    def tracing(self) -> Tracing | None:
        """What makes spans in this process; None when nothing is traced."""
        return self._kernel.tracing

    def _database(self) -> Database:
        provided = self._kernel.table.services.get("data")
        if provided is None:
            raise Unavailable("nothing provides the capability data now; see `pk doctor`")
        return cast("Database", provided.implementation)

    async def begin(self, call: Call) -> Transaction:
        """Open the call's transaction."""
        return await self._database().begin(
            self._schema,
            call.tenant_id,
            deadline=call.deadline,
            generation=self._number,
            origin=partial(_origin, call, self._emits, self._payloads),
        )

    def system_tx(self, reason: str) -> AbstractAsyncContextManager[Tx]:
        """A transaction without a tenant."""
        return self._system_tx(reason)

    @asynccontextmanager
    async def _system_tx(self, reason: str) -> AsyncIterator[Tx]:
        if not reason:
            raise KernelBug("a transaction without a tenant needs a reason")
        deadline = time.monotonic() + DEADLINE_S
        transaction = await self._database().begin(self._schema, None, deadline=deadline, generation=self._number)
        try:
            yield transaction
        except BaseException:
            await transaction.rollback()
            raise
        await transaction.commit()

    def seal_cursor(self, call: Call, bound: bytes, values: Sequence[Any]) -> str:
        """Sign a place."""
        return self._kernel.cursors.seal(call.tenant_id, bound, values)

    def open_cursor(self, call: Call, bound: bytes, cursor: str) -> list[Any]:
        """Read a place back."""
        return self._kernel.cursors.open(call.tenant_id, bound, cursor)


class _CallContext:
    """A call that no request began, as the log tells of it."""

    __slots__ = ("_call", "plugin")

    def __init__(self, call: Call, plugin: str) -> None:
        self._call = call
        self.plugin = plugin

    @property
    def request_id(self) -> str:
        return self._call.request_id

    @property
    def trace(self) -> Trace | None:
        return self._call.trace

    @property
    def trace_id(self) -> str:
        return self._call.trace.trace_id if self._call.trace is not None else ""

    @property
    def tenant(self) -> UUID | str:
        return self._call.tenant_id if self._call.has_tenant else ""


class PluginCalls:
    """The `calls` handle of one plugin: calls that no request began."""

    def __init__(self, runtime: GenerationRuntime) -> None:
        self._runtime = runtime

    def open(
        self, tenant_id: UUID | None, reason: str, *, deadline_s: float = 30.0
    ) -> AbstractAsyncContextManager[Call]:
        """A call of the plugin itself; commits at the end of the block."""
        return self.continued(tenant_id, reason, deadline_s, "")

    def continued(
        self, tenant_id: UUID | None, reason: str, deadline_s: float, traceparent: str
    ) -> AbstractAsyncContextManager[Call]:
        """The same in the trace of the event or job that it is about."""
        if tenant_id is None and not self._runtime.is_kernel:
            raise KernelBug(f"{self._runtime.plugin_id} is no kernel plugin: its calls need a tenant")
        return self._open(tenant_id, reason, deadline_s, traceparent)

    @asynccontextmanager
    async def _open(
        self, tenant_id: UUID | None, reason: str, deadline_s: float, traceparent: str
    ) -> AsyncIterator[Call]:
        around, failure = log_context.get(), None
        within = around.trace if around is not None else None
        trace, span = begin_background(self._runtime.tracing, traceparent, within, tenant=tenant_id is not None)
        call = Call(
            self._runtime,
            tenant_id=tenant_id,
            actor=Actor("plugin", self._runtime.plugin_id),
            request_id=f"{reason.replace(' ', '-')[:20]}-{uuid7()}",
            deadline=time.monotonic() + deadline_s,
            allows=_everything,
            trace=trace,
        )
        log_context.set(_CallContext(call, self._runtime.plugin_id))
        try:
            async with _settled(call):
                yield call
        except BaseException as error:
            failure = error
            raise
        finally:
            log_context.set(around)
            if span is not None:
                end_background(span, reason, call, self._runtime.plugin_id, failure)


@asynccontextmanager
async def _settled(call: Call) -> AsyncIterator[None]:
    """Commit what the call wrote at the end of the block; roll back on an error."""
    try:
        yield
    except BaseException:
        if call.transaction is not None:
            await call.transaction.rollback()
        raise
    await settle(call)


def _everything(permission: str) -> bool:
    return True


def _origin(call: Call, emits: frozenset[str], payloads: Mapping[str, Payload]) -> Origin:
    told = call.trace.traceparent if call.trace is not None else ""
    return Origin(str(call.actor), told, emits, payloads)
