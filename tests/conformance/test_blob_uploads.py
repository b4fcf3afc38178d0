"""The promises of the port `BlobStore` about blobs that come in parts, over every driver."""

from __future__ import annotations

import asyncio
import random
from hashlib import sha256
from uuid import UUID

import pytest

from core_plugins.files.operations import FilesOperations
from plugin_api.errors import InvalidRequest, LimitReached, NotFound, PreconditionFailed
from plugin_api.ids import uuid7
from plugin_api.limits import BLOB_PART_BYTES_MIN
from plugin_api.ports.blob_store import BlobInfo, BlobStore, ByteRange, UploadedPart
from tests.conformance.conftest import Site, body, keys, put, read

pytestmark = pytest.mark.timeout(900)  # whoever comes first builds the S3 server

PART = random.Random(1).randbytes(BLOB_PART_BYTES_MIN)
TAIL = b"the last part may be small"


@pytest.fixture
def tenant() -> UUID:
    return uuid7()


async def upload_parts(store: BlobStore, tenant: UUID, upload: str, parts: dict[int, bytes]) -> list[UploadedPart]:
    made = [await store.put_part(tenant, upload, number, body(content)) for number, content in parts.items()]
    return sorted(made, key=lambda part: part.number)


async def test_parts_in_any_order_make_a_blob(store: BlobStore, tenant: UUID) -> None:
    upload = await store.begin_upload(tenant, "big/blob", content_type="video/mp4")
    await store.put_part(tenant, upload, 2, body(b"to be replaced"))
    parts = await upload_parts(store, tenant, upload, {7: TAIL, 2: PART, 1: PART[::-1]})
    assert await keys(store, tenant) == []
    made = await store.complete_upload(tenant, upload, parts)

    whole = PART[::-1] + PART + TAIL
    assert await read(store, tenant, "big/blob") == whole
    assert (made.key, made.size, made.content_type) == ("big/blob", len(whole), "video/mp4")
    assert await store.head(tenant, "big/blob") == made
    if "sha256_always" in store.capabilities:
        assert made.sha256 == sha256(whole).hexdigest()
    assert (await store.usage(tenant)).bytes == len(whole)
    async with store.get(tenant, "big/blob", byte_range=ByteRange(len(PART) - 1, len(PART))) as blob:
        assert await blob.read(10) == whole[len(PART) - 1 : len(PART) + 1]


async def test_a_completed_upload_is_over(store: BlobStore, tenant: UUID) -> None:
    upload = await store.begin_upload(tenant, "key")
    parts = await upload_parts(store, tenant, upload, {1: b"content"})
    await store.complete_upload(tenant, upload, parts)
    for call in (
        lambda: store.complete_upload(tenant, upload, parts),
        lambda: store.put_part(tenant, upload, 1, body(b"late")),
    ):
        with pytest.raises(NotFound) as caught:
            await call()
        assert caught.value.code == "upload_not_found"
    await store.abort_upload(tenant, upload)

    assert await read(store, tenant, "key") == b"content"


async def test_parts_that_are_not_named_are_dropped(store: BlobStore, tenant: UUID) -> None:
    upload = await store.begin_upload(tenant, "key")
    parts = await upload_parts(store, tenant, upload, {1: b"named", 2: b"dropped"})
    await store.complete_upload(tenant, upload, parts[:1])

    assert await read(store, tenant, "key") == b"named"
    assert (await store.usage(tenant)).bytes == len(b"named")


async def test_parts_that_make_no_blob_are_refused_and_the_upload_goes_on(store: BlobStore, tenant: UUID) -> None:
    upload = await store.begin_upload(tenant, "key")
    one, two = await upload_parts(store, tenant, upload, {1: b"too small to be followed", 2: TAIL})
    wrong = [
        [],
        [two, one],
        [one, one],
        [one, two],
        [UploadedPart(3, 5, one.etag)],
        [UploadedPart(1, one.size, two.etag)],
        [UploadedPart(0, 5, one.etag)],
        [UploadedPart(10_001, 5, one.etag)],
    ]
    for parts in wrong:
        with pytest.raises(InvalidRequest) as caught:
            await store.complete_upload(tenant, upload, parts)
        assert caught.value.code == "parts_invalid"
    await store.put_part(tenant, upload, 1, body(b"changed"))
    with pytest.raises(InvalidRequest):
        await store.complete_upload(tenant, upload, [one])

    assert await keys(store, tenant) == []
    await store.complete_upload(tenant, upload, [two])
    assert await read(store, tenant, "key") == TAIL


async def test_an_upload_is_completed_under_a_condition(store: BlobStore, tenant: UUID) -> None:
    before = await put(store, tenant, "key", b"before")
    upload = await store.begin_upload(tenant, "key")
    parts = await upload_parts(store, tenant, upload, {1: b"after"})
    for condition in ({"if_none_match": "*"}, {"if_match": "another"}):
        with pytest.raises(PreconditionFailed):
            await store.complete_upload(tenant, upload, parts, **condition)  # type: ignore[arg-type]
        assert await read(store, tenant, "key") == b"before"
    await store.complete_upload(tenant, upload, parts, if_match=before.etag)

    assert await read(store, tenant, "key") == b"after"


async def test_of_8_that_complete_an_upload_one_does(store: BlobStore, tenant: UUID) -> None:
    upload = await store.begin_upload(tenant, "key")
    parts = await upload_parts(store, tenant, upload, {1: b"content"})
    results = await asyncio.gather(
        *(store.complete_upload(tenant, upload, parts) for _ in range(8)), return_exceptions=True
    )

    assert any(isinstance(result, BlobInfo) for result in results)
    assert all(isinstance(result, BlobInfo | NotFound) for result in results)
    assert await read(store, tenant, "key") == b"content"
    assert (await store.usage(tenant)).bytes == len(b"content")


@pytest.mark.parametrize("upload", ["", "never", "0" * 32, "../../x", "0" * 31 + "\n"])
async def test_an_upload_that_never_began_is_not_found(store: BlobStore, tenant: UUID, upload: str) -> None:
    with pytest.raises(NotFound):
        await store.put_part(tenant, upload, 1, body(b"x"))
    with pytest.raises(NotFound):
        await store.complete_upload(tenant, upload, [UploadedPart(1, 1, "etag")])
    await store.abort_upload(tenant, upload)


@pytest.mark.parametrize("number", [0, -1, 10_001])
async def test_parts_have_numbers_within_bounds(store: BlobStore, tenant: UUID, number: int) -> None:
    upload = await store.begin_upload(tenant, "key")
    with pytest.raises(InvalidRequest):
        await store.put_part(tenant, upload, number, body(b"x"))


async def test_a_part_of_another_size_than_announced_is_not_kept(store: BlobStore, tenant: UUID) -> None:
    upload = await store.begin_upload(tenant, "key")
    with pytest.raises(InvalidRequest) as caught:
        await store.put_part(tenant, upload, 1, body(b"12345"), size=4)

    assert caught.value.code == "blob_mismatch"
    assert (await store.usage(tenant)).bytes == 0


async def test_orphans_are_aborted_after_their_time(
    site: Site, files: FilesOperations, store: BlobStore, tenant: UUID
) -> None:
    old = await store.begin_upload(tenant, "old")
    await store.put_part(tenant, old, 1, body(b"x" * 100))
    site.clock.advance(80_000)
    young = await store.begin_upload(tenant, "young")
    await store.put_part(tenant, young, 1, body(b"y" * 10))
    site.clock.advance(10_000)

    assert await files.sweep() == 1
    assert await files.sweep() == 0
    assert (await store.usage(tenant)).bytes == 10
    with pytest.raises(NotFound):
        await store.put_part(tenant, old, 2, body(b"x"))
    await store.put_part(tenant, young, 2, body(b"y"))


async def test_parts_count_as_well(site: Site, tenant: UUID) -> None:
    store = (await site.open(tenant_bytes_max=1_000)).part("acme.crm")
    upload = await store.begin_upload(tenant, "key")
    await store.put_part(tenant, upload, 1, body(b"x" * 900))
    await store.put_part(tenant, upload, 1, body(b"x" * 950))
    with pytest.raises(LimitReached):
        await store.put_part(tenant, upload, 2, body(b"x" * 100))
    with pytest.raises(LimitReached):
        await put(store, tenant, "other", b"x" * 100)
    await store.abort_upload(tenant, upload)

    await put(store, tenant, "other", b"x" * 1_000)
