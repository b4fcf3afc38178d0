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
        registrar.service(EVENT_LOG, EventbusOperations(parts, broadcast))
        registrar.task("relay", relay.run)
        registrar.task("broadcast", broadcast.run)


plugin = EventbusPlugin()
