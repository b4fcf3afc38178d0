"""Wiring of the event log: the relay, broadcasts, and what consumers ask for."""

from __future__ import annotations

import asyncio
import os

from core_plugins.eventbus.operations import EventbusOperations
from core_plugins.eventbus.operations.administering_jobs import JobOperations
from core_plugins.eventbus.operations.broadcasting import Broadcast
from core_plugins.eventbus.operations.counting import make_counts
from core_plugins.eventbus.operations.job_parts import JobParts
from core_plugins.eventbus.operations.measuring import Meter
from core_plugins.eventbus.operations.parts import Parts
from core_plugins.eventbus.operations.queueing import PostgresJobQueue
from core_plugins.eventbus.operations.relaying import Relay
from core_plugins.eventbus.operations.tenants import KnownTenants
from core_plugins.eventbus.settings import Settings
from plugin_api import Registrar, hookimpl
from plugin_api.pipeline import Tenant
from plugin_api.ports.event_log import EVENT_LOG
from plugin_api.ports.job_queue import JOB_QUEUE
from plugin_api.ports.wakeups import WAKEUPS


class EventbusPlugin:
    """`kernel.eventbus`."""

    def __init__(self) -> None:
        self._operations: EventbusOperations | None = None
        self._tenants: KnownTenants | None = None

    @hookimpl
    def pk_register(self, registrar: Registrar) -> None:
        """Provide the port `eventbus`, relay and follow the log."""
        parts = Parts(
            registrar.calls,
            registrar.services.get(WAKEUPS),
            registrar.log,
            registrar.settings or Settings(),
            asyncio.sleep,
            make_counts(registrar),
        )
        broadcast = Broadcast(parts)
        relay = Relay(parts, f"worker-{registrar.host_state.worker}-{os.getpid()}")
        self._operations = EventbusOperations(parts, broadcast)
        registrar.operations(self._operations)
        registrar.service(EVENT_LOG, self._operations)
        jobs = JobParts(parts, registrar.clock)
        self._register_jobs(registrar, jobs)
        Meter(jobs, relay).register(registrar)
        registrar.task("relay", relay.run)
        registrar.task("broadcast", broadcast.run)

    def _register_jobs(self, registrar: Registrar, jobs: JobParts) -> None:
        queue = PostgresJobQueue(jobs)
        registrar.operations(JobOperations(jobs, queue))
        registrar.service(JOB_QUEUE, queue)
        self._tenants = KnownTenants(jobs)

    @hookimpl
    async def pk_tenant_created(self, tenant: Tenant) -> None:
        """Fire the jobs of every tenant in this one too."""
        if self._tenants is not None:
            await self._tenants.note(tenant.id, active=True)

    @hookimpl
    async def pk_tenant_suspended(self, tenant: Tenant) -> None:
        """Fire none in it until it is told of again."""
        if self._tenants is not None:
            await self._tenants.note(tenant.id, active=False)

    @hookimpl
    async def pk_tenant_erased(self, tenant: Tenant) -> None:
        """Forget it, its jobs, and what it told and heard."""
        if self._tenants is not None:
            await self._tenants.forget(tenant.id)
        if self._operations is not None:
            await self._operations.forget_tenant(tenant.id)


plugin = EventbusPlugin()
