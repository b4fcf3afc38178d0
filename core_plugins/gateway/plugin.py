"""Wiring of the gateway: what fills the slots, and what happens to kept answers in a tenant's life."""

from __future__ import annotations

from collections.abc import Callable

from core_plugins.gateway.operations.admission import Admission
from core_plugins.gateway.operations.breakers import Breakers
from core_plugins.gateway.operations.idempotency import KeptAnswers, KeyedCalls
from core_plugins.gateway.operations.limits import Limits
from core_plugins.gateway.operations.switching import GatewayOperations
from core_plugins.gateway.settings import Settings
from plugin_api import Registrar, hookimpl
from plugin_api.pipeline import Load, PipelineSlots, Tenant


class GatewayPlugin:
    """`kernel.gateway`."""

    def __init__(self) -> None:
        self._keyed: KeyedCalls | None = None
        self._answers: KeptAnswers | None = None
        self._breakers: Breakers | None = None
        self._limits: Limits | None = None
        self._make_admission: Callable[[Load], Admission] | None = None
        self._settings = Settings()

    @hookimpl
    def pk_register(self, registrar: Registrar) -> None:
        """Make what fills the slots, and register the task that forgets old answers."""
        settings: Settings = registrar.settings or Settings()
        self._settings = settings
        self._keyed = KeyedCalls(registrar.secrets, settings.keep_answers_s)
        self._answers = KeptAnswers(registrar.calls, registrar.log)
        registrar.task("forgetting", self._answers.run)
        rejected = registrar.counter("breaker_rejected", "Calls that an open breaker refused.", ["tier", "service"])
        self._breakers = Breakers(settings, rejected)
        told = "Breakers that are open or half-open."
        registrar.gauge("breaker_state", told, ["tier", "service"], self._breakers.not_closed)
        refused = registrar.counter("refused", "Calls that a limit refused.", ["limit"])
        self._limits = Limits(settings, registrar.cache, registrar.log, refused)
        registrar.task("cache", self._limits.watch)
        self._make_admission = lambda load: Admission(settings, load, refused)
        operations = GatewayOperations(self._breakers, registrar.calls, registrar.stamps)
        registrar.operations(operations)
        registrar.task("breakers", operations.follow)

    @hookimpl
    def pk_pipeline(self, slots: PipelineSlots) -> None:
        """Fill the slots."""
        if self._keyed and self._breakers and self._limits and self._make_admission:
            slots.body_bytes_max(self._settings.body_bytes_max)
            slots.admit(self._make_admission(slots.load).make)
            slots.limit(self._limits.make)
            slots.guard(self._breakers.make)
            slots.idempotency(self._keyed.make)

    @hookimpl
    async def pk_tenant_erased(self, tenant: Tenant) -> None:
        """Forget its answers."""
        if self._answers is not None:
            await self._answers.forget_tenant(tenant.id)


plugin = GatewayPlugin()
