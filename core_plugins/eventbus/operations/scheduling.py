"""A schedule in this process: whoever holds its lease puts a job for each moment that has come.

Two that both believe to lead cannot fire a moment twice: the lease's epoch is checked in the transaction that puts the job,
and a row for each moment is written there.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import datetime
from typing import Final

from core_plugins.eventbus import storage as leases
from core_plugins.eventbus.model.cron import Cron, to_fire
from core_plugins.eventbus.operations.job_parts import JOBS, JobParts
from core_plugins.eventbus.storage import jobs as storage
from plugin_api.errors import KernelError
from plugin_api.ports.job_queue import Schedule

AGAIN_S: Final = 0.5
LEAVE_S: Final = 5.0
LOOK_EVERY_S: Final = 1.0
"""Who does not lead looks as often: the lease may have been let go."""


class Scheduler:
    """Fires one schedule while it leads; others wait to take over."""

    def __init__(self, jobs: JobParts, schedule: Schedule) -> None:
        self._jobs = jobs
        self._parts = jobs.parts
        self._schedule = schedule
        self._cron = Cron(schedule.cron, schedule.time_zone)
        self._lease = f"eventbus:schedule/{schedule.plugin}/{schedule.name}"
        self._epoch: int | None = None
        self._since = jobs.clock.now()
        self._renew_at = 0.0

    @property
    def is_leading(self) -> bool:
        """Whether it held the lease when it last looked."""
        return self._epoch is not None

    async def run(self) -> None:
        """Keep the schedule for as long as its plugin runs here."""
        try:
            while True:
                try:
                    await self.step()
                except KernelError as error:
                    self._epoch = None
                    self._parts.log.warning(
                        "a schedule waits; it is tried again", schedule=self._schedule.name, why=error.detail
                    )
                    await asyncio.sleep(AGAIN_S)
                await asyncio.sleep(self._parts.settings.poll_s)
        finally:
            await self.leave()

    async def step(self) -> int:
        """Fire what has come, if this process leads; how many jobs were put."""
        if not await self._leads():
            return 0
        now = self._jobs.clock.now()
        moments = to_fire(self._cron, self._schedule.missed, self._since, now)
        if not moments:
            self._since = max(self._since, now)
            return 0
        fired = await self._fire(moments, now)
        if fired < 0:
            self._epoch, self._renew_at = None, 0.0
            return 0
        self._since = now
        return fired

    async def _fire(self, moments: list[datetime], now: datetime) -> int:
        lease = (self._lease, self._epoch or 0)
        async with self._parts.tx("fire a schedule") as tx:
            came = await storage.fire(tx, self._schedule, lease, moments, now, self._jobs.at())
        if came.refused:
            self._parts.log.warning(
                "a schedule found its queue full; these moments are not made up for",
                schedule=self._schedule.name, jobs=came.refused,
            )  # fmt: skip
        if came.fired > 0:
            self._parts.wakeups.ring(JOBS)
        return came.fired

    async def _leads(self) -> bool:
        """Take the lease or hold on to it, when it is time."""
        now = self._jobs.clock.monotonic()
        if now < self._renew_at:
            return self._epoch is not None
        lease_s = self._parts.settings.lease_s
        async with self._parts.tx("lead a schedule") as tx:
            if self._epoch is not None and not await leases.renew_leases(tx, [(self._lease, self._epoch)], lease_s):
                self._epoch = None
            if self._epoch is None:
                held = await leases.take_leases(tx, [self._lease], self._schedule.member, lease_s, 1)
                self._epoch = held[0].epoch if held else None
                # Read anew: another may have fired meanwhile.
                self._since = await storage.join_schedule(tx, self._schedule, self._jobs.clock.now())
        self._renew_at = now + (lease_s / 3 if self._epoch is not None else min(lease_s / 3, LOOK_EVERY_S))
        return self._epoch is not None

    async def leave(self) -> None:
        """Let go of the lease, so that another leads at once."""
        epoch, self._epoch = self._epoch, None
        if epoch is not None:
            with suppress(KernelError, TimeoutError):  # it ends by itself
                async with asyncio.timeout(LEAVE_S), self._parts.tx("let go of a schedule") as tx:
                    await leases.release_leases(tx, [(self._lease, epoch)])
