"""The relay: one process of all moves what was told from the outbox into the log."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import Final

from core_plugins.eventbus import storage
from core_plugins.eventbus.operations.parts import LOG, Parts
from plugin_api.errors import KernelError
from plugin_api.ports.wakeups import OUTBOX

LEASE: Final = "eventbus:relay"
BATCH: Final = 500
TIDY_EVERY_S: Final = 3_600.0
AGAIN_S: Final = 0.5
LEAVE_S: Final = 5.0
INBOX_SPARE_DAYS: Final = 5


class Relay:
    """Leads while it holds the lease; others wait to take over."""

    def __init__(self, parts: Parts, member: str) -> None:
        self._parts = parts
        self._member = member
        self._epoch: int | None = None
        self._renew_at = 0.0
        self._leads_until = 0.0
        self._tidy_at = 0.0

    @property
    def is_leading(self) -> bool:
        """Whether the lease is held now; False also for a process that slept past its end."""
        return self._epoch is not None and time.monotonic() < self._leads_until

    async def run(self) -> None:
        """Relay for as long as the process lives."""
        bell = self._parts.wakeups.bell(OUTBOX)
        try:
            while True:
                moved = await self._quietly()
                bell.is_only = self._epoch is not None
                if moved != BATCH:
                    await bell.wait(self._parts.settings.poll_s)
        finally:
            bell.close()
            await self._let_go()

    async def _quietly(self) -> int:
        try:
            return await self.step()
        except KernelError as error:
            self._epoch = None
            self._parts.log.warning("events were not relayed; it is tried again", why=error.detail)
            await asyncio.sleep(AGAIN_S)
            return 0

    async def step(self) -> int:
        """Move one batch, if this process leads; how many events."""
        if not await self._leads():
            return 0
        async with self._parts.tx("relay events") as tx:
            moved = await storage.relay(tx, self._epoch or 0, BATCH)
        if moved < 0:
            self._epoch = None
            return 0
        if moved > 0:
            self._parts.counts.relayed.add(moved)
            self._parts.wakeups.ring(LOG)
        return moved

    async def _leads(self) -> bool:
        """Take the lease or hold on to it, when it is time."""
        now = time.monotonic()
        if now < self._renew_at:
            return self._epoch is not None
        lease_s = self._parts.settings.lease_s
        async with self._parts.tx("lead the relay") as tx:
            if self._epoch is not None and not await storage.renew_leases(tx, [(LEASE, self._epoch)], lease_s):
                self._epoch = None
            if self._epoch is None:
                held = await storage.take_leases(tx, [LEASE], self._member, lease_s, 1)
                self._epoch = held[0].epoch if held else None
        self._leads_until = now + lease_s  # the database counts from a later moment on
        # Who does not lead looks often: the lease may have been let go.
        self._renew_at = now + (lease_s / 3 if self._epoch is not None else min(lease_s / 3, 1.0))
        if self._epoch is not None and now >= self._tidy_at:
            self._tidy_at = now + TIDY_EVERY_S
            await self._tidy()
        return self._epoch is not None

    async def _tidy(self) -> None:
        """Make tomorrow's tables, drop what is too old."""
        settings = self._parts.settings
        async with self._parts.tx("keep days of the log") as tx:
            await storage.make_tomorrow(tx)
            gone = await storage.drop_old(tx, settings.keep_days, settings.keep_audit_days)
            await storage.sweep_inbox(tx, max(settings.keep_days, settings.keep_audit_days) + INBOX_SPARE_DAYS)
        if gone:
            self._parts.log.info("events that are too old were dropped", tables=gone)

    async def _let_go(self) -> None:
        epoch, self._epoch = self._epoch, None
        if epoch is not None:
            with suppress(KernelError, TimeoutError):  # it ends by itself
                async with asyncio.timeout(LEAVE_S), self._parts.tx("let go of the relay") as tx:
                    await storage.release_leases(tx, [(LEASE, epoch)])
