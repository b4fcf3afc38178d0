"""Founding a tenant: its row, the roles that every tenant has, and its owner, all in one transaction."""

from __future__ import annotations

from uuid import UUID

from core_plugins.iam.storage import roles, tenants, users
from plugin_api.contracts.iam import OWNER, SignUp, TenantView
from plugin_api.ids import uuid7
from plugin_api.ports.database import Tx


async def found_tenant(tx: Tx, tenant_id: UUID, asked: SignUp, password_hash: str) -> TenantView:
    """Make the tenant of this transaction. UniqueViolation of `tenants.SLUG_CONSTRAINT` when the slug is taken."""
    owner_id = uuid7()
    view = await tenants.insert_tenant(tx, tenant_id, owner_id, asked)
    role_ids = await roles.insert_built_in_roles(tx)
    name = asked.owner_email.partition("@")[0]
    await users.insert_user(tx, id=owner_id, email=asked.owner_email, name=name, password_hash=password_hash)
    await users.set_user_roles(tx, owner_id, [role_ids[OWNER]])
    return view
