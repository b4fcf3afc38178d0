"""Worker processes: started before the servers are ready, watched by their heartbeats, replaced when they die or hang."""

from __future__ import annotations

import asyncio
import signal
import socket
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal

from msgspec import Struct

from host.changes.orders import CHANGE, Blame
from host.channel import Channel, ChannelClosed, ChannelFull, Fields
from host.children import WORKER, Backoff, Register, show_status
from host.last_frames import ASKED_BY, forget_frames, frames_file, read_frames
from host.observe import PluginLog
from host.store.packages import stored_place
from host.uploads import forget_uploads
from plugin_api.servers import StartRefused

TICK_S: Final = 0.5
STALLS_KEPT: Final = 1_000
"""Plugins of which stalls are counted."""
CLOSED_WAIT_S: Final = 1.0
FRAMES_LOOKS: Final = 20
"""How often it is looked whether a hung worker has written what it runs."""
FRAMES_LOOK_EVERY_S: Final = 0.05
IDLE_S: Final = 2.0
"""How long clients of a worker that is replaced may keep an idle connection to it. When all stop, nobody could serve them."""
_STALLED: Final = "it stopped a worker's event loop"
_log = PluginLog("host")


class WorkerLimits(Struct, frozen=True):
    """Settings of section `host` that bound a worker's life."""

    start_limit_s: float = 120.0
    """From the start to `ready`."""
    stall_limit_s: float = 10.0
    """Without a heartbeat a worker counts as hung after this."""
    stop_limit_s: float = 10.0
    """What it may take to finish its calls."""


class WorkerFailed(Exception):
    """A worker did not become ready; the text is its reason."""


class Stall(Struct, frozen=True):
    """A worker that hung, and whose code its watchdog saw running."""

    worker: int
    plugin: str
    frame: str
    package: str = ""
    """See `Blame`."""


class Stalls(Struct, frozen=True):
    """How often one plugin has held up an event loop since the kernel started."""

    count: int
    frame: str
    """Where, the last time."""


@dataclass(eq=False)
class Worker:
    """One worker process."""

    index: int
    process: asyncio.subprocess.Process
    channel: Channel = field(init=False)
    ready: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    """Done when it serves; fails with WorkerFailed."""
    state: Literal["starting", "ready", "draining", "hung", "gone"] = "starting"
    since: float = field(default_factory=time.monotonic)
    heard: float | None = None
    """When its last heartbeat came; None before the first."""
    stall: Stall | None = None
    loading: str = ""
    """The plugin whose code it runs for the first time now: if it ends meanwhile, that was why."""
    loading_package: str = ""
    blame: Blame | None = None
    """Whose fault its end was, where that is known."""
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    """It is gone, and `blame` is final."""

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    async def ask(self, kind: str, fields: Mapping[str, Any], limit_s: float) -> Mapping[str, Any]:
        """Send a message and wait for the reply. Raises as `Channel.request` does."""
        return await self.channel.request(kind, limit_s=limit_s, **fields)

    async def blamed(self) -> Blame | None:
        """Wait until it is gone; whose fault that was, where it is known."""
        await self.ended.wait()
        return self.blame

    def kill(self) -> None:
        """End it at once."""
        if self.process.returncode is None:
            with suppress(ProcessLookupError):
                self.process.kill()

    def fail(self, why: str) -> None:
        """Tell whoever waits for it that it will not serve."""
        if not self.ready.done():
            self.ready.set_exception(WorkerFailed(why))

    async def drain(self, limit_s: float, idle_s: float = 0.0) -> None:
        """Let it finish its calls, for at most `limit_s`; over when its process is gone. Clients that keep a connection and
        have no call under way are given `idle_s` of that for one more.

        One that does not serve yet has no calls and is killed.
        """
        serves, self.state = self.state == "ready", "draining"
        if not serves:
            self.kill()
        with suppress(ChannelClosed, ChannelFull):
            self.channel.send("stop", limit_s=max(limit_s - 0.5, 0.0), idle_s=idle_s)
        try:
            async with asyncio.timeout(limit_s):
                await self.process.wait()
        except TimeoutError:
            _log.warning("a worker did not stop in time and is killed", worker=self.index, pid=self.pid)
        finally:
            self.kill()
        await self.process.wait()

    async def until_ready(self) -> None:
        """Wait until it serves.

        Raises:
            WorkerFailed: it said that it cannot, or ended, or took too long.
        """
        await asyncio.shield(self.ready)


class Launch(Struct, frozen=True):
    """How a worker is started."""

    command: Sequence[str]
    """The number of its end of the channel and the data folder are added as arguments."""
    data_dir: str
    inherit: tuple[int, ...]
    """Descriptors that it shares: the listening sockets."""


class Notices(Struct, frozen=True):
    """Whom the pool tells what happened."""

    changed: Callable[[], None]
    """Another process serves now."""
    ended: Callable[[Worker, bool], None]
    """A worker is gone; whether it had been asked to go."""
    retiring: Callable[[Worker], Awaitable[None]]
    """A worker is about to be drained: the last moment to ask it something."""
    announce: Callable[[str], None]
    """Text for the person who started the kernel."""
    admits: Callable[[int, bool], bool]
    """Whether a worker that runs the plugins of this change may serve; whether some of them failed in it."""
    changes: Callable[[Fields], Awaitable[Fields]]
    """An operator wants a change of plugins; the reply."""
    culprit: Callable[[Blame], None]
    """A third party's plugin stopped a worker; it is to be kept out."""
    quarantined: Callable[[], list[Any]]
    """What a new worker is to keep out."""


@dataclass
class _Slot:
    """One of the N places; it is never without a worker for long."""

    index: int
    current: Worker | None = None
    next: asyncio.Task[Worker] | None = None
    """A rolling restart is under way here."""
    restarts: int = 0
    stalls: int = 0
    backoff: Backoff = field(default_factory=Backoff)


class Workers:
    """The pool of workers. `launch` starts the processes, `start` lets them serve, `stop` ends them."""

    def __init__(self, count: int, launch: Launch, limits: WorkerLimits, register: Register, notices: Notices) -> None:
        self._launch = launch
        self._limits = limits
        self._register = register
        self._notices = notices
        self._slots = [_Slot(index) for index in range(count)]
        self._alive: set[Worker] = set()
        self._arguments: asyncio.Future[Mapping[str, Any]] = asyncio.get_running_loop().create_future()
        self._until_servers: Callable[[], Awaitable[None]] | None = None
        self._watchers: set[asyncio.Task[None]] = set()
        self._starters: set[asyncio.Task[None]] = set()
        self.stalls: dict[str, Stalls] = {}
        """By plugin; under the empty name what no plugin did."""
        self.keepers: list[asyncio.Task[None]] = []
        """These end only by `stop`, or by a bug of ours."""

    # -- what others see

    def serving(self) -> list[Worker]:
        """The workers that serve now, by index."""
        current = [slot.current for slot in self._slots]
        return [worker for worker in current if worker is not None and worker.state == "ready"]

    @property
    def count(self) -> int:
        """How many there should be."""
        return len(self._slots)

    def describe(self) -> list[dict[str, Any]]:
        """Each slot for `pk doctor`."""
        now = time.monotonic()
        return [_describe(slot, now) for slot in self._slots]

    def totals(self) -> tuple[int, int]:
        """Replacements after a death, and stalls, since the kernel started."""
        return sum(slot.restarts for slot in self._slots), sum(slot.stalls for slot in self._slots)

    # -- life

    async def launch(self) -> None:
        """Start the processes, so that they load their code while the servers come up; `start` follows.

        Raises:
            StartRefused: one cannot be started.
        """
        forget_frames(Path(self._launch.data_dir))
        forget_uploads(Path(self._launch.data_dir))
        self.keepers.append(asyncio.create_task(self._watch_heartbeats(), name="watch-heartbeats"))
        try:
            for slot in self._slots:
                slot.current = await self._spawn(slot.index)
        except WorkerFailed as error:
            raise StartRefused(str(error)) from error

    async def start(self, arguments: Mapping[str, Any], until_servers: Callable[[], Awaitable[None]]) -> None:
        """Let the workers start and wait until all serve; keep their number from then on.

        `until_servers` is awaited before a later worker is let start.

        Raises:
            StartRefused: one of them failed; `stop` is still to be called.
        """
        self._arguments.set_result(arguments)
        self._until_servers = until_servers
        try:
            await asyncio.gather(*(self._start_first(slot) for slot in self._slots))
        except WorkerFailed as error:
            raise StartRefused(str(error)) from error
        self.keepers += [
            asyncio.create_task(self._keep(slot), name=f"keep-worker-{slot.index}") for slot in self._slots
        ]

    async def _start_first(self, slot: _Slot) -> None:
        """Wait until a worker serves here. One that a plugin stopped gets a successor, which starts without that plugin."""
        while (worker := slot.current) is not None and worker.state != "ready":
            try:
                await worker.until_ready()
            except WorkerFailed:
                if worker.blame is None:
                    raise
                slot.current = await self._spawn(slot.index)

    async def reload(self) -> None:
        """Replace every worker by a new one, one after the other: a new one serves before its old one is drained. One at
        a time.

        Raises:
            WorkerFailed: a new worker did not become ready; its old one and those after it go on.
        """
        for slot in self._slots:
            await self._replace(slot)

    async def stop(self, limit_s: float) -> None:
        """Drain all workers at once, kill those that are not done after `limit_s`. None is left."""
        doomed: list[asyncio.Task[Any]] = [
            *self.keepers,
            *self._starters,
            *(slot.next for slot in self._slots if slot.next is not None),
        ]
        for task in doomed:
            task.cancel()
        await asyncio.gather(*doomed, return_exceptions=True)
        await asyncio.gather(*(worker.drain(limit_s) for worker in set(self._alive)))
        await asyncio.gather(*self._watchers)

    def kill_all(self) -> None:
        """Cut a stop short."""
        for worker in self._alive:
            worker.kill()

    # -- one worker

    async def _spawn(self, index: int) -> Worker:
        ours, theirs = socket.socketpair()
        with theirs:
            words = [*self._launch.command, str(theirs.fileno()), self._launch.data_dir]
            try:
                process = await asyncio.create_subprocess_exec(
                    *words,
                    stdin=asyncio.subprocess.DEVNULL,
                    pass_fds=(theirs.fileno(), *self._launch.inherit),
                    start_new_session=True,  # a Ctrl-C in our terminal is for us to handle
                )
            except OSError as error:
                ours.close()
                raise WorkerFailed(f"a worker cannot be started: {error.strerror}") from error
        worker = Worker(index, process)
        self._adopt(worker)
        try:
            await worker.channel.attach(ours)
        except BaseException:
            worker.kill()
            raise
        _run(self._let_start(worker), self._starters)
        return worker

    def _adopt(self, worker: Worker) -> None:
        handlers: dict[str, Callable[[Worker, Fields], Awaitable[Fields] | Fields | None]] = {
            "ready": self._on_ready,
            "failed": self._on_failed,
            "heartbeat": self._on_heartbeat,
            "stalled": self._on_stalled,
            "loading": self._on_loading,
            "announce": self._on_announce,
            CHANGE: self._on_change,
        }
        worker.channel = Channel(
            {kind: partial(handle, worker) for kind, handle in handlers.items()}, partial(_closed, worker)
        )
        worker.ready.add_done_callback(_retrieve)
        self._alive.add(worker)
        self._register.add(WORKER, worker.pid, signal.SIGTERM)
        _run(self._watch(worker), self._watchers)

    async def _let_start(self, worker: Worker) -> None:
        """Give it its arguments when the servers are there, and hold it to its limit."""
        arguments = await asyncio.shield(self._arguments)
        if self._until_servers is not None:
            await self._until_servers()
        more = {"worker": worker.index, "quarantined": self._notices.quarantined()}
        with suppress(ChannelClosed, ChannelFull):
            worker.channel.send("start", **{**arguments, **more})
        limit_s = self._limits.start_limit_s
        await asyncio.wait([worker.ready], timeout=limit_s)
        if not worker.ready.done():
            self._accuse_loading(worker, f"a worker that brought it up was not ready after {limit_s:g} s")
            worker.fail(f"worker {worker.index} was not ready after {limit_s:g} s")
            worker.kill()

    async def _watch(self, worker: Worker) -> None:
        """Wait for its end and clear up after it."""
        status = await worker.process.wait()
        asked, worker.state = worker.state == "draining", "gone"
        worker.channel.close()
        self._alive.discard(worker)
        self._register.remove(worker.pid)
        if not asked:
            _log.error("a worker ended", worker=worker.index, pid=worker.pid, status=show_status(status))
            self._accuse_running(worker, f"it ended a worker with {show_status(status)}")
            self._accuse_loading(worker, f"a worker ended with {show_status(status)} while it was brought up")
        self._frames(worker).unlink(missing_ok=True)
        worker.ended.set()
        worker.fail(f"worker {worker.index} ended with {show_status(status)} before it was ready")
        self._notices.ended(worker, asked)

    def _frames(self, worker: Worker) -> Path:
        return frames_file(Path(self._launch.data_dir), worker.pid)

    def _accuse_running(self, worker: Worker, how: str) -> None:
        """By what the worker wrote when it crashed or was asked: the innermost code of a plugin of the store."""
        folder = Path(self._launch.data_dir) / "plugins"
        for frame in read_frames(self._frames(worker)):
            plugin_id, package = stored_place(folder, frame)
            if plugin_id:
                self._accuse(worker, Blame(plugin_id, package, f"{how} ({frame})"))
                return

    def _accuse_loading(self, worker: Worker, how: str) -> None:
        if worker.loading:
            self._accuse(worker, Blame(worker.loading, worker.loading_package, how))

    def _accuse(self, worker: Worker, blame: Blame) -> None:
        """Say once whose fault the end of a worker is; nobody but the kernel is kept in whatever it does."""
        if worker.blame is None and not blame.plugin.startswith("kernel."):
            worker.blame = blame
            self._notices.culprit(blame)

    def _on_ready(self, worker: Worker, fields: Fields) -> Fields:
        """It has started; whether it may take requests. One that missed a change has to catch up first."""
        serves = self._notices.admits(int(fields.get("sequence", 0)), bool(fields.get("failing")))
        if serves and not worker.ready.done():
            worker.state, worker.heard = "ready", time.monotonic()
            worker.ready.set_result(None)
        return {"serve": serves}

    def _on_failed(self, worker: Worker, fields: Fields) -> None:
        worker.fail(str(fields.get("text", f"worker {worker.index} cannot start")))

    def _on_heartbeat(self, worker: Worker, _: Fields) -> None:
        worker.heard, worker.stall = time.monotonic(), None

    def _on_stalled(self, worker: Worker, fields: Fields) -> None:
        told = {name: str(fields.get(name, "")) for name in ("plugin", "frame", "package")}
        before, stall = worker.stall, Stall(worker.index, **told)
        worker.stall = stall
        if before is not None and before.plugin == stall.plugin:
            return  # the same one, seen again
        count = self.stalls[stall.plugin].count + 1 if stall.plugin in self.stalls else 1
        if stall.plugin in self.stalls or len(self.stalls) < STALLS_KEPT:
            self.stalls[stall.plugin] = Stalls(count, stall.frame)

    def _on_loading(self, worker: Worker, fields: Fields) -> None:
        worker.loading, worker.loading_package = str(fields.get("plugin", "")), str(fields.get("package", ""))

    async def _on_change(self, _: Worker, fields: Fields) -> Fields:
        return await self._notices.changes(fields)

    def _on_announce(self, _: Worker, fields: Fields) -> None:
        self._notices.announce(str(fields.get("text", "")))

    # -- keeping their number

    async def _keep(self, slot: _Slot) -> None:
        while True:
            worker = slot.current
            assert worker is not None, "a slot is kept after its launch"
            await worker.process.wait()
            if slot.next is not None:
                await asyncio.wait([slot.next])
            if slot.current is worker:
                await self._restart(slot, time.monotonic() - worker.since)

    async def _restart(self, slot: _Slot, lived_s: float) -> None:
        while True:
            await asyncio.sleep(slot.backoff.delay_s(lived_s))
            slot.restarts += 1
            try:
                slot.current = await self._spawn_ready(slot.index)
            except WorkerFailed as error:
                _log.error("a worker cannot be replaced; it is tried again", worker=slot.index, reason=str(error))
                lived_s = 0.0
            else:
                _log.info("a worker was replaced", worker=slot.index, pid=slot.current.pid)
                self._notices.changed()
                return

    async def _spawn_ready(self, index: int) -> Worker:
        worker = await self._spawn(index)
        try:
            await worker.until_ready()
        except BaseException:
            worker.kill()
            await worker.process.wait()
            raise
        return worker

    async def _replace(self, slot: _Slot) -> None:
        slot.next = asyncio.create_task(self._spawn_ready(slot.index))
        try:
            fresh = await slot.next
            old, slot.current = slot.current, fresh
        finally:
            slot.next = None
        self._notices.changed()
        if old is not None and old.state == "ready":
            await self._notices.retiring(old)
            await old.drain(self._limits.stop_limit_s, IDLE_S)

    async def _watch_heartbeats(self) -> None:
        last = time.monotonic()
        while True:
            await asyncio.sleep(TICK_S)
            now = time.monotonic()
            was_held_up, last = now - last > TICK_S + self._limits.stall_limit_s / 2, now
            for worker in set(self._alive):
                if was_held_up and worker.heard is not None:
                    worker.heard = now  # what it sent meanwhile waits unread
                if worker.state in ("starting", "ready") and self._is_silent(worker, now):
                    worker.state = "hung"
                    _run(self._end_hung(worker), self._watchers)

    def _is_silent(self, worker: Worker, now: float) -> bool:
        """Only its first heartbeat tells that its loop runs: before, it loads code."""
        return worker.heard is not None and now - worker.heard > self._limits.stall_limit_s

    async def _end_hung(self, worker: Worker) -> None:
        """Find out what holds it up, and kill it."""
        stall = worker.stall or Stall(worker.index, "", "")
        self._slots[worker.index].stalls += 1
        if stall.plugin:
            self._accuse(worker, Blame(stall.plugin, stall.package, f"{_STALLED} ({stall.frame})"))
        else:
            await self._ask_frames(worker)
            self._accuse_running(worker, _STALLED)
            self._accuse_loading(worker, f"{_STALLED} while it was brought up")
        hung_in = worker.blame.plugin if worker.blame is not None else stall.plugin
        _log.error(
            "a worker hung and is killed", worker=worker.index, pid=worker.pid, hung_in=hung_in, frame=stall.frame,
        )  # fmt: skip
        worker.fail(f"worker {worker.index} hung in {hung_in or 'the kernel'} ({stall.frame or 'no frame known'})")
        worker.kill()

    async def _ask_frames(self, worker: Worker) -> None:
        """Its watchdog could not say what it runs, so the process itself is asked, past Python."""
        file = self._frames(worker)
        if not file.exists():
            return  # it is not so far that it could answer: the signal would end it
        with suppress(ProcessLookupError):
            worker.process.send_signal(ASKED_BY)
        for _ in range(FRAMES_LOOKS):
            if read_frames(file):
                return
            await asyncio.sleep(FRAMES_LOOK_EVERY_S)


def _run(work: Coroutine[Any, Any, None], tasks: set[asyncio.Task[None]]) -> None:
    task = asyncio.create_task(work)
    tasks.add(task)
    task.add_done_callback(tasks.discard)


def _closed(worker: Worker) -> None:
    """A worker that closed its channel cannot be led any more. Mostly it is just ending, with a status to be seen."""
    if worker.state not in ("draining", "gone"):
        asyncio.get_running_loop().call_later(CLOSED_WAIT_S, worker.kill)


def _retrieve(future: asyncio.Future[None]) -> None:
    """A failure that nobody waits for any more is not an error of its own."""
    if not future.cancelled():
        future.exception()


def _describe(slot: _Slot, now: float) -> dict[str, Any]:
    worker = slot.current
    found: dict[str, Any] = {"worker": slot.index, "restarts": slot.restarts, "stalls": slot.stalls}
    if worker is None:
        return {**found, "pid": None, "state": "starting", "uptime_s": 0}
    return {**found, "pid": worker.pid, "state": worker.state, "uptime_s": int(now - worker.since)}
