"""Wiring of the gateway: what fills the slots, and what happens to kept answers in a tenant's life."""

from __future__ import annotations

from core_plugins.gateway.operations.breakers import Breakers
from core_plugins.gateway.operations.idempotency import KeptAnswers, KeyedCalls
from core_plugins.gateway.operations.switching import GatewayOperations
from core_plugins.gateway.settings import Settings
from plugin_api import Registrar, hookimpl
from plugin_api.pipeline import PipelineSlots, Tenant


class GatewayPlugin:
    """`kernel.gateway`."""

    def __init__(self) -> None:
        self._keyed: KeyedCalls | None = None
        self._answers: KeptAnswers | None = None
        self._breakers: Breakers | None = None

    @hookimpl
    def pk_register(self, registrar: Registrar) -> None:
        """Make what fills the slots, and register the task that forgets old answers."""
        settings: Settings = registrar.settings or Settings()
        self._keyed = KeyedCalls(registrar.secrets, settings.keep_answers_s)
        self._answers = KeptAnswers(registrar.calls, registrar.log)
        registrar.task("forgetting", self._answers.run)
        rejected = registrar.counter("breaker_rejected", "Calls that an open breaker refused", ["tier", "service"])
        self._breakers = Breakers(settings, rejected)
        told = "Breakers that are open or half-open"
        registrar.gauge("breaker_state", told, ["tier", "service"], self._breakers.not_closed)
        operations = GatewayOperations(self._breakers, registrar.calls, registrar.stamps)
        registrar.operations(operations)
        registrar.task("breakers", operations.follow)

    @hookimpl
    def pk_pipeline(self, slots: PipelineSlots) -> None:
        """Fill the slots."""
        if self._keyed is not None and self._breakers is not None:
            slots.idempotency(self._keyed.make)
            slots.guard(self._breakers.make)

    @hookimpl
    async def pk_tenant_erased(self, tenant: Tenant) -> None:
        """Forget its answers."""
        if self._answers is not None:
            await self._answers.forget_tenant(tenant.id)


plugin = GatewayPlugin()
