"""Blobs in a bucket of an S3 API.

    objects/{tenant}/{area}/{segment}.d/{segment}.b   a blob; its SHA-256 is metadata where we know it before it is sent
    uploads/{tenant}/{area}/{upload}                  an upload that is not complete: which key, and its id at the server

The id of an upload begins with the time at which it began, so that a sweep reads only lists.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterable, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Final
from uuid import UUID
from xml.sax.saxutils import escape

import msgspec
from msgspec import Struct

from core_plugins.files.drivers.file_threads import FileThreads
from core_plugins.files.drivers.s3_account import S3Accounts
from core_plugins.files.drivers.s3_client import Refusal, Refused, S3Client, parse, time_of, unquoted
from core_plugins.files.drivers.s3_reader import S3Reader, range_field
from core_plugins.files.drivers.s3_signature import Target, presign
from core_plugins.files.drivers.s3_spool import Spooled, spooled
from core_plugins.files.model import urls
from core_plugins.files.model.content import Condition, Promise, refuse_parts
from core_plugins.files.model.names import Place, check_upload_id, key_of, stored_name, stored_prefix
from core_plugins.files.model.urls import Grant
from plugin_api.clock import Clock
from plugin_api.errors import NotFound, PreconditionFailed, RangeNotSatisfiable
from plugin_api.ports.blob_store import BlobEntry, BlobInfo, BlobReader, ByteRange, Capability, UploadedPart

OBJECTS: Final = "objects"
UPLOADS: Final = "uploads"
SHA256_FIELD: Final = "x-amz-meta-pk-sha256"
_STAMP_CHARACTERS: Final = 12
_RANDOM_BYTES: Final = 10
_PARTS_WRONG: Final = frozenset({"InvalidPart", "InvalidPartOrder", "EntityTooSmall", "MalformedXML"})


class Record(Struct, frozen=True):
    """What the store remembers of an upload."""

    key: str
    upload: str
    """Its id at the server."""


class S3Store:
    """The `Driver` of the blobs over one bucket."""

    capabilities: frozenset[Capability] = frozenset()

    def __init__(self, client: S3Client, clock: Clock, *, quota: int, threads: int, public_url: str) -> None:
        self._client = client
        self._clock = clock
        self._quota = quota
        self._threads = FileThreads(threads)
        self._public_url = public_url.rstrip("/")
        self._accounts = S3Accounts(self._count, quota)

    async def start(self) -> None:
        """Make ready, and make the bucket if there is none."""
        await self._client.open()

    async def stop(self) -> None:
        """Close the connections."""
        await self._client.close()
        self._threads.close()

    # ------------------------------------------------------------------------------------------- writing

    async def put(
        self,
        place: Place,
        key: str,
        body: AsyncIterable[bytes],
        promise: Promise,
        content_type: str,
        condition: Condition,
    ) -> BlobInfo:
        """Keep a blob; see the port."""

        async def replaced() -> int:
            return await self._size_of(place, key)

        async with (
            spooled(body, promise, self._quota, self._threads) as whole,
            self._accounts.adding(place.tenant_id, whole.size, replaced),
        ):
            fields = {"content-type": content_type, SHA256_FIELD: whole.sha256, **_condition_fields(condition)}
            answer = await self._send(object_key(place, key), whole, fields, {})
        etag = unquoted(answer.get("ETag"))
        return BlobInfo(key, whole.size, etag, content_type, time_of(answer), whole.sha256)

    async def _send(
        self, name: str, whole: Spooled, fields: Mapping[str, str], query: Mapping[str, str]
    ) -> Mapping[str, str]:
        try:
            answer, _ = await self._client.ask(
                "PUT",
                name,
                query=query,
                headers={**fields, "content-length": str(whole.size)},
                body=whole.file if whole.size else b"",
                payload_sha256=whole.sha256,
            )
        except Refused as refused:
            raise _of_write(refused) from refused
        return answer

    async def _size_of(self, place: Place, key: str) -> int:
        try:
            return (await self.head(place, key)).size
        except NotFound:
            return 0

    async def delete(self, place: Place, key: str) -> None:
        """Delete a blob; see the port."""
        await self._remove(object_key(place, key))

    async def _remove(self, name: str) -> None:
        try:
            await self._client.ask("DELETE", name)
        except Refused as refused:
            if refused.status != 404:
                raise refused.as_error() from refused

    # ------------------------------------------------------------------------------------------- reading

    @asynccontextmanager
    async def get(
        self, place: Place, key: str, byte_range: ByteRange | None, if_match: str | None, if_none_match: str | None
    ) -> AsyncIterator[BlobReader]:
        """Open a blob; see the port."""
        fields = {
            **({"range": range_field(byte_range)} if byte_range is not None else {}),
            **({"if-match": f'"{if_match}"'} if if_match is not None else {}),
            **({"if-none-match": f'"{if_none_match}"'} if if_none_match is not None else {}),
        }
        try:
            async with self._client.stream("GET", object_key(place, key), headers=fields) as response:
                info = info_of(key, response.headers)
                if byte_range is not None and info.size == 0:
                    raise RangeNotSatisfiable("the blob is empty; ask for it without a range")
                yield S3Reader(info, response)
        except Refused as refused:
            if refused.status != 304:
                raise _of_read(refused) from refused
        else:
            return
        yield S3Reader(await self.head(place, key), None)

    async def head(self, place: Place, key: str) -> BlobInfo:
        """What is known of a blob; see the port."""
        try:
            headers, _ = await self._client.ask("HEAD", object_key(place, key))
        except Refused as refused:
            raise _of_read(refused) from refused
        return info_of(key, headers)

    async def list_page(self, place: Place, prefix: str, limit: int, after: str) -> tuple[list[BlobEntry], bool]:
        """(blobs whose key comes after `after`, whether there are more)."""
        own = _area_of(place)
        past = object_key(place, after) if after else ""
        try:
            found, is_more = await self._client.list(own + stored_prefix(prefix), after=past, limit=limit)
        except Refused as refused:
            raise refused.as_error() from refused
        return [BlobEntry(key_of(one.key[len(own) :]), one.size, one.etag, one.modified_at) for one in found], is_more

    async def usage(self, tenant_id: UUID) -> int:
        """How many bytes the tenant keeps."""
        return await self._accounts.used(tenant_id)

    async def _count(self, tenant_id: UUID) -> int:
        total = 0
        try:
            async for one in self._client.walk(f"{OBJECTS}/{tenant_id.hex}/"):
                total += one.size
            async for one in self._client.walk(f"{UPLOADS}/{tenant_id.hex}/"):
                total += await self._count_parts(one.key)
        except Refused as refused:
            raise refused.as_error() from refused
        return total

    async def _count_parts(self, name: str) -> int:
        try:
            record = await self._read_record(name)
            return sum(part.size for part in await self._parts(_blob_of(name, record.key), record.upload))
        except NotFound:
            return 0

    # ------------------------------------------------------------------------------------------- uploads

    async def begin_upload(self, place: Place, key: str, content_type: str) -> str:
        """Begin an upload; its id."""
        upload_id = (
            f"{int(self._clock.now().timestamp() * 1_000):0{_STAMP_CHARACTERS}x}{os.urandom(_RANDOM_BYTES).hex()}"
        )
        try:
            _, raw = await self._client.ask(
                "POST", object_key(place, key), query={"uploads": ""}, headers={"content-type": content_type}
            )
            record = Record(key, parse(raw).findtext("UploadId") or "")
            await self._client.ask("PUT", upload_key(place, upload_id), body=msgspec.json.encode(record))
        except Refused as refused:
            raise refused.as_error() from refused
        return upload_id

    async def _read_record(self, name: str) -> Record:
        try:
            _, raw = await self._client.ask("GET", name)
        except Refused as refused:
            raise (upload_not_found() if refused.status == 404 else refused.as_error()) from refused
        return msgspec.json.decode(raw, type=Record)

    async def _record(self, place: Place, upload_id: str) -> Record:
        if check_upload_id(upload_id) is None:
            raise upload_not_found()
        return await self._read_record(upload_key(place, upload_id))

    async def put_part(
        self, place: Place, upload_id: str, number: int, body: AsyncIterable[bytes], promise: Promise
    ) -> UploadedPart:
        """Keep a part; see the port."""
        record = await self._record(place, upload_id)
        name = object_key(place, record.key)
        query = {"partNumber": str(number), "uploadId": record.upload}

        async def replaced() -> int:
            return sum(part.size for part in await self._parts(name, record.upload) if part.number == number)

        async with (
            spooled(body, promise, self._quota, self._threads) as whole,
            self._accounts.adding(place.tenant_id, whole.size, replaced),
        ):
            answer = await self._send(name, whole, {}, query)
        return UploadedPart(number, whole.size, unquoted(answer.get("ETag")))

    async def _parts(self, name: str, upload: str) -> list[UploadedPart]:
        """All parts of an upload. NotFound, code `upload_not_found`, when it is over."""
        found, after, is_more = list[UploadedPart](), "0", True
        while is_more:
            query = {"uploadId": upload, "part-number-marker": after}
            try:
                _, raw = await self._client.ask("GET", name, query=query)
            except Refused as refused:
                raise _of_write(refused) from refused
            document = parse(raw)
            found += [
                UploadedPart(
                    int(one.findtext("PartNumber") or 0),
                    int(one.findtext("Size") or 0),
                    unquoted(one.findtext("ETag")),
                )
                for one in document.findall("Part")
            ]
            after = document.findtext("NextPartNumberMarker") or "0"
            is_more = document.findtext("IsTruncated") == "true"
        return found

    async def complete_upload(
        self, place: Place, upload_id: str, parts: Sequence[UploadedPart], bytes_max: int, condition: Condition
    ) -> BlobInfo:
        """Make one blob of parts; see the port."""
        record = await self._record(place, upload_id)
        name = object_key(place, record.key)
        there = {part.number: part for part in await self._parts(name, record.upload)}
        for part in parts:
            if there.get(part.number) != part:
                refuse_parts(f"part {part.number} is not there, or has changed: {there.get(part.number)}")
        try:
            _, raw = await self._client.ask(
                "POST",
                name,
                query={"uploadId": record.upload},
                headers=_condition_fields(condition),
                body=_completion(parts),
            )
        except Refused as refused:
            raise _of_write(refused) from refused
        self._check_completed(raw)
        await self._remove(upload_key(place, upload_id))
        return await self.head(place, record.key)

    def _check_completed(self, raw: bytes) -> None:
        """The server begins its answer before it knows: a refusal may come under a 200."""
        document = parse(raw)
        if document.tag == "Error":
            raise _of_write(Refused(Refusal(200, document.findtext("Code") or "")))

    async def abort_upload(self, place: Place, upload_id: str) -> None:
        """Drop an upload; see the port."""
        if check_upload_id(upload_id) is not None:
            await self._abort(upload_key(place, upload_id))

    async def _abort(self, name: str) -> None:
        try:
            record = await self._read_record(name)
        except NotFound:
            return
        try:
            await self._client.ask("DELETE", _blob_of(name, record.key), query={"uploadId": record.upload})
        except Refused as refused:
            if refused.code != "NoSuchUpload":
                raise refused.as_error() from refused
        await self._remove(name)

    # ----------------------------------------------------------------------------------------------- URLs

    async def sign_url(self, grant: Grant) -> str:
        """Make a signed URL; for a PUT the quota must have room for it now."""
        place, now = Place(grant.area, grant.tenant_id), self._clock.now()
        fields = {}
        if grant.method == "PUT":
            await self._accounts.check(grant.tenant_id, grant.bytes_max, lambda: self._size_of(place, grant.key))
            fields = {"content-length": str(grant.bytes_max)}
            fields |= {"content-type": grant.content_type} if grant.content_type is not None else {}
        path = self._client.target(grant.method, object_key(place, grant.key)).path
        expires_s = grant.expires_at - int(now.timestamp())
        return presign(Target(grant.method, self._public_url, path), fields, self._client.account, now, expires_s)

    async def open_url(self, token: str, method: str) -> Grant:
        """No URL of ours leads to the kernel: NotAllowed."""
        raise urls.invalid()

    # ------------------------------------------------------------------------------------------- clearing

    async def erase(self, tenant_id: UUID) -> None:
        """Remove everything of a tenant."""
        try:
            async for one in self._client.walk(f"{UPLOADS}/{tenant_id.hex}/"):
                await self._abort(one.key)
            async for one in self._client.walk(f"{OBJECTS}/{tenant_id.hex}/"):
                await self._remove(one.key)
        except Refused as refused:
            raise refused.as_error() from refused

    async def sweep(self, begun_before: datetime) -> int:
        """Remove uploads that began before then; how many."""
        swept = 0
        try:
            async for one in self._client.walk(f"{UPLOADS}/"):
                if _begun_ms(one.key) < begun_before.timestamp() * 1_000:
                    await self._abort(one.key)
                    swept += 1
        except Refused as refused:
            raise refused.as_error() from refused
        return swept


def object_key(place: Place, key: str) -> str:
    """What the server calls a blob."""
    return f"{_area_of(place)}{stored_name(key)}"


def _area_of(place: Place) -> str:
    return f"{OBJECTS}/{place.tenant}/{place.area}/"


def upload_key(place: Place, upload_id: str) -> str:
    """What the server calls the record of an upload."""
    return f"{UPLOADS}/{place.tenant}/{place.area}/{upload_id}"


def _blob_of(name: str, key: str) -> str:
    """What the server calls the blob that an upload's record is about."""
    _, tenant, area, _ = name.split("/")
    return f"{OBJECTS}/{tenant}/{area}/{stored_name(key)}"


def _begun_ms(name: str) -> int:
    try:
        return int(name.rpartition("/")[2][:_STAMP_CHARACTERS], 16)
    except ValueError:
        return 0  # none of ours: it goes with the next sweep


def info_of(key: str, headers: Mapping[str, str]) -> BlobInfo:
    """What header fields tell."""
    whole = headers.get("Content-Range", "").rpartition("/")[2]
    return BlobInfo(
        key,
        int(whole or headers.get("Content-Length") or 0),
        unquoted(headers.get("ETag")),
        headers.get("Content-Type") or "application/octet-stream",
        time_of(headers),
        headers.get(SHA256_FIELD),
    )


def upload_not_found() -> NotFound:
    """The error of an upload that is not there (any more)."""
    return NotFound("there is no such upload: it was completed or aborted; begin another", code="upload_not_found")


def _condition_fields(condition: Condition) -> dict[str, str]:
    if condition.if_none_match is not None:
        return {"if-none-match": "*"}
    return {"if-match": f'"{condition.if_match}"'} if condition.if_match is not None else {}


def _completion(parts: Sequence[UploadedPart]) -> bytes:
    listed = "".join(
        f"<Part><PartNumber>{part.number}</PartNumber><ETag>{escape(part.etag)}</ETag></Part>" for part in parts
    )
    return f"<CompleteMultipartUpload>{listed}</CompleteMultipartUpload>".encode()


def _of_read(refused: Refused) -> Exception:
    if refused.status == 404:
        return NotFound("there is no such blob")
    if refused.status == 412:
        return PreconditionFailed("if_match names another blob than the current one; read it and repeat")
    if refused.status == 416:
        return RangeNotSatisfiable("the range is not in the blob; ask for others")
    return refused.as_error()


def _of_write(refused: Refused) -> Exception:
    if refused.code == "NoSuchUpload":
        return upload_not_found()
    if refused.status in (404, 409, 412) or refused.code == "PreconditionFailed":
        return PreconditionFailed("the key has another blob than the condition names, or none; read it and repeat")
    if refused.code in _PARTS_WRONG:
        refuse_parts(f"the store refuses the parts ({refused.code})")
    return refused.as_error()
