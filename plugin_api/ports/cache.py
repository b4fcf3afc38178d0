"""The losable store: it may be empty at any moment, and whoever uses it works without it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol
from uuid import UUID

from plugin_api.services import ServiceKey


class Cache(Protocol):
    """One plugin's part of the cache: every key is prefixed with plugin and tenant, so neither can reach another's.

    `tenant_id=None` is the plugin's part that belongs to no tenant. Keys are 1 to 200 characters, values at most 1 MiB.

    Raises, all of them:
        StoreUnavailable: the cache is away (after at most 250 ms); go on without it.
    """

    async def get(self, tenant_id: UUID | None, key: str) -> bytes | None:
        """The value, or None when it is absent, expired or was evicted."""
        ...

    async def set(self, tenant_id: UUID | None, key: str, value: bytes, *, ttl_s: float) -> None:
        """Keep a value for at most `ttl_s` seconds (0.001 to 30 days)."""
        ...

    async def add(self, tenant_id: UUID | None, key: str, value: bytes, *, ttl_s: float) -> bool:
        """Keep a value unless there is one; whether it was kept."""
        ...

    async def delete(self, tenant_id: UUID | None, *keys: str) -> int:
        """Forget values; how many there were."""
        ...

    async def increment(self, tenant_id: UUID | None, key: str, by: int = 1, *, ttl_s: float) -> int:
        """Add to a counter, atomically; its new value. A counter that begins now ends after `ttl_s`."""
        ...

    async def script(
        self, source: str, tenant_id: UUID | None, keys: Sequence[str], arguments: Sequence[bytes | str | int] = ()
    ) -> object:
        """Run a Lua script atomically over keys of this part; what it returns."""
        ...


class CacheProvider(Protocol):
    """Hands each plugin its part; provided by `kernel.cache` as the capability `cache`."""

    def part(self, prefix: str) -> Cache:
        """The part of the plugin whose cache prefix (`money`, `acme.crm`) this is."""
        ...

    async def ping(self) -> None:
        """Return when the cache answers. StoreUnavailable when it does not within a second."""
        ...


CACHE: ServiceKey[CacheProvider] = ServiceKey("cache")
