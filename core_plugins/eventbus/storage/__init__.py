"""Every statement of the plugin; what looks across tenants is a function of its schema (`migrations/`)."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any, Final, Literal, cast
from uuid import UUID

from msgspec import Struct

from core_plugins.eventbus.model import Entity, Logged, Partition, dead_letter_topic, envelope, lease_of, logged
from plugin_api.ids import uuid7
from plugin_api.ports.database import Row, Tx

LETTERS_COUNTED_MAX: Final = 10_000
"""Of one consumer and topic, for metrics."""
InboxState = Literal["new", "seen", "fenced"]


class Held(Struct, frozen=True):
    """A lease that was taken."""

    name: str
    epoch: int
    released: bool
    """Whether its former holder had let go of it; if not, it may have ended in the middle of something."""


class Turn(Struct, frozen=True):
    """What is next in one partition."""

    partition: Partition
    head: int
    """The offset that the partition's next event will have."""
    events: list[Logged]


class Letter(Struct, frozen=True):
    """An event that waits because it, or one of its entity before it, could not be handled."""

    id: UUID
    event: Logged
    consumer: str
    topic: str
    """`platform.{domain}.dlq`."""
    reason: str
    attempts: int
    parked_at: datetime
    replay_at: datetime | None


async def _value(tx: Tx, sql: str, *arguments: Any) -> Any:
    row = await tx.fetch_one(sql, *arguments)
    assert row is not None, "a function answers one row"
    return row["value"]


# ------------------------------------------------------------------------------------------------- leases


async def take_leases(tx: Tx, names: Sequence[str], owner: str, seconds: float, most: int) -> list[Held]:
    """Take some of these leases that are free; see the database's function."""
    rows = await tx.fetch("select * from pk.take_leases($1, $2, $3, $4)", list(names), owner, seconds, most)
    return [Held(row["name"], row["epoch"], row["released"]) for row in rows]


async def renew_leases(tx: Tx, held: Sequence[tuple[str, int]], seconds: float) -> set[str]:
    """Hold on to leases; those that are still held."""
    names, epochs = [name for name, _ in held], [epoch for _, epoch in held]
    rows = await tx.fetch("select * from pk.renew_leases($1, $2, $3) as name", names, epochs, seconds)
    return {row["name"] for row in rows}


async def release_leases(tx: Tx, held: Sequence[tuple[str, int]]) -> None:
    """Let go of leases."""
    names, epochs = [name for name, _ in held], [epoch for _, epoch in held]
    await tx.execute("select pk.release_leases($1, $2)", names, epochs)


# ---------------------------------------------------------------------------------------------- the log


async def relay(tx: Tx, epoch: int, most: int) -> int:
    """Move events from the outbox into the log; how many, -1 when the lease is another's by now."""
    return cast("int", await _value(tx, "select relay($1, $2) as value", epoch, most))


async def make_tomorrow(tx: Tx) -> None:
    """Make the tables of the next day before they are needed."""
    await tx.execute(
        """select make_buckets(array[bucket_of('', clock_timestamp() + interval '1 day'),
        bucket_of('platform.audit.events', clock_timestamp() + interval '1 day')])"""
    )


async def drop_old(tx: Tx, keep_days: int, keep_audit_days: int) -> list[str]:
    """Drop what is too old; the names of the tables that went."""
    rows = await tx.fetch("select * from drop_buckets($1, $2) as name", keep_days, keep_audit_days)
    return [row["name"] for row in rows]


async def forget_tenant(tx: Tx) -> None:
    """Destroy all that the transaction's tenant told, heard, or has waiting."""
    await tx.execute("select pk.forget_told()")
    await tx.execute("delete from log")
    await tx.execute("delete from dead_letters")


async def sweep_inbox(tx: Tx, keep_days: int) -> int:
    """Forget what was handled so long ago that it cannot be told again."""
    return cast("int", await _value(tx, "select pk.sweep_inbox($1) as value", keep_days))


async def tip(tx: Tx) -> int:
    """The position of the newest event; 0 when there was never one."""
    return cast("int", await _value(tx, "select tip_position() as value"))


async def oldest(tx: Tx) -> int:
    """The position of the oldest event that is still there."""
    return cast("int", await _value(tx, "select oldest_position() as value"))


async def read_after(tx: Tx, position: int, types: Collection[str], most: int) -> list[tuple[int, Logged]]:
    """Events of these types after a position, of all tenants, each with its position."""
    rows = await tx.fetch("select * from read_after($1, $2, $3)", position, list(types), most)
    return [(row["position"], logged(row)) for row in rows]


async def read_tenant(
    tx: Tx, position: int, event_type: str | None, subject: str | None, most: int
) -> list[tuple[int, Logged]]:
    """Events of the transaction's tenant after a position."""
    rows = await tx.fetch(
        """select * from log where position > $1 and ($2::text is null or type = $2)
        and ($3::text is null or subject = $3) order by position limit $4""",
        position, event_type, subject, most,
    )  # fmt: skip
    return [(row["position"], logged(row)) for row in rows]


async def read_log(
    tx: Tx, first: int, positions: int, event_type: str | None, subject: str | None, tenant_id: UUID | None, most: int
) -> list[tuple[int, Logged]]:
    """Events of all tenants, or of one, in so many positions from `first` on, each with its position."""
    rows = await tx.fetch(
        "select * from read_log($1, $2, $3, $4, $5, $6)", first, positions, event_type, subject, tenant_id, most
    )
    return [(row["position"], logged(row)) for row in rows]


async def position_since(tx: Tx, moment: datetime) -> int:
    """The position from which on everything was appended since a moment."""
    return cast("int", await _value(tx, "select position_since($1) as value", moment))


# -------------------------------------------------------------------------------------------- consumers


async def join_group(tx: Tx, consumer: str, topics: Collection[str]) -> None:
    """Let a consumer begin, with what comes from now on if it is new."""
    await tx.execute("select join_group($1, $2)", consumer, list(topics))


async def attend(tx: Tx, consumer: str, member: str, seconds: float) -> int:
    """Be one of a consumer's readers; how many there are."""
    return cast("int", await _value(tx, "select attend($1, $2, $3) as value", consumer, member, seconds))


async def leave(tx: Tx, consumer: str, member: str) -> None:
    """Be one of them no more."""
    await tx.execute("select leave($1, $2)", consumer, member)


async def poll(tx: Tx, consumer: str, types: Collection[str], mine: Sequence[Partition], most: int) -> list[Turn]:
    """What is next in these partitions; those that have nothing new are left out."""
    rows = await tx.fetch(
        "select * from poll($1, $2, $3, $4, $5)",
        consumer, list(types), [one.topic for one in mine], [one.number for one in mine], most,
    )  # fmt: skip
    turns: dict[Partition, Turn] = {}
    for row in rows:
        partition = Partition(row["of_topic"], row["of_partition"])
        turn = turns.setdefault(partition, Turn(partition, row["head"], []))
        if row["event"] is not None:
            turn.events.append(logged(row["event"]))
    return list(turns.values())


async def commit(tx: Tx, consumer: str, partition: Partition, epoch: int, next_offset: int) -> bool:
    """Note how far a consumer has come; False when the partition is another's by now."""
    sql = "select commit_progress($1, $2, $3, $4, $5) as value"
    return bool(await _value(tx, sql, consumer, partition.topic, partition.number, epoch, next_offset))


async def suspect(tx: Tx, consumer: str, partition: Partition, epoch: int, offset: int) -> int:
    """Note that an event is about to be handled where a worker had ended; how often one has at this very event."""
    sql = "select suspect($1, $2, $3, $4, $5) as value"
    return cast("int", await _value(tx, sql, consumer, partition.topic, partition.number, epoch, offset))


async def rewind(tx: Tx, consumer: str, since: datetime) -> int:
    """Let a consumer begin anew with what was told since then; in how many partitions, 0 for no such consumer."""
    return cast("int", await _value(tx, "select rewind($1, $2) as value", consumer, since))


async def rewind_to(tx: Tx, consumer: str, partition: Partition, offset: int) -> tuple[int | None, bool]:
    """Let a consumer begin anew at an offset of one partition; the offset that it read next, None when it does not read the
    partition, and whether it was moved."""
    sql = "select * from rewind_to($1, $2, $3, $4)"
    row = await tx.fetch_one(sql, consumer, partition.topic, partition.number, offset)
    assert row is not None, "a function answers one row"
    return row["next"], row["moved"]


async def lags(tx: Tx) -> Sequence[Row]:
    """How far consumers are behind: consumer, topic, behind, oldest."""
    return await tx.fetch("select * from lags()")


async def measure_consumers(tx: Tx) -> Sequence[Row]:
    """How far consumers are behind: consumer, topic, behind, oldest_s, letters."""
    return await tx.fetch("select * from measure_consumers($1)", LETTERS_COUNTED_MAX)


async def measure_outbox(tx: Tx) -> Row:
    """What is not in the log yet: events, oldest_s."""
    row = await tx.fetch_one(
        """select events, coalesce(extract(epoch from clock_timestamp() - oldest), 0)::float8 as oldest_s
        from pk.outbox_backlog()"""
    )
    assert row is not None, "a function answers one row"
    return row


async def enter_inbox(tx: Tx, consumer: str, event_id: UUID, lease: str, epoch: int) -> InboxState:
    """Begin to handle an event, in the consumer's own transaction; `fenced`: the partition is another's by now."""
    sql = "select pk.enter_inbox($1, $2, $3, $4) as value"
    return cast("InboxState", await _value(tx, sql, consumer, event_id, lease, epoch))


async def has_handled(tx: Tx, consumer: str, event_id: UUID) -> bool:
    """Whether an event has had its effect; in a transaction of the consumer's own."""
    return bool(await _value(tx, "select pk.has_handled($1, $2) as value", consumer, event_id))


async def forget_plugin(tx: Tx, plugin: str, area: str, most: int) -> int:
    """Forget so many rows of each kind that are kept for a plugin; how many went, 0 when it is all done."""
    told = cast("int", await _value(tx, "select pk.forget_told_by($1, $2, $3) as value", plugin, area, most))
    heard = cast("int", await _value(tx, "select forget_consumers($1, $2) as value", area, most))
    return told + heard


# ----------------------------------------------------------------------------------------- dead letters


async def park(tx: Tx, consumer: str, event: Logged, epoch: int, reason: str, attempts: int) -> bool:
    """Put an event aside; False when the partition is another's by now. Idempotent."""
    where = event.partition
    sql = "select park($1, $2, $3, $4, $5, $6, $7, $8) as value"
    return bool(
        await _value(tx, sql, uuid7(), consumer, where.topic, where.number, epoch, event.offset, reason, attempts)
    )


async def parked(tx: Tx, consumer: str, mine: Sequence[Partition]) -> dict[Partition, set[Entity]]:
    """The entities that are parked in these partitions."""
    topics, numbers = [one.topic for one in mine], [one.number for one in mine]
    found: dict[Partition, set[Entity]] = {one: set() for one in mine}
    for row in await tx.fetch("select * from parked($1, $2, $3)", consumer, topics, numbers):
        entity = Entity(row["tenant_id"], row["source"], row["subject"])
        found[Partition(row["topic"], row["partition"])].add(entity)
    return found


async def replayable(tx: Tx, consumer: str, mine: Sequence[Partition], most: int) -> list[Letter]:
    """Letters that are to be tried again, in the order of their entity."""
    topics, numbers = [one.topic for one in mine], [one.number for one in mine]
    rows = await tx.fetch("select * from replayable($1, $2, $3, $4)", consumer, topics, numbers, most)
    return [letter(row) for row in rows]


async def deliver(tx: Tx, found: Letter, epoch: int) -> bool:
    """A letter has had its effect: it goes. True when it was the last of its entity."""
    sql = "select deliver_letter($1, $2, $3, $4) as value"
    return bool(await _value(tx, sql, found.consumer, found.event.tenant_id, found.id, epoch))


async def keep(tx: Tx, found: Letter, reason: str, attempts: int) -> None:
    """It failed again: it and what waits behind it stay until they are asked for once more."""
    sql = "select keep_letter($1, $2, $3, $4, $5)"
    await tx.execute(sql, found.consumer, found.event.tenant_id, found.id, reason, attempts)


async def ask_replay(tx: Tx, consumer: str | None, letter_id: UUID | None) -> int:
    """Let letters be tried again; how many: those of a consumer, or of the entity of one letter."""
    return cast("int", await _value(tx, "select ask_replay($1, $2) as value", consumer, letter_id))


async def list_letters(tx: Tx, consumer: str | None, before: UUID | None, most: int) -> list[Letter]:
    """Letters of all tenants, the newest first."""
    return [letter(row) for row in await tx.fetch("select * from list_letters($1, $2, $3)", consumer, before, most)]


def letter(row: Row) -> Letter:
    """Read a row of dead letters."""
    partition = Partition(row["topic"], row["partition"])
    event = Logged(partition, row["offset"], row["tenant_id"], envelope(row, row["event_id"]))
    return Letter(
        row["id"],
        event,
        row["consumer"],
        dead_letter_topic(row["topic"]),
        row["reason"],
        row["attempts"],
        row["parked_at"],
        row["replay_at"],
    )


def leases(consumer: str, partitions: Sequence[Partition]) -> list[str]:
    """The names of the leases of these partitions."""
    return [lease_of(consumer, partition) for partition in partitions]
