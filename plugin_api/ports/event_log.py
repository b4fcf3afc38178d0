"""The event log: what plugins told, in order, for whoever wants to know. Kept by the plugin `kernel.eventbus`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol
from uuid import UUID

from plugin_api.call import Call
from plugin_api.event_schemas import Schema
from plugin_api.events import EventEnvelope
from plugin_api.services import ServiceKey


@dataclass(frozen=True)
class Reaction:
    """A method of a plugin that is called for every event of some types."""

    consumer: str
    """`{area}.{method}`: whose progress it is. A new name begins with what is told from then on."""
    member: str
    """Which of the consumer's readers this is, among all processes."""
    types: frozenset[str]
    """Full types."""
    open: Callable[[UUID, str, float, str], AbstractAsyncContextManager[Call]]
    """(tenant, reason, seconds, traceparent of the event) -> a call of the plugin itself, in the trace of the event."""
    handle: Callable[[Call, EventEnvelope], Awaitable[None]]


class Subscription(Protocol):
    """A broadcast that is listened to."""

    def close(self) -> None:
        """Hear no more."""
        ...


class EventLog(Protocol):
    """Hands events out.

    The events of one entity come in order, and each has its effect once: what `handle` writes in the call's transaction is
    committed together with the note that the event is done. `handle` itself may be called again for an event, after an error
    or the end of its process; what it does elsewhere must bear that.
    """

    async def declare(self, area: str, schemas: Mapping[str, Schema]) -> None:
        """Promise what the data of an area's events holds: type relative to the area -> schema. All of them or none.

        What is promised first is kept for ever; what a later version gains is known from then on and may be missing again,
        for that version may be rolled back. Idempotent.

        Raises:
            Conflict: `event_schema_broken`, a schema lacks a field that was promised first, or tells a known one otherwise.
                `event_schema_too_large`, more was gained over time than one schema or area may have.
            StoreUnavailable: the database is away.
        """
        ...

    async def join(self, consumer: str, types: Collection[str]) -> None:
        """Let a consumer begin with what is told from now on, unless it has begun before. Idempotent.

        Raises:
            StoreUnavailable: the database is away.
        """
        ...

    async def consume(self, reaction: Reaction) -> None:
        """Call `handle` for events as they come; never returns. Cancel it to stop; what was begun is begun anew elsewhere.

        A `handle` that raises is tried again after 100, 200 and 400 ms; then the event is parked, and with it whatever else
        comes of its entity, until an operator has it told again (`pk events dlq`). Others go on meanwhile.
        """
        ...

    def broadcast(self, types: Collection[str], hear: Callable[[EventEnvelope], None]) -> Subscription:
        """Call `hear` in this process for every event of these types from now on, of all tenants; for kernel plugins.

        Within a second of the commit, also when a wake-up is lost. For caches: nothing is noted down, so what a process that
        does not run misses, it misses.
        """
        ...

    async def forget(self, plugin: str, area: str) -> None:
        """Forget what is kept for a plugin that has left with its data: how far its consumers have come, their dead letters, what
        they have done; the numbers of its entities, what it promised of its events, and what it told that is not in the log
        yet. What is in the log stays.

        `plugin` is its schema. Idempotent: whoever is cut off in the middle calls it again.

        Raises:
            StoreUnavailable: the database is away.
        """
        ...


EVENT_LOG: ServiceKey[EventLog] = ServiceKey("eventbus")
