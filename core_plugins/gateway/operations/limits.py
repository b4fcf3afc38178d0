"""How often tenants and actors may call: counted by all workers together in slices, so that a call asks nobody."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Final, cast

from core_plugins.gateway.model.rates import TAKE, Bucket, Rate, header_of
from core_plugins.gateway.model.recent import Recent
from core_plugins.gateway.model.refusals import mark_excluded
from core_plugins.gateway.settings import Settings
from plugin_api.call import Call
from plugin_api.errors import LimitReached, Unavailable
from plugin_api.pipeline import BoundOperation, PerCall
from plugin_api.ports.cache import Cache
from plugin_api.registrar import Counter, Logger

BUCKETS_MAX: Final = 20_000
"""Tenants, actors and routes that one process knows at once; those that called longest ago are forgotten first."""
WATCH_S: Final = 1.0
AWAY_WATCH_S: Final = 0.25
Header = tuple[str, str]


class Bounds:
    """The buckets that one caller's calls go through, and what their answers say of them."""

    __slots__ = ("asking", "buckets", "headers", "keys", "policy")

    def __init__(self, keys: tuple[str, ...], buckets: tuple[Bucket, ...]) -> None:
        self.keys = keys
        self.buckets = buckets
        self.policy: Header = ("RateLimit-Policy", ", ".join(bucket.rate.policy for bucket in buckets))
        self.headers = self._headers()
        """For each answer until the store is asked again: what is left is known as well as that, and no better."""
        self.asking: asyncio.Future[None] | None = None

    def _headers(self) -> tuple[Header, Header]:
        return self.policy, ("RateLimit", header_of(self.buckets))

    def tell(self) -> None:
        """The store was asked: tell what it said."""
        self.headers = self._headers()


class Limits:
    """Fills the slot `limit`."""

    def __init__(
        self,
        settings: Settings,
        cache: Cache,
        log: Logger,
        refused: Counter,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._cache = cache
        self._log = log
        self._refused = refused
        self._monotonic = monotonic
        self._tenant_rate = Rate("tenant", settings.tenant_rate, settings.tenant_burst)
        self._actor_rate = Rate("actor", settings.actor_rate, settings.actor_burst)
        self._buckets: Recent[Bucket] = Recent(BUCKETS_MAX)
        self._bounds: Recent[Bounds] = Recent(BUCKETS_MAX)
        self.is_away = False
        """Whether the store that all workers share is away; then each of them counts alone."""

    def make(self, bound: BoundOperation) -> PerCall | None:
        """The limit of one operation; public ones have no tenant that could be limited."""
        if bound.spec.public:
            return None
        per_s = self._settings.route_rates.get(bound.id)
        route = None if per_s is None else Rate("route", per_s, 2 * per_s)
        is_denied = bound.method != "GET" and bound.area in self._settings.denied_without_cache
        return partial(self._limit, bound.id, route, is_denied)

    # ------------------------------------------------------------------------------- one call

    def _limit(self, operation: str, route: Rate | None, is_denied: bool, call: Call) -> Awaitable[None] | None:
        """Let a call pass or refuse it, without waiting as long as there is something of a slice."""
        actor, tenant = call.actor, call.tenant_id.int
        bounds = self._bounds.get((tenant, actor.kind, actor.id, operation if route else None))
        if bounds is None:
            bounds = self._new_bounds(call, operation, route)
        now = self._monotonic()
        if self.is_away:
            self._pass_alone(bounds, now, is_denied)
            return None
        for bucket in bounds.buckets:
            if bucket.cells <= 0 and not bucket.covers(now):
                return self._ask_and_pass(bounds, call, is_denied)
        self._pass(bounds, call, now)
        return None

    def _pass(self, bounds: Bounds, call: Call, now: float) -> None:
        for bucket in bounds.buckets:
            bucket.spend(now)
        if call.response_headers is None:
            call.response_headers = [*bounds.headers]
        else:
            call.response_headers += bounds.headers

    async def _ask_and_pass(self, bounds: Bounds, call: Call, is_denied: bool) -> None:
        """Take slices until the call is covered, or there are none."""
        while True:
            now = self._monotonic()
            lacking = [bucket for bucket in bounds.buckets if not bucket.covers(now)]
            if not lacking:
                self._pass(bounds, call, now)
                return
            wait_s = max(bucket.blocked_until - now for bucket in lacking)
            if wait_s > 0:
                raise self._refusal(bounds, max(lacking, key=lambda bucket: bucket.blocked_until), wait_s)
            await self._ask_once(bounds)
            if self.is_away:
                self._pass_alone(bounds, self._monotonic(), is_denied)
                return

    async def _ask_once(self, bounds: Bounds) -> None:
        """Many callers, one question; it is asked to its end whoever leaves."""
        if bounds.asking is None:
            bounds.asking = asyncio.ensure_future(self._ask(bounds))
        await asyncio.shield(bounds.asking)

    async def _ask(self, bounds: Bounds) -> None:
        """Take slices of all buckets that are nearly empty, in one round trip."""
        pairs = list(zip(bounds.keys, bounds.buckets, strict=True))
        needy = [(key, bucket) for key, bucket in pairs if bucket.cells <= bucket.rate.slice // 4]
        arguments = [
            number
            for _, bucket in needy
            for number in (repr(1_000_000 / bucket.rate.per_s), bucket.rate.burst, bucket.rate.slice)
        ]
        try:
            given = cast("Sequence[int]", await self._cache.script(TAKE, None, [key for key, _ in needy], arguments))
        except Unavailable:
            self._lose()
        else:
            now = self._monotonic()
            for place, (_, bucket) in enumerate(needy):
                cells, wait_us, remaining = given[3 * place : 3 * place + 3]
                # Until there is a whole slice again: else each call that may pass would cost a question.
                wait_s = wait_us / 1_000_000 + (bucket.rate.slice - 1) / bucket.rate.per_s
                bucket.granted(cells, wait_s, remaining, now)
            bounds.tell()
        finally:
            bounds.asking = None

    # ------------------------------------------------------------------------- without the store

    def _pass_alone(self, bounds: Bounds, now: float, is_denied: bool) -> None:
        """Count here alone; what must not run unlimited waits for the store."""
        if is_denied:
            error = Unavailable(
                "limits cannot be kept now, and this operation does not run without them; try again", retry_after_s=1
            )
            mark_excluded(error)
            raise error
        for bucket in bounds.buckets:
            wait_s = bucket.take_alone(now)
            if wait_s > 0:
                raise self._refusal(bounds, bucket, wait_s)

    def _lose(self) -> None:
        if not self.is_away:
            self.is_away = True
            self._log.warning("the cache is away: each worker keeps limits for itself")

    async def watch(self) -> None:
        """Notice that the store has gone, also while nobody asks it, and that it is back."""
        while True:
            await self.look()
            await asyncio.sleep(AWAY_WATCH_S if self.is_away else WATCH_S)

    async def look(self) -> None:
        """Find out whether the store is there."""
        try:
            await self._cache.get(None, "there")
        except Unavailable:
            self._lose()
        else:
            if self.is_away:
                self.is_away = False
                self._log.info("the cache is back: all workers keep limits together")

    # --------------------------------------------------------------------------------- refusals

    def _refusal(self, bounds: Bounds, bucket: Bucket, wait_s: float) -> LimitReached:
        rate, seconds = bucket.rate, max(1, math.ceil(wait_s))
        self._refused.add(1, limit=rate.name)
        return LimitReached(
            f"the limit of this {rate.name} is {rate.per_s:g} calls a second, and {rate.burst} at once; try again in "
            f"{seconds} s",
            retry_after_s=seconds,
            headers=dict([bounds.policy, ("RateLimit", f'"{rate.name}";r=0;t={seconds}')]),
        )

    # ---------------------------------------------------------------------------------- buckets

    def _new_bounds(self, call: Call, operation: str, route: Rate | None) -> Bounds:
        actor, tenant = call.actor, call.tenant_id.hex
        wanted = [(f"t:{tenant}", self._tenant_rate), (f"a:{tenant}:{actor}"[:200], self._actor_rate)]
        if route is not None:
            wanted.append((f"r:{tenant}:{operation}"[:200], route))
        keys = tuple(name for name, _ in wanted)
        bounds = Bounds(keys, tuple(self._bucket(name, rate) for name, rate in wanted))
        self._bounds.put((call.tenant_id.int, actor.kind, actor.id, operation if route else None), bounds)
        return bounds

    def _bucket(self, name: str, rate: Rate) -> Bucket:
        bucket = self._buckets.get(name)
        if bucket is None:
            bucket = Bucket(rate)
            self._buckets.put(name, bucket)
        return bucket
