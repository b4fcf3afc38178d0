"""Writes blobs and is killed, or has no room: one forked process for each line of orders, told what became of it.

An order is `{folder} kill {n}`: set up, then die at the n-th call that changes the filesystem; or `{folder} full`.
"""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import sys
from collections.abc import AsyncIterator, Callable
from itertools import count
from pathlib import Path
from typing import Any
from uuid import UUID

from core_plugins.files.operations import FilesOperations
from core_plugins.files.plugin import make_driver
from core_plugins.files.settings import Settings
from host.observe import PluginLog
from plugin_api.clock import SystemClock
from plugin_api.errors import StoreUnavailable
from plugin_api.ports.blob_store import BlobStore

TENANT = UUID("01890000-0000-7000-8000-000000000001")
CHANGES = ("write", "pwrite", "fsync", "rename", "link", "unlink", "rmdir", "mkdir")
ROOM_BYTES = 400_000


async def body(content: bytes) -> AsyncIterator[bytes]:
    for at in range(0, len(content), 100_000):
        yield content[at : at + 100_000]


async def open_store(folder: Path) -> FilesOperations:
    settings, clock = Settings(), SystemClock()
    operations = FilesOperations(make_driver(settings, folder, clock), settings, clock, PluginLog("kernel.files"))
    await operations.start()
    return operations


def die_at(number: int) -> None:
    """Kill this process in place of its n-th change."""
    numbers = count(1)

    def counted(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            if next(numbers) == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*arguments, **named)

        return call

    for name in CHANGES:
        setattr(os, name, counted(getattr(os, name)))


async def be_killed(folder: Path, number: int) -> None:
    store = (await open_store(folder)).part("acme.crm")
    await store.put(TENANT, "replaced", body(b"old" * 100_000))
    await store.put(TENANT, "deep/down/deleted", body(b"gone" * 1_000))
    upload = await store.begin_upload(TENANT, "put/together")
    parts = [await store.put_part(TENANT, upload, 1, body(b"part" * 70_000))]
    done = os.open(folder / "done", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    tell = os.write
    die_at(number)
    await store.put(TENANT, "replaced", body(b"new" * 150_000))
    tell(done, b"replaced\n")
    await store.delete(TENANT, "deep/down/deleted")
    tell(done, b"deep/down/deleted\n")
    await store.complete_upload(TENANT, upload, parts)
    tell(done, b"put/together\n")
    await store.put(TENANT, "new/one", body(b"fresh"))
    tell(done, b"new/one\n")


async def have_no_room(folder: Path) -> None:
    store: BlobStore = (await open_store(folder)).part("acme.crm")
    await store.put(TENANT, "key", body(b"before"))
    resource.setrlimit(resource.RLIMIT_FSIZE, (ROOM_BYTES, ROOM_BYTES))
    try:
        await store.put(TENANT, "key", body(b"x" * (ROOM_BYTES + 1)))
    except StoreUnavailable as error:
        (folder / "told").write_text(f"{error.code}: {error.detail}")


def run(folder: str, what: str, number: str = "0") -> None:
    asyncio.run(be_killed(Path(folder), int(number)) if what == "kill" else have_no_room(Path(folder)))


def main() -> None:
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            run(*line.split())
            os._exit(0)
        _, status = os.waitpid(pid, 0)
        print("killed" if os.WIFSIGNALED(status) else os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    main()
