"""How many bytes a tenant keeps in an S3 API, counted from its lists.

A count costs one request for each thousand blobs, so it is kept for a while and what this worker adds is added to it. Before
anybody is refused it is counted anew. What other workers add meanwhile is not seen: capability `quota_exact` is not ours.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from core_plugins.files.model.content import check_quota

KEPT_S: Final = 60.0
TENANTS_MAX: Final = 10_000

Count = Callable[[UUID], Awaitable[int]]


@dataclass
class _Counted:
    at: float
    used: int


class S3Accounts:
    """What is known of the tenants' bytes."""

    def __init__(self, count: Count, quota: int) -> None:
        self._count = count
        self._quota = quota
        self._counted: dict[UUID, _Counted] = {}
        self._under_way: dict[UUID, int] = {}

    async def used(self, tenant_id: UUID) -> int:
        """What the tenant keeps now, counted."""
        if len(self._counted) >= TENANTS_MAX:
            self._counted.clear()
        used = await self._count(tenant_id)
        self._counted[tenant_id] = _Counted(time.monotonic(), used)
        return used

    @asynccontextmanager
    async def adding(self, tenant_id: UUID, size: int, replaced: Callable[[], Awaitable[int]]) -> AsyncIterator[None]:
        """Around the sending of `size` bytes; `replaced` tells how many they take the place of.

        Raises:
            LimitReached: the quota would be used up.
        """
        await self.check(tenant_id, size, replaced)
        self._under_way[tenant_id] = self._under_way.get(tenant_id, 0) + size
        try:
            yield
        finally:
            rest = self._under_way[tenant_id] - size
            self._under_way[tenant_id] = rest
            if not rest:
                del self._under_way[tenant_id]
        counted = self._counted.get(tenant_id)
        if counted is not None:
            counted.used += size

    async def check(self, tenant_id: UUID, size: int, replaced: Callable[[], Awaitable[int]]) -> None:
        """LimitReached when the quota has no room for `size` bytes more."""
        counted = self._counted.get(tenant_id)
        is_known = counted is not None and time.monotonic() - counted.at < KEPT_S
        if counted is not None and is_known and self._fits(tenant_id, counted.used + size):
            return
        used = await self.used(tenant_id) + self._under_way.get(tenant_id, 0)
        if used + size > self._quota:
            check_quota(used - await replaced(), size, self._quota)

    def _fits(self, tenant_id: UUID, used: int) -> bool:
        return used + self._under_way.get(tenant_id, 0) <= self._quota
