"""Wiring of the records: who writes them, and what happens to them in a tenant's life."""

from __future__ import annotations

from core_plugins.audit.operations import AuditOperations, Retention
from core_plugins.audit.settings import Settings
from plugin_api import Registrar, hookimpl
from plugin_api.pipeline import PipelineSlots, Tenant


class AuditPlugin:
    """`kernel.audit`."""

    def __init__(self) -> None:
        self._operations: AuditOperations | None = None

    @hookimpl
    def pk_register(self, registrar: Registrar) -> None:
        """Register the list of records, and the task that forgets old ones."""
        settings: Settings = registrar.settings or Settings()
        self._operations = AuditOperations(registrar.calls)
        registrar.operations(self._operations)
        registrar.task("retention", Retention(registrar.calls, settings.keep_days, registrar.log).run)

    @hookimpl
    def pk_pipeline(self, slots: PipelineSlots) -> None:
        """Fill `record`."""
        if self._operations is not None:
            slots.record(self._operations.recorder)

    @hookimpl
    async def pk_tenant_erased(self, tenant: Tenant) -> None:
        """Delete its records."""
        if self._operations is not None:
            await self._operations.forget_tenant(tenant.id)


plugin = AuditPlugin()
