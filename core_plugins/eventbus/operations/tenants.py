"""Which tenants there are: hooks tell, and a table keeps it, for jobs that are for every tenant."""

from __future__ import annotations

from uuid import UUID

from core_plugins.eventbus.operations.job_parts import JobParts
from core_plugins.eventbus.storage import jobs as storage


class KnownTenants:
    """Notes what hooks tell; each is idempotent, since they tell at least once."""

    def __init__(self, jobs: JobParts) -> None:
        self._parts = jobs.parts

    async def note(self, tenant_id: UUID, *, active: bool) -> None:
        """There is a tenant, and it is active or not."""
        async with self._parts.calls.open(tenant_id, "know a tenant") as call:
            await storage.know_tenant(await call.tx(), active=active)

    async def forget(self, tenant_id: UUID) -> None:
        """There is none any more: its jobs and firings go."""
        async with self._parts.calls.open(tenant_id, "forget a tenant") as call:
            await storage.forget_tenant(await call.tx(), tenant_id)
