"""Every SQL statement of the plugin.

No statement names a tenant: the transaction has one, and the database holds it to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from plugin_api.pages import Keyset
from plugin_api.ports.database import Row, Tx

from acme_crm.model import Deal, DealList, Lead, LeadList, Outcome, Total

_LEAD = "id, name, company, email, state, assignee_id, version, created_at, updated_at"
_DEAL = "id, lead_id, title, amount_minor, currency, state, version, created_at, updated_at"

# ------------------------------------------------------------------------------------------------- leads


async def count_open_leads(tx: Tx) -> int:
    """How many open leads the tenant has."""
    row = await tx.fetch_one("select count(*) as n from leads where state = 'open'")
    return 0 if row is None else int(row["n"])


async def insert_lead(tx: Tx, lead_id: UUID, name: str, company: str | None, email: str | None) -> None:
    """Add an open lead."""
    sql = "insert into leads (id, name, company, email) values ($1, $2, $3, $4)"
    await tx.execute(sql, lead_id, name, company, email)


async def find_lead(tx: Tx, lead_id: UUID) -> Lead | None:
    """One lead, or None."""
    row = await tx.fetch_one(f"select {_LEAD} from leads where id = $1", lead_id)
    return None if row is None else lead_of(row)


async def lock_lead(tx: Tx, lead_id: UUID) -> Lead | None:
    """One lead that nobody else changes until this transaction ends, or None."""
    row = await tx.fetch_one(f"select {_LEAD} from leads where id = $1 for update", lead_id)
    return None if row is None else lead_of(row)


async def list_leads(tx: Tx, wanted: LeadList, place: Keyset, count: int) -> Sequence[Row]:
    """At most `count` leads from a place on."""
    condition, order, arguments = place.clause(4)
    sql = (
        f"select {_LEAD} from leads where ($2::text is null or state = $2) "
        f"and ($3::uuid is null or assignee_id = $3) and {condition} order by {order} limit $1"
    )
    return await tx.fetch(sql, count, wanted.state, wanted.assignee_id, *arguments)


async def write_lead(tx: Tx, lead_id: UUID, name: str, company: str | None, email: str | None) -> None:
    """Write a locked lead."""
    sql = (
        "update leads set name = $2, company = $3, email = $4, version = version + 1, updated_at = now() where id = $1"
    )
    await tx.execute(sql, lead_id, name, company, email)


async def assign_lead(tx: Tx, lead_id: UUID, user_id: UUID) -> None:
    """Give a locked lead to somebody."""
    sql = "update leads set assignee_id = $2, version = version + 1, updated_at = now() where id = $1"
    await tx.execute(sql, lead_id, user_id)


async def close_lead(tx: Tx, lead_id: UUID, outcome: Outcome) -> list[Deal]:
    """End a locked lead, and its open deals with it; those that ended now."""
    change = "set state = $2, version = version + 1, updated_at = now()"
    await tx.execute(f"update leads {change} where id = $1", lead_id, outcome)
    sql = f"update deals {change} where lead_id = $1 and state = 'open' returning {_DEAL}"
    return [deal_of(row) for row in await tx.fetch(sql, lead_id, outcome)]


def lead_of(row: Row) -> Lead:
    """A row as a lead."""
    return Lead(
        id=row["id"],
        name=row["name"],
        company=row["company"],
        email=row["email"],
        state=row["state"],
        assignee_id=row["assignee_id"],
        version=row["version"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
    )


# ------------------------------------------------------------------------------------------------- deals


async def insert_deal(tx: Tx, deal_id: UUID, lead_id: UUID, title: str, amount_minor: int, currency: str) -> None:
    """Add an open deal."""
    sql = "insert into deals (id, lead_id, title, amount_minor, currency) values ($1, $2, $3, $4, $5)"
    await tx.execute(sql, deal_id, lead_id, title, amount_minor, currency)


async def find_deal(tx: Tx, deal_id: UUID) -> Deal | None:
    """One deal, or None."""
    row = await tx.fetch_one(f"select {_DEAL} from deals where id = $1", deal_id)
    return None if row is None else deal_of(row)


async def lock_deal(tx: Tx, deal_id: UUID) -> Deal | None:
    """One deal that nobody else changes until this transaction ends, or None."""
    row = await tx.fetch_one(f"select {_DEAL} from deals where id = $1 for update", deal_id)
    return None if row is None else deal_of(row)


async def list_deals(tx: Tx, wanted: DealList, place: Keyset, count: int) -> Sequence[Row]:
    """At most `count` deals from a place on."""
    condition, order, arguments = place.clause(4)
    sql = (
        f"select {_DEAL} from deals where ($2::uuid is null or lead_id = $2) "
        f"and ($3::text is null or state = $3) and {condition} order by {order} limit $1"
    )
    return await tx.fetch(sql, count, wanted.lead_id, wanted.state, *arguments)


async def write_deal(tx: Tx, deal_id: UUID, title: str, amount_minor: int) -> None:
    """Write a locked deal."""
    sql = "update deals set title = $2, amount_minor = $3, version = version + 1, updated_at = now() where id = $1"
    await tx.execute(sql, deal_id, title, amount_minor)


async def close_deal(tx: Tx, deal_id: UUID, outcome: Outcome) -> None:
    """End a locked deal."""
    sql = "update deals set state = $2, version = version + 1, updated_at = now() where id = $1"
    await tx.execute(sql, deal_id, outcome)


def deal_of(row: Row) -> Deal:
    """A row as a deal."""
    return Deal(
        id=row["id"],
        lead_id=row["lead_id"],
        title=row["title"],
        amount_minor=row["amount_minor"],
        currency=row["currency"],
        state=row["state"],
        version=row["version"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
    )


# ------------------------------------------------------------------------------------------------- totals


async def add_to_total(tx: Tx, currency: str, amount_minor: int) -> None:
    """Count one deal that was won."""
    await tx.execute(
        """insert into totals (currency, deals_won, amount_minor) values ($1, 1, $2)
        on conflict (tenant_id, currency) do update set deals_won = totals.deals_won + 1,
        amount_minor = totals.amount_minor + excluded.amount_minor, version = totals.version + 1, updated_at = now()""",
        currency,
        amount_minor,
    )


async def list_totals(tx: Tx) -> list[Total]:
    """What was won, by currency."""
    rows = await tx.fetch(
        "select currency, deals_won, amount_minor::text as amount_minor from totals order by currency"
    )
    return [Total(row["currency"], row["deals_won"], row["amount_minor"]) for row in rows]
