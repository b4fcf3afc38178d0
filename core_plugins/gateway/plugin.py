"""Wiring of the gateway: what fills the slots, and what happens to kept answers in a tenant's life."""

from __future__ import annotations

from core_plugins.gateway.operations.idempotency import KeptAnswers, KeyedCalls
from core_plugins.gateway.settings import Settings
from plugin_api import Registrar, hookimpl
from plugin_api.pipeline import PipelineSlots, Tenant


class GatewayPlugin:
    """`kernel.gateway`."""

    def __init__(self) -> None:
        self._keyed: KeyedCalls | None = None
        self._answers: KeptAnswers | None = None

    @hookimpl
    def pk_register(self, registrar: Registrar) -> None:
        """Make what fills the slots, and register the task that forgets old answers."""
        settings: Settings = registrar.settings or Settings()
        self._keyed = KeyedCalls(registrar.secrets, settings.keep_answers_s)
        self._answers = KeptAnswers(registrar.calls, registrar.log)
        registrar.task("forgetting", self._answers.run)

    @hookimpl
    def pk_pipeline(self, slots: PipelineSlots) -> None:
        """Fill the slots."""
        if self._keyed is not None:
            slots.idempotency(self._keyed.make)

    @hookimpl
    async def pk_tenant_erased(self, tenant: Tenant) -> None:
        """Forget its answers."""
        if self._answers is not None:
            await self._answers.forget_tenant(tenant.id)


plugin = GatewayPlugin()
