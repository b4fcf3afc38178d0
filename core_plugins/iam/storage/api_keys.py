"""API keys: the hash of the secret alone. Revoking deletes the row, and with it every key that it made."""

# ruff: noqa: S608 - statements are put together from constants of this file; values are placeholders

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final
from uuid import UUID

from msgspec import Struct

from plugin_api.contracts.iam import ApiKeyList, ApiKeyView
from plugin_api.pages import Keyset
from plugin_api.ports.database import Row, Tx

_COLUMNS: Final = "id, name, user_id, permissions, expires_at, last_used_at, version, created_at"


class NewKey(Struct, frozen=True):
    """An API key to be made."""

    id: UUID
    name: str
    user_id: UUID
    permissions: list[str]
    secret_hash: bytes
    expires_at: datetime | None
    parent_id: UUID | None
    """The key that makes it; None when a person does."""

    def __repr__(self) -> str:
        return f"NewKey({self.id})"


class KeyRow(Struct, frozen=True):
    """A key as decisions see it."""

    id: UUID
    user_id: UUID
    permissions: tuple[str, ...]
    secret_hash: bytes
    expires_at: datetime | None
    last_used_at: datetime | None

    def __repr__(self) -> str:
        return f"KeyRow({self.id})"

    def lives(self, now: datetime) -> bool:
        """Whether it has not expired."""
        return self.expires_at is None or self.expires_at > now


async def insert_key(tx: Tx, new: NewKey, now: datetime) -> None:
    """Keep a new key. Conflict when the key that makes it is revoked at the same time."""
    await tx.execute(
        """insert into api_keys
        (id, name, user_id, permissions, secret_hash, expires_at, parent_id, created_at, updated_at)
        values ($1, $2, $3, $4, $5, $6, $7, $8, $8)""",
        new.id, new.name, new.user_id, new.permissions, new.secret_hash, new.expires_at,
        new.parent_id, now,
    )  # fmt: skip


async def find_key(tx: Tx, key_id: UUID) -> ApiKeyView | None:
    """A key."""
    row = await tx.fetch_one(f"select {_COLUMNS} from api_keys where id = $1", key_id)
    return None if row is None else view_key(row)


async def lock_key(tx: Tx, key_id: UUID) -> ApiKeyView | None:
    """A key with which nobody can make another until this transaction ends."""
    row = await tx.fetch_one(f"select {_COLUMNS} from api_keys where id = $1 for update", key_id)
    return None if row is None else view_key(row)


async def find_key_row(tx: Tx, key_id: UUID) -> KeyRow | None:
    """A key as decisions see it, expired or not; None also while its tenant is suspended."""
    row = await tx.fetch_one(
        """select k.id, k.user_id, k.permissions, k.secret_hash, k.expires_at, k.last_used_at
        from api_keys k join tenants t on t.tenant_id = k.tenant_id and t.status = 'active'
        where k.id = $1""",
        key_id,
    )
    if row is None:
        return None
    return KeyRow(
        row["id"], row["user_id"], tuple(row["permissions"]), row["secret_hash"], row["expires_at"],
        row["last_used_at"],
    )  # fmt: skip


async def list_keys(tx: Tx, asked: ApiKeyList, place: Keyset) -> Sequence[Row]:
    """One page of keys and one more."""
    condition, order, arguments = place.clause(2)
    return await tx.fetch(
        f"select {_COLUMNS} from api_keys where {condition} order by {order} limit $1",
        asked.limit + 1, *arguments,
    )  # fmt: skip


async def delete_key(tx: Tx, key_id: UUID) -> list[UUID]:
    """Revoke a key and all keys that came from it; their ids. Touch `api_key_key` of each."""
    rows = await tx.fetch(
        """with recursive doomed as (select tenant_id, id from api_keys where id = $1
          union all select k.tenant_id, k.id from api_keys k
          join doomed d on k.tenant_id = d.tenant_id and k.parent_id = d.id)
        delete from api_keys k using doomed d where k.tenant_id = d.tenant_id and k.id = d.id
        returning k.id""",
        key_id,
    )
    return [row["id"] for row in rows]


async def delete_keys_of(tx: Tx, user_id: UUID) -> list[UUID]:
    """Revoke every key of a person; their ids. Touch `api_key_key` of each."""
    rows = await tx.fetch("delete from api_keys where user_id = $1 returning id", user_id)
    return [row["id"] for row in rows]


async def note_key_uses(tx: Tx, key_ids: Sequence[UUID], now: datetime) -> None:
    """Write `last_used_at`; the version stays, since nothing that anybody set has changed."""
    await tx.execute(
        """update api_keys set last_used_at = $2 where (tenant_id, id) in
        (select tenant_id, id from api_keys where id = any($1::uuid[]) order by id
        for no key update skip locked)""",
        list(key_ids), now,
    )  # fmt: skip


def view_key(row: Row) -> ApiKeyView:
    """A key as answers show it."""
    return ApiKeyView(
        row["id"], row["name"], row["user_id"], row["permissions"], row["expires_at"],
        row["last_used_at"], row["version"], row["created_at"],
    )  # fmt: skip
