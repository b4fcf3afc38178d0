"""The promises of the port `BlobStore`, over every driver."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from hashlib import sha256
from typing import Any
from uuid import UUID

import pytest
from msgspec import structs

from core_plugins.files.operations import FilesOperations
from plugin_api.errors import (
    InvalidRequest,
    KernelBug,
    LimitReached,
    NotFound,
    PayloadTooLarge,
    PreconditionFailed,
    RangeNotSatisfiable,
    Unreadable,
)
from plugin_api.ids import uuid7
from plugin_api.limits import BLOB_CHUNK_BYTES_MAX
from plugin_api.ports.blob_store import BlobInfo, BlobStore, ByteRange, UploadedPart
from tests.conformance.conftest import Site, body, keys, put, read

pytestmark = pytest.mark.timeout(900)  # whoever comes first builds the S3 server


@pytest.fixture
def tenant() -> UUID:
    return uuid7()


# --------------------------------------------------------------------------------------------- put and get


@pytest.mark.parametrize("size", [0, 1, BLOB_CHUNK_BYTES_MAX, BLOB_CHUNK_BYTES_MAX * 2 + 7])
async def test_what_is_put_is_got(store: BlobStore, tenant: UUID, size: int) -> None:
    content = random.Random(size).randbytes(size)
    made = await put(store, tenant, "reports/2026/annual report.pdf", content, content_type="application/pdf")

    assert await read(store, tenant, "reports/2026/annual report.pdf") == content
    assert (made.size, made.sha256, made.content_type) == (size, sha256(content).hexdigest(), "application/pdf")
    found = await store.head(tenant, "reports/2026/annual report.pdf")
    assert structs.replace(found, created_at=made.created_at) == made
    assert abs(found.created_at - made.created_at) <= timedelta(seconds=1), (
        "an S3 API answers a put with its clock alone"
    )


async def test_a_body_may_come_in_any_pieces_and_leaves_in_bounded_ones(store: BlobStore, tenant: UUID) -> None:
    content = random.Random(2).randbytes(3 * BLOB_CHUNK_BYTES_MAX)
    pieces = [b"", content[:1], content[1:5], b"", content[5:]]
    await store.put(tenant, "key", body(*pieces))

    async with store.get(tenant, "key") as blob:
        chunks = [chunk async for chunk in blob.chunks()]
    assert b"".join(chunks) == content
    assert max(map(len, chunks)) <= BLOB_CHUNK_BYTES_MAX


async def test_put_replaces_and_the_etag_tells(store: BlobStore, tenant: UUID) -> None:
    first = await put(store, tenant, "key", b"first")
    second = await put(store, tenant, "key", b"second", content_type="text/plain")
    again = await put(store, tenant, "key", b"second", content_type="text/plain")

    assert await read(store, tenant, "key") == b"second"
    assert first.etag != second.etag == again.etag
    assert (await store.head(tenant, "key")).content_type == "text/plain"


async def test_what_is_absent_is_not_found(store: BlobStore, tenant: UUID) -> None:
    await put(store, tenant, "there/inner", b"x")
    for key in ("never", "there", "there/inner/more"):
        with pytest.raises(NotFound):
            await store.head(tenant, key)
        with pytest.raises(NotFound):
            await read(store, tenant, key)


async def test_a_key_and_what_is_below_it_are_two_blobs(store: BlobStore, tenant: UUID) -> None:
    for key in ("a", "a/b", "a/b/c", "A"):
        await put(store, tenant, key, key.encode())

    assert [await read(store, tenant, key) for key in ("a", "a/b", "a/b/c", "A")] == [b"a", b"a/b", b"a/b/c", b"A"]


async def test_delete_is_idempotent(store: BlobStore, tenant: UUID) -> None:
    await put(store, tenant, "a/b", b"x")
    await put(store, tenant, "a/c", b"y")
    await store.delete(tenant, "a/b")
    await store.delete(tenant, "a/b")
    await store.delete(tenant, "never/there")

    assert await keys(store, tenant) == ["a/c"]
    with pytest.raises(NotFound):
        await store.head(tenant, "a/b")


async def test_a_reader_keeps_what_it_has_opened(store: BlobStore, tenant: UUID) -> None:
    content = random.Random(3).randbytes(4 * BLOB_CHUNK_BYTES_MAX)
    await put(store, tenant, "key", content)
    async with store.get(tenant, "key") as blob:
        chunks = blob.chunks()
        first = await anext(chunks)
        await put(store, tenant, "key", b"other")
        await store.delete(tenant, "key")

        assert first + b"".join([chunk async for chunk in chunks]) == content


async def test_what_is_too_large_for_memory_is_not_read_at_once(store: BlobStore, tenant: UUID) -> None:
    await put(store, tenant, "key", b"12345")

    async with store.get(tenant, "key") as blob:
        with pytest.raises(PayloadTooLarge, match="4 bytes"):
            await blob.read(4)


async def test_many_write_one_key_and_one_is_whole(store: BlobStore, tenant: UUID) -> None:
    contents = [bytes([n]) * 300_000 for n in range(8)]
    await asyncio.gather(*(put(store, tenant, "key", content) for content in contents))

    assert await read(store, tenant, "key") in contents
    assert (await store.usage(tenant)).bytes == 300_000


# ------------------------------------------------------------------------------------------------- ranges


@pytest.mark.parametrize(
    ("wanted", "first", "expected"),
    [
        (ByteRange(0, 0), 0, b"0"),
        (ByteRange(2, 4), 2, b"234"),
        (ByteRange(7), 7, b"789"),
        (ByteRange(7, 100), 7, b"789"),
        (ByteRange(-3), 7, b"789"),
        (ByteRange(-100), 0, b"0123456789"),
    ],
)
async def test_a_range_is_given(store: BlobStore, tenant: UUID, wanted: ByteRange, first: int, expected: bytes) -> None:
    await put(store, tenant, "key", b"0123456789")

    async with store.get(tenant, "key", byte_range=wanted) as blob:
        assert (blob.first, blob.length, blob.info.size) == (first, len(expected), 10)
        assert await blob.read(100) == expected


@pytest.mark.parametrize("wanted", [ByteRange(10), ByteRange(10, 20), ByteRange(5, 4), ByteRange(-5, 3)])
async def test_a_range_outside_is_refused(store: BlobStore, tenant: UUID, wanted: ByteRange) -> None:
    await put(store, tenant, "key", b"0123456789")

    with pytest.raises(RangeNotSatisfiable):
        await read(store, tenant, "key", byte_range=wanted)


async def test_an_empty_blob_has_no_range(store: BlobStore, tenant: UUID) -> None:
    await put(store, tenant, "key", b"")

    for wanted in (ByteRange(0), ByteRange(-1)):
        with pytest.raises(RangeNotSatisfiable):
            await read(store, tenant, "key", byte_range=wanted)


# --------------------------------------------------------------------------------------------- conditions


async def test_reading_under_a_condition(store: BlobStore, tenant: UUID) -> None:
    made = await put(store, tenant, "key", b"content")

    assert await read(store, tenant, "key", if_match=made.etag) == b"content"
    assert await read(store, tenant, "key", if_none_match="another") == b"content"
    async with store.get(tenant, "key", if_none_match=made.etag) as blob:
        assert blob.is_unchanged
        assert await blob.read(0) == b""
    with pytest.raises(PreconditionFailed):
        await read(store, tenant, "key", if_match="another")


async def test_writing_under_a_condition(store: BlobStore, tenant: UUID) -> None:
    first = await put(store, tenant, "key", b"first", if_none_match="*")
    with pytest.raises(PreconditionFailed):
        await put(store, tenant, "key", b"late", if_none_match="*")
    second = await put(store, tenant, "key", b"second", if_match=first.etag)
    with pytest.raises(PreconditionFailed):
        await put(store, tenant, "key", b"late", if_match=first.etag)
    with pytest.raises(PreconditionFailed):
        await put(store, tenant, "never/there", b"late", if_match=second.etag)

    assert await read(store, tenant, "key") == b"second"
    assert await keys(store, tenant) == ["key"]
    assert (await store.usage(tenant)).bytes == len(b"second")


async def race(stores: list[BlobStore], tenant: UUID, **condition: Any) -> list[int]:
    """Who of 32 that put at once under one condition has won."""
    results = await asyncio.gather(
        *(put(stores[n % len(stores)], tenant, "key", b"racer %d" % n, **condition) for n in range(32)),
        return_exceptions=True,
    )
    lost = [result for result in results if isinstance(result, PreconditionFailed)]
    won = [n for n, result in enumerate(results) if isinstance(result, BlobInfo)]
    assert len(lost) + len(won) == 32, results
    return won


async def test_of_32_that_make_a_blob_one_wins(site: Site, store: BlobStore, tenant: UUID) -> None:
    """Over two workers."""
    other = (await site.open()).part("acme.crm")
    (winner,) = await race([store, other], tenant, if_none_match="*")

    assert await read(other, tenant, "key") == b"racer %d" % winner


async def test_of_32_that_replace_a_blob_one_wins(site: Site, store: BlobStore, tenant: UUID) -> None:
    other = (await site.open()).part("acme.crm")
    before = await put(store, tenant, "key", b"before")
    (winner,) = await race([store, other], tenant, if_match=before.etag)

    assert await read(other, tenant, "key") == b"racer %d" % winner


# ----------------------------------------------------------------------------------- broken promises, bounds


@pytest.mark.parametrize(
    "given",
    [
        {"size": 4},
        {"size": 6},
        {"size": -1},
        {"sha256": "0" * 64},
        {"sha256": "no digest"},
        {"size": 5, "sha256": sha256(b"other").hexdigest()},
    ],
)
async def test_other_bytes_than_announced_are_not_kept(store: BlobStore, tenant: UUID, given: dict[str, Any]) -> None:
    await put(store, tenant, "key", b"before")
    before = await store.head(tenant, "key")
    with pytest.raises(InvalidRequest) as caught:
        await put(store, tenant, "key", b"after", **given)

    assert caught.value.code == "blob_mismatch"
    assert await store.head(tenant, "key") == before


async def test_what_was_announced_is_kept(store: BlobStore, tenant: UUID) -> None:
    made = await put(store, tenant, "key", b"after", size=5, sha256=sha256(b"after").hexdigest().upper())

    assert made.sha256 == sha256(b"after").hexdigest()


async def test_a_blob_past_the_limit_is_refused(site: Site, tenant: UUID) -> None:
    store = (await site.open(blob_bytes_max=10)).part("acme.crm")
    await put(store, tenant, "key", b"0123456789")
    for given in ({}, {"size": 11}):
        with pytest.raises(PayloadTooLarge, match="10 bytes"):
            await put(store, tenant, "key", b"0123456789+", **given)

    assert await read(store, tenant, "key") == b"0123456789"


async def test_a_body_that_breaks_off_leaves_nothing(store: BlobStore, tenant: UUID) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"x" * (BLOB_CHUNK_BYTES_MAX + 1)
        raise ConnectionResetError("the sender went away")

    with pytest.raises(ConnectionResetError):
        await store.put(tenant, "key", broken())

    assert await keys(store, tenant) == []
    assert (await store.usage(tenant)).bytes == 0


async def test_a_cancelled_put_leaves_nothing(store: BlobStore, tenant: UUID) -> None:
    waiting = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        yield b"x" * (BLOB_CHUNK_BYTES_MAX + 1)
        waiting.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(store.put(tenant, "key", endless()))
    await waiting.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert await keys(store, tenant) == []


BAD_KEYS = ["", "/", "/a", "a/", "a//b", ".", "..", "a/../b", "../a", "a/.", "nul\0", "line\n", "\x7f", "\x85", "e\u0301", "x" * 201, "a/" * 64 + "a", "y/" + "x" * 200 + "/" + "z" * 900, "\ud800"]  # fmt: skip


@pytest.mark.parametrize("key", BAD_KEYS, ids=ascii)
async def test_what_is_no_key_is_refused_everywhere(store: BlobStore, tenant: UUID, key: str) -> None:
    calls: list[Callable[[], Awaitable[Any]]] = [
        lambda: put(store, tenant, key, b"x"),
        lambda: read(store, tenant, key),
        lambda: store.head(tenant, key),
        lambda: store.delete(tenant, key),
        lambda: store.begin_upload(tenant, key),
        lambda: store.sign_url(tenant, key, "GET", expires_s=60),
    ]
    for call in calls:
        with pytest.raises(InvalidRequest) as caught:
            await call()
        assert caught.value.code == "blob_key_invalid"


GOOD_KEYS = ["a", "...", ".hidden", "a..b", "~", "a b", "ü", "日本語/ファイル", "x" * 200, "%2e%2e", "a\\b", "a:b", "b.d", "b.b/b.b", "+&=?#", "'\"<>", "a/" * 63 + "a", "\u200b"]  # fmt: skip


async def test_any_other_text_is_a_key(store: BlobStore, tenant: UUID) -> None:
    for key in GOOD_KEYS:
        await put(store, tenant, key, key.encode())

    assert sorted(await keys(store, tenant)) == sorted(GOOD_KEYS)
    for key in GOOD_KEYS:
        assert await read(store, tenant, key) == key.encode()


@pytest.mark.parametrize("content_type", ["", "text", "text/", "text/plain\r\nX: y", "ü/x", "a/" + "b" * 200])
async def test_what_is_no_media_type_is_refused(store: BlobStore, tenant: UUID, content_type: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await put(store, tenant, "key", b"x", content_type=content_type)

    assert caught.value.code == "content_type_invalid"


# --------------------------------------------------------------------------------------------------- lists


async def test_a_list_gives_each_once_in_one_order_page_by_page(store: BlobStore, tenant: UUID) -> None:
    made = ["a", "a!", "a/b", "a/b/c", "a/c", "a0", "B", "b", "b.d", "b/1", "b/10", "b/2", "é", "z/z/z/z"]
    for key in random.Random(4).sample(made, len(made)):
        await put(store, tenant, key, b"x")

    ordered = await keys(store, tenant)
    assert sorted(ordered) == sorted(made)
    for limit in (1, 2, 5):
        assert await keys(store, tenant, limit) == ordered
    for prefix in ("a", "a/", "a/b", "b/1", "nothing", "z/z"):
        assert await keys(store, tenant, 2, prefix=prefix) == [key for key in ordered if key.startswith(prefix)]


async def test_a_list_tells_size_etag_and_time(store: BlobStore, tenant: UUID) -> None:
    made = await put(store, tenant, "key", b"12345")
    (entry,) = (await store.list(tenant)).items

    assert (entry.key, entry.size, entry.etag) == (made.key, 5, made.etag)
    assert entry.created_at == (await store.head(tenant, "key")).created_at


async def test_a_list_goes_on_when_its_last_key_is_deleted(store: BlobStore, tenant: UUID) -> None:
    for key in ("a/1", "a/2", "a/3"):
        await put(store, tenant, key, b"x")
    page = await store.list(tenant, limit=2)
    await store.delete(tenant, "a/2")
    await put(store, tenant, "a/0", b"x")

    rest = await store.list(tenant, limit=2, cursor=page.next_cursor)
    assert [entry.key for entry in rest.items] == ["a/3"]
    assert rest.next_cursor is None


async def test_a_cursor_of_another_list_is_refused(files: FilesOperations, store: BlobStore, tenant: UUID) -> None:
    for key in ("a", "b"):
        await put(store, tenant, key, b"x")
    cursor = (await store.list(tenant, limit=1)).next_cursor
    assert cursor is not None

    for other, of, prefix in ((store, uuid7(), ""), (files.part("money"), tenant, ""), (store, tenant, "a")):
        with pytest.raises(Unreadable):
            await other.list(of, prefix=prefix, cursor=cursor)
    for broken in ("", "%", cursor[:-4], "ü"):
        with pytest.raises(Unreadable):
            await store.list(tenant, cursor=broken)


@pytest.mark.parametrize("limit", [0, -1, 201])
async def test_a_page_has_a_bound(store: BlobStore, tenant: UUID, limit: int) -> None:
    with pytest.raises(InvalidRequest):
        await store.list(tenant, limit=limit)


# --------------------------------------------------------------------------------------------------- walls


async def test_tenants_and_plugins_do_not_meet(files: FilesOperations, store: BlobStore, tenant: UUID) -> None:
    other, money = uuid7(), files.part("money")
    upload = await store.begin_upload(tenant, "parts")
    await store.put_part(tenant, upload, 1, body(b"x"))
    await put(store, tenant, "key", b"mine")

    for stranger, of in ((store, other), (money, tenant), (files.part("acme"), tenant), (files.part("acme.c"), tenant)):
        with pytest.raises(NotFound):
            await stranger.head(of, "key")
        with pytest.raises(NotFound):
            await stranger.put_part(of, upload, 2, body(b"y"))
        with pytest.raises(NotFound):
            await stranger.complete_upload(of, upload, [UploadedPart(1, 1, "etag")])
        await stranger.abort_upload(of, upload)
        await stranger.delete(of, "key")
        assert await keys(stranger, of) == []
    assert await read(store, tenant, "key") == b"mine"
    assert (await store.usage(other)).bytes == 0
    assert (await store.put_part(tenant, upload, 2, body(b"y"))).number == 2


@pytest.mark.parametrize("area", ["", "..", "a/b", "A", "a..b", ".a", "a" * 61, "a\n"])
def test_what_is_no_area_has_no_part(files: FilesOperations, area: str) -> None:
    with pytest.raises(KernelBug):
        files.part(area)


async def test_an_erased_tenant_keeps_nothing(files: FilesOperations, store: BlobStore, tenant: UUID) -> None:
    other = uuid7()
    upload = await store.begin_upload(tenant, "parts")
    await store.put_part(tenant, upload, 1, body(b"x"))
    for of in (tenant, other):
        await put(store, of, "a/key", b"x")
    await put(files.part("money"), tenant, "key", b"x")
    await files.erase(tenant)
    await files.erase(tenant)

    assert await keys(store, tenant) == await keys(files.part("money"), tenant) == []
    assert (await store.usage(tenant)).bytes == 0
    with pytest.raises(NotFound):
        await store.put_part(tenant, upload, 2, body(b"x"))
    assert await keys(store, other) == ["a/key"]


# --------------------------------------------------------------------------------------------------- quota


async def test_a_tenant_keeps_no_more_than_its_quota(site: Site, tenant: UUID) -> None:
    files = await site.open(tenant_bytes_max=1_000)
    store, other = files.part("acme.crm"), files.part("money")
    await put(store, tenant, "one", b"x" * 600)
    for given in ({}, {"size": 500}):
        with pytest.raises(LimitReached, match=r"1000 bytes.*600 bytes.*500 bytes") as caught:
            await put(other, tenant, "two", b"y" * 500, **given)
        assert caught.value.code == "limit_reached"

    assert await keys(other, tenant) == []
    await put(other, tenant, "two", b"y" * 400)
    await put(store, tenant, "one", b"z" * 600)
    await put(store, uuid7(), "one", b"x" * 1_000)
    assert (await store.usage(tenant)).bytes == (await store.usage(tenant)).bytes_max == 1_000
    await store.delete(tenant, "one")
    assert (await store.usage(tenant)).bytes == 400
    await put(store, tenant, "three", b"x" * 600)


async def test_a_quota_that_was_lowered_lets_read_and_delete(site: Site, tenant: UUID) -> None:
    await put((await site.open()).part("acme.crm"), tenant, "key", b"x" * 100)
    store = (await site.open(tenant_bytes_max=10)).part("acme.crm")
    with pytest.raises(LimitReached):
        await put(store, tenant, "other", b"x")

    assert await read(store, tenant, "key") == b"x" * 100
    await store.delete(tenant, "key")
    await put(store, tenant, "other", b"x" * 10)
