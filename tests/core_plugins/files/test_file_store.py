"""Blobs as files: kills, full disks, links and damage."""

from __future__ import annotations

import asyncio
import errno
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from uuid import UUID

import pytest

from core_plugins.files.drivers.file_threads import FileThreads, unavailable
from core_plugins.files.operations import FilesOperations
from core_plugins.files.plugin import make_driver
from core_plugins.files.settings import Settings
from host.observe import PluginLog
from plugin_api.errors import KernelBug, NotFound, StoreUnavailable
from plugin_api.ids import uuid7
from plugin_api.ports.blob_store import BlobStore
from plugin_api.testing import FakeClock

PROGRAM = Path(__file__).parent / "programs" / "writing.py"
ROOT = Path(__file__).parents[3]
TENANT = UUID("01890000-0000-7000-8000-000000000001")
Order = Callable[[str], str]


async def body(content: bytes) -> AsyncIterator[bytes]:
    yield content


async def read(store: BlobStore, key: str, tenant: UUID = TENANT) -> bytes | None:
    try:
        async with store.get(tenant, key) as blob:
            return await blob.read(2**30)
    except NotFound:
        return None


async def open_files(folder: Path) -> FilesOperations:
    (folder / "secrets").mkdir(exist_ok=True)
    settings, clock = Settings(), FakeClock()
    operations = FilesOperations(make_driver(settings, folder, clock), settings, clock, PluginLog("kernel.files"))
    await operations.start()
    return operations


@pytest.fixture
async def files(tmp_path: Path) -> AsyncIterator[FilesOperations]:
    operations = await open_files(tmp_path)
    yield operations
    await operations.stop()


@pytest.fixture
def store(files: FilesOperations) -> BlobStore:
    return files.part("acme.crm")


@pytest.fixture(scope="module")
def order() -> Iterator[Order]:
    """Gives the writing program one order; what became of its process."""
    with subprocess.Popen(
        [sys.executable, str(PROGRAM)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as program:
        assert program.stdin is not None and program.stdout is not None
        stdin, stdout = program.stdin, program.stdout

        def give(line: str) -> str:
            stdin.write(f"{line}\n")
            stdin.flush()
            return stdout.readline().strip()

        yield give
        stdin.close()
        program.wait(20)


# --------------------------------------------------------------------------------------------------- kills


async def check_after_kill(folder: Path) -> None:
    """Every blob is the old or the new one, what was acknowledged is there, and the bytes are counted right."""
    done = (folder / "done").read_text().split()
    files = await open_files(folder)
    store = files.part("acme.crm")
    try:
        allowed = {
            "replaced": [b"new" * 150_000] if "replaced" in done else [b"old" * 100_000, b"new" * 150_000],
            "deep/down/deleted": [None] if "deep/down/deleted" in done else [b"gone" * 1_000, None],
            "put/together": [b"part" * 70_000] if "put/together" in done else [None, b"part" * 70_000],
            "new/one": [b"fresh"] if "new/one" in done else [None, b"fresh"],
        }
        found = {key: await read(store, key) for key in allowed}
        assert [] == [key for key, content in found.items() if content not in allowed[key]]
        sizes = sum(entry.size for entry in (await store.list(TENANT)).items)
        parts = sum(file.stat().st_size - 512 for file in (folder / "blobs").glob("*/uploads/*/*/*.b"))
        assert (await store.usage(TENANT)).bytes == sizes + parts
        assert os.listdir(folder / "blobs" / "drafts") == []
        await store.put(TENANT, "afterwards", body(b"x"), if_none_match="*")
    finally:
        await files.stop()


async def test_killed_at_any_change_it_leaves_the_old_or_the_new(tmp_path: Path, order: Order) -> None:
    """One process for each change of the filesystem that replacing, deleting, putting together and adding make."""
    for number in range(1, 200):
        folder = tmp_path / str(number)
        (folder / "secrets").mkdir(parents=True)
        fate = await asyncio.to_thread(order, f"{folder} kill {number}")
        assert fate in ("killed", "0")
        await check_after_kill(folder)
        if fate == "0":
            break

    assert 20 < number < 199, "it came to its end, and not at once"


# -------------------------------------------------------------------------------------------------- no room


async def test_without_room_nothing_is_left_and_it_is_told(tmp_path: Path, order: Order) -> None:
    (tmp_path / "secrets").mkdir()
    assert await asyncio.to_thread(order, f"{tmp_path} full") == "0"
    files = await open_files(tmp_path)
    try:
        assert (tmp_path / "told").read_text().startswith("disk_full: the disk of the blobs is full")
        assert await read(files.part("acme.crm"), "key") == b"before"
        assert (await files.part("acme.crm").usage(TENANT)).bytes == len(b"before")
        assert os.listdir(tmp_path / "blobs" / "drafts") == []
    finally:
        await files.stop()


@pytest.mark.parametrize(
    ("number", "code"), [(errno.ENOSPC, "disk_full"), (errno.EDQUOT, "disk_full"), (errno.EIO, "unavailable")]
)
def test_what_the_filesystem_refuses_is_told(number: int, code: str) -> None:
    error = unavailable(OSError(number, os.strerror(number), "/a/path"))

    assert (error.code, error.retryable) == (code, True)
    assert os.strerror(number) in error.detail
    assert "/a/path" not in error.detail


# ---------------------------------------------------------------------------------------- links and damage


@pytest.mark.parametrize("depth", ["", "objects", "objects/acme.crm", "objects/acme.crm/a.d"])
async def test_a_link_in_place_of_a_folder_is_not_followed(tmp_path: Path, store: BlobStore, depth: str) -> None:
    await store.put(TENANT, "a/key", body(b"inside"))
    place = tmp_path / "blobs" / TENANT.hex / depth
    outside = tmp_path / "outside"
    place.rename(outside)
    place.symlink_to(outside)
    before = sorted(outside.rglob("*"))

    for call in (
        lambda: read(store, "a/key"),
        lambda: store.put(TENANT, "a/other", body(b"x")),
        lambda: store.delete(TENANT, "a/key"),
    ):
        with pytest.raises(KernelBug, match="link"):
            await call()
    assert sorted(outside.rglob("*")) == before


async def test_a_link_in_place_of_a_blob_is_not_followed(
    tmp_path: Path, files: FilesOperations, store: BlobStore
) -> None:
    await store.put(TENANT, "a/key", body(b"inside"))
    place = tmp_path / "blobs" / TENANT.hex / "objects" / "acme.crm" / "a.d" / "key.b"
    outside = tmp_path / "outside"
    place.rename(outside)
    place.symlink_to(outside)
    content = outside.read_bytes()

    with pytest.raises(KernelBug, match="link"):
        await read(store, "a/key")
    assert (await store.list(TENANT)).items == []
    await files.erase(TENANT)
    assert outside.read_bytes() == content


async def test_links_are_removed_with_a_tenant_and_not_what_they_lead_to(
    tmp_path: Path, files: FilesOperations, store: BlobStore
) -> None:
    await store.put(TENANT, "key", body(b"x"))
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("x")
    (tmp_path / "blobs" / TENANT.hex / "objects" / "acme.crm" / "link.d").symlink_to(outside)
    await files.erase(TENANT)

    assert (outside / "precious").exists()
    assert not (tmp_path / "blobs" / TENANT.hex).exists()


async def test_a_pipe_in_place_of_a_blob_stops_nobody(tmp_path: Path, store: BlobStore) -> None:
    await store.put(TENANT, "key", body(b"x"))
    place = tmp_path / "blobs" / TENANT.hex / "objects" / "acme.crm" / "key.b"
    place.unlink()
    os.mkfifo(place)

    with pytest.raises(KernelBug):
        await read(store, "key")


@pytest.mark.parametrize(
    ("at", "what"), [(0, b"X"), (3, b"\x02"), (4, b"\xff\xff\xff\xff"), (20, b"\xff"), (None, b"")]
)
async def test_a_damaged_blob_is_told(tmp_path: Path, store: BlobStore, at: int | None, what: bytes) -> None:
    await store.put(TENANT, "key", body(b"0123456789"))
    file = tmp_path / "blobs" / TENANT.hex / "objects" / "acme.crm" / "key.b"
    raw = bytearray(file.read_bytes())
    if at is None:
        del raw[-1:]
    else:
        raw[at : at + len(what)] = what
    file.write_bytes(raw)

    with pytest.raises(KernelBug):
        await read(store, "key")
    with pytest.raises(KernelBug):
        await store.head(TENANT, "key")


# ------------------------------------------------------------------------------------------------ clearing


async def test_a_sweep_leaves_what_is_being_written(tmp_path: Path, files: FilesOperations, store: BlobStore) -> None:
    drafts = tmp_path / "blobs" / "drafts"
    (drafts / "left-behind").write_bytes(b"x")
    swept: list[int] = []

    async def sweeping() -> AsyncIterator[bytes]:
        yield b"x" * 300_000
        swept.append(await files.sweep())
        yield b"y"

    await store.put(TENANT, "key", sweeping())

    assert swept == [1]
    assert len(await read(store, "key") or b"") == 300_001
    assert os.listdir(drafts) == []


async def test_folders_that_are_empty_go(tmp_path: Path, store: BlobStore) -> None:
    await store.put(TENANT, "a/b/c/d", body(b"x"))
    await store.put(TENANT, "a/e", body(b"x"))
    await store.delete(TENANT, "a/b/c/d")
    area = tmp_path / "blobs" / TENANT.hex / "objects" / "acme.crm"

    assert sorted(str(place.relative_to(area)) for place in area.rglob("*")) == ["a.d", "a.d/e.b"]


async def test_nothing_but_the_kernel_may_read_them(tmp_path: Path, store: BlobStore) -> None:
    await store.put(TENANT, "a/b", body(b"x"))
    await store.put_part(TENANT, await store.begin_upload(TENANT, "c"), 1, body(b"x"))

    assert [] == [place for place in (tmp_path / "blobs").rglob("*") if place.stat().st_mode & 0o077]


async def test_reading_makes_nothing(tmp_path: Path, store: BlobStore) -> None:
    stranger = uuid7()
    assert await read(store, "a/b", stranger) is None
    assert (await store.list(stranger)).items == []
    await store.delete(stranger, "a/b")
    await store.abort_upload(stranger, "0" * 32)

    assert stranger.hex not in os.listdir(tmp_path / "blobs")


async def test_whoever_is_cancelled_waits_for_the_call_under_way() -> None:
    """Nothing that a thread uses is closed under it."""
    threads, release, order = FileThreads(1), asyncio.Event(), list[str]()
    loop = asyncio.get_running_loop()

    def work() -> None:
        loop.call_soon_threadsafe(release.set)
        asyncio.run_coroutine_threadsafe(asyncio.sleep(0), loop).result(20)
        order.append("worked")

    async def call() -> None:
        try:
            await threads.run(work)
        finally:
            order.append("went on")

    task = asyncio.create_task(call())
    await release.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    threads.close()

    assert order == ["worked", "went on"]


async def test_a_refusal_in_a_thread_is_told_as_a_store_that_is_away(tmp_path: Path) -> None:
    threads = FileThreads(1)
    with pytest.raises(StoreUnavailable):
        await threads.run(os.stat, tmp_path / "nowhere")
    threads.close()
