"""What operators see of the breakers, and what they set them to: in one place for all workers."""

from __future__ import annotations

import asyncio
from typing import Annotated, Final, Literal

from msgspec import Meta, Struct

from core_plugins.gateway import storage
from core_plugins.gateway.operations.breakers import Breakers, Tier
from core_plugins.gateway.settings import BreakerMode
from plugin_api import Call, operation
from plugin_api.breaker import State
from plugin_api.errors import KernelError
from plugin_api.ports.stamps import Stamps
from plugin_api.registrar import Calls

STAMP: Final = "gateway:breakers"
LOOK_EVERY_S: Final = 0.5
READ_EVERY_S: Final = 10.0
"""Workers of other machines do not feel the stamp."""


class Nothing(Struct, frozen=True, forbid_unknown_fields=True):
    """Takes nothing."""


class BreakerView(Struct, frozen=True):
    """One breaker, as the worker that answers sees it: each worker counts for itself."""

    tier: Tier
    name: str
    """A plugin; of the kernel's own plugins, and in tier `operation`, an operation."""
    state: State
    mode: BreakerMode


class BreakerList(Struct, frozen=True):
    """All breakers of services, and those of operations that are not closed."""

    items: list[BreakerView]
    tenants_not_closed: int
    """Tenants whose own breaker is open or half-open."""


class SetBreaker(Struct, frozen=True, forbid_unknown_fields=True):
    """What a breaker is to do."""

    service: Annotated[str, Meta(min_length=1, max_length=200)]
    mode: Literal["usual", "normal", "forced_open", "observe_only", "disabled"]
    """`usual` is what the setting `gateway.service_breaker` says."""


class ServiceBreaker(Struct, frozen=True):
    """What a breaker does now."""

    service: str
    mode: BreakerMode


class GatewayOperations:
    """What operators do with breakers."""

    def __init__(self, breakers: Breakers, calls: Calls, stamps: Stamps) -> None:
        self._breakers = breakers
        self._calls = calls
        self._stamps = stamps
        self._slot = stamps.slot(STAMP)

    @operation("GET /breakers", permission="breaker.read", operator=True)
    async def list_breakers(self, call: Call, request: Nothing) -> BreakerList:
        """List the breakers of services, as the worker that answers sees them."""
        views = [
            BreakerView(tier, name, state, self._breakers.mode_of(name))
            for tier, name, state in self._breakers.states()
        ]
        return BreakerList(views, int(self._breakers.not_closed()["tenant", ""]))

    @operation("PUT /breakers/{service}", permission="breaker.set", operator=True)
    async def set_breaker(self, call: Call, request: SetBreaker) -> ServiceBreaker:
        """Set what the breaker of a service does, on every worker within a second. It begins closed, and counts from zero.

        The service need not be there: a plugin may be set before it is installed.
        """
        await storage.set_breaker_mode(await call.tx(), request.service, request.mode)
        call.after_commit(self._changed)
        usual = self._breakers.usual_mode
        return ServiceBreaker(request.service, usual if request.mode == "usual" else request.mode)

    def _changed(self) -> None:
        self._stamps.touch(STAMP)

    async def read_modes(self) -> None:
        """Take over what operators have set."""
        async with (
            self._calls.open(None, "read breakers", deadline_s=5.0) as call,
            call.system_tx("read breakers") as tx,
        ):
            self._breakers.take_modes(await storage.breaker_modes(tx))

    async def follow(self) -> None:
        """Keep to what operators set: at once when they do it on this machine, else soon."""
        seen, waited_s = -1, READ_EVERY_S
        while True:
            stamp = self._stamps.read(self._slot)
            if stamp != seen or waited_s >= READ_EVERY_S:
                try:
                    await self.read_modes()
                    seen, waited_s = stamp, 0.0
                except KernelError:
                    pass  # the database is away: breakers stay as they are
            await asyncio.sleep(LOOK_EVERY_S)
            waited_s += LOOK_EVERY_S
