"""Wiring of the event log: the relay, broadcasts, and what consumers ask for."""

from __future__ import annotations

import asyncio
import os

from core_plugins.eventbus.operations import EventbusOperations
from core_plugins.eventbus.operations.broadcasting import Broadcast
from core_plugins.eventbus.operations.parts import Parts
from core_plugins.eventbus.operations.relaying import Relay
from core_plugins.eventbus.settings import Settings
from plugin_api import Registrar, hookimpl
from plugin_api.ports.event_log import EVENT_LOG
from plugin_api.ports.wakeups import WAKEUPS


class EventbusPlugin:
    """`kernel.eventbus`."""

    def __init__(self) -> None:
        self._operations: EventbusOperations | None = None

    @hookimpl
    def pk_register(self, registrar: Registrar) -> None:
        """Provide the port `eventbus`, relay and follow the log."""
        parts = Parts(
            registrar.calls,
            registrar.services.get(WAKEUPS),
            registrar.log,
            registrar.settings or Settings(),
            asyncio.sleep,
        )
        broadcast = Broadcast(parts)
        relay = Relay(parts, f"worker-{registrar.host_state.worker}-{os.getpid()}")
        self._operations = EventbusOperations(parts, broadcast)
        registrar.operations(self._operations)
        registrar.service(EVENT_LOG, self._operations)
        registrar.task("relay", relay.run)
        registrar.task("broadcast", broadcast.run)

    @hookimpl
    async def pk_drain(self) -> None:
        """Let streams end; clients come again."""
        if self._operations is not None:
            self._operations.end_streams()


plugin = EventbusPlugin()
