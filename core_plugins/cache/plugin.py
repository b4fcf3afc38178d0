"""Wiring of the cache: which address, which driver, when it opens and closes."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Final

from core_plugins.cache.drivers.valkey_server import ValkeyServer
from core_plugins.cache.drivers.valkey_store import ValkeyStore
from core_plugins.cache.operations import CacheOperations
from core_plugins.cache.settings import Settings
from plugin_api import Registrar, hookimpl
from plugin_api.errors import InvalidRequest, KernelError
from plugin_api.hooks import Health
from plugin_api.ports.cache import CACHE
from plugin_api.servers import ChildServer


class CachePlugin:
    """`kernel.cache`."""

    def __init__(self) -> None:
        self._settings = Settings()
        self._operations: CacheOperations | None = None

    @hookimpl
    def pk_servers(self) -> list[ChildServer]:
        """Valkey, in the embedded profile."""
        return [ValkeyServer()]

    @hookimpl
    def pk_register(self, registrar: Registrar) -> None:
        """Provide the port `cache`."""
        settings: Settings = registrar.settings or Settings()
        url = _url(settings, registrar.host_state.servers)
        store = ValkeyStore(
            url, size=settings.pool_size, timeout_s=settings.call_timeout_ms / 1_000, warn=registrar.log.warning
        )
        self._settings = settings
        self._operations = CacheOperations(store)
        registrar.service(CACHE, self._operations)
        for figure, text in FIGURES.items():
            registrar.gauge(f"pool_{figure}", text, (), partial(_read, store, figure))

    @hookimpl
    async def pk_enable(self) -> None:
        """Wait for the first answer, so that a wrong address is told at the start."""
        if self._operations is not None:
            await self._operations.start(self._settings.start_timeout_s)

    @hookimpl
    async def pk_health(self) -> Health:
        """Well even while Valkey is away: whoever uses the cache works without it. The detail tells."""
        try:
            if self._operations is not None:
                await self._operations.ping()
        except KernelError as error:
            return Health(ok=True, detail=f"degraded: {error.detail}")
        return Health(ok=True)

    @hookimpl
    async def pk_disable(self) -> None:
        """Close the connections."""
        if self._operations is not None:
            await self._operations.stop()


FIGURES: Final[Mapping[str, str]] = {
    "size": "Connections that the pools of all workers may have.",
    "in_use": "Connections with a command on them.",
    "waiting": "Calls that wait for a connection.",
}


def _read(store: ValkeyStore, figure: str) -> dict[tuple[str, ...], float]:
    return {(): store.figures()[figure]}


def _url(settings: Settings, servers: dict[str, str]) -> str:
    if settings.url is not None:
        return settings.url.reveal()
    if "valkey" in servers:
        return servers["valkey"]
    raise InvalidRequest("no Valkey: set cache.url, or use the embedded profile, which starts one")


plugin = CachePlugin()
