"""Where the stores of blobs are tried: one `Site` for each driver."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.request import urlopen
from uuid import UUID, uuid4

import pytest

from core_plugins.files.operations import FilesOperations
from core_plugins.files.plugin import make_driver
from core_plugins.files.settings import Settings
from host.observe import PluginLog
from plugin_api.ports.blob_store import BlobInfo, BlobStore
from plugin_api.settings import Secret
from plugin_api.testing import FakeClock

DRIVERS = ["filesystem", "s3", pytest.param("versitygw", marks=pytest.mark.soak)]
"""`s3` is MinIO."""
BUILD = Path(__file__).parents[1] / "tools" / "go.sh"
BUILD_LIMIT_S, START_LIMIT_S = 900, 60
NO_GO = 3
ACCESS_KEY, SECRET_KEY = "pk-tests", "pk-tests-secret"


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


@contextmanager
def s3_server(
    name: str, command: Callable[[str, int], list[str | Path]], health: str, **environment: str
) -> Iterator[str]:
    """The address of a server of this name while the block lasts; the test is skipped where it cannot be built."""
    built = subprocess.run(["sh", BUILD, name], stdout=subprocess.PIPE, text=True, timeout=BUILD_LIMIT_S, check=False)
    if built.returncode == NO_GO:
        pytest.skip(f"{name} is built with Go, and there is no Go toolchain here")
    assert built.returncode == 0, f"{name} was not built"
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with subprocess.Popen(command(built.stdout.strip(), port), env=environment) as server:
        try:
            url = f"http://127.0.0.1:{port}"
            _await_ready(f"{url}{health}", server)
            yield url
        finally:
            server.terminate()


@pytest.fixture(scope="session")
def minio_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a MinIO for the whole run."""
    folder = tmp_path_factory.mktemp("minio")
    with s3_server(
        "minio",
        lambda program, port: [program, "server", "--quiet", "--address", f"127.0.0.1:{port}", folder],
        "/minio/health/ready",
        HOME=str(tmp_path_factory.mktemp("minio-home")),
        MINIO_ROOT_USER=ACCESS_KEY,
        MINIO_ROOT_PASSWORD=SECRET_KEY,
        MINIO_UPDATE="off",
        MINIO_BROWSER="off",
        MINIO_CI_CD="1",
    ) as url:
        yield url


@pytest.fixture(scope="session")
def versitygw_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a versitygw for the whole run."""
    folder = tmp_path_factory.mktemp("versitygw")
    with s3_server(
        "versitygw",
        lambda program, port: [
            program, "--quiet", "--port", f"127.0.0.1:{port}", "--health", "/health", "posix", folder,
        ],
        "/health",
        HOME=str(folder),
        ROOT_ACCESS_KEY=ACCESS_KEY,
        ROOT_SECRET_KEY=SECRET_KEY,
    ) as url:  # fmt: skip
        yield url


def _await_ready(url: str, server: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + START_LIMIT_S
    while True:
        assert server.poll() is None, "the S3 server has ended"
        assert time.monotonic() < end, "the S3 server does not answer"
        try:
            with urlopen(url, timeout=1):
                return
        except OSError:
            time.sleep(0.02)


@pytest.fixture(params=DRIVERS)
def settings(request: pytest.FixtureRequest) -> dict[str, Any]:
    """What makes the plugin take one driver or the other."""
    if request.param == "filesystem":
        return {}
    return {
        "s3_url": request.getfixturevalue({"s3": "minio_url", "versitygw": "versitygw_url"}[request.param]),
        "s3_bucket": f"test-{uuid4().hex}",
        "s3_access_key": ACCESS_KEY,
        "s3_secret_key": Secret(SECRET_KEY),
    }


@pytest.fixture
async def site(settings: dict[str, Any], tmp_path: Path) -> AsyncIterator[Site]:
    (tmp_path / "secrets").mkdir()
    async with AsyncExitStack() as closing:
        yield Site(settings, tmp_path, FakeClock(datetime.now(UTC)), closing)


@pytest.fixture
async def files(site: Site) -> FilesOperations:
    return await site.open()


@pytest.fixture
def store(files: FilesOperations) -> BlobStore:
    return files.part("acme.crm")
