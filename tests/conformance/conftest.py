"""Where the stores of blobs are tried: one `Site` for each driver."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from core_plugins.files.operations import FilesOperations
from core_plugins.files.plugin import make_driver
from core_plugins.files.settings import Settings
from host.observe import PluginLog
from plugin_api.ports.blob_store import BlobInfo, BlobStore
from plugin_api.testing import FakeClock

DRIVERS = ["filesystem"]


async def body(*pieces: bytes) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


async def put(store: BlobStore, tenant: UUID, key: str, content: bytes, **given: Any) -> BlobInfo:
    return await store.put(tenant, key, body(content), **given)


async def read(store: BlobStore, tenant: UUID, key: str, **given: Any) -> bytes:
    async with store.get(tenant, key, **given) as blob:
        return await blob.read(2**30)


async def keys(store: BlobStore, tenant: UUID, limit: int = 200, **given: Any) -> list[str]:
    """Every page, one after the other."""
    found, cursor = list[str](), None
    while True:
        page = await store.list(tenant, limit=limit, cursor=cursor, **given)
        found += [entry.key for entry in page.items]
        cursor = page.next_cursor
        if cursor is None:
            return found


@dataclass
class Site:
    """One driver's place in the test: kernels that are opened there share what they keep."""

    settings: dict[str, Any]
    folder: Path
    clock: FakeClock
    closing: AsyncExitStack

    async def open(self, **given: Any) -> FilesOperations:
        settings = Settings(**{**self.settings, **given})
        driver = make_driver(settings, self.folder, self.clock)
        operations = FilesOperations(driver, settings, self.clock, PluginLog("kernel.files"))
        await operations.start()
        self.closing.push_async_callback(operations.stop)
        return operations


@pytest.fixture(params=DRIVERS)
async def site(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Site]:
    (tmp_path / "secrets").mkdir()
    async with AsyncExitStack() as closing:
        yield Site({}, tmp_path, FakeClock(), closing)


@pytest.fixture
async def files(site: Site) -> FilesOperations:
    return await site.open()


@pytest.fixture
def store(files: FilesOperations) -> BlobStore:
    return files.part("acme.crm")
