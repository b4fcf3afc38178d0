"""Telling every plugin of a new tenant, at least once: at once by the worker that made it, later by whichever worker
finds one that a crash or a failing plugin left untold."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final
from uuid import UUID

from core_plugins.iam.storage import tenants
from plugin_api.clock import Clock
from plugin_api.errors import KernelError
from plugin_api.registrar import Calls, Logger, TenantHooks

LOOK_EVERY_S: Final = 30.0
LEFT_ALONE_S: Final = 30
"""Younger tenants are being told by whoever made them."""
PER_LOOK_MAX: Final = 100
WAITING_MAX: Final = 10_000
"""New tenants that wait here; what does not fit is found by looking."""


class Announcer:
    """Tells plugins of tenants, one tenant at a time."""

    def __init__(self, calls: Calls, hooks: TenantHooks, clock: Clock, log: Logger) -> None:
        self._calls = calls
        self._hooks = hooks
        self._clock = clock
        self._log = log
        self._waiting: deque[UUID] = deque(maxlen=WAITING_MAX)
        self._wake = asyncio.Event()
        self._open = asyncio.Event()

    def open(self) -> None:
        """Begin to tell: every plugin of the start serves now. Earlier, those that start later would never hear."""
        self._open.set()

    def enqueue(self, tenant_id: UUID) -> None:
        """Tell of this tenant soon; call it after the tenant was committed."""
        self._waiting.append(tenant_id)
        self._wake.set()

    async def run(self) -> None:
        """Background task: tell of new tenants, and look for those that were left."""
        await self._open.wait()
        while True:
            try:
                async with asyncio.timeout(LOOK_EVERY_S):
                    await self._wake.wait()
            except TimeoutError:
                self._waiting.extend(await self._left())
            self._wake.clear()
            while self._waiting:
                await self._tell_or_leave(self._waiting.popleft())

    async def _left(self) -> list[UUID]:
        async with self._calls.open(None, "find untold tenants") as call, call.system_tx("find untold tenants") as tx:
            return await tenants.list_unannounced(tx, age_s=LEFT_ALONE_S, limit=PER_LOOK_MAX)

    async def _tell_or_leave(self, tenant_id: UUID) -> None:
        try:
            await self.tell(tenant_id)
        except KernelError as error:
            self._log.warning(
                "plugins could not be told of a tenant; it is tried again", tenant=str(tenant_id), why=error.detail
            )

    async def tell(self, tenant_id: UUID) -> None:
        """Tell every plugin of a tenant, unless that was done. Raises what a plugin raised."""
        async with self._calls.open(tenant_id, "tell of a tenant") as call:
            tenant = await tenants.find_unannounced(await call.tx())
        if tenant is None:
            return
        await self._hooks.created(tenant)
        async with self._calls.open(tenant_id, "tell of a tenant") as call:
            await tenants.mark_announced(await call.tx(), self._clock.now())
