"""Deleting what has been dead for long: sessions that ended, with their refresh tokens."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from core_plugins.iam.storage import sessions, tenants
from plugin_api.clock import Clock
from plugin_api.ids import PLATFORM_TENANT_ID
from plugin_api.registrar import Calls

RUN_EVERY_S: Final = 3_600.0
LOOK_EVERY_S: Final = 600.0
KEPT_AFTER_END: Final = timedelta(days=7)
"""For whoever asks why a session ended."""
TENANTS_PER_LOOK: Final = 200
SESSIONS_PER_STEP: Final = 1_000


class Housekeeping:
    """A background task that one worker of all runs once an hour."""

    def __init__(self, calls: Calls, clock: Clock) -> None:
        self._calls = calls
        self._clock = clock

    async def run(self) -> None:
        """Look now and then whether it is this worker's turn."""
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            await self.sweep_if_due()

    async def sweep_if_due(self) -> bool:
        """Sweep every tenant, if nobody has within the last hour; whether it was done."""
        now = self._clock.now()
        async with self._calls.open(PLATFORM_TENANT_ID, "claim housekeeping") as call:
            due = await tenants.claim_chore(await call.tx(), "housekeeping", now, every_s=RUN_EVERY_S)
        if due:
            await self._sweep_all(now - KEPT_AFTER_END)
        return due

    async def _sweep_all(self, before: datetime) -> None:
        place: UUID | None = None
        while True:
            async with self._calls.open(None, "find tenants") as call, call.system_tx("find tenants") as tx:
                found = await tenants.list_tenants_after(tx, place, limit=TENANTS_PER_LOOK)
            for tenant_id in found:
                await self.sweep(tenant_id, before)
            if len(found) < TENANTS_PER_LOOK:
                return
            place = found[-1]

    async def sweep(self, tenant_id: UUID, before: datetime) -> None:
        """Delete one tenant's sessions that ended before then, a step at a time."""
        deleted = SESSIONS_PER_STEP
        while deleted >= SESSIONS_PER_STEP:
            async with self._calls.open(tenant_id, "delete dead sessions") as call:
                deleted = await sessions.delete_dead_sessions(await call.tx(), before, limit=SESSIONS_PER_STEP)
