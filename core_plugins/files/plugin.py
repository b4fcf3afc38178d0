"""Wiring of the blobs: which driver, where it keeps what, when it is swept."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final

from core_plugins.files.drivers.file_store import FileStore
from core_plugins.files.drivers.s3_client import S3Client
from core_plugins.files.drivers.s3_signature import Account
from core_plugins.files.drivers.s3_store import S3Store
from core_plugins.files.drivers.url_keys import UrlKeys
from core_plugins.files.operations import Driver, FilesOperations, UrlOperations
from core_plugins.files.settings import Settings
from plugin_api import Registrar, hookimpl
from plugin_api.clock import Clock
from plugin_api.errors import InvalidRequest
from plugin_api.pipeline import Tenant
from plugin_api.ports.blob_store import BLOBS

FOLDER: Final = "blobs"
URL_KEYS: Final = Path("secrets", "blob-urls")


class FilesPlugin:
    """`kernel.files`."""

    def __init__(self) -> None:
        self._settings = Settings()
        self._operations: FilesOperations | None = None

    @hookimpl
    def pk_register(self, registrar: Registrar) -> None:
        """Provide the port `files`, and sweep what is left behind."""
        settings: Settings = registrar.settings or Settings()
        driver = make_driver(settings, registrar.data_folder, registrar.clock)
        operations = FilesOperations(driver, settings, registrar.clock, registrar.log)
        self._settings, self._operations = settings, operations
        registrar.service(BLOBS, operations)
        registrar.operations(UrlOperations(driver, settings))
        registrar.task("sweep", self._sweep)

    @hookimpl
    async def pk_enable(self) -> None:
        """Open the store, so that one that cannot be used is told at the start."""
        if self._operations is not None:
            await self._operations.start()

    @hookimpl
    async def pk_disable(self) -> None:
        """Close the store."""
        if self._operations is not None:
            await self._operations.stop()

    @hookimpl
    async def pk_tenant_erased(self, tenant: Tenant) -> None:
        """Remove the tenant's blobs."""
        if self._operations is not None:
            await self._operations.erase(tenant.id)

    async def _sweep(self) -> None:
        while self._operations is not None:
            await self._operations.sweep()
            await asyncio.sleep(self._settings.sweep_s)


def make_driver(settings: Settings, data_folder: Path, clock: Clock) -> Driver:
    """The filesystem, or the S3 API that the settings name. InvalidRequest when that lacks its account."""
    if settings.s3_url is not None:
        if settings.s3_secret_key is None or not settings.s3_access_key:
            raise InvalidRequest("files.s3_url needs an account: set files.s3_access_key and files.s3_secret_key")
        account = Account(settings.s3_access_key, settings.s3_secret_key, settings.s3_region)
        return S3Store(
            S3Client(settings.s3_url, settings.s3_bucket, account, settings.s3_connections),
            clock,
            quota=settings.tenant_bytes_max,
            threads=settings.io_threads,
            public_url=settings.s3_public_url or settings.s3_url,
        )
    return FileStore(
        data_folder / FOLDER,
        UrlKeys(data_folder / URL_KEYS),
        clock,
        quota=settings.tenant_bytes_max,
        threads=settings.io_threads,
        public_url=settings.public_url,
    )


plugin = FilesPlugin()
