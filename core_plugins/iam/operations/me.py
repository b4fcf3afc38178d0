"""Who I am and what I may do."""

from __future__ import annotations

from core_plugins.iam.model.tokens import rejected
from core_plugins.iam.operations.parts import OperationGroup
from core_plugins.iam.storage import tenants, users
from plugin_api.call import Call
from plugin_api.contracts.iam import Me, Nothing, Person, TenantBrief
from plugin_api.errors import NotFound
from plugin_api.operation import operation


class MeOperations(OperationGroup):
    """What a caller may know of themselves; needs no permission."""

    @operation("GET /me")
    async def me(self, call: Call, request: Nothing) -> Me:
        """The caller's account, tenant, roles and permissions as they are now; for an API key its maker's account, no roles,
        and the key's own permissions."""
        user_id = call.identity.user_id if call.identity is not None else None
        if user_id is None:
            raise NotFound(f"there is no account behind {call.actor.kind}; a person or an API key has one")
        tx = await call.tx()
        user, tenant = await users.find_user(tx, user_id), await tenants.find_tenant(tx)
        if user is None or tenant is None:
            raise rejected()
        held = await self._parts.access.held(call, tx, self._parts.clock.now())
        return Me(
            Person(user.id, user.email, user.name),
            TenantBrief(tenant.id, tenant.slug, tenant.name, tenant.time_zone, tenant.locale, tenant.currency),
            user.roles if call.actor.kind == "user" else [],
            self._parts.access.shown(held.grants, call.tenant_id),
        )
