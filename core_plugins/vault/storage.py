"""Every SQL statement of the vault."""

from __future__ import annotations

from collections.abc import Sequence

from core_plugins.vault.model import NAMES_LISTED_MAX, WrappedKey
from plugin_api.ports.database import Row, Tx


async def lock_tenant(tx: Tx) -> None:
    """Let nobody else change keys or named secrets of this tenant until the transaction ends."""
    await tx.fetch("select pg_advisory_xact_lock(hashtextextended('vault ' || pk.tenant_id()::text, 0))")


# ------------------------------------------------------------------------------------------------- data keys


async def find_data_keys(tx: Tx) -> list[WrappedKey]:
    """All versions, the first one first."""
    return [
        _wrapped(row) for row in await tx.fetch("select id, version, kek_id, wrapped from data_keys order by version")
    ]


async def insert_data_key(tx: Tx, key: WrappedKey) -> None:
    """Store a new version."""
    await tx.execute(
        "insert into data_keys (id, version, kek_id, wrapped) values ($1, $2, $3, $4)",
        *(key.id, key.version, key.kek_id, key.wrapped),
    )


async def rewrap_data_key(tx: Tx, key: WrappedKey) -> None:
    """Store how a key is wrapped now."""
    await tx.execute(
        "update data_keys set kek_id = $2, wrapped = $3, updated_at = now() where id = $1",
        key.id,
        key.kek_id,
        key.wrapped,
    )


async def is_destroyed(tx: Tx) -> bool:
    """Whether the tenant's keys were destroyed for good."""
    return await tx.fetch_one("select 1 as one from destroyed") is not None


async def destroy(tx: Tx) -> None:
    """Delete all keys and named secrets of the tenant, for good."""
    await tx.execute("insert into destroyed default values on conflict (tenant_id) do nothing")
    await tx.execute("delete from data_keys")
    await tx.execute("delete from secrets")


async def kek_usage(tx: Tx) -> dict[str, int]:
    """How many data keys each key-encryption key wraps; in a transaction without a tenant."""
    return {row["kek_id"]: row["data_keys"] for row in await tx.fetch("select kek_id, data_keys from kek_usage()")}


async def tenants_to_rewrap(tx: Tx, current_kek: str, at_most: int) -> Sequence[Row]:
    """Tenants (`tenant_id`) with a data key under another key-encryption key; in a transaction without a tenant."""
    return await tx.fetch("select tenant_id from tenants_to_rewrap($1, $2) as t (tenant_id)", current_kek, at_most)


def _wrapped(row: Row) -> WrappedKey:
    return WrappedKey(row["id"], row["version"], row["kek_id"], bytes(row["wrapped"]))


# --------------------------------------------------------------------------------------------- named secrets


async def newest_version(tx: Tx, plugin: str, name: str) -> int:
    """The highest version of a named secret, 0 when there is none."""
    row = await tx.fetch_one(
        "select max(version) as version from secrets where plugin = $1 and name = $2", plugin, name
    )
    return int(row["version"] or 0) if row is not None else 0


async def count_names(tx: Tx, plugin: str) -> int:
    """How many named secrets a plugin has in the tenant."""
    row = await tx.fetch_one("select count(distinct name) as names from secrets where plugin = $1", plugin)
    return int(row["names"]) if row else 0


async def insert_secret(tx: Tx, plugin: str, name: str, version: int, sealed: bytes, keep: int) -> None:
    """Store a version and drop all but the newest `keep`."""
    await tx.execute(
        "insert into secrets (plugin, name, version, sealed) values ($1, $2, $3, $4)", plugin, name, version, sealed
    )
    await tx.execute(
        "delete from secrets where plugin = $1 and name = $2 and version <= $3", plugin, name, version - keep
    )


async def find_secret(tx: Tx, plugin: str, name: str, version: int | None) -> tuple[int, bytes] | None:
    """(version, sealed value) of one version, or of the newest."""
    row = await tx.fetch_one(
        "select version, sealed from secrets where plugin = $1 and name = $2 and ($3::integer is null or version = $3)"
        " order by version desc limit 1",
        *(plugin, name, version),
    )
    return (row["version"], bytes(row["sealed"])) if row is not None else None


async def list_names(tx: Tx, plugin: str, prefix: str) -> list[str]:
    """Names that begin with `prefix`, sorted."""
    rows = await tx.fetch(
        'select distinct name collate "C" as name from secrets where plugin = $1 and starts_with(name, $2)'
        " order by 1 limit $3",
        *(plugin, prefix, NAMES_LISTED_MAX),
    )
    return [row["name"] for row in rows]


async def delete_secret(tx: Tx, plugin: str, name: str) -> None:
    """Delete all versions."""
    await tx.execute("delete from secrets where plugin = $1 and name = $2", plugin, name)
