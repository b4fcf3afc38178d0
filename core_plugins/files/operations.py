"""The capability: parts of the blobs, each with its own keys, quotas and signed URLs."""

from __future__ import annotations

from collections.abc import AsyncIterable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from datetime import datetime, timedelta
from email.utils import format_datetime
from typing import Annotated, Final, Literal, Protocol
from uuid import UUID

from msgspec import Meta, Struct

from core_plugins.files.model import content, names, urls
from core_plugins.files.model.content import Condition, Promise
from core_plugins.files.model.names import Place
from core_plugins.files.model.urls import Grant
from core_plugins.files.settings import Settings
from plugin_api.call import Call
from plugin_api.clock import Clock
from plugin_api.errors import KernelBug
from plugin_api.limits import BLOB_PAGE_ITEMS_DEFAULT, BLOB_PART_BYTES_MAX
from plugin_api.operation import operation
from plugin_api.ports.blob_store import (
    BlobEntry,
    BlobInfo,
    BlobPage,
    BlobReader,
    BlobStore,
    BlobUsage,
    ByteRange,
    Capability,
    UploadedPart,
    UrlMethod,
)
from plugin_api.registrar import Logger
from plugin_api.streams import Stream, Transfer

URL_START_S: Final = 10.0
"""How long the first byte of a download may take."""
URL_UPLOAD_S: Final = 3_600.0
DEFAULT_TYPE: Final = "application/octet-stream"
SAFE_FIELDS: Final = (
    ("Content-Disposition", "attachment"),
    ("Content-Security-Policy", "sandbox; default-src 'none'"),
    ("Cache-Control", "private, no-transform"),
)
"""A blob comes from the kernel's own address: shown as a page, its scripts would act as whoever looks at it."""


class Driver(Protocol):
    """Where the bytes are. Names, numbers and sizes have been checked; what is promised is that of the port."""

    capabilities: frozenset[Capability]

    async def start(self) -> None:
        """Make ready, and clear away what a killed kernel left."""
        ...

    async def stop(self) -> None:
        """Close; nothing is under way any more."""
        ...

    async def put(
        self,
        place: Place,
        key: str,
        body: AsyncIterable[bytes],
        promise: Promise,
        content_type: str,
        condition: Condition,
    ) -> BlobInfo:
        """Keep a blob."""
        ...

    def get(
        self, place: Place, key: str, byte_range: ByteRange | None, if_match: str | None, if_none_match: str | None
    ) -> AbstractAsyncContextManager[BlobReader]:
        """Open a blob."""
        ...

    async def head(self, place: Place, key: str) -> BlobInfo:
        """What is known of a blob."""
        ...

    async def delete(self, place: Place, key: str) -> None:
        """Delete a blob."""
        ...

    async def list_page(self, place: Place, prefix: str, limit: int, after: str) -> tuple[list[BlobEntry], bool]:
        """(blobs whose key comes after `after`, whether there are more)."""
        ...

    async def begin_upload(self, place: Place, key: str, content_type: str) -> str:
        """Begin an upload; its id."""
        ...

    async def put_part(
        self, place: Place, upload_id: str, number: int, body: AsyncIterable[bytes], promise: Promise
    ) -> UploadedPart:
        """Keep a part."""
        ...

    async def complete_upload(
        self, place: Place, upload_id: str, parts: Sequence[UploadedPart], bytes_max: int, condition: Condition
    ) -> BlobInfo:
        """Make one blob of parts."""
        ...

    async def abort_upload(self, place: Place, upload_id: str) -> None:
        """Drop an upload."""
        ...

    async def sign_url(self, grant: Grant) -> str:
        """Make a signed URL."""
        ...

    async def open_url(self, token: str, method: str) -> Grant:
        """What a signed URL of ours allows."""
        ...

    async def usage(self, tenant_id: UUID) -> int:
        """How many bytes the tenant keeps."""
        ...

    async def erase(self, tenant_id: UUID) -> None:
        """Remove everything of a tenant."""
        ...

    async def sweep(self, begun_before: datetime) -> int:
        """Remove what was left behind, and uploads that began before then; how many."""
        ...


class FilesPart:
    """The port `BlobStore` of one plugin."""

    def __init__(self, driver: Driver, area: str, settings: Settings, clock: Clock) -> None:
        self._driver = driver
        self._area = names.check_area(area)
        self._settings = settings
        self._clock = clock
        self.capabilities = driver.capabilities

    def _place(self, tenant_id: UUID) -> Place:
        return Place(self._area, tenant_id)

    async def put(
        self,
        tenant_id: UUID,
        key: str,
        body: AsyncIterable[bytes],
        *,
        content_type: str = "application/octet-stream",
        size: int | None = None,
        sha256: str | None = None,
        if_match: str | None = None,
        if_none_match: Literal["*"] | None = None,
    ) -> BlobInfo:
        """Keep a blob; see the port."""
        names.check_key(key)
        promise = content.check_promise(Promise(self._settings.blob_bytes_max, size, sha256))
        condition = content.check_condition(Condition(if_match, if_none_match))
        kind = names.check_content_type(content_type)
        return await self._driver.put(self._place(tenant_id), key, body, promise, kind, condition)

    def get(
        self,
        tenant_id: UUID,
        key: str,
        *,
        byte_range: ByteRange | None = None,
        if_match: str | None = None,
        if_none_match: str | None = None,
    ) -> AbstractAsyncContextManager[BlobReader]:
        """Open a blob; see the port."""
        return self._driver.get(self._place(tenant_id), names.check_key(key), byte_range, if_match, if_none_match)

    async def head(self, tenant_id: UUID, key: str) -> BlobInfo:
        """What is known of a blob; see the port."""
        return await self._driver.head(self._place(tenant_id), names.check_key(key))

    async def delete(self, tenant_id: UUID, key: str) -> None:
        """Delete a blob; see the port."""
        await self._driver.delete(self._place(tenant_id), names.check_key(key))

    async def list(
        self,
        tenant_id: UUID,
        *,
        prefix: str = "",
        limit: int = BLOB_PAGE_ITEMS_DEFAULT,
        cursor: str | None = None,
    ) -> BlobPage:
        """List blobs; see the port."""
        place = self._place(tenant_id)
        names.check_prefix(prefix)
        names.check_limit(limit)
        after = names.key_of_cursor(place, prefix, cursor) if cursor is not None else ""
        items, is_more = await self._driver.list_page(place, prefix, limit, after)
        return BlobPage(items, names.cursor_after(place, prefix, items[-1].key) if is_more else None)

    async def begin_upload(self, tenant_id: UUID, key: str, *, content_type: str = "application/octet-stream") -> str:
        """Begin a blob that comes in parts; see the port."""
        kind = names.check_content_type(content_type)
        return await self._driver.begin_upload(self._place(tenant_id), names.check_key(key), kind)

    async def put_part(
        self, tenant_id: UUID, upload_id: str, number: int, body: AsyncIterable[bytes], *, size: int | None = None
    ) -> UploadedPart:
        """Keep a part; see the port."""
        content.check_part_number(number)
        promise = content.check_promise(Promise(min(BLOB_PART_BYTES_MAX, self._settings.blob_bytes_max), size))
        return await self._driver.put_part(self._place(tenant_id), upload_id, number, body, promise)

    async def complete_upload(
        self,
        tenant_id: UUID,
        upload_id: str,
        parts: Sequence[UploadedPart],
        *,
        if_match: str | None = None,
        if_none_match: Literal["*"] | None = None,
    ) -> BlobInfo:
        """Make one blob of parts; see the port."""
        total = content.check_parts(parts, self._settings.blob_bytes_max)
        condition = content.check_condition(Condition(if_match, if_none_match))
        return await self._driver.complete_upload(self._place(tenant_id), upload_id, parts, total, condition)

    async def abort_upload(self, tenant_id: UUID, upload_id: str) -> None:
        """Drop an upload; see the port."""
        await self._driver.abort_upload(self._place(tenant_id), upload_id)

    async def sign_url(
        self,
        tenant_id: UUID,
        key: str,
        method: UrlMethod,
        *,
        expires_s: int,
        size: int | None = None,
        size_max: int | None = None,
        content_type: str | None = None,
    ) -> str:
        """Make a signed URL; see the port."""
        names.check_key(key)
        urls.check_grant(method, expires_s, size, size_max)
        if size_max is not None and "url_size_max" not in self.capabilities:
            raise urls.refused("this store cannot bound the size of a signed PUT from above; give the exact `size`")
        if content_type is not None:
            names.check_content_type(content_type)
        expires_at = int(self._clock.now().timestamp()) + expires_s
        grant = Grant(method, self._area, tenant_id, key, expires_at, size, size_max, content_type)
        return await self._driver.sign_url(grant)

    async def usage(self, tenant_id: UUID) -> BlobUsage:
        """What the tenant keeps; see the port."""
        return BlobUsage(await self._driver.usage(tenant_id), self._settings.tenant_bytes_max)


class FilesOperations:
    """The port `BlobStoreProvider`, and what is done for all parts together."""

    def __init__(self, driver: Driver, settings: Settings, clock: Clock, log: Logger) -> None:
        self._driver = driver
        self._settings = settings
        self._clock = clock
        self._log = log

    def part(self, prefix: str) -> BlobStore:
        """One plugin's part; see the port."""
        return FilesPart(self._driver, prefix, self._settings, self._clock)

    async def start(self) -> None:
        """Make ready."""
        await self._driver.start()

    async def stop(self) -> None:
        """Close."""
        await self._driver.stop()

    async def erase(self, tenant_id: UUID) -> None:
        """Remove everything of a tenant."""
        await self._driver.erase(tenant_id)

    async def sweep(self) -> int:
        """Remove what was left behind, uploads that nobody completes among it; how many."""
        swept = await self._driver.sweep(self._clock.now() - timedelta(seconds=self._settings.upload_orphan_s))
        if swept:
            self._log.info("cleared away what was left of blobs", count=swept)
        return swept


class UrlRef(Struct, frozen=True, forbid_unknown_fields=True):
    """Which signed URL."""

    token: Annotated[str, Meta(max_length=urls.TOKEN_CHARACTERS_MAX)]


class UrlOperations:
    """The door of signed URLs: whoever has one may do the one thing that it allows."""

    def __init__(self, driver: Driver, settings: Settings) -> None:
        self._driver = driver
        self._settings = settings

    @operation("GET /blobs/{token}", public=True, stream=True, deadline_s=URL_START_S)
    async def download(self, call: Call, request: UrlRef) -> Stream:
        """Download the blob of a signed URL. Range, If-Match and If-None-Match are understood."""
        transfer = _transfer(call)
        grant = await self._driver.open_url(request.token, transfer.method)
        call.enter(grant.tenant_id)
        opened, wanted = AsyncExitStack(), content.parse_range(transfer.byte_range)
        blob = await opened.enter_async_context(
            self._driver.get(
                Place(grant.area, grant.tenant_id),
                grant.key,
                wanted,
                content.parse_etags(call.if_match),
                content.parse_etags(transfer.if_none_match),
            )
        )
        return _answer(blob, opened, is_ranged=wanted is not None)

    @operation("PUT /blobs/{token}", public=True, stream=True, status=200, deadline_s=URL_UPLOAD_S)
    async def upload(self, call: Call, request: UrlRef) -> SentBlob:
        """Upload the blob of a signed URL. If-Match and `If-None-Match: *` are understood."""
        transfer = _transfer(call)
        grant = await self._driver.open_url(request.token, transfer.method)
        call.enter(grant.tenant_id)
        urls.check_upload(grant, transfer.length, transfer.content_type)
        promise = Promise(min(grant.bytes_max, self._settings.blob_bytes_max), grant.size)
        none_match = content.parse_etags(transfer.if_none_match)
        condition = Condition(content.parse_etags(call.if_match), "*" if none_match is not None else None)
        kind = names.check_content_type(transfer.content_type or grant.content_type or DEFAULT_TYPE)
        place = Place(grant.area, grant.tenant_id)
        made = await self._driver.put(
            place,
            grant.key,
            transfer.chunks(),
            content.check_promise(promise),
            kind,
            content.check_condition(condition),
        )
        call.add_response_header("ETag", f'"{made.etag}"')
        return SentBlob(made.size, made.etag, made.sha256)


class SentBlob(Struct, frozen=True):
    """What was kept."""

    size: int
    etag: str
    sha256: str | None


def _transfer(call: Call) -> Transfer:
    if call.transfer is None:
        raise KernelBug("signed URLs are for REST; plugins have registrar.blobs")
    return call.transfer


def _answer(blob: BlobReader, opened: AsyncExitStack, *, is_ranged: bool) -> Stream:
    headers: tuple[tuple[str, str], ...] = (
        ("ETag", f'"{blob.info.etag}"'),
        ("Last-Modified", format_datetime(blob.info.created_at, usegmt=True)),
        ("Accept-Ranges", "bytes"),
        *SAFE_FIELDS,
    )
    if is_part := is_ranged and not blob.is_unchanged:
        last = blob.first + blob.length - 1
        headers = (*headers, ("Content-Range", f"bytes {blob.first}-{last}/{blob.info.size}"))
    status = 304 if blob.is_unchanged else 206 if is_part else 200
    return Stream(
        blob.chunks(),
        content_type=blob.info.content_type,
        length=blob.length,
        status=status,
        headers=headers,
        close=opened.aclose,
    )
