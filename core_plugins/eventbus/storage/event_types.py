"""Statements about types of events; what they do is in `migrations/0004_event_types.sql`."""

from __future__ import annotations

from datetime import datetime
from typing import cast

from msgspec import Struct

from plugin_api.event_schemas import Schema
from plugin_api.ports.database import Row, Tx


class EventType(Struct, frozen=True):
    """What was promised of the data of one type."""

    type: str
    """In full."""
    area: str
    promised: Schema
    """As it was declared first."""
    known: Schema
    """With what was gained since."""
    promised_at: datetime
    gained_at: datetime | None


async def lock_types(tx: Tx, area: str) -> dict[str, EventType]:
    """The types of an area; until the transaction ends nobody else declares any."""
    found = [_event_type(row) for row in await tx.fetch("select * from lock_event_types($1)", area)]
    return {one.type: one for one in found}


async def keep_type(tx: Tx, event_type: str, area: str, promised: Schema, known: Schema) -> None:
    """Write down a type that is new, or what one has gained."""
    await tx.execute("select keep_event_type($1, $2, $3, $4)", event_type, area, promised, known)


async def list_types(tx: Tx, area: str | None, after: str | None, most: int) -> list[EventType]:
    """Types after one, of an area or of all, in order."""
    return [_event_type(row) for row in await tx.fetch("select * from list_event_types($1, $2, $3)", area, after, most)]


async def forget_types(tx: Tx, area: str) -> int:
    """Forget what an area promised; how many types."""
    row = await tx.fetch_one("select forget_event_types($1) as value", area)
    assert row is not None, "a function answers one row"
    return cast("int", row["value"])


def _event_type(row: Row) -> EventType:
    return EventType(row["type"], row["area"], row["promised"], row["known"], row["promised_at"], row["gained_at"])
