"""Every SQL statement of the plugin. No statement names a tenant: the transaction has one, and the database holds it to it."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from plugin_api.pages import Keyset
from plugin_api.ports.database import Row, Tx


async def count_notes(tx: Tx) -> int:
    """How many notes the tenant has."""
    row = await tx.fetch_one("select count(*) as n from notes")
    return 0 if row is None else int(row["n"])


async def insert_note(tx: Tx, note_id: UUID, text: str) -> None:
    """Add a note."""
    await tx.execute("insert into notes (id, text) values ($1, $2)", note_id, text)


async def find_note(tx: Tx, note_id: UUID) -> Row | None:
    """One note, or None."""
    return await tx.fetch_one("select id, text, version, created_at from notes where id = $1", note_id)


async def lock_note(tx: Tx, note_id: UUID) -> Row | None:
    """One note that nobody else changes until this transaction ends, or None."""
    return await tx.fetch_one("select version from notes where id = $1 for update", note_id)


async def update_note(tx: Tx, note_id: UUID, text: str) -> None:
    """Write a locked note."""
    await tx.execute(
        "update notes set text = $2, version = version + 1, updated_at = now() where id = $1", note_id, text
    )


async def list_notes(tx: Tx, place: Keyset, count: int) -> Sequence[Row]:
    """At most `count` notes from a place on."""
    condition, order, arguments = place.clause(2)
    columns = "id, text, version, created_at"
    sql = f"select {columns} from notes where {condition} order by {order} limit $1"  # noqa: S608 - no value is in it
    return await tx.fetch(sql, count, *arguments)
