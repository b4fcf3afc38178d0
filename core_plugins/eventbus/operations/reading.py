"""What operators read of the log: the events of all tenants, from any place of it on."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Final
from uuid import UUID

import msgspec
from msgspec import Meta, Struct

from core_plugins.eventbus import storage
from core_plugins.eventbus.model import Logged
from core_plugins.eventbus.operations.parts import Parts
from plugin_api import Call, operation
from plugin_api.errors import InvalidRequest
from plugin_api.events import EventEnvelope
from plugin_api.ports.database import Tx

POSITIONS_AT_ONCE: Final = 10_000
"""Of the log that one question looks through: events that are rare in it cost several questions, each of them short."""
_Moment = Annotated[datetime, Meta(tz=True)]


class LogQuery(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which events."""

    begin: Annotated[
        str,
        Meta(
            min_length=1,
            max_length=40,
            description="`beginning` of what is kept, `now`, a time (RFC 3339) or a position, which is included.",
        ),
    ] = "beginning"
    type: Annotated[str, Meta(max_length=160, description="A full type: `acme.crm.lead.created.v1`.")] | None = None
    subject: Annotated[str, Meta(max_length=200, description="The id of an entity.")] | None = None
    tenant_id: UUID | None = None
    limit: Annotated[int, Meta(ge=1, le=200)] = 50


class LoggedEvent(Struct, frozen=True):
    """An event with its place."""

    position: int
    """In the whole log."""
    topic: str
    partition: int
    offset: int
    """In the partition."""
    event: EventEnvelope


class LogPart(Struct, frozen=True):
    """Events in the order of the log."""

    items: list[LoggedEvent]
    next_position: int
    """Where the next question begins. There may be more when `tip` is not before it, though `items` is empty: one question
    looks through a part of the log."""
    tip: int
    """The position of the newest event of all."""


class ReadOperations:
    """For operators, of all tenants."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    @operation("GET /events", permission="log.read", operator=True)
    async def read_log(self, call: Call, request: LogQuery) -> LogPart:
        """Read the log of all tenants. Go on with `begin` = `next_position`; what is no longer kept is passed over."""
        async with self._parts.tx("read the log") as tx:
            tip = await storage.tip(tx)
            first = await _first(tx, request.begin, tip)
            found = await storage.read_log(
                tx, first, POSITIONS_AT_ONCE, request.type, request.subject, request.tenant_id, request.limit
            )
        last = found[-1][0] if found else 0
        is_full = len(found) == request.limit
        following = last + 1 if is_full else max(last + 1, first, min(first + POSITIONS_AT_ONCE, tip + 1))
        return LogPart([_shown(position, one) for position, one in found], following, max(tip, last))


async def _first(tx: Tx, begin: str, tip: int) -> int:
    """The position at which to begin."""
    if begin == "now":
        return tip + 1
    if begin == "beginning":
        return await storage.oldest(tx)
    if begin.isascii() and begin.isdigit() and len(begin) <= 18:
        if int(begin) > tip + 1:
            raise InvalidRequest(
                f"the log ends at position {tip}, and {begin} is beyond it; begin at {tip + 1} at most, or `now`"
            )
        return max(int(begin), await storage.oldest(tx))
    try:
        return await storage.position_since(tx, msgspec.convert(begin, _Moment))
    except msgspec.ValidationError:
        raise InvalidRequest(
            f"{begin!r} is no place in the log; write beginning, now, a position, or a time with its zone, like "
            "2026-03-01T12:00:00Z"
        ) from None


def _shown(position: int, one: Logged) -> LoggedEvent:
    return LoggedEvent(position, one.partition.topic, one.partition.number, one.offset, one.envelope)
