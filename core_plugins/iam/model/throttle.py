"""Failed log-ins are bounded by account and address prefix, and by address prefix alone; never by account alone, or anybody
could lock anybody out."""

from __future__ import annotations

import hashlib
from collections import OrderedDict, deque
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final, Literal

from msgspec import Struct

from plugin_api.errors import LimitReached

WINDOW_S: Final = 300
ACCOUNT_FAILURES_MAX: Final = 20
"""Of one account from one address prefix."""
PREFIX_FAILURES_MAX: Final = 50
"""From one address prefix, over all accounts."""
LOCAL_KEYS_MAX: Final = 10_000
IPV4_PREFIX_BITS: Final = 24
IPV6_PREFIX_BITS: Final = 64

Scope = Literal["account", "address"]


class Limit(Struct, frozen=True):
    """How many failures one key may have within the window."""

    scope: Scope
    key: str
    failures_max: int


def prefix_of(address: str) -> str:
    """The network that an address counts as: /24, or /64 for IPv6. What is no address (a Unix socket) counts as one."""
    try:
        parsed = ip_address(address.partition("%")[0])
    except ValueError:
        return "local"
    if isinstance(parsed, IPv6Address) and parsed.ipv4_mapped is not None:
        parsed = parsed.ipv4_mapped
    bits = IPV4_PREFIX_BITS if isinstance(parsed, IPv4Address) else IPV6_PREFIX_BITS
    masked = int(parsed) >> (parsed.max_prefixlen - bits) << (parsed.max_prefixlen - bits)
    return f"{type(parsed)(masked)}/{bits}"


def limits_of(tenant: str, email_key: str, address: str) -> tuple[Limit, Limit]:
    """The two limits of one attempt. They do not know whether tenant or account exist.

    Names are hashed: keys have a bounded length, and the store of counters learns no e-mail address.
    """
    prefix = prefix_of(address)
    account = hashlib.blake2b(f"{tenant}\0{email_key}\0{prefix}".encode("utf-8", "surrogatepass"), digest_size=16)
    return (
        Limit("account", f"failures:{account.hexdigest()}", ACCOUNT_FAILURES_MAX),
        Limit("address", f"failures:{prefix}", PREFIX_FAILURES_MAX),
    )


def too_many(limit: Limit, retry_after_s: int) -> LimitReached:
    """The refusal, in the words of the RateLimit header fields; the same for accounts that do not exist."""
    seconds = max(1, min(retry_after_s, WINDOW_S))
    whom = "for this account from this network" if limit.scope == "account" else "from this network"
    return LimitReached(
        f"more than {limit.failures_max} log-ins failed {whom} within {WINDOW_S} s; wait {seconds} s",
        retry_after_s=seconds,
        headers={
            "RateLimit": f'"log-in-{limit.scope}";r=0;t={seconds}',
            "RateLimit-Policy": f'"log-in-{limit.scope}";q={limit.failures_max};w={WINDOW_S}',
        },
    )


class Refusal(Struct, frozen=True):
    """Which limit an attempt met, and when there is room again."""

    limit: Limit
    retry_after_s: int


class LocalAttempts:
    """Counts the attempts of this process alone, exactly and bounded; which holds while the shared counters are away.

    An attempt is counted when it begins and taken back when it succeeds, so that a hundred at once are no way around.
    """

    def __init__(self, *, keys_max: int = LOCAL_KEYS_MAX, window_s: float = WINDOW_S) -> None:
        self._keys_max = keys_max
        self._window_s = window_s
        self._attempts: OrderedDict[str, deque[tuple[float, str]]] = OrderedDict()

    def begin(self, limits: tuple[Limit, ...], attempt_id: str, now: float) -> Refusal | None:
        """Count an attempt, or tell which limit it meets; one that is refused is not counted."""
        for limit in limits:
            kept = self._living(limit.key, now)
            if len(kept) >= limit.failures_max:
                return Refusal(limit, int(kept[0][0] + self._window_s - now) + 1)
        for limit in limits:
            self._add(limit.key, (now, attempt_id))
        return None

    def succeed(self, limits: tuple[Limit, ...], attempt_id: str) -> None:
        """Take an attempt back: it was no failure."""
        for limit in limits:
            kept = self._attempts.get(limit.key)
            if kept is not None:
                self._attempts[limit.key] = deque(one for one in kept if one[1] != attempt_id)

    def __len__(self) -> int:
        return len(self._attempts)

    def _living(self, key: str, now: float) -> deque[tuple[float, str]]:
        kept = self._attempts.get(key)
        if kept is None:
            return deque()
        while kept and kept[0][0] <= now - self._window_s:
            kept.popleft()
        return kept

    def _add(self, key: str, attempt: tuple[float, str]) -> None:
        self._attempts.setdefault(key, deque()).append(attempt)
        self._attempts.move_to_end(key)
        while len(self._attempts) > self._keys_max:
            self._attempts.popitem(last=False)
