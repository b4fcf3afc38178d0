"""What operators do with the log: see who is behind, look at dead letters, have events told again."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated
from uuid import UUID

from msgspec import Meta, Struct

from core_plugins.eventbus import storage
from core_plugins.eventbus.model import PARTITIONS, Partition
from core_plugins.eventbus.operations.parts import REPLAY, Parts
from core_plugins.eventbus.storage import Letter
from plugin_api import Call, operation
from plugin_api.errors import InvalidRequest, NotFound, Unreadable
from plugin_api.events import EventEnvelope
from plugin_api.pages import Page
from plugin_api.ports.database import Tx

ConsumerName = Annotated[
    str, Meta(min_length=1, max_length=160, description="`{area}.{method}`, as the list of consumers has it.")
]


class NoRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """Nothing."""


class ConsumerLag(Struct, frozen=True):
    """How far a consumer is behind in one topic."""

    consumer: str
    topic: str
    behind: int
    """Events that it has not passed yet, also of types that it does not hear."""
    oldest: datetime | None
    """When the first of them was appended."""


class ConsumerLags(Struct, frozen=True):
    """All of them."""

    items: list[ConsumerLag]


class LetterQuery(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which letters."""

    consumer: ConsumerName | None = None
    limit: Annotated[int, Meta(ge=1, le=200)] = 50
    cursor: Annotated[str, Meta(max_length=2_048)] | None = None


class DeadLetter(Struct, frozen=True):
    """An event that waits because it, or one of its entity before it, could not be handled."""

    id: UUID
    consumer: str
    topic: str
    reason: str
    attempts: int
    """0 for one that waits behind another."""
    parked_at: datetime
    replay_at: datetime | None
    event: EventEnvelope


class Replay(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What to try again: all letters of a consumer, or those of the entity of one letter."""

    consumer: ConsumerName | None = None
    letter_id: UUID | None = None


class Replayed(Struct, frozen=True):
    """What came of it."""

    letters: int
    """That are tried again now, in order."""


class Place(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An event's place in its topic."""

    topic: Annotated[str, Meta(min_length=1, max_length=100, description="`platform.{domain}.events`.")]
    partition: Annotated[int, Meta(ge=0, lt=PARTITIONS)]
    offset: Annotated[int, Meta(ge=0, le=2**53 - 1)]


class Rewind(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """From where on: a moment, in all partitions, or an offset of one."""

    consumer: ConsumerName
    since: datetime | None = None
    place: Place | None = None


class Rewound(Struct, frozen=True):
    """What came of it."""

    partitions: int


class AdministerOperations:
    """For operators, of all tenants."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    @operation("GET /consumers", permission="consumer.read", operator=True)
    async def list_consumers(self, call: Call, request: NoRequest) -> ConsumerLags:
        """List consumers with how far they are behind."""
        async with self._parts.tx("list consumers") as tx:
            rows = await storage.lags(tx)
        return ConsumerLags([ConsumerLag(row["consumer"], row["topic"], row["behind"], row["oldest"]) for row in rows])

    @operation("GET /dead-letters", permission="letter.read", operator=True)
    async def list_dead_letters(self, call: Call, request: LetterQuery) -> Page[DeadLetter]:
        """List events that wait because they, or one of their entity before them, could not be handled; newest first."""
        bound = f"dead-letters {request.consumer}".encode()
        before = _before(call.open_cursor(bound, request.cursor)) if request.cursor is not None else None
        async with self._parts.tx("list dead letters") as tx:
            found = await storage.list_letters(tx, request.consumer, before, request.limit + 1)
        items = [_shown(one) for one in found[: request.limit]]
        more = len(found) > request.limit
        return Page(items, call.seal_cursor(bound, [str(items[-1].id)]) if more else None)

    @operation("POST /dead-letters/replay", permission="letter.replay", operator=True, status=200)
    async def replay_dead_letters(self, call: Call, request: Replay) -> Replayed:
        """Have dead letters told again, each entity's in order; what has had its effect meanwhile has none again.

        Those of a consumer, or of the entity of one letter; without either all of them. What fails again stays.
        """
        async with self._parts.tx("replay dead letters") as tx:
            asked = await storage.ask_replay(tx, request.consumer, request.letter_id)
        if asked == 0 and request.letter_id is not None:
            raise NotFound(f"there is no dead letter {request.letter_id}; it was delivered, or never was")
        self._parts.wakeups.ring(REPLAY)
        return Replayed(asked)

    @operation("POST /consumers/rewind", permission="consumer.rewind", operator=True, status=200)
    async def rewind_consumer(self, call: Call, request: Rewind) -> Rewound:
        """Let a consumer begin anew with what was told since a moment, or with an offset of one partition.

        What has had its effect has none again. A consumer only goes back: what it has not passed yet is never left out.
        """
        if (request.since is None) == (request.place is None):
            raise InvalidRequest("say from where on the consumer begins anew: either `since` or `place`")
        async with self._parts.tx("rewind a consumer") as tx:
            if request.place is not None:
                return await _rewind_to(tx, request.consumer, request.place)
            assert request.since is not None, "one of both is there"
            moved = await storage.rewind(tx, request.consumer, request.since)
        if moved == 0:
            raise NotFound(f"there is no consumer {request.consumer}; GET /api/v1/eventbus/consumers lists them")
        return Rewound(moved)


async def _rewind_to(tx: Tx, consumer: str, place: Place) -> Rewound:
    partition = f"{place.topic}/{place.partition}"
    following, has_moved = await storage.rewind_to(tx, consumer, Partition(place.topic, place.partition), place.offset)
    if following is None:
        told = f"there is no consumer {consumer} that reads {partition}"
        raise NotFound(f"{told}; GET /api/v1/eventbus/consumers lists consumers with their topics")
    if not has_moved:
        raise InvalidRequest(
            f"{consumer} has passed the offsets of {partition} before {following}, and {place.offset} is beyond that; give "
            f"one from 0 to {following}"
        )
    return Rewound(1)


def _before(values: list[object]) -> UUID:
    if len(values) != 1 or not isinstance(values[0], str):
        raise Unreadable("the cursor is of another list; begin again without it", code="bad_cursor")
    return UUID(values[0])


def _shown(one: Letter) -> DeadLetter:
    return DeadLetter(
        one.id, one.consumer, one.topic, one.reason, one.attempts, one.parked_at, one.replay_at, one.event.envelope
    )
