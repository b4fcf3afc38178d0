"""The parent process of a kernel: it takes the data folder and the ports, and keeps servers and workers alive.

It runs no plugin's code but `pk_servers` of kernel plugins, so nothing that a plugin does can stop it.
"""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from host.changes.coordinator import Coordinator, Times
from host.changes.installer import Installer
from host.changes.orders import Blame, Change, Outcome
from host.changes.quarantine import Quarantines
from host.changes.refusal import refused
from host.channel import ChannelClosed, ChannelFull, RemoteFailed
from host.children import Register, Servers
from host.datafolder import DataFolder, KernelFile
from host.kernel_metrics import KernelState, kernel_families
from host.observe import PluginLog
from host.privileges import Privileges, choose_privileges
from host.process_metrics import RubbishClock
from host.rpc_address import check_address, tls_files
from host.settings import ANY_SECTION, SECTION, HostSettings, SettingsInvalid, read
from host.sockets import listen, listen_unix, reserve, show_address
from host.stamps import FileStamps, create_stamps
from host.store import Sources
from host.totals import Family, Totals
from host.workers import Launch, Notices, Stalls, Worker, WorkerFailed, WorkerLimits, Workers
from plugin_api.errors import Unavailable
from plugin_api.servers import ChildServer, StartRefused

if TYPE_CHECKING:
    from host.control import Control
    from host.listener import Listener
    from host.management import Management

LOOPBACK: Final = "127.0.0.1"
SERVERS_STOP_LIMIT_S: Final = 4.0
"""After the workers' share; with it everything is over within 15 s."""
QUESTION_LIMIT_S: Final = 2.0
OPEN_FILES_WANTED: Final = 65_536
WORKER_COMMAND: Final = (sys.executable, "-P", "-m", "host.worker")
"""`-P`: a stray `host.py` in the current folder is never imported."""

_log = PluginLog("host")


@dataclass(frozen=True)
class UpOptions:
    """What `pk up` was told."""

    data_dir: Path
    http_host: str = LOOPBACK
    http_port: int = 8080
    grpc_port: int = 50051
    management_port: int = 9000
    workers: int = 1
    only: tuple[str, ...] = ()
    profile: str = "embedded"
    demo: bool = True
    envoy: bool = True


@dataclass(frozen=True)
class Parts:
    """What the parent is put together from; tests give their own."""

    find_servers: Callable[[], Sequence[ChildServer]]
    """Called once, beside the workers' loading."""
    worker_command: Sequence[str] = WORKER_COMMAND
    choose_privileges: Callable[[], Privileges] = choose_privileges


def run(options: UpOptions, settings: Mapping[str, Any], parts: Parts | None = None) -> int:
    """Run a kernel until SIGTERM or SIGINT; the exit status.

    0 after a signal; 1 when it cannot start (one line on stderr says why, nothing is left running) or a bug of ours
    ended it. `settings` are those of the command line by `section.name`; workers get them as they are.
    """
    os.umask(0o077)  # for everything below the data folder, whoever writes it
    _raise_open_files()
    try:
        parent = Parent(options, settings, parts or _own_parts(options))
        return asyncio.run(parent.run())
    except StartRefused as refusal:
        sys.stderr.write(f"pk up: {refusal}\n")
        return 1


def _own_parts(options: UpOptions) -> Parts:
    if options.profile != "embedded":
        return Parts(lambda: [])
    from host.declared import declared_servers  # noqa: PLC0415 - not needed in the server profile

    return Parts(declared_servers)


def _raise_open_files() -> None:
    """As many connections as the system allows; workers inherit it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES_WANTED if hard == resource.RLIM_INFINITY else min(hard, OPEN_FILES_WANTED)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


@dataclass
class _Signals:
    """What the system or the operator asked for."""

    stop: asyncio.Event = field(default_factory=asyncio.Event)
    again: asyncio.Event = field(default_factory=asyncio.Event)
    """Stop was asked for twice: do not wait for anything."""

    def on_stop(self) -> None:
        """SIGTERM, SIGINT."""
        (self.again if self.stop.is_set() else self.stop).set()


class Parent:
    """One kernel, from its start to its end."""

    def __init__(self, options: UpOptions, settings: Mapping[str, Any], parts: Parts) -> None:
        self._options = options
        self._settings = settings
        self._parts = parts
        self._limits = _read_limits(options.data_dir, settings)
        self._begun = time.monotonic()
        self._totals = Totals()
        self._rubbish = RubbishClock()
        self._started = False
        self._reloading = asyncio.Lock()
        self._reloads: set[asyncio.Task[None]] = set()
        self._next_reload: asyncio.Task[None] | None = None
        """One that was asked for and has not begun."""
        self._following: asyncio.Task[None] | None = None
        self._changing: set[asyncio.Task[Outcome]] = set()
        # Under `nohup` the end of the terminal is to be survived.
        self._had_terminal = _has_terminal() and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN
        self._listeners: list[Listener] = []

    async def run(self) -> int:
        """Start, serve until a signal, stop. See `host.parent.run`."""
        self._folder = DataFolder.open(self._options.data_dir)
        self._signals = _Signals()
        self._rubbish.start()
        with closing(self._folder), ExitStack() as held:
            self._take_signals()
            self._register = Register(self._folder)
            await self._register.end_left()  # a stale worker may still hold the port
            self._http = held.enter_context(listen(self._options.http_host, self._options.http_port, "--http-port"))
            self._management = held.enter_context(listen(LOOPBACK, self._options.management_port, "--management-port"))
            self._grpc = held.enter_context(self._reserve_grpc())
            create_stamps(self._folder.run / "stamps")
            self._stamps = held.enter_context(FileStamps(self._folder.run / "stamps"))
            self._servers = Servers(self._folder, self._register, self._publish)
            self._coordinator = self._make_coordinator()
            self._workers = self._make_workers()
            try:
                return await self._live()
            finally:
                await self._stop()

    def _reserve_grpc(self) -> socket.socket:
        """Each worker listens there by itself; the library takes no socket of others."""
        host = _host_settings(self._options.data_dir, self._settings)
        check_address(host)
        self._grpc_tls = tls_files(host)
        return reserve(host.grpc_host, self._options.grpc_port, "--grpc-port")

    def _make_coordinator(self) -> Coordinator:
        folder = self._folder.path / "plugins"
        host = _host_settings(self._options.data_dir, self._settings)
        file = folder / "quarantine.json"
        self._quarantines = Quarantines(file, first_s=host.quarantine_s, trial_s=host.half_open_s)
        sources = Sources(host.plugin_index, tuple(host.plugin_links), host.plugin_offline)
        times = Times(host.contract_after_s, host.retry_s)
        self._installer = Installer(folder, sources)
        return Coordinator(folder, self.serving, self._installer, self._quarantines, times, self._settings)

    def _make_workers(self) -> Workers:
        launch = Launch(self._parts.worker_command, str(self._folder.path), (self._http.fileno(),))
        notices = Notices(
            changed=self._on_new,
            ended=self._on_end,
            retiring=self._ask_metrics,
            announce=_announce,
            admits=lambda sequence, failing: self._coordinator.may_serve(sequence, is_failing=failing),
            changes=self._on_change,
            culprit=self._on_culprit,
            quarantined=lambda: [msgspec.to_builtins(one) for one in self._quarantines.known()],
        )
        return Workers(self._options.workers, launch, self._limits, self._register, notices)

    async def _live(self) -> int:
        starting = asyncio.create_task(self._start())
        stopping = asyncio.create_task(self._signals.stop.wait())
        try:
            await asyncio.wait([starting, stopping], return_when=asyncio.FIRST_COMPLETED)
            if not starting.done():
                return 0
            starting.result()
            return await self._watch(stopping)
        finally:
            for task in (starting, stopping):
                task.cancel()
            await asyncio.gather(starting, stopping, return_exceptions=True)

    async def _start(self) -> None:
        await self._workers.launch()
        servers = self._parts.find_servers()
        serving = asyncio.create_task(self._servers.start(servers, self._parts.choose_privileges()))
        try:
            await self._open_doors()
            await serving
        finally:
            serving.cancel()
            await asyncio.gather(serving, return_exceptions=True)
        await self._workers.start(self._arguments(), self._servers.until_ready)
        self._started = True
        self._publish()
        self._following = asyncio.create_task(self._coordinator.follow(), name="follow-plugins")
        count = f"{self._options.workers} worker{'s' if self._options.workers != 1 else ''}"
        _announce(f"Platform-Kernel is ready: http://{show_address(self._http)} (pid {os.getpid()}, {count})")

    async def _watch(self, stopping: asyncio.Task[Any]) -> int:
        """Wait for a signal. What keeps servers and workers alive never ends by itself: if it does, that is our bug."""
        keepers = [*self._servers.keepers, *self._workers.keepers]
        done, _ = await asyncio.wait([stopping, *keepers], return_when=asyncio.FIRST_COMPLETED)
        for keeper in done & set(keepers):
            try:
                keeper.result()
            except Exception:  # noqa: BLE001 - whatever it is, it ends the kernel with a trace in the log
                _log.error("a bug ended the watch over a process; the kernel stops", task=keeper.get_name())
        return 0 if stopping in done else 1

    async def _open_doors(self) -> None:
        management, control = await asyncio.to_thread(_load_doors)
        for door, listener in (
            (management(self).listener(), self._management),
            (control(self).listener(), listen_unix(self._folder.short_run() / "control.sock")),
        ):
            self._listeners.append(door)
            await door.start(listener)

    def _arguments(self) -> dict[str, Any]:
        options = self._options
        return {
            "data_dir": str(self._folder.path),
            "workers": options.workers,
            "http_fd": self._http.fileno(),
            "http": show_address(self._http),
            "grpc": show_address(self._grpc),
            "grpc_tls": self._grpc_tls,
            "management": show_address(self._management),
            "servers": self._servers.addresses(),
            "stamps": str(self._folder.run / "stamps"),
            "profile": options.profile,
            "only": list(options.only),
            "demo": options.demo,
            "overrides": dict(self._settings),
        }

    def _publish(self) -> None:
        """Tell where everything is, whenever that changes."""
        if not self._started:
            return
        content = KernelFile(
            pid=os.getpid(),
            http=show_address(self._http),
            grpc=show_address(self._grpc),
            management=show_address(self._management),
            workers=[worker.pid for worker in self._workers.serving()],
            servers=self._servers.pids(),
        )
        try:
            self._folder.tell(content)
        except OSError as error:
            _log.error("kernel.json cannot be written", reason=error.strerror)

    # -- the end

    async def _stop(self) -> None:
        """Stop everything, in good order where there is time; nothing is left running."""
        self._started = False
        self._signals.stop.set()
        self._http.close()  # each worker has its own copy until it has taken what waits there
        hurry = asyncio.create_task(self._hurry())
        try:
            under_way: list[asyncio.Task[Any] | None] = [*self._reloads, self._following, *self._changing]
            ending = [task for task in under_way if task is not None]
            for task in ending:
                task.cancel()
            await asyncio.gather(*ending, return_exceptions=True)
            await self._installer.close()
            await self._workers.stop(self._limits.stop_limit_s)
            await asyncio.gather(self._servers.stop(SERVERS_STOP_LIMIT_S), *(door.stop() for door in self._listeners))
        finally:
            hurry.cancel()

    async def _hurry(self) -> None:
        await self._signals.again.wait()
        self._workers.kill_all()

    # -- signals

    def _take_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._signals.on_stop)
        loop.add_signal_handler(signal.SIGHUP, self._on_hangup)

    def _on_hangup(self) -> None:
        if self._had_terminal and not _has_terminal():
            self._signals.on_stop()  # the terminal is gone: this is not a person asking for a reload
        elif self._started:
            self._ask_for_reload()

    def _ask_for_reload(self) -> asyncio.Task[None]:
        """One that begins no earlier than now: at once, or after the one under way, whose first workers are older than this."""
        task = self._next_reload
        if task is None:
            task = self._next_reload = asyncio.create_task(self._reload())
            self._reloads.add(task)
            task.add_done_callback(self._reloads.discard)
            task.add_done_callback(_log_reload)
        return task

    async def _reload(self) -> None:
        async with self._reloading:
            self._next_reload = None
            await self._workers.reload()

    # -- what the doors ask

    def serving(self) -> list[Worker]:
        """The workers that serve now."""
        return self._workers.serving()

    def has_started(self) -> bool:
        """Whether everything has been ready once."""
        return self._started

    async def reload(self) -> None:
        """Replace every worker that was there before the call. One at a time: who asks meanwhile waits for the one under way,
        and shares the next one with all others who do.

        Raises:
            WorkerFailed: a new worker does not come up, or the kernel is starting or stopping.
        """
        if not self._started:
            raise WorkerFailed("the kernel is starting or stopping")
        task = self._ask_for_reload()
        await asyncio.wait([task])
        if task.cancelled():
            raise WorkerFailed("the kernel stops")
        task.result()

    async def change(self, change: Change) -> Outcome:
        """Change the plugins. It goes on when the one who asked goes away.

        Raises:
            KernelError: it was refused or failed; everything is as it was.
        """
        if not self._started:
            raise Unavailable("the kernel is starting or stopping; try again")
        task = asyncio.create_task(
            self._coordinator.run(change), name=f"{change.verb} {change.plugin_id or change.what}"
        )
        self._changing.add(task)
        task.add_done_callback(self._changing.discard)
        task.add_done_callback(_retrieve)
        return await asyncio.shield(task)

    @property
    def doing(self) -> str:
        """What the change under way does now; empty when there is none."""
        return self._coordinator.doing

    def stalls(self) -> Mapping[str, Stalls]:
        """How often each plugin has held up an event loop."""
        return self._workers.stalls

    async def _on_change(self, fields: dict[str, Any]) -> dict[str, Any]:
        try:
            made: dict[str, Any] = msgspec.to_builtins(await self.change(msgspec.convert(fields, Change)))
        except Exception as error:  # noqa: BLE001 - the worker is to know it, whatever it is
            return refused(error)
        return made

    def _on_culprit(self, blame: Blame) -> None:
        self._quarantines.add(blame)
        self._coordinator.wake()

    def _on_new(self) -> None:
        """Another worker serves: it may have been told what to keep out before the last quarantine began."""
        self._publish()
        self._coordinator.wake()

    def processes(self) -> dict[str, Any]:
        """Every process of this kernel."""
        now = time.monotonic()
        parent = {"pid": os.getpid(), "uptime_s": int(now - self._begun), "data_dir": str(self._folder.path)}
        servers = [
            {
                "name": one.server.name,
                "pid": one.pid,
                "state": one.state,
                "uptime_s": int(now - one.since),
                "restarts": one.restarts,
            }
            for one in self._servers.running
        ]
        return {"parent": parent, "workers": self._workers.describe(), "servers": servers}

    async def readiness(self) -> tuple[bool, dict[str, Any]]:
        """Whether everything serves that the kernel itself needs; how each worker, server and plugin is."""
        known = self.processes()
        answers = await asyncio.gather(*(_ask(worker, "health") for worker in self._workers.serving()))
        detail = {
            "workers": known["workers"],
            "servers": known["servers"],
            "plugins": [answer.get("plugins", {}) for answer in answers if answer is not None],
        }
        plugins_ok = all(answer is not None and _is_healthy(answer) for answer in answers)
        servers_ok = all(one.state == "ready" for one in self._servers.running)
        return self._started and len(answers) == self._workers.count and servers_ok and plugins_ok, detail

    async def metrics(self) -> list[Family]:
        """What the workers and the parent count."""
        serving = self._workers.serving()
        await asyncio.gather(*(self._ask_metrics(worker) for worker in serving))
        restarts, stalls = self._workers.totals()
        state = KernelState(
            data_folder=self._folder.path,
            profile=self._options.profile,
            begun=self._begun,
            workers_ready=len(serving),
            workers_wanted=self._workers.count,
            worker_restarts=restarts,
            worker_stalls=stalls,
            server_restarts=sum(one.restarts for one in self._servers.running),
            stalls=self._workers.stalls,
        )
        return self._totals.families(kernel_families(state, self._rubbish))

    async def _ask_metrics(self, worker: Worker) -> None:
        answer = await _ask(worker, "metrics")
        if answer is not None:
            try:
                self._totals.report(worker.pid, answer.get("families", []))
            except msgspec.ValidationError as error:
                _log.error("a worker's metrics cannot be read", worker=worker.index, reason=str(error))

    def _on_end(self, worker: Worker, asked: bool) -> None:
        self._totals.retire(worker.pid)
        if not asked:
            self._stamps.touch_all()  # it may have committed a change and died before it told the others
            self._publish()


def _retrieve(task: asyncio.Task[Outcome]) -> None:
    """A failure that nobody waits for any more is in the log already."""
    if not task.cancelled():
        task.exception()


def _load_doors() -> tuple[type[Management], type[Control]]:
    """Loading aiohttp takes longer than a warm start of the servers, so it happens beside that, in a thread."""
    from host.control import Control  # noqa: PLC0415 - as above
    from host.management import Management  # noqa: PLC0415 - as above

    return Management, Control


async def _ask(worker: Worker, kind: str) -> dict[str, Any] | None:
    """What a worker answers; None when it does not, in time."""
    try:
        return await worker.channel.request(kind, limit_s=QUESTION_LIMIT_S)
    except (ChannelClosed, ChannelFull, RemoteFailed, TimeoutError):
        return None


def _is_healthy(answer: Mapping[str, Any]) -> bool:
    """Third parties' plugins do not make a kernel unready: it serves everything else."""
    plugins: Mapping[str, Mapping[str, Any]] = answer.get("plugins", {})
    return all(health.get("ok", True) for name, health in plugins.items() if name.startswith("kernel."))


def _log_reload(task: asyncio.Task[None]) -> None:
    if task.cancelled():
        return
    error = task.exception()
    if error is None:
        _log.info("all workers were replaced")
    else:
        _log.error("the workers were not all replaced", reason=str(error))


def _announce(text: str) -> None:
    """Text for the person at the terminal; it goes to no log. One who has gone away misses it."""
    with suppress(OSError):
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()


def _has_terminal() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True


def _read_limits(data_dir: Path, overrides: Mapping[str, Any]) -> WorkerLimits:
    host = _host_settings(data_dir, overrides)
    return WorkerLimits(host.start_limit_s, host.stall_limit_s, host.stop_limit_s)


def _host_settings(data_dir: Path, overrides: Mapping[str, Any]) -> HostSettings:
    settings = read({SECTION: HostSettings}, data_dir=data_dir, overrides=overrides, others=ANY_SECTION)
    try:
        host: HostSettings = settings.section(SECTION)
    except SettingsInvalid as error:
        raise StartRefused(error.detail) from error
    return host
