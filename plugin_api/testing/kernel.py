"""A real kernel as a child process: started over an empty folder, watched, hurt if the test wants that, and cleared away."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import Any, Final, TypeVar

from plugin_api.testing.client import Client, Unreachable
from plugin_api.testing.people import Person, Tenant, log_in, sign_up
from plugin_api.testing.processes import Process, end, processes_within
from plugin_api.testing.waiting import until

T = TypeVar("T")

START_LIMIT_S: Final = 90.0
STOP_LIMIT_S: Final = 20.0
LOG_LINES_SHOWN: Final = 40
_places = count(1)


class KernelProcess:
    """`pk up` of the Python that runs the tests, with stores of its own below a temporary folder.

    `kill` and `pids` act at once; what takes time is async.
    """

    def __init__(self, arguments: Sequence[str] = (), environment: Mapping[str, str] | None = None) -> None:
        self._arguments = list(arguments)
        self.operator_password = f"Operator-{secrets.token_hex(12)}"
        self.demo_password = f"Demo-{secrets.token_hex(12)}"
        self._environment = dict(environment or {})
        self._root = Path(tempfile.mkdtemp(prefix="pk-test-")).resolve()
        self._root.chmod(0o755)  # servers that give up root must be able to pass
        self._process: subprocess.Popen[bytes] | None = None
        self.data_dir = self._root / "data"
        self.log_file = self._root / "kernel.log"
        self.url = ""
        """Base address of the main door."""
        self.management_url = ""
        """Base address of `/livez /readyz /startupz /metrics` with their detail."""

    # -- life

    async def start(self, limit_s: float = START_LIMIT_S) -> KernelProcess:
        """Start it and wait until it is ready; itself.

        Raises:
            AssertionError: it is not ready within `limit_s`, or ended; the text ends with the tail of its log.
        """
        before = self._told()
        with self.log_file.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: ASYNC220, S603 - over in a moment; the program is our own
                self._command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._child_environment(),
                cwd=self._root,
                start_new_session=True,
            )
        await self._until_ready(lambda: self._told() not in ({}, before), limit_s)
        told = self._told()
        self.url, self.management_url = f"http://{told['http']}", f"http://{told['management']}"
        await self._until_ready(self.is_ready, limit_s)
        return self

    async def is_ready(self) -> bool:
        """Whether `/readyz` answers 200 now."""
        try:
            return (await Client(self.url, limit_s=3.0).get("/readyz")).status == 200
        except Unreachable:
            return False

    async def until_ready(self, limit_s: float = START_LIMIT_S) -> None:
        """Wait until it is ready (again)."""
        await self._until_ready(self.is_ready, limit_s)

    async def stop(self, by: signal.Signals = signal.SIGTERM) -> int:
        """Ask it to stop and wait for it; its exit status.

        Raises:
            AssertionError: it still ran after STOP_LIMIT_S (and was killed).
        """
        process = self._process
        if process is None:
            return 0
        if process.poll() is None:
            process.send_signal(by)
        try:
            await until(lambda: process.poll() is not None, "the kernel has stopped", STOP_LIMIT_S)
        except AssertionError:
            self.kill("parent")
            raise
        return process.returncode

    async def restart(self) -> KernelProcess:
        """Stop it if it runs, and start it again over the same data; itself."""
        await self.stop()
        return await self.start()

    async def close(self) -> None:
        """Stop it and delete its folder.

        Raises:
            AssertionError: it left processes behind (they are killed).
        """
        try:
            await self.stop()
        finally:
            left = processes_within(self._root)
            for process in left:
                end(process)
            await until(lambda: not processes_within(self._root), "its processes are gone")
            shutil.rmtree(self._root, ignore_errors=True)
        assert not left, f"the kernel left processes behind: {_shown(left)}"

    # -- harm

    def pids(self) -> dict[str, int]:
        """Its processes as `run/kernel.json` names them: `parent`, `worker0`, `worker1` ..., `postgres`, `valkey` ..."""
        told = self._told()
        workers = {f"worker{number}": pid for number, pid in enumerate(told.get("workers", []))}
        return {"parent": told["pid"], **workers, **told.get("servers", {})} if told else {}

    def kill(self, name: str, by: signal.Signals = signal.SIGKILL) -> int:
        """Signal one of its processes; the pid. `worker` is `worker0`.

        Raises:
            AssertionError: it has no such process now.
        """
        pids = self.pids()
        wanted = "worker0" if name == "worker" else name
        assert wanted in pids, f"no process {wanted!r}; there are {sorted(pids)}"
        os.kill(pids[wanted], by)
        if wanted == "parent" and by == signal.SIGKILL and self._process is not None:
            self._process.wait(STOP_LIMIT_S)
        return pids[wanted]

    # -- callers

    def client(self, token: str | None = None, source_address: str | None = None) -> Client:
        """Somebody who calls it."""
        return Client(self.url, token, source_address)

    def new_source_address(self) -> str | None:
        """A loopback address in a /24 that nobody else has, so that no two share a throttle; None where that is not
        to be had (not Linux)."""
        number = next(_places)
        return f"127.{1 + number // 250 % 250}.{number % 250}.1" if sys.platform == "linux" else None

    async def sign_up(self, **changes: Any) -> Tenant:
        """Make a tenant and log its owner in; `changes` to the request, such as `currency="CHF"`."""
        return await sign_up(self.url, self.new_source_address(), changes)

    async def operator(self) -> Person:
        """Log the operator in."""
        credentials = ("platform", "operator@platform.localhost", self.operator_password)
        return await log_in(self.url, self.new_source_address(), *credentials)

    # -- inside

    def log_tail(self) -> str:
        """The end of what it wrote."""
        text = self.log_file.read_text(errors="replace") if self.log_file.exists() else ""
        return "\n".join(text.splitlines()[-LOG_LINES_SHOWN:])

    def _command(self) -> list[str]:
        # Beside the interpreter as it was called: in a virtual environment that is where console scripts are.
        program = Path(sys.executable).parent / "pk"
        ports = ("--http-port", "0", "--grpc-port", "0", "--management-port", "0")
        return [str(program), "up", "--data-dir", str(self.data_dir), *ports, *self._arguments]

    def _child_environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PK_")}  # noqa: TID251
        passwords = {"PK_OPERATOR_PASSWORD": self.operator_password, "PK_DEMO_PASSWORD": self.demo_password}
        return {**kept, **passwords, **self._environment}

    def _told(self) -> dict[str, Any]:
        try:
            document = json.loads((self.data_dir / "run" / "kernel.json").read_text())
        except (OSError, ValueError):
            return {}
        return document if isinstance(document, dict) else {}

    async def _until_ready(self, condition: Any, limit_s: float) -> None:
        def ended() -> bool:
            return self._process is not None and self._process.poll() is not None

        async def ready_or_ended() -> bool:
            given = condition()
            return ended() or bool(await given if asyncio.iscoroutine(given) else given)

        try:
            await until(ready_or_ended, "the kernel is ready", limit_s)
            assert not ended(), f"the kernel ended with status {self._process and self._process.returncode}"
        except AssertionError as error:
            raise AssertionError(f"{error}; its log ends:\n{self.log_tail()}") from None


def _shown(processes: Sequence[Process]) -> str:
    return ", ".join(f"{process.pid} {process.command[:60]}" for process in processes)


def run_apart(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end in a thread and an event loop of its own; for fixtures that are not async."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, work).result()
