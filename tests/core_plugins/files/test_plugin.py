"""The plugin in a kernel: what `registrar.blobs` of other plugins is, and what becomes of a tenant's blobs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from core_plugins.files.operations import FilesOperations
from core_plugins.files.plugin import make_driver
from core_plugins.files.settings import Settings
from host.kernel import Kernel
from host.observe import PluginLog
from plugin_api.clock import SystemClock
from plugin_api.errors import InvalidRequest, NotFound, StoreUnavailable, Unavailable
from plugin_api.ids import uuid7
from plugin_api.pipeline import Tenant
from plugin_api.ports.blob_store import BlobStore
from plugin_api.settings import Secret

OpenKernel = Callable[..., Awaitable[Kernel]]


async def body(content: bytes) -> AsyncIterator[bytes]:
    yield content


async def test_a_plugin_has_its_own_part(open_kernel: OpenKernel, kernel_folder: Path) -> None:
    kernel, tenant = await open_kernel(["files"], {}), uuid7()
    crm: BlobStore = kernel.part("files", "acme.crm")
    money: BlobStore = kernel.part("files", "money")
    await crm.put(tenant, "key", body(b"content"))

    async with crm.get(tenant, "key") as blob:
        assert await blob.read(100) == b"content"
    with pytest.raises(NotFound):
        await money.head(tenant, "key")
    assert "quota_exact" in crm.capabilities
    assert (kernel_folder / "blobs" / tenant.hex / "objects" / "acme.crm" / "key.b").exists()
    assert (await crm.sign_url(tenant, "key", "GET", expires_s=1)).startswith("/api/v1/files/blobs/")


async def test_without_the_plugin_there_is_no_part(open_kernel: OpenKernel) -> None:
    kernel = await open_kernel(["files"], {})
    blobs: BlobStore = kernel.part("files", "acme.crm")
    await blobs.usage(uuid7())
    kernel.withdraw("kernel.files")

    with pytest.raises(Unavailable, match="files"):
        await blobs.usage(uuid7())


async def test_a_tenant_that_is_erased_keeps_no_blob(open_kernel: OpenKernel, kernel_folder: Path) -> None:
    kernel, tenant = await open_kernel(["files"], {}), uuid7()
    blobs: BlobStore = kernel.part("files", "acme.crm")
    await blobs.put(tenant, "key", body(b"content"))
    await kernel.tenant_hooks.erased(Tenant(tenant, "acme", "Acme"))

    assert (await blobs.list(tenant)).items == []
    assert not (kernel_folder / "blobs" / tenant.hex).exists()


async def test_an_s3_api_that_is_not_there_is_told_at_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("core_plugins.files.drivers.s3_client.START_S", 0.0)
    settings = Settings(s3_url="http://127.0.0.1:1", s3_access_key="a", s3_secret_key=Secret("b"))
    clock = SystemClock()
    files = FilesOperations(make_driver(settings, tmp_path, clock), settings, clock, PluginLog("kernel.files"))
    with pytest.raises(StoreUnavailable, match=r"files\.s3_url"):
        await files.start()
    await files.stop()


async def test_an_s3_api_needs_an_account(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"files\.s3_secret_key"):
        make_driver(Settings(s3_url="http://127.0.0.1:1"), tmp_path, SystemClock())
