"""Counting failed log-ins: by each worker for itself, and for all workers together while the cache is there."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Final, cast

from core_plugins.iam.model.throttle import WINDOW_S, Limit, LocalAttempts, Refusal, limits_of, too_many
from plugin_api.clock import Clock
from plugin_api.errors import KernelError, NotAuthenticated, StoreUnavailable
from plugin_api.ids import uuid7
from plugin_api.ports.cache import Cache

BEGIN: Final = """
local now = redis.call('TIME')
now = now[1] * 1000 + math.floor(now[2] / 1000)
local window = tonumber(ARGV[2])
for i, key in ipairs(KEYS) do
  redis.call('ZREMRANGEBYSCORE', key, '-inf', now - window)
  if redis.call('ZCARD', key) >= tonumber(ARGV[2 + i]) then
    local oldest = redis.call('ZRANGE', key, 0, 0, 'WITHSCORES')
    return {i, math.ceil((tonumber(oldest[2]) + window - now) / 1000)}
  end
end
for _, key in ipairs(KEYS) do
  redis.call('ZADD', key, now, ARGV[1])
  redis.call('PEXPIRE', key, window)
end
return {0, 0}
"""
"""An exact sliding window: [number of the limit that was met or 0, seconds until there is room]. What is refused is not
counted, or a waiting attacker would keep the door shut for those beside them."""

SUCCEED: Final = """
for _, key in ipairs(KEYS) do redis.call('ZREM', key, ARGV[1]) end
return 0
"""


class LogInThrottle:
    """Bounds failed log-ins. An attempt counts from its beginning and is taken back when it was none."""

    def __init__(self, cache: Cache, clock: Clock) -> None:
        self._cache = cache
        self._clock = clock
        self._local = LocalAttempts()

    @asynccontextmanager
    async def attempt(self, tenant: str, email_key: str, address: str) -> AsyncGenerator[None]:
        """Count what happens inside as a failed log-in if it raises NotAuthenticated.

        Raises:
            LimitReached: too many have failed already, for this account or for all; nothing inside runs.
        """
        limits, attempt_id = limits_of(tenant, email_key, address), uuid7().hex
        refusal = await self._begin(limits, attempt_id)
        if refusal is not None:
            raise too_many(refusal.limit, refusal.retry_after_s)
        try:
            yield
        except NotAuthenticated:
            raise
        except KernelError:
            await self._succeed(limits, attempt_id)
            raise
        await self._succeed(limits, attempt_id)

    async def _begin(self, limits: tuple[Limit, ...], attempt_id: str) -> Refusal | None:
        # This worker counts too, always: when the cache goes away in the middle of an attack, the count does not begin anew.
        refusal = self._local.begin(limits, attempt_id, self._clock.monotonic())
        if refusal is not None:
            return refusal
        refusal = await self._begin_shared(limits, attempt_id)
        if refusal is not None:
            self._local.succeed(limits, attempt_id)
        return refusal

    async def _begin_shared(self, limits: tuple[Limit, ...], attempt_id: str) -> Refusal | None:
        arguments: list[bytes | str | int] = [attempt_id, WINDOW_S * 1000, *(limit.failures_max for limit in limits)]
        try:
            answer = await self._cache.script(BEGIN, None, [limit.key for limit in limits], arguments)
        except StoreUnavailable:
            return None
        met, seconds = cast("list[int]", answer)
        return Refusal(limits[met - 1], seconds) if met else None

    async def _succeed(self, limits: tuple[Limit, ...], attempt_id: str) -> None:
        self._local.succeed(limits, attempt_id)
        try:
            await self._cache.script(SUCCEED, None, [limit.key for limit in limits], [attempt_id])
        except StoreUnavailable:
            return
