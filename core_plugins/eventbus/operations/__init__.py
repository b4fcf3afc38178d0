"""The capability `eventbus`: what consumers, listeners and operators ask of the log."""

from __future__ import annotations

from collections.abc import Callable, Collection
from uuid import UUID

from core_plugins.eventbus import storage
from core_plugins.eventbus.model import topic_of
from core_plugins.eventbus.operations.administering import AdministerOperations
from core_plugins.eventbus.operations.broadcasting import Broadcast, Listener
from core_plugins.eventbus.operations.consuming import Consumer
from core_plugins.eventbus.operations.parts import FORGOTTEN_AT_ONCE, Parts
from core_plugins.eventbus.operations.reading import ReadOperations
from core_plugins.eventbus.operations.schemas import SchemaOperations
from core_plugins.eventbus.operations.streaming import StreamOperations
from plugin_api.events import EventEnvelope
from plugin_api.ports.event_log import Reaction


class EventbusOperations(StreamOperations, ReadOperations, AdministerOperations, SchemaOperations):
    """Implements `plugin_api.ports.event_log.EventLog`, and what is asked over REST."""

    def __init__(self, parts: Parts, broadcast: Broadcast) -> None:
        StreamOperations.__init__(self, parts)
        ReadOperations.__init__(self, parts)
        AdministerOperations.__init__(self, parts)
        SchemaOperations.__init__(self, parts)
        self._broadcast = broadcast

    async def join(self, consumer: str, types: Collection[str]) -> None:
        """Let a consumer begin; see the port."""
        async with self._parts.tx("join the log") as tx:
            await storage.join_group(tx, consumer, {topic_of(one) for one in types})

    async def consume(self, reaction: Reaction) -> None:
        """Hand events to a reaction; see the port."""
        await Consumer(self._parts, reaction).run()

    def broadcast(self, types: Collection[str], hear: Callable[[EventEnvelope], None]) -> Listener:
        """Hand every event of some types to this process; see the port."""
        return self._broadcast.listen(types, hear)

    async def forget_tenant(self, tenant_id: UUID) -> None:
        """Destroy the events of an erased tenant. Idempotent; readers pass over the offsets that are missing."""
        async with self._parts.calls.open(tenant_id, "erase events") as call:
            await storage.forget_tenant(await call.tx())

    async def forget(self, plugin: str, area: str) -> None:
        """Forget what is kept for a plugin that has left; see the port."""
        went = 1
        while went:
            async with self._parts.tx("forget a plugin") as tx:
                went = await storage.forget_plugin(tx, plugin, area, FORGOTTEN_AT_ONCE)
        await self.forget_types(area)
