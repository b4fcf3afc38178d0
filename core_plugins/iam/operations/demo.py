"""The demo tenant's people and roles (`pk demo`): a small firm, made once and left alone afterwards."""

from __future__ import annotations

from typing import Final

from core_plugins.iam.operations.parts import Parts
from core_plugins.iam.storage import roles, tenants, users
from plugin_api.contracts.iam import ADMIN, MEMBER, VIEWER
from plugin_api.ids import uuid7
from plugin_api.pipeline import Tenant
from plugin_api.ports.database import Tx

ROLES: Final = {
    "support": ("iam.user.read", "iam.session.read"),
    "people": ("iam.user.*", "iam.invitation.*"),
}
PEOPLE: Final = (
    ("ada@demo.localhost", "Ada Lovelace", ADMIN),
    ("grace@demo.localhost", "Grace Hopper", "people"),
    ("alan@demo.localhost", "Alan Turing", "support"),
    ("edsger@demo.localhost", "Edsger Dijkstra", MEMBER),
    ("barbara@demo.localhost", "Barbara Liskov", VIEWER),
)
"""They have no passwords: the tenant's owner gives them one, or they are there to be looked at."""


async def find_tenant(parts: Parts, slug: str) -> Tenant | None:
    """The tenant of this slug as hooks are told of it."""
    async with parts.calls.open(None, "find tenant") as call, call.system_tx("find tenant") as tx:
        tenant_id = await tenants.find_tenant_by_slug(tx, slug)
    if tenant_id is None:
        return None
    async with parts.calls.open(tenant_id, "find tenant") as call:
        view = await tenants.find_tenant(await call.tx())
    if view is None:
        return None
    return Tenant(view.id, view.slug, view.name, view.time_zone, view.locale, view.currency)


async def fill_demo(parts: Parts, tenant: Tenant) -> list[str]:
    """Make what is missing; a line for each thing that was made now."""
    async with parts.calls.open(tenant.id, "demo") as call:
        tx = await call.tx()
        await users.lock_owners(tx)  # one filling at a time
        return [*await _make_roles(tx), *await _make_people(tx)]


async def _make_roles(tx: Tx) -> list[str]:
    known = await roles.named_roles(tx, list(ROLES))
    missing = [name for name in ROLES if name not in known]
    for name in missing:
        await roles.insert_role(tx, id=uuid7(), name=name, permissions=ROLES[name])
    return [f"role {name}" for name in missing]


async def _make_people(tx: Tx) -> list[str]:
    known = await roles.named_roles(tx, [role for _, _, role in PEOPLE])
    made: list[str] = []
    for email, name, role in PEOPLE:
        if await users.user_by_email_key(tx, email) is None:
            user_id = uuid7()
            await users.insert_user(tx, id=user_id, email=email, name=name, password_hash=None)
            await users.set_user_roles(tx, user_id, [known[role].id])
            made.append(f"user {email} ({role})")
    return made
