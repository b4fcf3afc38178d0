"""Blobs: bytes of any length under a key, for one tenant. What was acknowledged is on the disk, whole."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import Literal, Protocol
from uuid import UUID

from msgspec import Struct

from plugin_api.limits import BLOB_PAGE_ITEMS_DEFAULT
from plugin_api.services import ServiceKey

UrlMethod = Literal["GET", "PUT"]
Capability = Literal["sha256_always", "quota_exact", "url_size_max"]
"""What not every driver can. `sha256_always`: also for blobs of several parts and those sent to a signed URL.
`quota_exact`: no two writers at once get past the tenant's quota. `url_size_max`: a signed URL may bound the size from
above, not only fix it."""


class ByteRange(Struct, frozen=True):
    """A part of a blob, as in RFC 9110, section 14: `ByteRange(0, 99)` its first 100 bytes, `ByteRange(100)` all after
    these, `ByteRange(-100)` its last 100. A range past the end is cut there."""

    first: int
    last: int | None = None
    """Included; None: to the end."""


class BlobInfo(Struct, frozen=True):
    """What is known of a blob without its bytes."""

    key: str
    size: int
    """In bytes."""
    etag: str
    """Another for other content; opaque, without quotes."""
    content_type: str
    created_at: datetime
    """When it was put; as a put answers it, give or take a second."""
    sha256: str | None = None
    """64 hexadecimal digits; None where the driver cannot tell (capability `sha256_always`)."""


class BlobEntry(Struct, frozen=True):
    """A blob as a list shows it."""

    key: str
    size: int
    etag: str
    created_at: datetime


class BlobPage(Struct, frozen=True):
    """One page of a list; `next_cursor` is None on the last one."""

    items: list[BlobEntry]
    next_cursor: str | None = None


class UploadedPart(Struct, frozen=True):
    """One part of an upload that is not complete yet."""

    number: int
    size: int
    etag: str


class BlobUsage(Struct, frozen=True):
    """What a tenant keeps, over all plugins, parts of uploads included."""

    bytes: int
    bytes_max: int


class BlobReader(Protocol):
    """One blob, opened for reading: it stays the same when the key is written or deleted meanwhile."""

    info: BlobInfo
    first: int
    """Place of the first byte that is given."""
    length: int
    """How many bytes are given."""
    is_unchanged: bool
    """It still has the etag that the reader knows (`if_none_match`), so nothing is given."""

    def chunks(self) -> AsyncIterator[bytes]:
        """The bytes, once, in pieces of at most 256 KiB."""
        ...

    async def read(self, bytes_max: int) -> bytes:
        """All bytes at once. PayloadTooLarge when they are more than `bytes_max`."""
        ...


class BlobStore(Protocol):
    """One plugin's part of the blobs: every key is that of one tenant, and neither can reach another's.

    A key is 1 to 800 bytes of UTF-8 in normal form C, in at most 64 segments of 1 to 200 bytes between `/`; no segment is `.` or
    `..`, no character a control character; case counts. `a` and `a/b` may both be keys.

    Raises, all of them:
        InvalidRequest: code `blob_key_invalid`: the key is none; the detail says why.
        StoreUnavailable: the store is away, or its disk is full (code `disk_full`); nothing was changed.
    """

    capabilities: frozenset[Capability]

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
        """Keep what `body` gives, in place of what the key had; on the disk before it returns, and whole or not at all.

        Repeating it changes nothing but `created_at`. `if_match` is the etag that is replaced; `if_none_match="*"`: there
        is no blob yet. Of many that put under one condition at once, one wins.

        Raises:
            InvalidRequest: code `blob_mismatch`: other bytes came than `size` or `sha256` say.
            PayloadTooLarge: more than `files.blob_bytes_max` bytes.
            PreconditionFailed: the key has another etag (or is there already).
            LimitReached: the tenant's quota of bytes is used up.
        """
        ...

    def get(
        self,
        tenant_id: UUID,
        key: str,
        *,
        byte_range: ByteRange | None = None,
        if_match: str | None = None,
        if_none_match: str | None = None,
    ) -> AbstractAsyncContextManager[BlobReader]:
        """Open a blob: `async with blobs.get(tenant_id, key) as blob: async for chunk in blob.chunks(): ...`.

        Raises, on entering:
            NotFound: there is none.
            PreconditionFailed: its etag is not `if_match`.
            RangeNotSatisfiable: the range begins at or after the end.
        """
        ...

    async def head(self, tenant_id: UUID, key: str) -> BlobInfo:
        """What is known of a blob. NotFound when there is none."""
        ...

    async def delete(self, tenant_id: UUID, key: str) -> None:
        """Delete a blob. Deleting an absent one is no error."""
        ...

    async def list(
        self,
        tenant_id: UUID,
        *,
        prefix: str = "",
        limit: int = BLOB_PAGE_ITEMS_DEFAULT,
        cursor: str | None = None,
    ) -> BlobPage:
        """Blobs whose key begins with `prefix`, at most `limit` (1 to 200).

        The order is one that stays the same; the keys below one segment stand together. A blob that is there all the while
        is on exactly one page, whatever is put and deleted meanwhile.

        Raises:
            Unreadable: code `bad_cursor`: it is not one of this list.
        """
        ...

    async def begin_upload(self, tenant_id: UUID, key: str, *, content_type: str = "application/octet-stream") -> str:
        """Begin a blob that comes in parts; the id of the upload. One that is not completed within
        `files.upload_orphan_s` is aborted."""
        ...

    async def put_part(
        self, tenant_id: UUID, upload_id: str, number: int, body: AsyncIterable[bytes], *, size: int | None = None
    ) -> UploadedPart:
        """Keep part `number` (1 to 10 000), in any order; sent again, it replaces the one before.

        Raises:
            NotFound: code `upload_not_found`: it was completed, aborted, or never begun.
            InvalidRequest: code `blob_mismatch`: other bytes came than `size` says.
            PayloadTooLarge: more than 128 MiB.
            LimitReached: the tenant's quota of bytes is used up.
        """
        ...

    async def complete_upload(
        self,
        tenant_id: UUID,
        upload_id: str,
        parts: Sequence[UploadedPart],
        *,
        if_match: str | None = None,
        if_none_match: Literal["*"] | None = None,
    ) -> BlobInfo:
        """Make one blob of these parts, in ascending order; parts that are not named are dropped. After a failure the
        upload goes on.

        Raises:
            NotFound: code `upload_not_found`.
            InvalidRequest: code `parts_invalid`: none, not ascending, one that is not there or has changed, one but the
                last smaller than 5 MiB.
            PreconditionFailed, PayloadTooLarge, LimitReached: as for `put`.
        """
        ...

    async def abort_upload(self, tenant_id: UUID, upload_id: str) -> None:
        """Drop an upload and its parts. Aborting an absent one is no error."""
        ...

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
        """Make a URL with which anybody may GET or PUT this one blob until it expires (1 s to 7 days).

        A PUT must send exactly `size` bytes, or at most `size_max`, and `content_type` if there is one. One of both sizes
        is needed, or a stranger fills the disk.

        Raises:
            InvalidRequest: code `signed_url_refused`: a bound is exceeded or missing, or the driver cannot keep it.
        """
        ...

    async def usage(self, tenant_id: UUID) -> BlobUsage:
        """What the tenant keeps now, and may keep."""
        ...


class BlobStoreProvider(Protocol):
    """Hands each plugin its part; provided by `kernel.files` as the capability `files`."""

    def part(self, prefix: str) -> BlobStore:
        """The part of the plugin whose area (`money`, `acme.crm`) this is."""
        ...


BLOBS: ServiceKey[BlobStoreProvider] = ServiceKey("files")
