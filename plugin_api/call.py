"""Who calls, in which tenant, until when: the context that every operation is given instead of arguments."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Final, Literal, Protocol
from uuid import UUID

from msgspec import Struct

from plugin_api.errors import (
    DeadlinePassed,
    KernelBug,
    NotAllowed,
    PreconditionFailed,
    PreconditionRequired,
)
from plugin_api.ports.database import Transaction, Tx
from plugin_api.streams import Transfer

ActorKind = Literal["anonymous", "user", "api_key", "plugin", "module"]


class Actor(Struct, frozen=True):
    """Who acts."""

    kind: ActorKind
    id: str
    """User id, API key id, plugin id or module id; empty for the anonymous."""

    def __str__(self) -> str:
        return f"{self.kind}:{self.id}" if self.id else self.kind


ANONYMOUS: Final = Actor("anonymous", "")


class Identity(Struct, frozen=True, weakref=True):
    """What the `identify` slot found out about the caller; kept in a cache, so it holds no request."""

    tenant_id: UUID
    actor: Actor
    mask: int
    """One bit for each registered permission that the actor holds; read only through the `authorize` slot."""
    user_id: UUID | None = None
    """The user behind an API key or session, None for a machine without one."""
    session_id: UUID | None = None


class Trace(Struct, frozen=True):
    """W3C trace context of the call: what it is part of."""

    trace_id: str
    parent_id: str
    """Id of the span that is current: whatever the call begins is that one's child."""
    sampled: bool = False

    @property
    def traceparent(self) -> str:
        """The header or metadata `traceparent` to send along with whatever the call asks of others."""
        return f"00-{self.trace_id}-{self.parent_id}-{'01' if self.sampled else '00'}"


class CallRuntime(Protocol):
    """What the host puts behind the calls of one generation of one plugin; authors never see it."""

    plugin_id: str
    is_kernel: bool

    async def begin(self, call: Call) -> Transaction:
        """Open the call's transaction: the plugin's role, the call's tenant."""
        ...

    def system_tx(self, reason: str) -> AbstractAsyncContextManager[Tx]:
        """A transaction with the plugin's role and no tenant."""
        ...

    def seal_cursor(self, call: Call, bound: bytes, values: Sequence[Any]) -> str:
        """Sign the values of a page's last row."""
        ...

    def open_cursor(self, call: Call, bound: bytes, cursor: str) -> list[Any]:
        """Read a signed cursor back; `Unreadable` with code `bad_cursor` for anything else."""
        ...


class Call:
    """One call of one operation; made by the host, never by plugins. Not safe to use from two tasks at once."""

    __slots__ = (
        "_beginning",
        "_runtime",
        "_tenant_id",
        "_transaction",
        "actor",
        "address",
        "after",
        "allows",
        "deadline",
        "endings",
        "idempotency_key",
        "identity",
        "if_match",
        "request_id",
        "response_headers",
        "stored_answer",
        "trace",
        "transfer",
        "user_agent",
    )

    def __init__(
        self,
        runtime: CallRuntime,
        *,
        tenant_id: UUID | None,
        actor: Actor,
        request_id: str,
        deadline: float,
        identity: Identity | None = None,
        allows: Callable[[str], bool] | None = None,
        idempotency_key: str | None = None,
        if_match: str | None = None,
        trace: Trace | None = None,
        address: str = "",
        user_agent: str = "",
    ) -> None:
        self._runtime = runtime
        self._tenant_id = tenant_id
        self._transaction: Transaction | None = None
        self._beginning = False
        self.actor = actor
        self.identity = identity
        self.request_id = request_id
        self.deadline = deadline
        """Monotonic seconds at which the call is over."""
        self.idempotency_key = idempotency_key
        self.if_match = if_match
        """The `If-Match` header as sent, or None."""
        self.trace = trace
        self.address = address
        """Network address of the caller, empty for calls that come from inside."""
        self.allows: Callable[[str], bool] = allows or _denies
        """Tell whether the actor holds a full permission name; for decisions that depend on the data."""
        self.response_headers: list[tuple[str, str]] | None = None
        self.after: list[Callable[[], None]] | None = None
        self.endings: list[Callable[[], None]] | None = None
        self.stored_answer: bytes | None = None
        """The JSON of the answer where the `idempotency` slot has made or kept it: REST writes these bytes as they are."""
        self.transfer: Transfer | None = None
        """The request beside its fields, in operations with `stream=True` that were called over REST."""
        self.user_agent = user_agent
        """The caller's own word for its program; empty when it said nothing. Never to be trusted."""

    @property
    def tenant_id(self) -> UUID:
        """The tenant of the call. KernelBug in a public operation that has not entered one."""
        if self._tenant_id is None:
            raise KernelBug("a public operation has no tenant until it enters one: call.enter(tenant_id)")
        return self._tenant_id

    @property
    def has_tenant(self) -> bool:
        """Whether the call is in a tenant already."""
        return self._tenant_id is not None

    @property
    def transaction(self) -> Transaction | None:
        """The open transaction, if there is one; whoever ends the call (the host) commits or rolls it back."""
        return self._transaction

    def enter(self, tenant_id: UUID) -> None:
        """Put a public call into a tenant, once; for kernel plugins only (a log-in learns its tenant from its slug)."""
        if not self._runtime.is_kernel:
            raise KernelBug(f"{self._runtime.plugin_id} is no kernel plugin and cannot choose its tenant")
        if self._tenant_id is not None and self._tenant_id != tenant_id:
            raise KernelBug("the call is in another tenant already")
        self._tenant_id = tenant_id

    async def tx(self) -> Tx:
        """Return the call's one transaction, opened now if it is the first time.

        It commits when the operation returns and rolls back when it raises or its deadline passes, together with
        everything else that the operation records.

        Raises:
            StoreUnavailable: the database is away or its pool stayed exhausted until the deadline.
        """
        if self._transaction is None:
            if self._beginning:
                raise KernelBug("call.tx() is being opened by another task; open it once, then share it")
            self._beginning = True
            try:
                self._transaction = await self._runtime.begin(self)
            finally:
                self._beginning = False
        return self._transaction

    async def roll_back(self) -> None:
        """Undo what the call wrote and give its connection back; the next `tx()` opens a new transaction. For the host and
        the slots of the pipeline, which try again or wait; an operation raises instead. Never raises."""
        transaction, self._transaction = self._transaction, None
        self.after = None
        if transaction is not None:
            await transaction.rollback()

    def system_tx(self, reason: str) -> AbstractAsyncContextManager[Tx]:
        """Open a transaction without a tenant; kernel plugins only. It sees no tenant's rows, only what the
        plugin's own `security definer` functions show. Commits at the end of the block."""
        if not self._runtime.is_kernel:
            raise KernelBug(f"{self._runtime.plugin_id} is no kernel plugin and has no transaction without a tenant")
        return self._runtime.system_tx(reason)

    def as_plugin(self) -> Call:
        """Return a call of the plugin itself in the same tenant: its permissions instead of the actor's; audited."""
        return Call(
            self._runtime,
            tenant_id=self._tenant_id,
            actor=Actor("plugin", self._runtime.plugin_id),
            request_id=self.request_id,
            deadline=self.deadline,
            allows=_allows_all,
            trace=self.trace,
            address=self.address,
        )

    def remaining_s(self) -> float:
        """Seconds until the deadline. DeadlinePassed when there are none."""
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise DeadlinePassed("the call ran out of time; try again, or with less work in one call")
        return left

    def require(self, permission: str) -> None:
        """Raise NotAllowed naming `permission` (a full name) unless the actor holds it."""
        if not self.allows(permission):
            raise NotAllowed(f"this needs the permission {permission}, which {self.actor.kind} does not hold")

    def expect_version(self, current: int) -> None:
        """Compare `If-Match` with the entity's current version; without the header nothing is compared.

        Raises:
            PreconditionFailed: the header names other versions only.
        """
        if self.if_match is None or self.if_match.strip() == "*":
            return
        if f'"{current}"' not in [tag.strip() for tag in self.if_match.split(",")]:
            raise PreconditionFailed("the entity has changed since it was read; read it again and repeat the change")

    def need_version(self, current: int) -> None:
        """`expect_version`, but PreconditionRequired when there is no `If-Match` at all."""
        if self.if_match is None:
            raise PreconditionRequired('send the version you have read: If-Match: "1"')
        self.expect_version(current)

    def add_response_header(self, name: str, value: str) -> None:
        """Add a header to a REST answer (a cookie, say); gRPC has it as trailing metadata, cookies excepted."""
        if self.response_headers is None:
            self.response_headers = []
        self.response_headers.append((name, value))

    def after_commit(self, callback: Callable[[], None]) -> None:
        """Run `callback` after the commit and before the answer; not when the call fails, but also when it is unknown
        whether the commit succeeded. It must not raise or wait: it touches stamps, drops cache entries."""
        if self.after is None:
            self.after = []
        self.after.append(callback)

    def at_end(self, callback: Callable[[], None]) -> None:
        """Run `callback` when what the call wrote is committed or rolled back, whichever it was; for the slots of the
        pipeline. It must not raise or wait."""
        if self.endings is None:
            self.endings = []
        self.endings.append(callback)

    def seal_cursor(self, bound: bytes, values: Sequence[Any]) -> str:
        """Sign the place where the next page begins; see `plugin_api.pages`."""
        return self._runtime.seal_cursor(self, bound, values)

    def open_cursor(self, bound: bytes, cursor: str) -> list[Any]:
        """Read such a place back. Unreadable (`bad_cursor`) when it was not made for this tenant and query."""
        return self._runtime.open_cursor(self, bound, cursor)


def _denies(permission: str) -> bool:
    return False


def _allows_all(permission: str) -> bool:
    return True
