"""Roles. Those that every tenant has are rows too, with an id and a name; what they grant is code."""

# ruff: noqa: S608 - statements are put together from constants of this file; values are placeholders

from __future__ import annotations

from collections.abc import Sequence
from typing import Final
from uuid import UUID

from msgspec import Struct

from core_plugins.iam.model.grants import role_grants
from plugin_api.contracts.iam import BUILT_IN_ROLES, RoleList, RoleView
from plugin_api.ids import uuid7
from plugin_api.pages import Keyset
from plugin_api.ports.database import Row, Tx

NAME_CONSTRAINT: Final = "roles_name_key"
IN_USE_CONSTRAINT: Final = "user_roles_role_fkey"

_COLUMNS: Final = "id, name, permissions, built_in, version, created_at, updated_at"


class NamedRole(Struct, frozen=True):
    """A role that can be given to somebody."""

    id: UUID
    name: str
    grants: tuple[str, ...]


async def insert_role(tx: Tx, *, id: UUID, name: str, permissions: Sequence[str] = (), built_in: bool = False) -> None:
    """Make a role. UniqueViolation of NAME_CONSTRAINT when there is one of this name."""
    await tx.execute(
        "insert into roles (id, name, permissions, built_in) values ($1, $2, $3, $4)",
        id, name, list(permissions), built_in,
    )  # fmt: skip


async def insert_built_in_roles(tx: Tx) -> dict[str, UUID]:
    """Give a new tenant the roles that every tenant has; their ids by name."""
    made = {name: uuid7() for name in BUILT_IN_ROLES}
    for name, role_id in made.items():
        await insert_role(tx, id=role_id, name=name, built_in=True)
    return made


async def find_role(tx: Tx, role_id: UUID) -> RoleView | None:
    """A role."""
    row = await tx.fetch_one(f"select {_COLUMNS} from roles where id = $1", role_id)
    return None if row is None else view_role(row)


async def lock_role(tx: Tx, role_id: UUID) -> RoleView | None:
    """A role which nobody else can change, and nobody can be given, until this transaction ends."""
    row = await tx.fetch_one(f"select {_COLUMNS} from roles where id = $1 for update", role_id)
    return None if row is None else view_role(row)


async def named_roles(tx: Tx, names: Sequence[str]) -> dict[str, NamedRole]:
    """The roles of these names that exist, kept as they are until this transaction ends."""
    rows = await tx.fetch(
        f"select {_COLUMNS} from roles where name = any($1::text[]) order by id for share",
        list(names),
    )
    return {role.name: NamedRole(role.id, role.name, tuple(role.permissions)) for role in map(view_role, rows)}


async def list_roles(tx: Tx, asked: RoleList, place: Keyset) -> Sequence[Row]:
    """One page of roles and one more."""
    condition, order, arguments = place.clause(3, "text" if place.column == "name" else "timestamptz")
    return await tx.fetch(
        f"""select {_COLUMNS} from roles
        where ($1::text is null or name = $1) and {condition} order by {order} limit $2""",
        asked.name, asked.limit + 1, *arguments,
    )  # fmt: skip


async def update_role(tx: Tx, role_id: UUID, name: str, permissions: Sequence[str]) -> None:
    """Write a locked role. UniqueViolation of NAME_CONSTRAINT when there is another of this name."""
    await tx.execute(
        """update roles set name = $2, permissions = $3, version = version + 1, updated_at = now()
        where id = $1""",
        role_id, name, list(permissions),
    )  # fmt: skip


async def rename_in_invitations(tx: Tx, old: str, new: str) -> None:
    """Let invitations that are still open give the role under its new name."""
    await tx.execute(
        """update invitations set roles = array_replace(roles, $1, $2), version = version + 1,
        updated_at = now() where accepted_at is null and $1 = any(roles)""",
        old, new,
    )  # fmt: skip


async def is_role_in_use(tx: Tx, role_id: UUID) -> bool:
    """Whether anybody has this role."""
    row = await tx.fetch_one("select from user_roles where role_id = $1 limit 1", role_id)
    return row is not None


async def delete_role(tx: Tx, role_id: UUID) -> None:
    """Remove a role that nobody has."""
    await tx.execute("delete from roles where id = $1", role_id)


def view_role(row: Row) -> RoleView:
    """A role; what `permissions` holds are grants for decisions, which answers show by `Access.shown`."""
    grants = role_grants(row["name"], row["permissions"], built_in=row["built_in"])
    return RoleView(
        row["id"], row["name"], list(grants), row["built_in"], row["version"], row["created_at"],
        row["updated_at"],
    )  # fmt: skip
