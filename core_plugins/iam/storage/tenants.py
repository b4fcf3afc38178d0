"""Tenants: their rows, and the few questions that span tenants."""
# ruff: noqa: S608 - statements are put together from constants of this file; values are placeholders

from __future__ import annotations

from datetime import datetime
from typing import Final
from uuid import UUID

from plugin_api.contracts.iam import SignUp, TenantView
from plugin_api.pipeline import Tenant
from plugin_api.ports.database import Row, Tx

SLUG_CONSTRAINT: Final = "tenants_slug_key"

_COLUMNS: Final = """
tenant_id, slug, name, status, time_zone, locale, currency, region, owner_id, version, created_at, updated_at
"""


async def insert_tenant(tx: Tx, tenant_id: UUID, owner_id: UUID, asked: SignUp) -> TenantView:
    """Make the tenant of this transaction. UniqueViolation of SLUG_CONSTRAINT when the slug is taken."""
    row = await tx.fetch_one(
        f"""insert into tenants (tenant_id, slug, name, time_zone, locale, currency, owner_id)
        values ($1, $2, $3, $4, $5, $6, $7) returning {_COLUMNS}""",
        tenant_id, asked.slug, asked.name, asked.time_zone, asked.locale, asked.currency, owner_id,
    )  # fmt: skip
    assert row is not None, "an insert that returns has a row"
    return _view(row)


async def find_tenant(tx: Tx) -> TenantView | None:
    """The tenant of this transaction."""
    row = await tx.fetch_one(f"select {_COLUMNS} from tenants")
    return None if row is None else _view(row)


async def update_tenant(tx: Tx, changed: TenantView) -> TenantView | None:
    """Write a changed tenant over the version that `changed` has; None when the row has another version."""
    row = await tx.fetch_one(
        f"""update tenants set name = $2, time_zone = $3, locale = $4, currency = $5,
        version = version + 1, updated_at = now() where version = $1 returning {_COLUMNS}""",
        changed.version, changed.name, changed.time_zone, changed.locale, changed.currency,
    )  # fmt: skip
    return None if row is None else _view(row)


async def find_tenant_by_slug(tx: Tx, slug: str) -> UUID | None:
    """Which tenant has this slug; works in a transaction without a tenant."""
    row = await tx.fetch_one("select tenant_id from tenant_by_slug($1)", slug)
    return None if row is None else row["tenant_id"]


async def list_unannounced(tx: Tx, *, age_s: int, limit: int) -> list[UUID]:
    """Tenants that are older than this and that nobody has been told of, oldest first."""
    rows = await tx.fetch("select tenants_to_announce as id from tenants_to_announce($1, $2)", age_s, limit)
    return [row["id"] for row in rows]


async def list_tenants_after(tx: Tx, place: UUID | None, *, limit: int) -> list[UUID]:
    """Tenants in order of their ids, from after `place`."""
    rows = await tx.fetch("select tenants_after as id from tenants_after($1, $2)", place, limit)
    return [row["id"] for row in rows]


async def find_unannounced(tx: Tx) -> Tenant | None:
    """The tenant of this transaction as hooks are told of it, unless they have been."""
    row = await tx.fetch_one(f"select {_COLUMNS} from tenants where announced_at is null")
    if row is None:
        return None
    return Tenant(
        row["tenant_id"], row["slug"], row["name"], row["time_zone"], row["locale"], row["currency"], row["region"]
    )


async def mark_announced(tx: Tx, now: datetime) -> None:
    """Note that every plugin has been told of the tenant of this transaction."""
    await tx.execute("update tenants set announced_at = $1 where announced_at is null", now)


async def lock_first_start(tx: Tx) -> None:
    """Wait until no other process makes the tenants of the first start."""
    await tx.fetch("select pg_advisory_xact_lock(hashtextextended('iam:first-start', 0))")


async def claim_chore(tx: Tx, name: str, now: datetime, *, every_s: float) -> bool:
    """Whether this process is the one that runs a recurring task now; in the tenant `platform`."""
    row = await tx.fetch_one(
        """insert into chores (name, ran_at) values ($1, $2)
        on conflict (tenant_id, name) do update set ran_at = excluded.ran_at
        where chores.ran_at <= excluded.ran_at - make_interval(secs => $3) returning name""",
        name, now, every_s,
    )  # fmt: skip
    return row is not None


def _view(row: Row) -> TenantView:
    return TenantView(
        row["tenant_id"], row["slug"], row["name"], row["status"], row["time_zone"], row["locale"], row["currency"],
        row["owner_id"], row["version"], row["created_at"], row["updated_at"],
    )  # fmt: skip
