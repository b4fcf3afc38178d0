"""Every statement of the plugin. The table is the kernel's own, and only these functions reach it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, cast
from uuid import UUID

import msgspec

from core_plugins.audit.model import Entry, Outcome, RecordView
from plugin_api.ports.database import Row, Transaction, Tx


def record(transaction: Transaction, entry: Entry) -> None:
    """Write what was done with the commit of its own transaction; which plugin's and tenant's that is, the database knows."""
    transaction.at_commit("pk.record", *msgspec.structs.astuple(entry))


async def record_for(tx: Tx, plugin: str, outcome: Outcome, entry: Entry) -> None:
    """Write what another plugin's operation has no transaction for; in one of this plugin."""
    sql = "select pk.record_for($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)"
    await tx.execute(sql, plugin, outcome, *msgspec.structs.astuple(entry))


async def find_records(
    tx: Tx,
    *,
    actor: str | None,
    operation: str | None,
    target: str | None,
    since: datetime | None,
    until: datetime | None,
    after: tuple[Any, str] | None,
    most: int,
) -> Sequence[Row]:
    """Records of the transaction's tenant, the newest first, from the one on that comes after (time, id)."""
    at, record_id = (datetime.fromisoformat(after[0]), UUID(after[1])) if after is not None else (None, None)
    sql = "select * from pk.records($1, $2, $3, $4, $5, $6, $7, $8)"
    return await tx.fetch(sql, actor, operation, target, since, until, at, record_id, most)


async def claim_sweep(tx: Tx, owner: str, every_s: float) -> bool:
    """Whether it is the turn of this owner, who was never asked for before, and nobody else's for so long."""
    sql = "select from pk.take_leases(array['audit:sweep'], $1, $2, 1)"
    return await tx.fetch_one(sql, owner, every_s) is not None


async def sweep(tx: Tx, keep_days: int, most: int) -> int:
    """Delete records of all tenants that are too old; how many went."""
    return _count(await tx.fetch_one("select pk.sweep_records($1, $2) as gone", keep_days, most))


async def erase(tx: Tx, most: int) -> int:
    """Delete records of the transaction's tenant; how many went."""
    return _count(await tx.fetch_one("select pk.erase_records($1) as gone", most))


def view_record(row: Row) -> RecordView:
    """A record as answers show it."""
    return RecordView(
        row["id"],
        row["at"],
        row["plugin"],
        row["operation"],
        row["actor"],
        row["on_behalf_of"] or None,
        row["session_id"],
        row["target"],
        row["outcome"],
        row["request_id"],
        row["trace_id"] or None,
    )


def _count(row: Row | None) -> int:
    assert row is not None, "a function answers one row"
    return cast("int", row["gone"])
