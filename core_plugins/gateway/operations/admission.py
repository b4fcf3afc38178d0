"""What is refused before anything is known of the caller: too much from one address, and more than the worker can do."""

from __future__ import annotations

import math
import time
from functools import lru_cache, partial
from ipaddress import IPv6Address, ip_network
from typing import Final

from core_plugins.gateway.model.rates import LocalRates, Rate
from core_plugins.gateway.model.refusals import mark_excluded
from core_plugins.gateway.settings import Settings
from plugin_api.errors import LimitReached, Unavailable
from plugin_api.pipeline import Admit, BoundOperation, Load
from plugin_api.registrar import Counter

ADDRESSES_MAX: Final = 20_000
"""Addresses that one process knows at once; those that called longest ago are forgotten first."""
READS_PART: Final = 0.7
WRITES_PART: Final = 0.85
"""How full a worker may be before it refuses what only reads, and what writes. Log-ins and the like go on until it is full."""


class Admission:
    """Fills the slot `admit`."""

    def __init__(self, settings: Settings, load: Load, refused: Counter) -> None:
        self._rate = Rate("address", settings.address_rate, settings.address_burst)
        self._addresses = LocalRates(settings.address_rate, settings.address_burst, ADDRESSES_MAX)
        self._calls_max = settings.calls_max
        self._load = load
        self._refused = refused

    def make(self, bound: BoundOperation) -> Admit | None:
        """What lets calls of one operation in."""
        return partial(self._admit, self._room_for(bound))

    def _room_for(self, bound: BoundOperation) -> int:
        """How many calls may be under way for another one to be let in."""
        is_first = (bound.spec.public and bound.method != "GET") or bound.spec.operator
        part = 1.0 if is_first else READS_PART if bound.method == "GET" else WRITES_PART
        return max(1, int(self._calls_max * part))

    def _admit(self, room: int, bound: BoundOperation, address: str, declared_bytes: int) -> None:
        if self._load.calls >= room:
            self._refused.add(1, limit="calls")
            error = Unavailable(
                f"this worker has {self._load.calls} calls under way and takes no more of this kind; try again",
                retry_after_s=1,
            )
            mark_excluded(error)
            raise error
        if address:
            key = address if ":" not in address else network_of(address)
            wait_s = self._addresses.take(key, time.monotonic())
            if wait_s > 0:
                raise self._refusal(wait_s)

    def _refusal(self, wait_s: float) -> LimitReached:
        rate, seconds = self._rate, max(1, math.ceil(wait_s))
        self._refused.add(1, limit=rate.name)
        return LimitReached(
            f"the limit of one address is {rate.per_s:g} calls a second, and {rate.burst} at once; try again in {seconds} s",
            retry_after_s=seconds,
            headers={"RateLimit-Policy": rate.policy, "RateLimit": f'"{rate.name}";r=0;t={seconds}'},
        )


@lru_cache(maxsize=4_096)
def network_of(address: str) -> str:
    """The /64 of an IPv6 address, or the IPv4 address that it stands for: who has one address of a /64 has them all."""
    bare = address.partition("%")[0]
    try:
        parsed = IPv6Address(bare)
    except ValueError:
        return address
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ip_network((parsed, 64), strict=False))
