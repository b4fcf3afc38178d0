"""People and the roles they have.

A person's row is the lock of everything that happens to the person (`lock_user`); the tenant's row is
the lock of who its owners are (`lock_owners`) and is taken first.
"""

# ruff: noqa: S608 - statements are put together from constants of this file; values are placeholders

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Final
from uuid import UUID

import msgspec
from msgspec import Struct

from core_plugins.iam.model.grants import HeldRole, Subject, email_key, role_grants
from plugin_api.contracts.iam import OWNER, UserList, UserView
from plugin_api.pages import Keyset
from plugin_api.ports.database import Row, Tx

EMAIL_CONSTRAINT: Final = "users_email_key"

_VIEW: Final = """
users.id, users.email, users.email_key, users.name, users.status, users.last_login_at, users.version,
users.created_at, users.updated_at,
array(select r.name from user_roles ur
  join roles r on r.tenant_id = ur.tenant_id and r.id = ur.role_id
  where ur.tenant_id = users.tenant_id and ur.user_id = users.id order by r.name) as roles
"""
_ACTIVE_OWNERS: Final = """
select u.id from users u
join user_roles ur on ur.tenant_id = u.tenant_id and ur.user_id = u.id
join roles r on r.tenant_id = ur.tenant_id and r.id = ur.role_id
where r.name = $1 and u.status = 'active' and u.id <> $2 order by u.created_at, u.id limit 1
"""


class UserChange(Struct, frozen=True):
    """What a person's row becomes."""

    email: str
    name: str
    status: str
    new_password: bool
    password_hash: str | None
    """Written when `new_password`; None: no log-in by password any more."""

    def __repr__(self) -> str:
        return f"UserChange({self.status})"


async def insert_user(tx: Tx, *, id: UUID, email: str, name: str, password_hash: str | None) -> None:
    """Add a person without roles. UniqueViolation of EMAIL_CONSTRAINT when the address is taken."""
    await tx.execute(
        "insert into users (id, email, email_key, name, password_hash) values ($1, $2, $3, $4, $5)",
        id, email, email_key(email), name, password_hash,
    )  # fmt: skip


async def set_user_roles(tx: Tx, user_id: UUID, role_ids: Iterable[UUID]) -> None:
    """Make these the roles of a person. Conflict when one of them is deleted at the same time."""
    wanted = list(role_ids)
    await tx.execute("delete from user_roles where user_id = $1 and role_id <> all($2::uuid[])", user_id, wanted)
    await tx.execute(
        """insert into user_roles (user_id, role_id) select $1, unnest($2::uuid[])
        on conflict do nothing""",
        user_id, wanted,
    )  # fmt: skip


async def find_user(tx: Tx, user_id: UUID) -> UserView | None:
    """A person."""
    row = await tx.fetch_one(f"select {_VIEW} from users where id = $1", user_id)
    return None if row is None else view_user(row)


async def lock_user(tx: Tx, user_id: UUID) -> UserView | None:
    """A person whom nobody else can change until this transaction ends."""
    # Locked by a statement of its own: the one that reads begins after the wait, and sees what was done.
    await tx.execute("select from users where id = $1 for update", user_id)
    return await find_user(tx, user_id)


async def user_by_email_key(tx: Tx, key: str) -> UserView | None:
    """The person with this address (`email_key`)."""
    row = await tx.fetch_one(f"select {_VIEW} from users where email_key = $1", key)
    return None if row is None else view_user(row)


async def list_users(tx: Tx, asked: UserList, place: Keyset) -> Sequence[Row]:
    """One page of people and one more; by address in the order of what makes addresses the same."""
    condition, order, arguments = place.clause(5, "text" if place.column == "email_key" else "timestamptz")
    return await tx.fetch(
        f"""select {_VIEW} from users
        where ($1::text is null or users.email_key = $1) and ($2::text is null or users.status = $2)
        and ($3::text is null or exists (select from user_roles ur
          join roles r on r.tenant_id = ur.tenant_id and r.id = ur.role_id
          where ur.tenant_id = users.tenant_id and ur.user_id = users.id and r.name = $3))
        and {condition} order by {order} limit $4""",
        None if asked.email is None else email_key(asked.email),
        asked.status, asked.role, asked.limit + 1, *arguments,
    )  # fmt: skip


def users_place(place: Keyset) -> Keyset:
    """The place in the list of people that a request names: `email` is sorted by its key."""
    return msgspec.structs.replace(place, column="email_key") if place.column == "email" else place


async def update_user(tx: Tx, user_id: UUID, change: UserChange) -> None:
    """Write a locked person. UniqueViolation of EMAIL_CONSTRAINT when the address is taken."""
    await tx.execute(
        """update users set email = $2, email_key = $3, name = $4, status = $5,
        password_hash = case when $6 then $7 else password_hash end,
        version = version + 1, updated_at = now() where id = $1""",
        user_id, change.email, email_key(change.email), change.name, change.status,
        change.new_password, change.password_hash,
    )  # fmt: skip


async def delete_user(tx: Tx, user_id: UUID) -> None:
    """Remove a person with their roles, sessions and API keys."""
    await tx.execute("delete from users where id = $1", user_id)


async def find_subject(tx: Tx, user_id: UUID) -> Subject | None:
    """A person with what their roles grant, active or not; one query."""
    rows = await tx.fetch(
        """select u.tenant_id, u.status, r.name, r.permissions, r.built_in from users u
        left join user_roles ur on ur.tenant_id = u.tenant_id and ur.user_id = u.id
        left join roles r on r.tenant_id = ur.tenant_id and r.id = ur.role_id
        where u.id = $1 order by r.name""",
        user_id,
    )
    if not rows:
        return None
    roles = tuple(
        HeldRole(
            row["name"],
            role_grants(row["name"], row["permissions"], built_in=row["built_in"]),
        )
        for row in rows
        if row["name"] is not None
    )
    return Subject(rows[0]["tenant_id"], user_id, rows[0]["status"], roles)


# ----------------------------------------------------------------------------------------- owners


async def lock_owners(tx: Tx) -> None:
    """Wait until nobody else changes who owns the tenant; before any person is locked.

    Adding people goes on meanwhile: it only needs the tenant to stay.
    """
    await tx.execute("select from tenants for no key update")


async def find_other_owner(tx: Tx, user_id: UUID) -> UUID | None:
    """The oldest active owner besides this person."""
    row = await tx.fetch_one(_ACTIVE_OWNERS, OWNER, user_id)
    return None if row is None else row["id"]


async def hand_tenant_over(tx: Tx, from_user: UUID, to_user: UUID) -> None:
    """Name another owner in the tenant's record, if it names `from_user`."""
    await tx.execute(
        """update tenants set owner_id = $2, version = version + 1, updated_at = now()
        where owner_id = $1""",
        from_user, to_user,
    )  # fmt: skip


def view_user(row: Row) -> UserView:
    """A person as answers show them."""
    last_login_at: datetime | None = row["last_login_at"]
    return UserView(
        row["id"], row["email"], row["name"], row["roles"], row["status"], last_login_at,
        row["version"], row["created_at"], row["updated_at"],
    )  # fmt: skip
