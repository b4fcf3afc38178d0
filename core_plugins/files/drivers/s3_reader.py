"""One blob of an S3 API, open for reading."""

from __future__ import annotations

from collections.abc import AsyncIterator

import aiohttp

from core_plugins.files.model.content import too_large
from plugin_api.errors import RangeNotSatisfiable, StoreUnavailable
from plugin_api.limits import BLOB_CHUNK_BYTES_MAX
from plugin_api.ports.blob_store import BlobInfo, ByteRange


def range_field(wanted: ByteRange) -> str:
    """The header field Range (RFC 9110, section 14.2). One that says nothing would be passed over, so it is refused here."""
    if wanted.first < 0 and wanted.last is None:
        return f"bytes={wanted.first}"
    if wanted.first < 0 or (wanted.last is not None and wanted.last < wanted.first):
        raise RangeNotSatisfiable(f"bytes {wanted.first} to {wanted.last} are no range; ask for others")
    return f"bytes={wanted.first}-{'' if wanted.last is None else wanted.last}"


class S3Reader:
    """The `BlobReader` of an S3 API; without a response nothing has changed and nothing is given."""

    def __init__(self, info: BlobInfo, response: aiohttp.ClientResponse | None) -> None:
        self.info = info
        self.is_unchanged = response is None
        self._response = response
        self.first = _first(response)
        self.length = int(response.headers.get("Content-Length") or 0) if response is not None else 0

    async def chunks(self) -> AsyncIterator[bytes]:
        """The bytes, in pieces; see the port."""
        given = 0
        while self._response is not None and given < self.length:
            try:
                chunk = await self._response.content.read(BLOB_CHUNK_BYTES_MAX)
            except (aiohttp.ClientError, TimeoutError) as error:
                raise StoreUnavailable(f"the blob broke off after {given} bytes; read it again") from error
            if not chunk:
                raise StoreUnavailable(f"the blob broke off after {given} bytes of {self.length}; read it again")
            given += len(chunk)
            yield chunk

    async def read(self, bytes_max: int) -> bytes:
        """All bytes at once; see the port."""
        if self.length > bytes_max:
            raise too_large(bytes_max)
        return b"".join([chunk async for chunk in self.chunks()])


def _first(response: aiohttp.ClientResponse | None) -> int:
    told = response.headers.get("Content-Range", "") if response is not None else ""
    first = told.removeprefix("bytes ").partition("-")[0]
    return int(first) if first.isdigit() else 0
