"""Wiring of the vault: where its key-encryption keys are, and what happens to keys in a tenant's life."""

from __future__ import annotations

from pathlib import Path

from core_plugins.vault.drivers.kek_file import KekFile
from core_plugins.vault.operations import KeyStore, VaultOperations
from core_plugins.vault.settings import Settings
from plugin_api import Registrar, hookimpl
from plugin_api.hooks import Health
from plugin_api.pipeline import Tenant
from plugin_api.ports.secrets import SECRETS


class VaultPlugin:
    """`kernel.vault`."""

    def __init__(self) -> None:
        self._operations: VaultOperations | None = None

    @hookimpl
    def pk_register(self, registrar: Registrar) -> None:
        """Provide the port `vault`."""
        settings: Settings = registrar.settings or Settings()
        path = Path(settings.kek_file) if settings.kek_file else registrar.data_folder / "secrets" / "kek"
        keks = KekFile(path, registrar.clock)
        keys = KeyStore(keks, registrar.calls, registrar.clock, registrar.stamps, settings)
        self._operations = VaultOperations(keys, registrar.clock, settings, registrar.log)
        registrar.service(SECRETS, self._operations)

    @hookimpl
    async def pk_enable(self) -> None:
        """Read the key-encryption keys and see that they fit the database."""
        if self._operations is not None:
            await self._operations.start()

    @hookimpl
    async def pk_health(self) -> Health:
        """Well; the detail reminds of a rotation that is due."""
        return Health(ok=True, detail=self._operations.reminder() if self._operations is not None else "")

    @hookimpl
    async def pk_disable(self) -> None:
        """Forget the keys."""
        if self._operations is not None:
            await self._operations.stop()

    @hookimpl
    async def pk_tenant_created(self, tenant: Tenant) -> None:
        """Make the tenant's first data key, so that no request has to."""
        if self._operations is not None:
            await self._operations.keys.get(tenant.id)

    @hookimpl
    async def pk_tenant_erased(self, tenant: Tenant) -> None:
        """Destroy the tenant's keys: crypto-shredding."""
        if self._operations is not None:
            await self._operations.keys.destroy(tenant.id)


plugin = VaultPlugin()
