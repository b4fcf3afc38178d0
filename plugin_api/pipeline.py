"""The slots of the one pipeline: `admit -> identify -> tenant -> authorize -> entitle -> limit -> validate -> guard(
transaction(idempotency -> run -> record))`. The host owns the order; plugins fill slots from `pk_pipeline`.

Each slot but `record` is filled by at most one plugin. An unfilled `identify` or `authorize` denies everything that is
not `public`. A slot makes one function per operation, at start-up and on change, never on the request path.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol
from uuid import UUID

import msgspec
from msgspec import Struct

from plugin_api.call import Actor, Call, Identity
from plugin_api.errors import NotAllowed
from plugin_api.operation import OperationSpec


class Credentials(Struct, frozen=True):
    """What a caller showed, untouched."""

    authorization: str | None
    """The `Authorization` header (gRPC: metadata `authorization`)."""
    cookie: str | None = None
    """The `Cookie` header."""
    csrf_token: str | None = None
    """The `X-CSRF-Token` header."""
    unsafe: bool = False
    """Whether the call changes something (not GET, HEAD or OPTIONS): a cookie alone does not do then."""
    address: str = ""


@dataclass(frozen=True)
class AnswerForm:
    """How the answer of an operation is kept: as the bytes of its JSON."""

    encode: Callable[[Any], bytes]
    """(answer) -> the bytes that REST sends."""
    decode: Callable[[bytes], Any]
    """The way back; raises KernelBug when the bytes are not of the answer's type (any more)."""


@dataclass(frozen=True)
class BoundOperation:
    """An operation as the pipeline knows it."""

    id: str
    """`{area}.{method name}`, unique: `money.create_hold`."""
    plugin_id: str
    area: str
    spec: OperationSpec
    method: str
    path: str
    """Absolute, with placeholders."""
    permission: str | None
    """Full name, None when any authenticated actor (or anybody, if public) may call."""
    answer: AnswerForm | None = None
    """None when the answer may come in pieces, and so cannot be kept."""

    def parameters(self, request: Any) -> dict[str, str]:
        """What the placeholders of its path stand for in a request, as text."""
        found = {name: getattr(request, name, "") for name in self.spec.placeholders}
        return {name: str(msgspec.to_builtins(value, enc_hook=str)) for name, value in found.items()}


class Identifier(Protocol):
    """Fills `identify`."""

    def recall(self, credentials: Credentials) -> Identity | None:
        """Answer from memory, without I/O; None when it must be looked up. A revoked identity is never recalled."""
        ...

    async def identify(self, credentials: Credentials) -> Identity | None:
        """Find out who calls; None when nothing was shown at all.

        Raises:
            NotAuthenticated: what was shown does not hold.
            StoreUnavailable: it cannot be told now.
        """
        ...


class Authorizer(Protocol):
    """Fills `authorize`."""

    def check(self, permission: str) -> Callable[[Identity], bool]:
        """Make the check of one full permission name; called once per operation, the result once per request."""
        ...


class Resolver(Protocol):
    """Fills `resolve`: tells other kernels who an actor is, and what it holds."""

    async def resolve(self, tenant_id: UUID, actor: Actor, session_id: UUID | None) -> Identity:
        """Who a person or an API key is now; `session_id` is of the session that a person acts in, if any.

        Raises:
            NotAuthenticated: it was removed, suspended or revoked, or the session has ended.
            StoreUnavailable: it cannot be told now.
        """
        ...

    async def held(self, identity: Identity, permissions: Sequence[str]) -> Sequence[str]:
        """Which of these full permission names an identity covers, also those that nobody registered here."""
        ...


class PermissionRegistry(Protocol):
    """All registered permissions; the host tells the one who fills `authorize` about each change."""

    def names(self) -> dict[str, str]:
        """Full name -> description of every registered permission."""
        ...


Admit = Callable[[BoundOperation, str, int], None]
"""(operation, address, body bytes); raises LimitReached, Unavailable or PayloadTooLarge."""
PerCall = Callable[[Call], Awaitable[None] | None]
"""(call), before the request is read; raises a KernelError to stop the call. What need not wait answers None."""
Guard = Callable[[Call, Callable[[], Awaitable[Any]]], Awaitable[Any]]
"""Runs the rest, or refuses: breakers, retry."""
Idempotency = Callable[[Call, Any, Callable[[], Awaitable[Any]]], Awaitable[Any]]
"""(call, request, rest): runs the rest inside the transaction, or replays what it answered before. Asked only for calls that
carry a key or, where the operation says `idempotency="required"`, must; never for calls of other plugins."""


class Recorder(Protocol):
    """Fills `record` for one operation."""

    async def done(self, call: Call, request: Any, answer: Any) -> None:
        """Write down what the operation has done, in the call's transaction: both are committed, or neither is.

        What this raises fails the call, and rolls its transaction back. A public operation may have entered no tenant.
        """
        ...

    async def refused(self, call: Call, parameters: Mapping[str, str], error: NotAllowed) -> None:
        """Write down that the caller may not do it. The call is over and rolled back; its tenant is known.

        `parameters` are what the placeholders of the path stand for, as they came: the request may never have been read.
        What this raises, and what it has not done within RECORD_REFUSED_S, is logged; the caller gets `error` in any case.
        """
        ...


class Load(Protocol):
    """What this process is doing."""

    calls: int
    """Calls under way that came through a door."""


class PipelineSlots(Protocol):
    """Given to `pk_pipeline`; each method fills one slot with something that belongs to this generation.

    Raises:
        ManifestError: another plugin holds the slot; the error names it.
    """

    permissions: PermissionRegistry
    load: Load

    def body_bytes_max(self, most: int) -> None:
        """Bound the bodies that doors read; a streamed route states its own."""
        ...

    def admit(self, make: Callable[[BoundOperation], Admit | None]) -> None:
        """Bound size, address rate and requests in flight before any cryptography."""
        ...

    def identify(self, identifier: Identifier) -> None:
        """Find out who calls."""
        ...

    def authorize(self, authorizer: Authorizer) -> None:
        """Decide whether the actor holds the operation's permission."""
        ...

    def resolve(self, resolver: Resolver) -> None:
        """Tell other kernels who an actor is; filled by whoever fills `identify`."""
        ...

    def entitle(self, make: Callable[[BoundOperation], PerCall | None]) -> None:
        """Decide whether the tenant's plan includes it."""
        ...

    def limit(self, make: Callable[[BoundOperation], PerCall | None]) -> None:
        """Bound the rate of tenant and actor."""
        ...

    def guard(self, make: Callable[[BoundOperation], Guard | None]) -> None:
        """Open and close breakers around the run."""
        ...

    def idempotency(self, make: Callable[[BoundOperation], Idempotency | None]) -> None:
        """Replay what a key has answered before."""
        ...

    def record(self, make: Callable[[BoundOperation], Recorder | None]) -> None:
        """Write down what was done in the same transaction, and what was refused; several plugins may."""
        ...


class Tenant(Struct, frozen=True):
    """A customer, as hooks are told."""

    id: UUID
    slug: str
    name: str
    time_zone: str = "UTC"
    locale: str = "en"
    currency: str = "EUR"
    region: str = ""
