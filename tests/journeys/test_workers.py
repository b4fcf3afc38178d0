"""Two workers behind one door, replaced and killed under load: a reload loses no request, a kill breaks no more than
connections.

Half of the clients keep their connection and half make one for each request; nobody repeats anything. With the drain or the
shared socket taken away the same judge fails.
"""

from __future__ import annotations

import http.client
import os
import signal
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from plugin_api.testing import KernelProcess, until
from plugin_api.testing.plugin import FreshKernel

TIMES = 20 if os.environ.get("PK_SOAK") else 3
CLIENTS = 8
PACE_S = 0.02
ME = "/api/v1/iam/me"


@dataclass
class Load:
    """Asks all the time until it is left."""

    kernel: KernelProcess
    token: str
    statuses: Counter[int] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)
    _halt: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def __enter__(self) -> Load:
        self._threads = [threading.Thread(target=self._ask, args=(number % 2 == 0,)) for number in range(CLIENTS)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._halt.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, keeps: bool) -> None:
        place = urlsplit(self.kernel.url).netloc
        connection: http.client.HTTPConnection | None = None
        headers = {"Authorization": f"Bearer {self.token}", **({} if keeps else {"Connection": "close"})}
        while not self._halt.is_set():
            connection = connection or http.client.HTTPConnection(place, timeout=20)
            try:
                connection.request("GET", ME, headers=headers)
                answer = connection.getresponse()
                answer.read()
                self.statuses[answer.status] += 1
                is_over = answer.will_close
            except (OSError, http.client.HTTPException) as error:
                self.broken.append(repr(error))
                is_over = True
            if is_over:
                connection.close()
                connection = None
            time.sleep(PACE_S)
        if connection is not None:
            connection.close()

    async def grown(self, by: int = 60) -> None:
        """Wait for more answers."""
        seen = self.statuses.total()
        await until(lambda: self.statuses.total() > seen + by, "more answers", 30)


def workers(kernel: KernelProcess) -> set[int]:
    return {pid for name, pid in kernel.pids().items() if name.startswith("worker")}


async def reload_under_load(kernel: KernelProcess, load: Load, times: int) -> None:
    """Replace both workers again and again."""
    for _ in range(times):
        before = workers(kernel)
        os.kill(kernel.pids()["parent"], signal.SIGHUP)
        await until(
            lambda before=before: len(workers(kernel)) == 2 and not workers(kernel) & before,  # type: ignore[misc]
            "both workers are new",
            60,
        )
        await load.grown(20)


BUSY = """
import functools, sys, time
import host.parent
from host.worker import Worker

# By `-m` it would be another module than the one that is changed here.
command = (sys.executable, "-P", "-c", "import sys; from host.worker import main; sys.exit(main())")
host.parent.Parts = functools.partial(host.parent.Parts, worker_command=command)

close = Worker._close

async def busy(self, server, door):
    time.sleep(0.3)
    await close(self, server, door)

Worker._close = busy
"""
"""Holds up the loop of a worker that is about to close: whoever connects meanwhile waits to be accepted."""


async def test_reloads_lose_no_request_and_kills_no_more_than_connections(
    fresh_kernel: FreshKernel, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(BUSY)
    kernel = await fresh_kernel("--workers", "2", environment={"PYTHONPATH": str(tmp_path)})
    tenant = await kernel.sign_up()
    with Load(kernel, tenant.owner.token) as load:
        await load.grown()
        await reload_under_load(kernel, load, TIMES)
        assert (load.broken, set(load.statuses)) == ([], {200})
        for number in range(TIMES):
            gone = kernel.kill(f"worker{number % 2}")
            await until(
                lambda gone=gone: len(workers(kernel)) == 2 and gone not in workers(kernel),  # type: ignore[misc]
                "the worker was replaced",
                60,
            )
            await load.grown()

    assert set(load.statuses) == {200}
    assert len(load.broken) <= TIMES * CLIENTS


WITHOUT_DRAIN = """
from host.http import RestDoor

async def drain(self, idle_s, calls_s):
    self.server.pre_shutdown()
    await self.server.shutdown(0)

RestDoor.drain = drain
RestDoor.close = lambda self: None
"""
WITHOUT_SHARED_SOCKET = (
    BUSY
    + """
import asyncio, socket
from host.sockets import listen

def bound(address):
    one = socket.socket()
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    one.bind(address)
    one.setblocking(False)
    return one

def reserve(host, port, option):
    return bound((host, port)) if option == "--http-port" else listen(host, port, option)

async def listen_alone(self, door, descriptor):
    place = socket.socket(fileno=descriptor).getsockname()
    return await asyncio.get_running_loop().create_server(door.server, sock=bound(place), backlog=1024)

host.parent.listen = reserve
Worker._listen = listen_alone
"""
)


@pytest.mark.parametrize("twin", [WITHOUT_DRAIN, WITHOUT_SHARED_SOCKET], ids=["no-drain", "no-shared-socket"])
async def test_a_broken_twin_loses_requests(fresh_kernel: FreshKernel, tmp_path: Path, twin: str) -> None:
    (tmp_path / "sitecustomize.py").write_text(twin)
    kernel = await fresh_kernel("--workers", "2", environment={"PYTHONPATH": str(tmp_path)})
    tenant = await kernel.sign_up()
    with Load(kernel, tenant.owner.token) as load:
        await load.grown()
        for _ in range(4 * TIMES):
            await reload_under_load(kernel, load, 1)
            if load.broken:
                break

    assert load.broken
