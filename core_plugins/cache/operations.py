"""The capability: parts of the cache, each with its own keys."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Final, Protocol
from uuid import UUID

from core_plugins.cache import model
from plugin_api.errors import StoreUnavailable
from plugin_api.ports.cache import Cache

RETRY_S: Final = 0.05

COUNT_SCRIPT: Final = """
local value = redis.call('INCRBY', KEYS[1], ARGV[1])
if redis.call('PTTL', KEYS[1]) < 0 then redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
return value
"""
"""A counter never lives without an end, not even when its first caller died: one script, so both or neither happen."""


class Store(Protocol):
    """What a driver offers: Valkey's commands, as the user of one part who may touch that part's keys alone.

    Nothing is sent twice: a command whose answer was lost may have run, and a second increment would be wrong.

    Raises, all of them:
        StoreUnavailable: it is away.
        KernelBug: it refused the command.
    """

    async def run(self, part: str, *words: bytes | str | int) -> object:
        """One command; bytes, int, None or a list of these."""
        ...

    async def script(self, part: str, source: str, keys: Sequence[bytes], arguments: Sequence[bytes]) -> object:
        """One script."""
        ...

    async def ping(self, timeout_s: float) -> None:
        """Return when it answers within `timeout_s`."""
        ...

    async def close(self) -> None:
        """Close the connections; those in use close when they are given back."""
        ...


class CachePart:
    """The port `Cache` of one plugin."""

    def __init__(self, store: Store, prefix: str) -> None:
        self._store = store
        self._prefix = model.check_prefix(prefix)

    async def get(self, tenant_id: UUID | None, key: str) -> bytes | None:
        """The value, or None."""
        value = await self._store.run(self._prefix, "GET", self._stored(tenant_id, key))
        assert value is None or isinstance(value, bytes)
        return value

    async def set(self, tenant_id: UUID | None, key: str, value: bytes, *, ttl_s: float) -> None:
        """Keep a value."""
        stored, content = self._stored(tenant_id, key), model.check_value(value)
        await self._store.run(self._prefix, "SET", stored, content, "PX", model.ttl_ms(ttl_s))

    async def add(self, tenant_id: UUID | None, key: str, value: bytes, *, ttl_s: float) -> bool:
        """Keep a value unless there is one."""
        stored, content = self._stored(tenant_id, key), model.check_value(value)
        return await self._store.run(self._prefix, "SET", stored, content, "NX", "PX", model.ttl_ms(ttl_s)) is not None

    async def delete(self, tenant_id: UUID | None, *keys: str) -> int:
        """Forget values."""
        model.check_count(len(keys))
        stored = [self._stored(tenant_id, key) for key in keys]
        return _integer(await self._store.run(self._prefix, "UNLINK", *stored)) if stored else 0

    async def increment(self, tenant_id: UUID | None, key: str, by: int = 1, *, ttl_s: float) -> int:
        """Add to a counter."""
        stored, step = self._stored(tenant_id, key), model.check_step(by)
        arguments = [b"%d" % step, b"%d" % model.ttl_ms(ttl_s)]
        return _integer(await self._store.script(self._prefix, COUNT_SCRIPT, [stored], arguments))

    async def script(
        self, source: str, tenant_id: UUID | None, keys: Sequence[str], arguments: Sequence[bytes | str | int] = ()
    ) -> object:
        """Run a Lua script atomically; see the port."""
        model.check_count(len(keys))
        stored = [self._stored(tenant_id, key) for key in keys]
        given = [value if isinstance(value, bytes) else str(value).encode() for value in arguments]
        model.check_script(source, given)
        return await self._store.script(self._prefix, source, stored, given)

    def _stored(self, tenant_id: UUID | None, key: str) -> bytes:
        return model.stored_key(self._prefix, tenant_id, key)


def _integer(value: object) -> int:
    assert isinstance(value, int)
    return value


class CacheOperations:
    """The port `CacheProvider`."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def part(self, prefix: str) -> Cache:
        """One plugin's part; see the port."""
        return CachePart(self._store, prefix)

    async def ping(self) -> None:
        """Return when the cache answers; see the port."""
        await self._store.ping(1.0)

    async def start(self, timeout_s: float) -> None:
        """Wait for the first answer.

        Raises:
            StoreUnavailable: there was none within `timeout_s`: a wrong address, rather than an outage.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                await self.ping()
            except StoreUnavailable:
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(RETRY_S)
            else:
                return

    async def stop(self) -> None:
        """Close the connections."""
        await self._store.close()
