"""One worker process: it loads the plugins, serves the doors, and answers its parent until that tells it to stop."""

from __future__ import annotations

import asyncio
import gc
import os
import secrets
import signal
import socket
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct, convert, to_builtins

from host.changes.follower import Follower
from host.changes.orders import CHANGE, PLUGINS, Change, Outcome, Quarantine
from host.changes.refusal import accepted, refused
from host.channel import Channel, ChannelClosed, ChannelFull
from host.discovery import Found
from host.http import RestDoor
from host.kernel import Kernel, Place
from host.last_frames import frames_file, keep_frames
from host.lifeline import end_with_parent
from host.observe import install, sink
from host.process_metrics import RubbishClock, process_families
from host.roster import Roster
from host.rpc_address import TlsFiles
from host.runtime import cursor_key
from host.stamps import FileStamps
from host.startup import StartFailed, Startup, preload
from host.watchdog import Stall, Watchdog
from plugin_api.errors import Unavailable

if TYPE_CHECKING:
    from host.rpc import RpcDoor

    _Rpc = tuple[type[RpcDoor], Callable[[TlsFiles], Any]]

HEARTBEAT_S: Final = 0.4
"""Several within the shortest time after which the parent takes a worker for hung (`host.stall_limit_s`)."""
BEATS: Final = 4
"""Turns of the loop from one heartbeat to the next."""
STALL_NAMED_AFTER_S: Final = 0.5
DRAIN_S: Final = 6.0
BACKLOG: Final = 1_024
READY_LIMIT_S: Final = 30.0
CHANGE_LIMIT_S: Final = 900.0


class WorkerStart(Struct, frozen=True):
    """What the parent tells a worker first."""

    data_dir: str
    worker: int
    http_fd: int
    servers: dict[str, str]
    profile: str = "embedded"
    only: list[str] = []
    overrides: dict[str, Any] = {}
    """Settings of the command line by `section.name`; everything else the worker reads from its own sources."""
    demo: bool = True
    quarantined: list[Quarantine] = []
    grpc: str | None = None
    """Where to listen for gRPC; the parent holds the port."""
    grpc_tls: TlsFiles | None = None


class Worker:
    """The life of one worker process."""

    def __init__(self, channel_fd: int) -> None:
        self._channel_fd = channel_fd
        self._started: asyncio.Future[WorkerStart] = asyncio.get_running_loop().create_future()
        self._stopping = asyncio.Event()
        self._drain_s = DRAIN_S
        self._idle_s = 0.0
        self._channel: Channel | None = None
        self._kernel: Kernel | None = None
        self._startup: Startup | None = None
        self._rubbish = RubbishClock()

    async def run(self) -> int:
        """Serve until told to stop, or until the parent is gone; the exit status."""
        loop = asyncio.get_running_loop()
        sink.use_loop(loop)
        self._rubbish.start()
        end_with_parent(DRAIN_S + 2.0)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, lambda: None)  # the parent says when; a terminal's Ctrl-C reaches us too
        end = socket.socket(fileno=self._channel_fd)
        self._channel = await Channel.open(end, self._handlers(), self._parent_is_gone)
        found = preload()
        loading = asyncio.create_task(asyncio.to_thread(_load_rpc), name="load-rpc")
        try:
            return await self._serve(await self._started, found, loading)
        finally:
            sink.flush()

    def _handlers(self) -> Mapping[str, Any]:
        return {
            "start": self._on_start,
            "stop": self._on_stop,
            "metrics": self._on_metrics,
            "health": self._on_health,
            "control": self._on_control,
            PLUGINS: self._on_plugins,
        }

    def _on_start(self, fields: dict[str, Any]) -> None:
        if not self._started.done():
            self._started.set_result(convert(fields, WorkerStart))

    def _on_stop(self, fields: dict[str, Any]) -> None:
        self._drain_s = min(float(fields.get("limit_s", DRAIN_S)), DRAIN_S)
        self._idle_s = float(fields.get("idle_s", 0.0))
        self._stopping.set()

    def _parent_is_gone(self) -> None:
        # Nobody restarts or stops us any more, and the next kernel must find no stale worker.
        self._stopping.set()
        if not self._started.done():
            self._started.cancel()

    def _send(self, kind: str, **fields: Any) -> None:
        if self._channel is not None:
            try:
                self._channel.send(kind, **fields)
            except (ChannelClosed, ChannelFull):
                self._stopping.set()

    # ----------------------------------------------------------------------------------- serving

    async def _serve(self, start: WorkerStart, found: list[Found], loading: Awaitable[_Rpc]) -> int:
        kernel = self._kernel = make_kernel(start, lambda text: self._send("announce", text=text))
        kernel.change = self._ask_for
        overrides = start.overrides if start.demo else {**start.overrides, "iam.demo": False}
        startup = self._startup = Startup(kernel, start.only, overrides, found, start.quarantined, self._loading)
        watchdog = Watchdog(STALL_NAMED_AFTER_S, startup.owner_of, self._on_stall)
        beat = asyncio.create_task(self._heartbeat(watchdog), name="heartbeat")
        try:
            await startup.run()
            await self._catch_up(startup)
        except StartFailed as error:
            self._send("failed", text=str(error))
            await startup.stop()
            return 1
        door = RestDoor(kernel, startup.pages())
        server = await self._listen(door, start.http_fd)
        rpc = await _listen_rpc(kernel, start, await loading)
        watchdog.start()  # not before: importing plugins blocks the loop, and that is no stall
        kernel.is_ready = True
        gc.freeze()  # what start-up made stays; later collections need not look at it
        await self._stopping.wait()
        kernel.is_ready = False
        await asyncio.gather(self._close(server, door), *([rpc.close(self._drain_s)] if rpc is not None else []))
        await startup.stop()
        watchdog.stop()
        beat.cancel()
        return 0

    async def _catch_up(self, startup: Startup) -> None:
        """Ask the parent to let us serve; whoever missed a change while starting follows it first."""
        roster = startup.roster
        assert self._channel is not None, "opened before anything else"
        while roster is not None and not self._stopping.is_set():
            try:
                told = await self._channel.request("ready", limit_s=READY_LIMIT_S, **_how_far(roster))
            except (ChannelClosed, ChannelFull, TimeoutError) as error:
                raise StartFailed("the parent does not answer") from error
            if told.get("serve"):
                return
            await roster.converge()

    def _loading(self, plugin_id: str, package: str) -> None:
        """Past the event loop, which the plugin may block next."""
        if self._channel is not None:
            told = {"plugin": plugin_id, "package": package}
            if not (plugin_id and self._channel.send_from_thread("loading", **told)):
                self._send("loading", **told)

    async def _ask_for(self, change: Change) -> Outcome:
        """Let the parent change the plugins. Raises as `Coordinator.run` does."""
        if self._channel is None:
            raise Unavailable("the kernel is starting or stopping; try again")
        try:
            reply = await self._channel.request(CHANGE, limit_s=CHANGE_LIMIT_S, **to_builtins(change))
        except (ChannelClosed, ChannelFull, TimeoutError) as error:
            raise Unavailable("the change goes on, and its outcome is not known yet; see `pk plugins list`") from error
        return convert(accepted(reply), Outcome)

    async def _on_plugins(self, fields: dict[str, Any]) -> dict[str, Any]:
        if self._startup is None or self._startup.roster is None or self._kernel is None:
            return refused(Unavailable("this worker is starting"))
        return await Follower(self._kernel, self._startup.roster).carry_out(fields)

    async def _listen(self, door: RestDoor, descriptor: int) -> asyncio.Server:
        listener = socket.socket(fileno=descriptor)
        listener.setblocking(False)
        return await asyncio.get_running_loop().create_server(door.server, sock=listener, backlog=BACKLOG)

    async def _close(self, server: asyncio.Server, door: RestDoor) -> None:
        """Take no new connection, say `Connection: close` on the next answers, end streams, let calls end, hang up."""
        server.close()
        door.close()
        idle_s = min(self._idle_s, self._drain_s)
        await door.drain(idle_s, self._drain_s - idle_s)

    async def _heartbeat(self, watchdog: Watchdog) -> None:
        assert self._kernel is not None, "made before it beats"
        lag = self._kernel.metrics.histogram(
            "pk_loop_lag_seconds", "How late a worker's event loop turns, ten times a second."
        )
        pause_s = HEARTBEAT_S / BEATS
        while True:
            for _ in range(BEATS):
                watchdog.beat()
                due = time.monotonic() + pause_s
                await asyncio.sleep(pause_s)
                if self._kernel.is_ready:  # until then imports block the loop, and nobody waits for it
                    lag.observe(max(0.0, time.monotonic() - due))
            self._send("heartbeat")

    def _on_stall(self, stall: Stall) -> None:
        sink.line(
            "warning",
            "the event loop has stalled",
            {"seconds": stall.seconds, "plugin": stall.plugin_id, "frame": stall.frame},
        )
        if self._channel is not None and self._startup is not None:
            package = self._startup.package_of(stall.frame)
            self._channel.send_from_thread("stalled", plugin=stall.plugin_id, frame=stall.frame, package=package)

    # ------------------------------------------------------------------------- the parent's questions

    def _on_metrics(self, fields: dict[str, Any]) -> dict[str, Any]:
        if self._kernel is None:
            return {"families": []}
        own = process_families(f"worker {self._kernel.state.worker}", self._rubbish)
        return {"families": [*self._kernel.metrics.families(), *to_builtins(own)]}

    async def _on_health(self, fields: dict[str, Any]) -> dict[str, Any]:
        return await self._startup.health() if self._startup is not None else {"ok": False, "plugins": {}}

    async def _on_control(self, fields: dict[str, Any]) -> dict[str, Any]:
        if self._startup is None or self._kernel is None or not self._kernel.is_ready:
            return {"status": 503, "body": {"detail": "the kernel is starting or stopping; try again"}}
        return await self._startup.control(fields)


def _load_rpc() -> _Rpc:
    """Loading the library takes as long as a plugin's start, so it happens beside that, in a thread."""
    from host.rpc import RpcDoor  # noqa: PLC0415 - as above
    from host.rpc_tls import make_credentials  # noqa: PLC0415 - as above

    return RpcDoor, make_credentials


async def _listen_rpc(kernel: Kernel, start: WorkerStart, rpc: _Rpc) -> RpcDoor | None:
    if start.grpc is None:
        return None
    make_door, make_credentials = rpc
    door = make_door(kernel)
    await door.start(start.grpc, make_credentials(start.grpc_tls) if start.grpc_tls is not None else None)
    return door


def _how_far(roster: Roster) -> dict[str, Any]:
    return {"sequence": roster.desired.sequence, "failing": roster.is_failing}


def make_kernel(start: WorkerStart, announce: Any) -> Kernel:
    """The empty kernel of this process."""
    data_folder = Path(start.data_dir)
    place = Place(data_folder, start.profile, start.worker, start.servers)
    stamps = FileStamps(data_folder / "run" / "stamps")
    return Kernel(place, stamps, cursor_key(host_secret(data_folder / "secrets" / "host.key")), announce)


def host_secret(path: Path) -> bytes:
    """The host's own secret, made at the first start: 32 random bytes, 0600; of two racing makers one wins."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not path.exists():
        draft = path.with_name(f"{path.name}.{os.getpid()}.{time.monotonic_ns()}")
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_bytes(32))
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(draft, path)
        except FileExistsError:
            pass
        finally:
            draft.unlink()
    return path.read_bytes()


def main(arguments: list[str] | None = None) -> int:
    """Entry point: `python -P -m host.worker CHANNEL_FD DATA_FOLDER`, started by the parent only."""
    words = sys.argv[1:] if arguments is None else arguments
    install()
    with suppress(OSError):  # on a full disk it goes without
        keep_frames(frames_file(Path(words[1]), os.getpid()))

    async def live() -> int:
        return await Worker(int(words[0])).run()

    try:
        import uvloop  # noqa: PLC0415 - not on every platform
    except ImportError:
        return asyncio.run(live())
    return uvloop.run(live())


if __name__ == "__main__":
    try:
        sys.exit(main())
    except asyncio.CancelledError:
        sys.exit(0)
