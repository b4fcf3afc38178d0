"""May somebody do this, and why."""

from __future__ import annotations

from typing import Final, Literal

from core_plugins.iam.model.grants import (
    EVERY_AREA,
    PLATFORM_PREFIX,
    HeldRole,
    covering,
)
from core_plugins.iam.operations.parts import OperationGroup
from core_plugins.iam.operations.users import NO_PERSON
from plugin_api.call import Call
from plugin_api.contracts.iam import Check, Decision, Why
from plugin_api.errors import NotFound
from plugin_api.ids import PLATFORM_TENANT_ID
from plugin_api.operation import operation
from plugin_api.ports.database import Tx

CHECK_OTHERS: Final = "iam.access.check"


class CheckOperations(OperationGroup):
    """`/check`."""

    @operation("POST /check", recorded=False)
    async def check(self, call: Call, request: Check) -> Decision:
        """Tell whether the caller, or somebody else, holds a permission, and by which role and grant.

        About oneself always; about others with the permission `iam.access.check`. A permission that no
        installed plugin has is not allowed to anybody. `resource` may say what it is about: roles do
        not distinguish resources, so it changes no answer yet.
        """
        tx = await call.tx()
        roles, is_active = await self._roles(call, tx, request)
        if request.permission not in self._parts.access.names():
            return _no("unknown_permission", "no installed plugin has a permission of this name")
        in_platform = call.tenant_id == PLATFORM_TENANT_ID
        if request.permission.startswith(PLATFORM_PREFIX) and not in_platform:
            return _no("operators_only", "only people of the tenant platform hold such permissions")
        if not is_active:
            return _no("suspended", "the person is suspended and may do nothing")
        return _decide(roles, request.permission, in_platform=in_platform)

    async def _roles(self, call: Call, tx: Tx, request: Check) -> tuple[tuple[HeldRole, ...], bool]:
        """The roles of whom the request asks about, and whether they may act at all."""
        user_id = request.user_id
        itself = call.identity.user_id if call.identity and call.actor.kind == "user" else None
        if user_id is not None and user_id != itself:
            call.require(CHECK_OTHERS)
        user_id = user_id or itself
        if user_id is None:
            held = await self._parts.access.held(call, tx, self._parts.clock.now())
            return (HeldRole("", held.grants),), True
        subject = await self._parts.access.load(tx, user_id)
        if subject is None:
            raise NotFound(NO_PERSON)
        return subject.roles, subject.is_active


def _decide(roles: tuple[HeldRole, ...], permission: str, *, in_platform: bool) -> Decision:
    for role in roles:
        grant = covering(role.grants, permission, in_platform=in_platform)
        if grant is not None:
            return _yes(role.name, _named(grant, permission))
    names = ", ".join(role.name for role in roles if role.name)
    who = f"none of the roles {names}" if names else "nothing that was given"
    return _no("no_grant", f"{who} covers {permission}")


def _named(grant: str, permission: str) -> str:
    """The grant as answers show it."""
    return f"{permission.rsplit('.', 2)[0]}.*" if grant == EVERY_AREA else grant


def _yes(role: str, grant: str) -> Decision:
    by = f"the role {role} grants" if role else "the API key holds"
    return Decision(True, Why("granted", f"{by} {grant}", role or None, grant))


def _no(reason: Literal["no_grant", "unknown_permission", "operators_only", "suspended"], detail: str) -> Decision:
    return Decision(False, Why(reason, detail))
