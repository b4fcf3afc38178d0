"""One bucket of an S3 API: signed requests, answers taken apart, refusals as our errors."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from hashlib import sha256
from typing import IO, Any, Final
from xml.etree import ElementTree as ET

import aiohttp
from msgspec import Struct
from yarl import URL

from core_plugins.files.drivers.s3_signature import Account, Target, sign
from plugin_api.errors import KernelBug, KernelError, StoreUnavailable

CONNECT_S: Final = 5.0
SILENCE_S: Final = 30.0
"""How long the server may say nothing while bytes are under way."""
START_S: Final = 10.0
RETRY_S: Final = 0.1
ANSWER_BYTES_MAX: Final = 8 * 2**20
EMPTY: Final = sha256(b"").hexdigest()
_FULL: Final = frozenset({"XMinioStorageFull", "InsufficientStorage"})
_OURS: Final = frozenset({"AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "RequestTimeTooSkewed"})


class Refusal(Struct, frozen=True):
    """What the server says instead of doing it."""

    status: int
    code: str


class Refused(Exception):
    """The server refused; whoever asked knows what it means, or gives `as_error`."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(f"{refusal.status} {refusal.code}")
        self.status, self.code = refusal.status, refusal.code

    def as_error(self) -> KernelError:
        """What it means when nobody has expected it."""
        if self.code in _FULL:
            return StoreUnavailable("the disk of the blobs is full; the operator has to make room", code="disk_full")
        if self.code in _OURS:
            return StoreUnavailable(f"the store of the blobs refuses us ({self.code}); look at files.s3_access_key")
        if self.status >= 500 or self.status == 429:
            return StoreUnavailable(f"the store of the blobs is away ({self.status} {self.code}); try again")
        return KernelBug(f"the store of the blobs refused a request: {self.status} {self.code}")


class S3Object(Struct, frozen=True):
    """One entry of a list."""

    key: str
    size: int
    etag: str
    modified_at: datetime


class S3Client:
    """Requests to one bucket. Nothing is sent twice: what a caller may repeat, it repeats itself.

    Raises, all methods:
        StoreUnavailable: the server is away, silent or full.
        Refused: it said no.
    """

    def __init__(self, base: str, bucket: str, account: Account, connections: int) -> None:
        self.base = base.rstrip("/")
        self.bucket = bucket
        self.account = account
        self._connections = connections
        self._session: aiohttp.ClientSession | None = None

    async def open(self) -> None:
        """Make ready to send, and make the bucket if there is none.

        Raises:
            StoreUnavailable: it did not answer within START_S: a wrong address or account, rather than an outage.
        """
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S, sock_read=SILENCE_S)
        connector = aiohttp.TCPConnector(limit=self._connections)
        self._session = aiohttp.ClientSession(timeout=timeout, connector=connector, auto_decompress=False)
        end = time.monotonic() + START_S
        while True:
            try:
                await self._make_bucket()
            except (Refused, StoreUnavailable) as error:
                known = error.as_error() if isinstance(error, Refused) else error
                if not isinstance(known, StoreUnavailable) or time.monotonic() > end:
                    await self.close()
                    raise known from error
                await asyncio.sleep(RETRY_S)
            else:
                return

    async def _make_bucket(self) -> None:
        try:
            await self.ask("HEAD", "")
        except Refused as refused:
            if refused.status != 404:
                raise
            try:
                await self.ask("PUT", "")
            except Refused as late:
                if late.code not in ("BucketAlreadyOwnedByYou", "BucketAlreadyExists"):
                    raise

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()

    def target(self, method: str, key: str, query: Mapping[str, str] | None = None) -> Target:
        """What is asked for; the bucket itself for an empty key."""
        return Target(method, self.base, f"/{self.bucket}/{key}" if key else f"/{self.bucket}", query or {})

    @asynccontextmanager
    async def stream(
        self,
        method: str,
        key: str,
        *,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        body: bytes | IO[bytes] = b"",
        payload_sha256: str | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send a request and give the answer while its body still comes."""
        if self._session is None:
            raise KernelBug("the store of the blobs was used before it was opened, or after it was closed")
        target = self.target(method, key, query)
        digest = payload_sha256 or (sha256(body).hexdigest() if isinstance(body, bytes) else EMPTY)
        fields = {"accept-encoding": "identity"} | sign(target, headers or {}, digest, self.account, datetime.now(UTC))
        try:
            async with self._session.request(
                method, URL(target.url, encoded=True), headers=fields, data=body or None, allow_redirects=False
            ) as response:
                if response.status >= 300:
                    raise Refused(await _refusal(response))
                yield response
        except (aiohttp.ClientError, TimeoutError) as error:
            raise StoreUnavailable(
                f"the store of the blobs does not answer ({type(error).__name__}); try again, or look at files.s3_url"
            ) from error

    async def ask(self, method: str, key: str, **given: Any) -> tuple[Mapping[str, str], bytes]:
        """Send a request; (header fields, body) of the answer."""
        async with self.stream(method, key, **given) as response:
            return response.headers, await _whole(response)

    async def list(self, prefix: str, *, after: str = "", limit: int = 1_000) -> tuple[list[S3Object], bool]:
        """(objects whose key begins with `prefix` and comes after `after`, whether there are more)."""
        query = {"list-type": "2", "prefix": prefix, "max-keys": str(limit)}
        _, raw = await self.ask("GET", "", query={**query, **({"start-after": after} if after else {})})
        document = parse(raw)
        items = [_object(entry) for entry in document.findall("Contents")]
        return items, document.findtext("IsTruncated") == "true"

    async def walk(self, prefix: str) -> AsyncIterator[S3Object]:
        """All objects whose key begins with `prefix`."""
        after, is_more = "", True
        while is_more:
            items, is_more = await self.list(prefix, after=after)
            for item in items:
                yield item
            after = items[-1].key if items else ""


def parse(raw: bytes) -> ET.Element:
    """Read an answer's XML, namespaces aside."""
    try:
        document = ET.fromstring(raw)  # noqa: S314 - from the store that the operator named, and bounded
    except ET.ParseError as error:
        raise StoreUnavailable("the store of the blobs answers what is no XML; look at files.s3_url") from error
    for element in document.iter():
        element.tag = element.tag.rpartition("}")[2]
    return document


def unquoted(etag: str | None) -> str:
    """An etag as we give it."""
    return (etag or "").strip('"')


def time_of(headers: Mapping[str, str]) -> datetime:
    """When the object was written, or else when the answer was made; whole seconds."""
    text = headers.get("Last-Modified") or headers.get("Date") or ""
    try:
        return parsedate_to_datetime(text).astimezone(UTC)
    except ValueError:
        return datetime.now(UTC).replace(microsecond=0)


def _object(entry: ET.Element) -> S3Object:
    modified = datetime.fromisoformat((entry.findtext("LastModified") or "").replace("Z", "+00:00"))
    return S3Object(
        entry.findtext("Key") or "",
        int(entry.findtext("Size") or 0),
        unquoted(entry.findtext("ETag")),
        modified.replace(microsecond=0),
    )


async def _whole(response: aiohttp.ClientResponse) -> bytes:
    raw = bytearray()
    async for piece in response.content.iter_any():
        raw += piece
        if len(raw) > ANSWER_BYTES_MAX:
            raise StoreUnavailable(
                f"the store of the blobs answers more than {ANSWER_BYTES_MAX} bytes; look at files.s3_url"
            )
    return bytes(raw)


async def _refusal(response: aiohttp.ClientResponse) -> Refusal:
    raw = await _whole(response)
    try:
        code = parse(raw).findtext("Code") if raw else None
    except StoreUnavailable:
        code = None
    return Refusal(response.status, code or "")
