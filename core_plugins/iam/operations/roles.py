"""Roles: names for sets of grants.

Those that every tenant has (`owner`, `admin`, `member`, `viewer`) can be given and taken, but neither
changed nor removed: what they grant is the kernel's. Nobody puts into a role what they do not hold,
nor changes a role that grants more than they hold.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Final

import msgspec
from msgspec import UNSET

from core_plugins.iam.model.grants import platform_violations
from core_plugins.iam.model.recognition import tenant_key
from core_plugins.iam.operations.authorize import refuse
from core_plugins.iam.operations.parts import OperationGroup
from core_plugins.iam.operations.users import given
from core_plugins.iam.storage.roles import (
    NAME_CONSTRAINT,
    delete_role,
    find_role,
    insert_role,
    is_role_in_use,
    list_roles,
    lock_role,
    rename_in_invitations,
    update_role,
    view_role,
)
from plugin_api.call import Call
from plugin_api.contracts.iam import NewRole, RoleList, RolePatch, RoleRef, RoleView
from plugin_api.errors import Conflict, NotFound, UniqueViolation
from plugin_api.ids import PLATFORM_TENANT_ID, uuid7
from plugin_api.operation import operation
from plugin_api.pages import Page, keyset
from plugin_api.ports.database import Row, Tx

NO_ROLE: Final = "there is no such role in this tenant"
_NAME_TAKEN: Final = "there is a role of this name already; choose another, or change that one"
_BUILT_IN: Final = "every tenant has this role as it is; make one of your own with what you need"
_IN_USE: Final = "somebody has this role; give them another first"


class RoleOperations(OperationGroup):
    """`/roles`."""

    @operation("POST /roles", permission="role.create", status=201)
    async def create_role(self, call: Call, request: NewRole) -> RoleView:
        """Make a role. 403 when it grants more than the caller holds, 409 when the name is taken."""
        permissions = self._sound(call, request.permissions)
        tx = await call.tx()
        await self._require(call, tx, permissions, "the role would grant")
        role_id = uuid7()
        with _name_taken():
            await insert_role(tx, id=role_id, name=request.name, permissions=permissions)
        return self._shown(call, _present(await find_role(tx, role_id)))

    @operation("GET /roles/{role_id}", permission="role.read")
    async def get_role(self, call: Call, request: RoleRef) -> RoleView:
        """Answer one role."""
        return self._shown(call, _present(await find_role(await call.tx(), request.role_id)))

    @operation("GET /roles", permission="role.read")
    async def list_roles(self, call: Call, request: RoleList) -> Page[RoleView]:
        """List roles, in the order of their making or of their names."""
        place = keyset(call, request)
        rows = await list_roles(await call.tx(), request, place)

        def view(row: Row) -> RoleView:
            return self._shown(call, view_role(row))

        return place.page(call, rows, request.limit, view)

    @operation("PATCH /roles/{role_id}", permission="role.update")
    async def update_role(self, call: Call, request: RolePatch) -> RoleView:
        """Change a role; everybody who has it feels it with their next call.

        403 when it grants more than the caller holds, before or after. 409 for a role that every
        tenant has, and when the name is taken.
        """
        wanted = self._sound(call, given(request.permissions, []))
        tx = await call.tx()
        role = await self._changeable(call, tx, request)
        await self._require(call, tx, wanted, "the role would grant")
        name = given(request.name, role.name)
        with _name_taken():
            after = role.permissions if request.permissions is UNSET else wanted
            await update_role(tx, role.id, name, after)
        if name != role.name:
            await rename_in_invitations(tx, role.name, name)
        await self._changed(call, tenant_key(call.tenant_id))
        return self._shown(call, _present(await find_role(tx, role.id)))

    @operation("DELETE /roles/{role_id}", permission="role.delete")
    async def delete_role(self, call: Call, request: RoleRef) -> None:
        """Remove a role that nobody has. 409 while somebody has it, and for one that every tenant has."""
        tx = await call.tx()
        role = await self._changeable(call, tx, request)
        if await is_role_in_use(tx, role.id):
            raise Conflict(_IN_USE)
        await delete_role(tx, role.id)

    # ------------------------------------------------------------------------------------ steps

    async def _changeable(self, call: Call, tx: Tx, which: RoleRef | RolePatch) -> RoleView:
        """The role, locked, in the version that the caller has read, and not above the caller."""
        role = _present(await lock_role(tx, which.role_id))
        call.expect_version(role.version)
        if role.built_in:
            raise Conflict(_BUILT_IN)
        await self._require(call, tx, role.permissions, f"the role {role.name} grants")
        return role

    async def _require(self, call: Call, tx: Tx, permissions: list[str], what: str) -> None:
        held = await self._parts.access.held(call, tx, self._parts.clock.now())
        held.require(permissions, what)

    def _sound(self, call: Call, permissions: list[str]) -> list[str]:
        """A request's grants, each once. InvalidRequest for those that cannot exist in this tenant."""
        in_platform = call.tenant_id == PLATFORM_TENANT_ID
        refuse(platform_violations(permissions, in_platform=in_platform))
        return list(dict.fromkeys(permissions))

    def _shown(self, call: Call, role: RoleView) -> RoleView:
        permissions = self._parts.access.shown(role.permissions, call.tenant_id)
        return msgspec.structs.replace(role, permissions=permissions)


@contextmanager
def _name_taken() -> Generator[None, None, None]:
    try:
        yield
    except UniqueViolation as error:
        if error.constraint != NAME_CONSTRAINT:
            raise
        raise Conflict(_NAME_TAKEN) from error


def _present(role: RoleView | None) -> RoleView:
    if role is None:
        raise NotFound(NO_ROLE)
    return role
