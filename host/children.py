"""Child servers: prepared, started, watched, restarted and stopped by the parent, and found again after a kill."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

import msgspec
from msgspec import Struct

from host.datafolder import DataFolder, write_whole
from host.observe import PluginLog
from host.privileges import Privileges
from host.processes import Identity, end_all, find_inside, identify, is_at_home, is_running
from plugin_api.servers import ChildServer, Command, Output, StartRefused

READY_LIMIT_S: Final = 120.0
"""Recovery after a crash replays the log; more than this is a fault."""
LOOK_EVERY_S: Final = 0.01
LOOK_EVERY_S_MAX: Final = 0.1
OUTPUT_BYTES_MAX: Final = 65_536
TOLD_CHARACTERS_MAX: Final = 400
STABLE_S: Final = 10.0
"""Who lived this long is started again at once."""
DELAY_S: Final = 0.1
DELAY_S_MAX: Final = 5.0
LEFT_SERVER_STOP_S: Final = 5.0
LEFT_WORKER_STOP_S: Final = 2.0
KILL_WAIT_S: Final = 2.0

WORKER: Final = "worker"
"""What workers are called among the processes; no server may have this name."""

State = Literal["starting", "ready", "restarting", "stopped"]
_log = PluginLog("host")


class Backoff:
    """How long to wait before something that died is started again: not at all at first, then ever longer."""

    def __init__(self) -> None:
        self._deaths = 0

    def delay_s(self, lived_s: float) -> float:
        """The wait after a life of `lived_s`, at most DELAY_S_MAX."""
        self._deaths = 0 if lived_s >= STABLE_S else self._deaths + 1
        return 0.0 if self._deaths <= 1 else min(DELAY_S * 2.0 ** min(self._deaths - 2, 10), DELAY_S_MAX)


# ------------------------------------------------------------------------------------ what a kill leaves behind


class Left(Struct, frozen=True):
    """One process of ours, so that the next kernel finds it."""

    name: str
    """WORKER, or the server's name."""
    process: Identity
    stop_signal: int


class Register:
    """`DIR/run/children.json`: every process of this kernel that would outlive a kill of it."""

    def __init__(self, folder: DataFolder) -> None:
        self._folder = folder.path
        self._path = folder.run / "children.json"
        self._entries: dict[int, Left] = {}

    def add(self, name: str, pid: int, stop_signal: signal.Signals) -> None:
        """Note a process that has just been started. One that is over already is left out."""
        process = identify(pid)
        if process is not None:
            self._entries[pid] = Left(name, process, stop_signal)
            self._write()

    def remove(self, pid: int) -> None:
        """Forget a process that has ended."""
        if self._entries.pop(pid, None) is not None:
            self._write()

    def _write(self) -> None:
        try:
            write_whole(self._path, [msgspec.to_builtins(entry) for entry in self._entries.values()])
        except OSError as error:  # a full disk must not stop a restart; the next kernel also looks for itself
            _log.warning("children.json cannot be written", reason=error.strerror)

    def _read(self) -> list[Left]:
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=list[Left])
        except (OSError, msgspec.DecodeError):
            return []

    async def end_left(self) -> int:
        """End what a killed kernel left behind and noted; how many there were.

        Only processes that are certainly ours: of the noted start, and at home in this folder. What it had no time to
        note is ended before its server starts (`RunningServer.end_orphans`).

        Raises:
            StartRefused: one of them does not end.
        """
        noted = [one for one in self._read() if is_running(one.process) and is_at_home(one.process, self._folder)]
        stubborn = [process for left in await asyncio.gather(*map(_end, noted)) for process in left]
        if stubborn:
            pids = ", ".join(str(process.pid) for process in stubborn)
            raise StartRefused(f"processes {pids} of an earlier kernel in {self._folder} do not end; end them by hand")
        return len(noted)


async def _end(left: Left) -> list[Identity]:
    wait_s = LEFT_WORKER_STOP_S if left.name == WORKER else LEFT_SERVER_STOP_S
    return await end_all([left.process], [(signal.Signals(left.stop_signal), wait_s), (signal.SIGKILL, KILL_WAIT_S)])


# ----------------------------------------------------------------------------------------------------- place


class Place:
    """Where one server lives (`plugin_api.servers.ServerPlace`), and how its programs are run."""

    def __init__(self, name: str, folder: DataFolder, privileges: Privileges) -> None:
        self._privileges = privileges
        self.folder = folder.make(name)
        real_run = folder.make("run", name)
        self.run = folder.short_run() / name
        self.logs = folder.make("logs", name)
        self._output = folder.path / "logs" / f"{name}.out"
        for place in (self.folder, real_run, self.logs):
            privileges.give(place)
        self._opened: dict[Path, int] = {}
        if privileges.way == "dropped":
            self._opened = {p: os.open(p, os.O_PATH | os.O_DIRECTORY) for p in (self.folder, self.run, self.logs)}

    def inside(self, path: Path) -> str:
        """How the server itself names a path in one of its folders."""
        for top, descriptor in self._opened.items():
            if path.is_relative_to(top):
                return str(Path(f"/proc/self/fd/{descriptor}", path.relative_to(top)))
        return str(path)

    async def execute(self, command: Command, *, limit_s: float) -> Output:
        """Run a program of the server to its end, as the account that the server runs as."""
        process = await self._spawn(command, asyncio.subprocess.PIPE)
        try:
            async with asyncio.timeout(limit_s):
                text, _ = await process.communicate()
        except TimeoutError:
            raise StartRefused(f"{Path(command.argv[0]).name} did not end within {limit_s:g} s{self.hint()}") from None
        finally:
            if process.returncode is None:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)  # with what it started itself
                await process.wait()
        return Output(process.returncode or 0, text[-OUTPUT_BYTES_MAX:].decode(errors="replace"))

    async def start(self, command: Command) -> asyncio.subprocess.Process:
        """Start the server itself; what it writes before it opens its own log is in `read_output`."""
        descriptor = os.open(self._output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            return await self._spawn(command, descriptor)
        finally:
            os.close(descriptor)

    async def _spawn(self, command: Command, output: int) -> asyncio.subprocess.Process:
        dropped = self._privileges.way == "dropped"
        try:
            return await asyncio.create_subprocess_exec(
                *self._privileges.wrap(command.argv),
                cwd=command.cwd,
                env=dict(command.env),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=asyncio.subprocess.STDOUT,
                start_new_session=True,  # a Ctrl-C in our terminal is for us to handle
                user=self._privileges.uid if dropped else None,
                group=self._privileges.gid if dropped else None,
                extra_groups=[] if dropped else None,
                pass_fds=tuple(self._opened.values()),
            )
        except OSError as error:
            raise StartRefused(f"{command.argv[0]} cannot be run ({error.strerror}){self.hint()}") from error

    def hint(self) -> str:
        """What to add to the report of a program that failed."""
        return self._privileges.hint()

    def read_output(self) -> str:
        """The last lines that the server wrote before it opened its own log, as one."""
        try:
            lines = self._output.read_bytes()[-OUTPUT_BYTES_MAX:].decode(errors="replace").split("\n")
        except OSError:
            return ""
        return " / ".join(line.strip() for line in lines if line.strip())[-TOLD_CHARACTERS_MAX:]

    def close(self) -> None:
        """Give the opened folders back."""
        for descriptor in self._opened.values():
            os.close(descriptor)
        self._opened = {}


# ------------------------------------------------------------------------------------------------ supervision


@dataclass
class RunningServer:
    """One server and how it is doing."""

    server: ChildServer
    place: Place
    state: State = "starting"
    process: asyncio.subprocess.Process | None = None
    restarts: int = 0
    since: float = field(default_factory=time.monotonic)
    ready: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def pid(self) -> int:
        """Its pid; 0 while it has none."""
        return self.process.pid if self.process is not None else 0

    async def start(self, register: Register) -> None:
        """Prepare and start it, and wait until it serves.

        Raises:
            StartRefused: it did not come up; nothing of it runs then.
        """
        await self.end_orphans()
        await self.server.prepare(self.place)
        self.process = await self.place.start(self.server.command(self.place))
        register.add(self.server.name, self.process.pid, self.server.stop_signal)
        try:
            await self._until_ready(self.process)
        except BaseException:
            await self.kill(register)
            raise
        self.state, self.since = "ready", time.monotonic()
        self.ready.set()

    async def _until_ready(self, process: asyncio.subprocess.Process) -> None:
        end, wait_s = time.monotonic() + READY_LIMIT_S, LOOK_EVERY_S
        while not await self.server.is_ready(self.place):
            if process.returncode is not None:
                raise StartRefused(self._describe_end(process.returncode))
            if time.monotonic() > end:
                raise StartRefused(f"{self.server.name} was not ready after {READY_LIMIT_S:g} s; see {self.place.logs}")
            await asyncio.sleep(wait_s)
            wait_s = min(wait_s * 1.2, LOOK_EVERY_S_MAX)

    def _describe_end(self, status: int) -> str:
        why = f"{self.server.name} ended with {show_status(status)} before it was ready"
        return f"{why} ({self.place.read_output()}); see {self.place.logs}{self.place.hint()}"

    async def kill(self, register: Register) -> None:
        """End it at once, with what it left behind; over when it is gone. Nothing happens when it does not run."""
        if self.process is not None:
            if self.process.returncode is None:
                with suppress(ProcessLookupError):
                    self.process.kill()
            await self.process.wait()
            register.remove(self.process.pid)
        await self.end_orphans()

    async def end_orphans(self) -> None:
        """End the programs of this server that its top process, or a killed kernel, left at work in its folder.

        They are killed, not asked: two servers must never write at once, and their kind recovers from a kill.
        """
        orphans = find_inside(self.place.folder, self.server.programs)
        await end_all(orphans, [(signal.SIGKILL, KILL_WAIT_S)])


def show_status(status: int) -> str:
    """An exit status, or the signal that ended the process, in words."""
    return f"exit status {status}" if status >= 0 else signal.Signals(-status).name


class Servers:
    """All child servers of this kernel."""

    def __init__(self, folder: DataFolder, register: Register, on_change: Callable[[], None]) -> None:
        self._folder = folder
        self._register = register
        self._on_change = on_change
        self.keepers: list[asyncio.Task[None]] = []
        """These end only by `stop`, or by a bug of ours."""
        self.running: list[RunningServer] = []

    async def start(self, servers: Sequence[ChildServer], privileges: Privileges) -> None:
        """Start all of them at the same time and keep them running from then on.

        Raises:
            StartRefused: one did not come up; `stop` is still to be called.
        """
        for server in servers:
            self.running.append(RunningServer(server, Place(server.name, self._folder, privileges)))
        starts = [asyncio.ensure_future(one.start(self._register)) for one in self.running]
        try:
            await asyncio.gather(*starts)
        finally:
            for start in starts:
                start.cancel()
            await asyncio.gather(*starts, return_exceptions=True)
        self.keepers = [asyncio.create_task(self._keep(one), name=f"keep-{one.server.name}") for one in self.running]

    def addresses(self) -> dict[str, str]:
        """What clients need, by name."""
        return {one.server.name: one.server.address(one.place) for one in self.running}

    def pids(self) -> dict[str, int]:
        """Top process of each, by name; one that is being restarted has its last."""
        return {one.server.name: one.pid for one in self.running}

    async def until_ready(self) -> None:
        """Wait until all of them serve."""
        for one in self.running:
            await one.ready.wait()

    async def _keep(self, one: RunningServer) -> None:
        backoff = Backoff()
        while True:
            assert one.process is not None, "a server is kept after its start"
            status = await one.process.wait()
            one.ready.clear()
            one.state = "restarting"
            _log.error("a server ended", server=one.server.name, pid=one.pid, status=show_status(status))
            self._register.remove(one.pid)
            await self._restart(one, backoff)
            _log.info("a server was restarted", server=one.server.name, pid=one.pid)
            self._on_change()

    async def _restart(self, one: RunningServer, backoff: Backoff) -> None:
        lived_s = time.monotonic() - one.since
        while True:
            await asyncio.sleep(backoff.delay_s(lived_s))
            one.restarts += 1
            try:
                await one.start(self._register)
            except (StartRefused, OSError) as error:
                _log.error("a server cannot be restarted; it is tried again", server=one.server.name, reason=str(error))
                lived_s = 0.0
            else:
                return

    async def stop(self, limit_s: float) -> None:
        """Stop all at once: in good order within `limit_s`, then by force. Nothing of them is left."""
        for keeper in self.keepers:
            keeper.cancel()
        await asyncio.gather(*self.keepers, return_exceptions=True)
        await asyncio.gather(*(self._stop(one, limit_s) for one in self.running))
        for one in self.running:
            one.place.close()

    async def _stop(self, one: RunningServer, limit_s: float) -> None:
        one.ready.clear()
        one.state = "stopped"
        if one.process is not None and one.process.returncode is None:
            with suppress(ProcessLookupError):
                one.process.send_signal(one.server.stop_signal)
            with suppress(TimeoutError):
                async with asyncio.timeout(limit_s):
                    await one.process.wait()
        await one.kill(self._register)
