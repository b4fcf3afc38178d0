"""The guard around every operation: breakers in two tiers, and one retry of what only reads."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, Literal, NamedTuple

from core_plugins.gateway.model.recent import Recent
from core_plugins.gateway.model.refusals import REPLAYED, is_excluded, mark_excluded
from core_plugins.gateway.settings import BreakerMode, Settings
from plugin_api.breaker import (
    CLOSED,
    EXCLUDED,
    FAILURE,
    LEASE_SPARE_S,
    REFUSED,
    SUCCESS,
    Breaker,
    Outcome,
    RatioBreaker,
    State,
    StreakBreaker,
)
from plugin_api.call import Call
from plugin_api.errors import (
    DeadlinePassed,
    KernelBug,
    KernelError,
    LimitReached,
    StoreUnavailable,
    Unavailable,
    Violation,
)
from plugin_api.pipeline import BoundOperation, Guard
from plugin_api.registrar import Counter

RETRY_S: Final = 0.1
TENANTS_MAX: Final = 10_000
"""Tenants whose calls are counted in one process; those that called longest ago are forgotten first."""
SERVICES_MAX: Final = 5_000
FORCED_OPEN_S: Final = 30
Rest = Callable[[], Awaitable[Any]]
Tier = Literal["service", "operation"]


class Outcomes(NamedTuple):
    """What the end of one call says to each breaker that it went through."""

    tenant: Outcome
    service: Outcome
    operation: Outcome


ALL_WELL: Final = Outcomes(SUCCESS, SUCCESS, SUCCESS)
NOTHING: Final = Outcomes(EXCLUDED, EXCLUDED, EXCLUDED)


def outcomes_of(error: BaseException, call: Call) -> Outcomes:
    """What an error says.

    Unavailable and DeadlinePassed are the service's; a bug is its operation's alone; any other 5xx is the tenant's. A store
    of the kernel that is away, what a breaker or a limit refused, a caller that went away, and what a breaker of an operation
    further in has counted already say nothing. Everything else was an answer.
    """
    if is_excluded(error) or isinstance(error, LimitReached | StoreUnavailable):
        return NOTHING
    if isinstance(error, asyncio.CancelledError):
        return Outcomes(FAILURE, FAILURE, EXCLUDED) if time.monotonic() >= call.deadline else NOTHING
    if isinstance(error, Unavailable | DeadlinePassed):
        return Outcomes(FAILURE, FAILURE, EXCLUDED)
    if isinstance(error, KernelBug) or not isinstance(error, KernelError):
        return Outcomes(FAILURE, EXCLUDED, FAILURE)
    return ALL_WELL if error.status < 500 else Outcomes(FAILURE, EXCLUDED, EXCLUDED)


class Passed(NamedTuple):
    """The breakers that a call went through, and which generation of each; REFUSED where it does not count."""

    tenant: RatioBreaker | None
    tenant_generation: int
    service_generation: int
    operation_generation: int
    is_probe: bool


class Breakers:
    """All breakers of this process."""

    def __init__(self, settings: Settings, rejected: Counter) -> None:
        self._per_service = settings.tenant_breaker_scope == "tenant_service"
        self.tenant_mode: BreakerMode = settings.tenant_breaker
        self.usual_mode: BreakerMode = settings.service_breaker
        self._rejected = rejected
        self._tenants: Recent[RatioBreaker] = Recent(TENANTS_MAX)
        self._services: dict[str, StreakBreaker] = {}
        self._operations: dict[str, StreakBreaker] = {}
        self._modes: Mapping[str, BreakerMode] = {}
        self._is_usually_plain = self.usual_mode == self.tenant_mode == "normal"
        self.is_plain = self._is_usually_plain
        """Whether every breaker does what breakers do."""

    def make(self, bound: BoundOperation) -> Guard | None:
        """The guard of one operation; none for those of operators, who mend with them what has failed, and who could else
        close the door to the very operation that opens it."""
        return None if bound.spec.operator else OperationGuard(self, bound)

    def mode_of(self, service: str) -> BreakerMode:
        """What the breaker of a service is to do."""
        return self._modes.get(service, self.usual_mode)

    def take_modes(self, modes: Mapping[str, BreakerMode]) -> None:
        """Take over what operators have set, by service; what is set anew begins closed."""
        changed = {name for name in {*modes, *self._modes} if modes.get(name) != self._modes.get(name)}
        self._modes = modes
        self.is_plain = self._is_usually_plain and not modes
        for name in changed & self._services.keys():
            self._services[name].reset()

    def tenant(self, call: Call, plugin_id: str) -> RatioBreaker:
        """The breaker of a call's tenant."""
        number = call.tenant_id.int  # an id itself hashes at ten times the price
        key = (number, plugin_id) if self._per_service else number
        breaker = self._tenants.get(key)
        if breaker is None:
            breaker = RatioBreaker()
            self._tenants.put(key, breaker)
        return breaker

    def service(self, name: str) -> StreakBreaker:
        """The breaker of a service."""
        return _kept(self._services, name)

    def operation(self, name: str) -> StreakBreaker:
        """The breaker of one operation, which bugs alone open."""
        return _kept(self._operations, name)

    def count_rejected(self, tier: str, service: str) -> None:
        """One call was refused."""
        self._rejected.add(1, tier=tier, service=service)

    def not_closed(self) -> dict[tuple[str, ...], float]:
        """How many breakers are open or half-open, by tier and service; for the gauge."""
        found: dict[tuple[str, ...], float] = {("tenant", ""): sum(not _is_closed(b) for b in self._tenants.values())}
        for tier, breakers in (("service", self._services), ("operation", self._operations)):
            found.update({(tier, name): 1.0 for name, breaker in breakers.items() if not _is_closed(breaker)})
        return found

    def states(self) -> list[tuple[Tier, str, State]]:
        """(tier, name, state) of every breaker of a service, and of those of operations that are not closed."""
        services: list[tuple[Tier, str, State]] = [
            ("service", name, b.state) for name, b in sorted(self._services.items())
        ]
        open_ones = [(name, b.state) for name, b in sorted(self._operations.items()) if not _is_closed(b)]
        return services + [("operation", name, state) for name, state in open_ones]


def _is_closed(breaker: Breaker) -> bool:
    return breaker.state is CLOSED


def _kept(breakers: dict[str, StreakBreaker], name: str) -> StreakBreaker:
    breaker = breakers.get(name)
    if breaker is None:
        if len(breakers) >= SERVICES_MAX:
            del breakers[next(iter(breakers))]
        breaker = breakers[name] = StreakBreaker()
    return breaker


class OperationGuard:
    """Runs one operation behind its breakers.

    A service is a plugin. Of the kernel's own plugins each operation is one, or five failures of one operation of `kernel.iam`
    would lock everybody out of all others.
    """

    def __init__(self, breakers: Breakers, bound: BoundOperation) -> None:
        self._breakers = breakers
        self._plugin_id = bound.plugin_id
        is_kernel = bound.plugin_id.startswith("kernel.")
        self._service_name = bound.id if is_kernel else bound.plugin_id
        self._service = breakers.service(self._service_name)
        self._operation_name = bound.id
        self._operation = breakers.operation(bound.id)
        self._may_repeat = bound.method == "GET"

    async def __call__(self, call: Call, rest: Rest) -> Any:
        """Run the rest, or refuse.

        Raises:
            Unavailable: a breaker is open.
        """
        passed = self._enter_plainly(call) or self._enter(call)
        if passed is None:
            return await rest()
        headers = len(call.response_headers or ())
        try:
            answer = await rest()
        except Exception as error:
            if not self._is_repeated(passed, call, error):
                self._failed(passed, call, error)
                raise
        except BaseException as error:
            self._failed(passed, call, error)
            raise
        else:
            if call.idempotency_key is None and self._service.is_calm and self._operation.is_calm:
                if passed.tenant is not None:
                    passed.tenant.succeed(passed.tenant_generation, time.monotonic())
            else:
                self._leave(passed, _outcomes_of_answered(call))
            return answer
        if call.response_headers:
            del call.response_headers[headers:]  # what the first try had said
        return await self._again(passed, call, rest)

    # ---------------------------------------------------------------------------------- retry

    def _is_repeated(self, passed: Passed, call: Call, error: Exception) -> bool:
        """Whether what failed is tried again: it only reads, it may pass, it is no probe, and there is time."""
        if not self._may_repeat or passed.is_probe or is_excluded(error):
            return False
        may_pass = isinstance(error, KernelError) and error.retryable
        return may_pass and call.deadline - time.monotonic() > 2 * RETRY_S

    async def _again(self, passed: Passed, call: Call, rest: Rest) -> Any:
        """The second and last try. Both count as one call."""
        try:
            await asyncio.sleep(RETRY_S)
            answer = await rest()
        except BaseException as error:
            self._failed(passed, call, error)
            raise
        self._leave(passed, ALL_WELL)
        return answer

    # --------------------------------------------------------------------------- enter and leave

    def _enter_plainly(self, call: Call) -> Passed | None:
        """What nearly all calls do: pass closed breakers that do what breakers do. None when it takes a closer look."""
        breakers, service, operation = self._breakers, self._service, self._operation
        if not breakers.is_plain or service.state is not CLOSED or operation.state is not CLOSED:
            return None
        if not call.has_tenant:
            return Passed(None, REFUSED, service.generation, operation.generation, False)
        tenant = breakers.tenant(call, self._plugin_id)
        if tenant.state is not CLOSED:
            return None
        return Passed(tenant, tenant.generation, service.generation, operation.generation, False)

    def _enter(self, call: Call) -> Passed | None:
        """Pass all breakers, or none: when one refuses, those before it are told that nothing came of it."""
        breakers, mode = self._breakers, self._breakers.mode_of(self._service_name)
        if mode == "disabled" and breakers.tenant_mode == "disabled":
            return None
        now = time.monotonic()
        lease_s = call.deadline - now + LEASE_SPARE_S
        tenant, tenant_generation = None, REFUSED
        if call.has_tenant and breakers.tenant_mode != "disabled":
            tenant = breakers.tenant(call, self._plugin_id)
            tenant_generation = self._pass(tenant, breakers.tenant_mode, "tenant", now, lease_s)
        service, operation = self._service, self._operation
        service_generation = operation_generation = REFUSED
        is_probe = tenant is not None and tenant.state is not CLOSED
        if mode != "disabled":
            try:
                service_generation = self._pass(service, mode, "service", now, lease_s)
                operation_generation = self._pass(operation, mode, "operation", now, lease_s)
            except Unavailable:
                if tenant is not None:
                    tenant.leave(tenant_generation, EXCLUDED, now)
                service.leave(service_generation, EXCLUDED, now)
                raise
            is_probe = is_probe or service.state is not CLOSED or operation.state is not CLOSED
        return Passed(tenant, tenant_generation, service_generation, operation_generation, is_probe)

    def _pass(self, breaker: Breaker, mode: BreakerMode, tier: str, now: float, lease_s: float) -> int:
        if mode != "forced_open":
            if breaker.state is CLOSED:
                return breaker.generation
            generation = breaker.enter(now, lease_s)
            if generation != REFUSED or mode == "observe_only":
                return generation
        wait_s = FORCED_OPEN_S if mode == "forced_open" else breaker.wait_s(now)
        raise self._refusal(tier, wait_s)

    def _refusal(self, tier: str, wait_s: int) -> Unavailable:
        self._breakers.count_rejected(tier, self._plugin_id)
        why = {
            "tenant": "more than half of this tenant's calls have failed within the last minute",
            "service": f"{self._service_name} has failed again and again",
            "operation": f"{self._operation_name} has failed again and again",
        }[tier]
        error = Unavailable(f"{why}; it is left alone for a while: try again in {wait_s} s", retry_after_s=wait_s)
        error.violations = (Violation("", "circuit_open", f"the breaker of the {tier} is open"),)
        mark_excluded(error)
        return error

    def _failed(self, passed: Passed, call: Call, error: BaseException) -> None:
        outcomes = outcomes_of(error, call)
        self._leave(passed, outcomes)
        if FAILURE in outcomes:
            mark_excluded(error)  # whoever called this operation is not to blame as well

    def _leave(self, passed: Passed, outcomes: Outcomes) -> None:
        service, operation = self._service, self._operation
        is_calm = service.is_calm and operation.is_calm
        now = time.monotonic()
        if not is_calm or outcomes is not ALL_WELL:
            was_closed = service.state is CLOSED
            service.leave(passed.service_generation, outcomes.service, now)
            operation.leave(passed.operation_generation, outcomes.operation, now)
            if not was_closed or service.state is not CLOSED:
                outcomes = NOTHING  # a service that is down must not open the breakers of all tenants
        if passed.tenant is not None:
            passed.tenant.leave(passed.tenant_generation, outcomes.tenant, now)


def _outcomes_of_answered(call: Call) -> Outcomes:
    """An answer that was replayed says nothing about whoever gave it once."""
    return NOTHING if call.response_headers and REPLAYED in call.response_headers else ALL_WELL
