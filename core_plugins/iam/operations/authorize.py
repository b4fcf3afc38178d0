"""What everybody may do: fills the pipeline's slot `authorize`, and says what an actor holds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING
from uuid import UUID

from core_plugins.iam.model.grants import (
    EVERYTHING,
    Held,
    PermissionBits,
    Subject,
    intersection,
    shown,
)
from core_plugins.iam.model.tokens import rejected
from core_plugins.iam.storage.api_keys import KeyRow, find_key_row
from core_plugins.iam.storage.roles import NamedRole, named_roles
from core_plugins.iam.storage.users import find_subject
from plugin_api.errors import InvalidRequest, KernelBug, NotAllowed, Violation
from plugin_api.ids import PLATFORM_TENANT_ID

if TYPE_CHECKING:
    from datetime import datetime

    from plugin_api.call import Call, Identity
    from plugin_api.pipeline import PermissionRegistry
    from plugin_api.ports.database import Tx


class Access:
    """The `Authorizer` of the kernel.

    An identity carries a mask with one bit for each registered permission that it covers, so a check
    is one `&`. A mask made before a permission was registered lacks its bit: whoever keeps identities
    keeps `epoch()` with them and looks them up again when it has grown.
    """

    def __init__(self) -> None:
        self._bits = PermissionBits()
        self._registry: PermissionRegistry | None = None

    def attach(self, registry: PermissionRegistry) -> None:
        """Take the kernel's registry of permissions; in `pk_pipeline`, before anything is checked."""
        self._registry = registry
        for name in registry.names():
            self._bits.bit_of(name)

    def epoch(self) -> int:
        """A number that grows with every permission that is new."""
        return len(self._bits)

    def check(self, permission: str) -> Callable[[Identity], bool]:
        """Make the check of one full permission name; the name is registered from now on."""
        bit = self._bits.bit_of(permission)

        def allowed(identity: Identity) -> bool:
            return identity.mask & bit != 0

        return allowed

    def allows(self, identity: Identity, permission: str) -> bool:
        """Whether an identity covers a registered permission; False for one that nobody registered."""
        return permission in self.names() and self.check(permission)(identity)

    def mask_of(self, grants: Iterable[str], tenant_id: UUID) -> int:
        """The bits of all permissions that these grants cover in this tenant."""
        return self._bits.mask_of(grants, in_platform=tenant_id == PLATFORM_TENANT_ID)

    def names(self) -> dict[str, str]:
        """Every permission that is registered now, with its description."""
        if self._registry is None:
            raise KernelBug("the permission registry is attached in pk_pipeline")
        return self._registry.names()

    def shown(self, grants: Iterable[str], tenant_id: UUID) -> list[str]:
        """Grants as answers show them: `admin` holds the wildcard of every area installed now."""
        areas = {name.rsplit(".", 2)[0] for name in self.names()}
        ours = (area for area in areas if area.split(".", 1)[0] != "platform")
        return shown(grants, ours, in_platform=tenant_id == PLATFORM_TENANT_ID)

    async def load(self, tx: Tx, user_id: UUID) -> Subject | None:
        """A person of the transaction's tenant with roles, grants and status; one query."""
        return await find_subject(tx, user_id)

    async def held(self, call: Call, tx: Tx, now: datetime) -> Held:
        """What the actor of a call holds at this moment, read in its own transaction.

        Raises:
            NotAuthenticated: the actor was removed, suspended or revoked since the call began.
            NotAllowed: the actor is nobody who hands out permissions: a module, or nobody at all.
        """
        if call.actor.kind == "plugin":
            return Held((EVERYTHING,), call.tenant_id == PLATFORM_TENANT_ID)
        if call.identity is None:
            raise NotAllowed(f"a person or an API key does this; {call.actor.kind} is neither")
        return await self.held_by(tx, call.identity, now)

    async def held_by(self, tx: Tx, identity: Identity, now: datetime) -> Held:
        """What an identity holds at this moment, read in a transaction of its tenant.

        Raises:
            NotAuthenticated: it was removed, suspended or revoked.
            NotAllowed: it is neither a person nor an API key.
        """
        actor = identity.actor
        if identity.user_id is None or actor.kind not in ("user", "api_key"):
            raise NotAllowed(f"a person or an API key does this; {actor.kind} is neither")
        subject = await find_subject(tx, identity.user_id)
        if subject is None or not subject.is_active:
            raise rejected()
        if actor.kind == "user":
            return subject.held
        return await _held_by_key(tx, UUID(actor.id), subject, now)

    async def maker_of_key(self, tx: Tx, key_id: UUID, now: datetime) -> tuple[UUID, datetime | None]:
        """Who made an API key, and when it ends. NotAuthenticated when the key lives no more."""
        key = await _living_key(tx, key_id, now)
        return key.user_id, key.expires_at


async def _held_by_key(tx: Tx, key_id: UUID, maker: Subject, now: datetime) -> Held:
    return held_by_key((await _living_key(tx, key_id, now)).permissions, maker)


async def _living_key(tx: Tx, key_id: UUID, now: datetime) -> KeyRow:
    key = await find_key_row(tx, key_id)
    if key is None or not key.lives(now):
        raise rejected()
    return key


def held_by_key(permissions: Iterable[str], maker: Subject) -> Held:
    """What an API key holds: its own grants as far as its maker still holds them."""
    inner = intersection(permissions, maker.grants, in_platform=maker.in_platform)
    return Held(inner, maker.in_platform)


def maker_of(call: Call) -> UUID:
    """The person who answers for what this call makes: oneself, or an API key's maker.

    Raises:
        NotAllowed: there is none; a plugin acts for itself.
    """
    if call.identity is None or call.identity.user_id is None:
        raise NotAllowed(f"this needs a person who answers for it; {call.actor.kind} is none")
    return call.identity.user_id


async def find_roles(tx: Tx, names: Sequence[str]) -> tuple[list[NamedRole], list[Violation]]:
    """The roles that a request's `roles` names, each once, and a violation for each that is not there."""
    known = await named_roles(tx, names)
    detail = "there is no role of this name in this tenant; GET /api/v1/iam/roles lists them"
    unknown = [
        Violation(f"/roles/{number}", "unknown_role", detail) for number, name in enumerate(names) if name not in known
    ]
    return [known[name] for name in dict.fromkeys(names) if name in known], unknown


def refuse(violations: Sequence[Violation]) -> None:
    """Raise InvalidRequest when there are violations."""
    if violations:
        raise InvalidRequest("the request breaks its contract; see `errors`", violations=violations)


def require_roles(held: Held, roles: Iterable[NamedRole]) -> None:
    """Raise NotAllowed unless the actor holds everything that these roles grant."""
    for role in roles:
        held.require(role.grants, f"the role {role.name} grants")
