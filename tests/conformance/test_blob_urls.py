"""The promises of signed URLs, over every driver: asked as a stranger would, over HTTP."""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import aiohttp
import pytest
from yarl import URL

from core_plugins.files.operations import FilesOperations
from core_plugins.files.plugin import FilesPlugin
from host.generations import Generation
from host.http import RestDoor
from host.kernel import Kernel, Place
from host.lifecycle import Lifecycle
from host.own_pages import host_pages
from host.stamps import FileStamps, create_stamps
from plugin_api.errors import InvalidRequest, LimitReached
from plugin_api.ids import uuid7
from plugin_api.limits import BLOB_URL_S_MAX
from plugin_api.manifest import read_manifest
from plugin_api.ports.blob_store import BlobStore
from plugin_api.testing import FakeClock
from tests.conformance.conftest import Site, put, read

pytestmark = pytest.mark.timeout(900)  # whoever comes first builds the S3 server
CONTENT = random.Random(5).randbytes(700_000)
MANIFEST = Path(__file__).parents[2] / "core_plugins" / "files" / "manifest.toml"


@dataclass
class Found:
    """What discovery would give for the plugin."""

    manifest: Any
    folder: Path


@dataclass
class Answer:
    status: int
    headers: Any
    body: bytes

    @property
    def is_done(self) -> bool:
        return 200 <= self.status < 300


class Stranger:
    """Asks for URLs, with nothing but them."""

    def __init__(self, base: str) -> None:
        self.base = base

    async def ask(self, method: str, url: str, body: Any = None, **headers: str) -> Answer:
        fields = {name.replace("_", "-"): value for name, value in headers.items()}
        timeout, whole = aiohttp.ClientTimeout(total=20), url if "://" in url else self.base + url
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.request(method, URL(whole, encoded=True), data=body, headers=fields) as response,
        ):
            return Answer(response.status, response.headers, await response.read())


async def no_migrations(generation: Generation, found: Any) -> list[str]:
    return []


@asynccontextmanager
async def door(folder: Path) -> AsyncIterator[str]:
    """The address of a kernel of this process with the plugin in it, over the blobs of `folder`."""
    create_stamps(folder / "stamps")
    stamps = FileStamps(folder / "stamps")
    kernel = Kernel(Place(folder, "embedded", 0, {}), stamps, b"k" * 32, lambda text: None)
    lifecycle = Lifecycle(kernel, no_migrations)
    found: Any = Found(read_manifest(MANIFEST.read_text(), str(MANIFEST)), MANIFEST.parent)
    await lifecycle.activate(found, FilesPlugin(), None)
    rest = RestDoor(kernel, host_pages(kernel))
    listener = socket.create_server(("127.0.0.1", 0))
    server = await asyncio.get_running_loop().create_server(rest.server, sock=listener)
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.close()
        await rest.server.shutdown(1.0)
        await lifecycle.deactivate("kernel.files")
        stamps.close()


@pytest.fixture
async def stranger(site: Site) -> AsyncIterator[Stranger]:
    if "s3_url" in site.settings:
        yield Stranger("")
    else:
        async with door(site.folder) as base:
            yield Stranger(base)


@pytest.fixture
def tenant() -> UUID:
    return uuid7()


async def signed(store: BlobStore, tenant: UUID, method: Any, key: str = "a/b c.bin", **given: Any) -> str:
    return await store.sign_url(tenant, key, method, **{"expires_s": 60, **given})


# --------------------------------------------------------------------------------------------------- reading


async def test_a_blob_is_downloaded(site: Site, stranger: Stranger, store: BlobStore, tenant: UUID) -> None:
    made = await put(store, tenant, "a/b c.bin", CONTENT, content_type="image/png")
    url = await signed(store, tenant, "GET")
    answer = await stranger.ask("GET", url)

    assert (answer.status, answer.body) == (200, CONTENT)
    assert answer.headers["Content-Type"] == "image/png"
    assert answer.headers["ETag"] == f'"{made.etag}"'
    head = await stranger.ask("HEAD", url)
    if "s3_url" in site.settings:
        assert head.status == 403, "the method is signed, and HEAD is another one there"
    else:
        assert (head.status, head.headers["Content-Length"], head.body) == (200, str(len(CONTENT)), b"")
        assert answer.headers["Content-Disposition"] == "attachment"
        assert "sandbox" in answer.headers["Content-Security-Policy"]


async def test_a_range_is_downloaded(stranger: Stranger, store: BlobStore, tenant: UUID) -> None:
    await put(store, tenant, "a/b c.bin", CONTENT)
    url = await signed(store, tenant, "GET")
    for field, part in (("bytes=5-9", CONTENT[5:10]), ("bytes=699990-", CONTENT[699_990:]), ("bytes=-7", CONTENT[-7:])):
        answer = await stranger.ask("GET", url, Range=field)
        assert (answer.status, answer.body) == (206, part)
        assert answer.headers["Content-Range"].endswith("/700000")

    assert (await stranger.ask("GET", url, Range="bytes=700000-")).status == 416


async def test_what_has_not_changed_is_not_sent_again(stranger: Stranger, store: BlobStore, tenant: UUID) -> None:
    made = await put(store, tenant, "a/b c.bin", CONTENT)
    url = await signed(store, tenant, "GET")

    unchanged = await stranger.ask("GET", url, If_None_Match=f'"{made.etag}"')
    assert (unchanged.status, unchanged.body) == (304, b"")
    assert (await stranger.ask("GET", url, If_None_Match='"other"')).body == CONTENT
    assert (await stranger.ask("GET", url, If_Match='"other"')).status == 412


async def test_an_absent_blob_is_not_found(stranger: Stranger, store: BlobStore, tenant: UUID) -> None:
    assert (await stranger.ask("GET", await signed(store, tenant, "GET"))).status == 404


# --------------------------------------------------------------------------------------------------- writing


async def test_a_blob_is_uploaded(stranger: Stranger, store: BlobStore, tenant: UUID) -> None:
    url = await signed(store, tenant, "PUT", size=len(CONTENT), content_type="image/png")
    answer = await stranger.ask("PUT", url, CONTENT, Content_Type="image/png")
    made = await store.head(tenant, "a/b c.bin")

    assert answer.is_done
    assert answer.headers["ETag"] == f'"{made.etag}"'
    assert (made.size, made.content_type) == (len(CONTENT), "image/png")
    assert await read(store, tenant, "a/b c.bin") == CONTENT


@pytest.mark.parametrize("length", [0, 9, 11, 20])
async def test_another_size_is_refused(stranger: Stranger, store: BlobStore, tenant: UUID, length: int) -> None:
    url = await signed(store, tenant, "PUT", size=10)
    assert (await stranger.ask("PUT", url, b"x" * length)).status == 403

    assert (await store.list(tenant)).items == []
    assert (await stranger.ask("PUT", url, b"x" * 10)).is_done


async def test_a_body_of_unknown_size_keeps_to_the_bound(stranger: Stranger, store: BlobStore, tenant: UUID) -> None:
    async def endless() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield b"x" * 1_000

    url = await signed(store, tenant, "PUT", size=10)
    try:
        refused = await stranger.ask("PUT", url, endless())
        assert 400 <= refused.status < 500
    except aiohttp.ClientError:
        pass  # the server hung up before it was all sent

    assert (await store.list(tenant)).items == []


async def test_another_media_type_is_refused(stranger: Stranger, store: BlobStore, tenant: UUID) -> None:
    url = await signed(store, tenant, "PUT", size=1, content_type="image/png")

    assert (await stranger.ask("PUT", url, b"x", Content_Type="text/html")).status == 403
    assert (await store.list(tenant)).items == []


async def test_a_largest_size_is_kept_or_said_to_be_impossible(
    stranger: Stranger, store: BlobStore, tenant: UUID
) -> None:
    if "url_size_max" not in store.capabilities:
        with pytest.raises(InvalidRequest, match="exact"):
            await signed(store, tenant, "PUT", size_max=10)
        return
    url = await signed(store, tenant, "PUT", size_max=10)

    assert (await stranger.ask("PUT", url, b"x" * 11)).status == 403
    assert (await stranger.ask("PUT", url, b"x" * 10)).is_done
    assert (await stranger.ask("PUT", url, b"x" * 3)).is_done
    assert await read(store, tenant, "a/b c.bin") == b"xxx"


async def test_there_is_no_url_past_the_quota(site: Site, tenant: UUID) -> None:
    store = (await site.open(tenant_bytes_max=100)).part("acme.crm")
    if "quota_exact" not in store.capabilities:
        with pytest.raises(LimitReached):
            await signed(store, tenant, "PUT", size=101)
    assert await signed(store, tenant, "PUT", size=100)


# -------------------------------------------------------------------------------------------------- refusals


async def test_an_expired_url_is_refused(
    site: Site, stranger: Stranger, files: FilesOperations, store: BlobStore, tenant: UUID
) -> None:
    await put(store, tenant, "a/b c.bin", b"secret")
    site.clock = FakeClock(datetime.now(UTC) - timedelta(hours=2))
    earlier = (await site.open()).part("acme.crm")
    for method, given in (("GET", {}), ("PUT", {"size": 6})):
        url = await signed(earlier, tenant, method, expires_s=3_600, **given)
        answer = await stranger.ask(method, url, b"change" if method == "PUT" else None)
        assert answer.status == 403
        assert b"secret" not in answer.body
    assert await read(store, tenant, "a/b c.bin") == b"secret"


@pytest.mark.parametrize("method", ["PUT", "DELETE", "POST"])
async def test_a_url_for_reading_only_reads(stranger: Stranger, store: BlobStore, tenant: UUID, method: str) -> None:
    await put(store, tenant, "a/b c.bin", b"kept")
    url = await signed(store, tenant, "GET")

    assert (await stranger.ask(method, url, b"" if method == "DELETE" else b"lost")).status in (400, 403, 405)
    assert await read(store, tenant, "a/b c.bin") == b"kept"


async def test_a_url_for_writing_does_not_read(stranger: Stranger, store: BlobStore, tenant: UUID) -> None:
    await put(store, tenant, "a/b c.bin", b"secret")
    answer = await stranger.ask("GET", await signed(store, tenant, "PUT", size=6))

    assert answer.status == 403
    assert b"secret" not in answer.body


async def test_a_changed_url_is_refused(stranger: Stranger, store: BlobStore, tenant: UUID) -> None:
    """Any character of what was signed; a few of them over HTTP, all of them where the door is not asked."""
    for key in ("a/b c.bin", "a/b c.bim", "a/a"):
        await put(store, tenant, key, b"secret")
    url = await signed(store, tenant, "GET")
    begin = url.index("/", url.index("://") + 3) + 1 if "://" in url else url.rindex("/") + 1
    places = random.Random(6).sample(range(begin, len(url)), 40)

    for at in places:
        other = "b" if url[at] != "b" else "c"
        answer = await stranger.ask("GET", url[:at] + other + url[at + 1 :])
        assert answer.status in (400, 403, 404), url[at - 5 : at + 5]
        assert b"secret" not in answer.body
    for end in (begin + 1, len(url) // 2, len(url) - 1):
        assert b"secret" not in (await stranger.ask("GET", url[:end])).body


async def test_a_url_of_one_tenant_is_of_no_use_in_another(stranger: Stranger, store: BlobStore, tenant: UUID) -> None:
    other = uuid7()
    await put(store, other, "a/b c.bin", b"theirs")
    url = await signed(store, tenant, "GET")

    assert (await stranger.ask("GET", url)).status == 404
    swapped = url.replace(tenant.hex, other.hex)
    if swapped != url:
        assert (await stranger.ask("GET", swapped)).status == 403


@pytest.mark.parametrize("given", [{"expires_s": 0}, {"expires_s": BLOB_URL_S_MAX + 1}, {"size": 5}])
async def test_what_must_not_be_signed_is_not(store: BlobStore, tenant: UUID, given: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await signed(store, tenant, "GET", **given)

    assert caught.value.code == "signed_url_refused"
