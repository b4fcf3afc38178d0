"""Who calls and what they may do, asked of the kernel that has `iam`; for a kernel without it.

An answer is kept for KEPT_S: so long somebody who was locked out over there still gets in here.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

import msgspec
from msgspec import Struct

from host.remote.link import Link
from plugin_api.call import Actor, Identity
from plugin_api.errors import NotAuthenticated
from plugin_api.pipeline import Credentials

if TYPE_CHECKING:
    from host.kernel import Kernel

IDENTIFY: Final = "/pk.kernel.v1.Kernel/Identify"
RESOLVE: Final = "/pk.kernel.v1.Kernel/Resolve"
KEPT_S: Final = 1.0
ENTRIES_MAX: Final = 10_000
PERMISSIONS_MAX: Final = 10_000


class IdentifyCaller(Struct, frozen=True):
    """Asks who shows these credentials, and which of these permissions that actor holds."""

    credentials: Credentials
    permissions: list[str]


class ResolveActor(Struct, frozen=True):
    """Asks the same of an actor that is known."""

    tenant_id: UUID
    actor: Actor
    session_id: UUID | None
    permissions: list[str]


class RecognisedCaller(Struct, frozen=True):
    """Who it is, with the names of what is held: masks mean something in one kernel only."""

    tenant_id: UUID
    actor: Actor
    user_id: UUID | None
    session_id: UUID | None
    held: list[str]

    @classmethod
    def of(cls, identity: Identity, held: Sequence[str]) -> RecognisedCaller:
        """An identity of the kernel that tells it."""
        return cls(identity.tenant_id, identity.actor, identity.user_id, identity.session_id, list(held))


class RemoteIdentities:
    """Fills `identify`, `authorize` and `resolve` of a kernel that has no `iam` of its own."""

    def __init__(self, kernel: Kernel, link: Link) -> None:
        self._kernel = kernel
        self._link = link
        self._bits: dict[str, int] = {}
        self._kept: dict[bytes, tuple[float, int, Identity]] = {}

    # ------------------------------------------------------------------------------------ the slots

    def check(self, permission: str) -> Callable[[Identity], bool]:
        """Make the check of one full permission name."""
        bit = self._bits.setdefault(permission, 1 << len(self._bits))

        def allowed(identity: Identity) -> bool:
            return identity.mask & bit != 0

        return allowed

    def recall(self, credentials: Credentials) -> Identity | None:
        """Answer from memory."""
        return self._recalled(_key_of(credentials))

    async def identify(self, credentials: Credentials) -> Identity | None:
        """Ask who shows them.

        Raises:
            NotAuthenticated: what was shown does not hold.
            Unavailable: that kernel is away.
        """
        if credentials.authorization is None and not credentials.cookie:
            return None
        return await self._asked(IDENTIFY, IdentifyCaller(credentials, self._names()), _key_of(credentials))

    async def resolve(self, tenant_id: UUID, actor: Actor, session_id: UUID | None) -> Identity:
        """Ask who an actor is.

        Raises:
            NotAuthenticated: there is no such actor any more.
            Unavailable: that kernel is away.
        """
        key = hashlib.sha256(f"actor {tenant_id} {actor} {session_id}".encode()).digest()
        known = self._recalled(key)
        if known is not None:
            return known
        identity = await self._asked(RESOLVE, ResolveActor(tenant_id, actor, session_id, self._names()), key)
        if identity is None:
            raise NotAuthenticated("the actor is unknown; log in again")
        return identity

    async def held(self, identity: Identity, permissions: Sequence[str]) -> Sequence[str]:
        """Which of these it holds, as far as this kernel knows them."""
        return [name for name in permissions if (bit := self._bits.get(name)) is not None and identity.mask & bit]

    # ---------------------------------------------------------------------------------------- asking

    def _names(self) -> list[str]:
        return list(self._bits)[:PERMISSIONS_MAX]

    async def _asked(self, path: str, question: Any, key: bytes) -> Identity | None:
        began, epoch = time.monotonic(), len(self._bits)
        data = msgspec.json.encode(question)
        answer = await self._link.ask(path, data, self._kernel.deadline_s, (), reads=True)
        told = msgspec.json.decode(answer, type=RecognisedCaller | None)
        if told is None:
            return None
        mask = 0
        for name in told.held:
            mask |= self._bits.get(name, 0)
        identity = Identity(told.tenant_id, told.actor, mask, told.user_id, told.session_id)
        if len(self._kept) >= ENTRIES_MAX:
            self._kept.clear()
        self._kept[key] = (began + KEPT_S, epoch, identity)
        return identity

    def _recalled(self, key: bytes) -> Identity | None:
        kept = self._kept.get(key)
        if kept is None:
            return None
        until, epoch, identity = kept
        if time.monotonic() >= until or epoch != len(self._bits):
            del self._kept[key]
            return None
        return identity


def _key_of(credentials: Credentials) -> bytes:
    """Nothing that was shown is kept itself. The address is part of it: that kernel may answer each its own way."""
    return hashlib.sha256(b"shown " + msgspec.msgpack.encode(credentials)).digest()
