"""Kernels as processes: started, asked, killed and swept away."""

from __future__ import annotations

import http.client
import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pytest

from host.datafolder import short_run
from host.processes import Identity, identify, is_running

ROOT = Path(__file__).parents[3]
PROGRAMS = Path(__file__).parent / "programs"
LIMIT_S = 30.0
T = TypeVar("T")


def wait_for(find: Callable[[], T], what: str, limit_s: float = LIMIT_S) -> T:
    """The first true answer of `find`, asked until then."""
    end = time.monotonic() + limit_s
    while not (found := find()):
        assert time.monotonic() < end, f"waited {limit_s:g} s for {what}"
        time.sleep(0.01)
    return found


def children_of(pid: int) -> set[Identity]:
    """Every living process below `pid`, and those that work inside a folder are found by `within`."""
    found: set[Identity] = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
            except (OSError, IndexError):
                continue
            process = identify(int(entry.name)) if parent == pid else None
            if process is not None:
                found |= {process} | children_of(process.pid)
    return found


def within(folder: Path) -> list[int]:
    """Processes that name a folder on their command line or work inside it."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                place, words = os.readlink(entry / "cwd"), (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if f"{place}/".startswith(f"{folder}/") or os.fsencode(folder) in words:
                found.append(int(entry.name))
    return [pid for pid in found if identify(pid) is not None]


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("control", timeout=30)
        self._path = path

    def connect(self) -> None:
        """Connect."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


@dataclass
class Kernel:
    """One kernel process over one data folder."""

    root: Path
    data: Path
    servers: Sequence[str] = ("postgres", "valkey")
    workers: int = 1
    settings: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    without: Sequence[str] = ()
    uid: int | None = None
    terminal: int | None = None
    """A terminal of its own, open for reading; else it has none."""
    process: subprocess.Popen[str] | None = None
    family: set[Identity] = field(default_factory=set)

    def begin(self) -> subprocess.Popen[str]:
        """Start it and do not wait."""
        python = sys.executable if self.uid is None else interpreter_for(self.uid)
        options = {
            "data_dir": str(self.data),
            "http_port": 0,
            "grpc_port": 0,
            "management_port": 0,
            "workers": self.workers,
        }
        given = {
            "options": {**options, **self.options},
            "settings": self.settings,
            "servers": list(self.servers),
            "worker": [python, "-P", str(PROGRAMS / "worker.py")],
            "without": list(self.without),
        }
        paths = [str(ROOT), *(path for path in sys.path if path.endswith("site-packages"))]
        with (self.root / "stdout").open("a") as out, (self.root / "stderr").open("a") as err:
            self.process = subprocess.Popen(
                [
                    *(["setsid", "--ctty"] if self.terminal is not None else []),
                    *[python, "-P", str(PROGRAMS / "kernel.py"), json.dumps(given)],
                ],
                stdin=subprocess.DEVNULL if self.terminal is None else self.terminal,
                stdout=out,
                stderr=err,
                text=True,
                cwd=self.root,
                env={"PATH": os.environ["PATH"], "PYTHONPATH": ":".join(paths), "PYTHONWARNINGS": "error"},
                user=self.uid,
                group=self.uid,
                extra_groups=None if self.uid is None else [],
                start_new_session=self.terminal is None,
            )
        return self.process

    def start(self) -> Kernel:
        """Start it and wait until it is ready."""
        begun = self.begin()
        wait_for(lambda: self.run_file().get("pid") == begun.pid or begun.poll() is not None, "kernel.json or an end")
        assert begun.poll() is None, self.stderr()
        self.remember()
        return self

    def refused(self) -> str:
        """Start it where it cannot start: its one line on stderr."""
        status = self.begin().wait(LIMIT_S)
        assert status == 1, self.stderr()
        (told,) = [line for line in self.stderr().splitlines() if line.startswith("pk up: ")]
        assert "Traceback" not in self.stderr()
        return told

    def run_file(self) -> dict[str, Any]:
        """`kernel.json`, or nothing when it is not there."""
        try:
            return dict(json.loads((self.data / "run" / "kernel.json").read_text()))
        except FileNotFoundError:
            return {}

    def remember(self) -> set[Identity]:
        """Note every process of the family, to look for later."""
        assert self.process is not None
        self.family |= children_of(self.process.pid)
        return self.family

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the parent."""
        assert self.process is not None
        self.remember()
        self.process.send_signal(number)

    def stop(self, number: signal.Signals = signal.SIGTERM, limit_s: float = 15.0) -> int:
        """Ask it to stop; its exit status."""
        assert self.process is not None
        self.send(number)
        return self.process.wait(limit_s)

    def kill(self) -> list[Identity]:
        """kill -9 of the parent alone; what it leaves behind."""
        self.send(signal.SIGKILL)
        assert self.process is not None
        self.process.wait(LIMIT_S)
        return self.left()

    def left(self) -> list[Identity]:
        """Processes of the family that still run."""
        return [process for process in self.family if is_running(process)]

    def sweep(self) -> None:
        """Kill whatever is left of it, by pid."""
        if self.process is not None and self.process.poll() is None:
            self.remember()
            self.process.kill()
            self.process.wait()
        for pid in {*(process.pid for process in self.left()), *within(self.data)}:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue

    def stderr(self) -> str:
        """What it wrote to stderr, all starts together."""
        return (self.root / "stderr").read_text()

    def stdout(self) -> str:
        """What it wrote to stdout, all starts together."""
        return (self.root / "stdout").read_text()

    def get(self, door: str, path: str, method: str = "GET", body: Any = None) -> tuple[int, Any]:
        """Ask one of its doors: `http`, `management` or `control`; status and body, decoded when it is JSON."""
        connection = self._connect(door)
        try:
            connection.connect()
            connection.request(method, path, None if body is None else json.dumps(body))
            response = connection.getresponse()
            content = response.read()
        finally:
            connection.close()
        kind = response.headers.get("Content-Type", "")
        return response.status, json.loads(content) if "json" in kind else content.decode()

    def _connect(self, door: str) -> http.client.HTTPConnection:
        if door != "control":
            return http.client.HTTPConnection(self.run_file()[door], timeout=10)
        return UnixConnection(short_run(self.data) / "control.sock")

    def worker_pid(self) -> int:
        """The pid of the worker that answers an HTTP request."""
        return int(self.get("http", "/")[1])

    def wait_for(self, find: Callable[[], T], what: str, limit_s: float = LIMIT_S) -> T:
        """The first true answer of `find`; what the kernel said so far when there is none."""
        try:
            return wait_for(find, what, limit_s)
        except AssertionError as late:
            raise AssertionError(f"{late}; its log:\n{self.stderr()}") from None


def interpreter_for(uid: int) -> str:
    """A Python of this version that the account can run; skips where there is none."""
    version = f"python3.{sys.version_info.minor}"
    for candidate in (sys.executable, f"/usr/bin/{version}", f"/usr/local/bin/{version}"):
        words = [candidate, "-c", "import msgspec"]
        paths = [path for path in sys.path if path.endswith("site-packages")]
        try:
            ran = subprocess.run(words, user=uid, extra_groups=[], env={"PYTHONPATH": ":".join(paths)}, check=False)
        except OSError:
            continue
        if ran.returncode == 0:
            return candidate
    pytest.skip(f"no {version} that uid {uid} can run")


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that other accounts can pass through, short enough for sockets."""
    folder = Path(tempfile.mkdtemp(prefix="pk-test-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def make_kernel(place: Path) -> Iterator[Callable[..., Kernel]]:
    """Makes kernels; whatever is left of them at the end is killed."""
    made: list[Kernel] = []

    def make(**given: Any) -> Kernel:
        kernel = Kernel(place, given.pop("data", place / "data"), **given)
        made.append(kernel)
        return kernel

    yield make
    for kernel in made:
        kernel.sweep()


@pytest.fixture
def find_interpreter() -> Callable[[int], str]:
    """Finds a Python that an account can run; skips where there is none."""
    return interpreter_for


@pytest.fixture
def nobody() -> int:
    """The uid of a plain account; skips unless we are root."""
    if os.geteuid() != 0:
        pytest.skip("only root can become another account")
    return pwd.getpwnam("nobody").pw_uid
