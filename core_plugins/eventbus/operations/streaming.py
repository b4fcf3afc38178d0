"""Streams of a tenant's events, as server-sent events (HTML standard, section 9.2); resumed from where they broke off."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import AsyncExitStack, contextmanager
from typing import Annotated, Final
from uuid import UUID

import msgspec
from msgspec import Meta, Struct, structs

from core_plugins.eventbus import storage
from core_plugins.eventbus.model import Logged, read_position
from core_plugins.eventbus.operations.parts import LOG, Parts
from plugin_api import Call, operation
from plugin_api.errors import Gone, KernelBug, KernelError, LimitReached
from plugin_api.streams import Stream

BATCH: Final = 100
STREAMS_MAX: Final = 256
"""Of one process."""
QUIET_S: Final = 15.0
"""After so long without an event a comment is sent, so that a client that has gone is noticed."""
ALIVE: Final = b": alive\n\n"
BEGUN: Final = b"retry: 1000\n\n"
_OPTIONAL: Final = ("actor", "traceparent")


class Follow(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which events."""

    type: Annotated[str, Meta(max_length=160, description="A full type: `acme.crm.lead.created.v1`.")] | None = None
    subject: Annotated[str, Meta(max_length=200, description="The id of an entity.")] | None = None


class StreamOperations:
    """Hands a tenant's events to whoever listens."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._streams = 0

    @operation("GET /stream", permission="event.read", stream=True, media="text/event-stream")
    async def follow_events(self, call: Call, request: Follow) -> Stream:
        """Follow the events of one's tenant, as server-sent events: one CloudEvent in each `data:`, each with an `id:`.

        With `Last-Event-ID` it begins after that event, without it with what is told from now on. A stream ends when the
        access token does, when the session, key or permission is taken away, and when its process stops; clients come again
        with the last id, as EventSource does by itself. An id of events that are no longer kept is answered with 410.
        """
        if self._streams >= STREAMS_MAX:
            raise LimitReached(
                f"{STREAMS_MAX} streams are open in this process; close some, or try again", retry_after_s=5
            )
        if call.transfer is None:
            raise KernelBug("a streaming operation was called without its transfer")
        opened = AsyncExitStack()
        opened.enter_context(self._counted())  # before anything is awaited: of many at once no more than there may be
        try:
            position = await self._begin(call.transfer.last_event_id)
        except BaseException:
            await opened.aclose()
            raise
        chunks = self._chunks(call.tenant_id, request, position)
        opened.push_async_callback(chunks.aclose)
        return Stream(
            chunks,
            content_type="text/event-stream; charset=utf-8",
            headers=(("Cache-Control", "no-store"), ("X-Accel-Buffering", "no")),
            close=opened.aclose,
            endless=True,
        )

    @contextmanager
    def _counted(self) -> Iterator[None]:
        self._streams += 1
        try:
            yield
        finally:
            self._streams -= 1

    async def _begin(self, last_event_id: str) -> int:
        """The position after which a stream begins."""
        position = read_position(last_event_id) if last_event_id else None
        async with self._parts.tx("begin a stream") as tx:
            tip, oldest = await storage.tip(tx), await storage.oldest(tx)
        if position is None:
            return tip
        if position + 1 < oldest:
            raise Gone(
                f"events after {position} are no longer kept, the oldest is {oldest}; begin without Last-Event-ID and read the "
                "entities anew",
                code="events_gone",
            )
        return min(position, tip)

    async def _chunks(self, tenant_id: UUID, wanted: Follow, position: int) -> AsyncGenerator[bytes]:
        """The stream: events as they come, a comment when there are none."""
        bell = self._parts.wakeups.bell(LOG)
        said_at = time.monotonic()
        try:
            yield BEGUN
            while True:
                found = await self._read(tenant_id, wanted, position)
                if found:
                    position, said_at = found[-1][0], time.monotonic()
                    yield b"".join(_frame(place, event) for place, event in found)
                elif time.monotonic() - said_at >= QUIET_S:
                    said_at = time.monotonic()
                    yield ALIVE
                if len(found) < BATCH:
                    await bell.wait(self._parts.settings.poll_s)
        finally:
            bell.close()

    async def _read(self, tenant_id: UUID, wanted: Follow, position: int) -> list[tuple[int, Logged]]:
        try:
            async with self._parts.calls.open(tenant_id, "follow events") as call:
                return await storage.read_tenant(await call.tx(), position, wanted.type, wanted.subject, BATCH)
        except KernelError as error:
            self._parts.log.warning("a stream waits for the database", why=error.detail)
            return []


def _frame(position: int, event: Logged) -> bytes:
    document = structs.asdict(event.envelope)
    for name in _OPTIONAL:
        if not document[name]:
            del document[name]  # an attribute of a CloudEvent is never empty
    return b"id: %d\ndata: %b\n\n" % (position, msgspec.json.encode(document))
