"""Starting the trial's process, watching it, and saying what became of it."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from host.finding import Finding
from host.trial.findings import FRAMES_NAME, PHASES, Report, Request, Trial, finding

LIMIT_S: Final = 20.0
START_LIMIT_S: Final = 60.0
"""For Python itself and the host's own modules; counted apart, for a busy machine is no fault of the package."""
REPORT_BYTES_MAX: Final = 8 * 1_048_576
OUTPUT_BYTES_MAX: Final = 4_096
END_LIMIT_S: Final = 5.0
_FRAME: Final = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+) in ')


async def try_out(
    folder: Path,
    target: str,
    plugin_id: str,
    limit_s: float = LIMIT_S,
    names: Collection[str] | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Trial:
    """Register a package once in a process of its own; see `Trying.of`."""
    async with trying() as process:
        return await process.of(folder, target, plugin_id, limit_s, names, settings)


@asynccontextmanager
async def trying() -> AsyncIterator[Trying]:
    """Start a trial's process, for a package that may not be there yet: meanwhile it loads the host's own modules.

    It is gone afterwards, with all that it started.
    """
    with TemporaryDirectory(prefix="pk-trial-") as place:
        process = await _Process.start(Path(place))
        try:
            yield Trying(process)
        finally:
            await process.end()


class Trying:
    """A trial's process that waits for its package."""

    def __init__(self, process: _Process) -> None:
        self._process = process

    @property
    def pid(self) -> int:
        """Its id in the system."""
        return self._process.process.pid

    async def of(
        self,
        folder: Path,
        target: str,
        plugin_id: str,
        limit_s: float = LIMIT_S,
        names: Collection[str] | None = None,
        settings: Mapping[str, Any] | None = None,
        data_dir: Path | None = None,
    ) -> Trial:
        """Register a package once; what it found, `hangs` and `crashes` included. For one package only.

        `names` as in `host.loader.load`; `settings` are values of the plugin's section, over those of the environment and,
        with the `data_dir` of a kernel that was started in this folder, over those of its `pk.toml`.
        Ends at most `limit_s` after the package's first line ran; then the process does nothing any more.
        """
        named = list(names) if names is not None else None
        request = Request(str(folder), target, plugin_id, named, limit_s, dict(settings or {}))
        if data_dir is not None:
            request = replace(request, data_dir=str(data_dir), cwd=str(Path.cwd()))
        has_hung = not await self._process.watch(request)
        await self._process.end()
        return self._process.heard.trial or _lost(request, self._process, has_hung=has_hung)


@dataclass
class _Heard:
    """What the process has written so far."""

    phase: str = "start"
    trial: Trial | None = None
    output: bytes = b""
    begun: asyncio.Event = field(default_factory=asyncio.Event)
    over: asyncio.Event = field(default_factory=asyncio.Event)
    """The outcome is there, or none can come any more."""


class _Process:
    def __init__(
        self,
        place: Path,
        process: asyncio.subprocess.Process,
        reports: asyncio.StreamReader,
        pipe: asyncio.ReadTransport,
    ) -> None:
        self.place = place
        self._pipe = pipe
        self.process = process
        self.heard = _Heard()
        self._has_ended = False
        self._reading = [
            asyncio.create_task(self._read_reports(reports)),
            asyncio.create_task(self._read_output()),
            asyncio.create_task(self._wait()),
        ]

    @classmethod
    async def start(cls, place: Path) -> _Process:
        """Start the process in an empty folder."""
        inner, outer = os.pipe()
        try:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", "host.trial", str(outer)),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                cwd=place,
                start_new_session=True,
                pass_fds=(outer,),
            )
        except BaseException:
            os.close(inner)
            raise
        finally:
            os.close(outer)
        reports = asyncio.StreamReader()
        protocol = asyncio.StreamReaderProtocol(reports)
        pipe, _ = await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, os.fdopen(inner, "rb", 0))
        return cls(place, process, reports, pipe)

    async def watch(self, request: Request) -> bool:
        """Give it its work and wait; False when it took too long."""
        assert self.process.stdin is not None
        self.process.stdin.write(msgspec.json.encode(request))
        with suppress(ConnectionError):  # it may be over before it has read anything
            await self.process.stdin.drain()
        self.process.stdin.close()
        try:
            async with asyncio.timeout(START_LIMIT_S):
                await self.heard.begun.wait()
            async with asyncio.timeout(request.limit_s):
                await self.heard.over.wait()
        except TimeoutError:
            return False
        return True

    async def _wait(self) -> None:
        await self.process.wait()
        await asyncio.wait(self._reading[:1], timeout=END_LIMIT_S)  # a child of it may hold the pipe open
        self.heard.begun.set()
        self.heard.over.set()

    async def _read_reports(self, reports: asyncio.StreamReader) -> None:
        rest, total = b"", 0
        while (some := await reports.read(65_536)) and (total := total + len(some)) <= REPORT_BYTES_MAX:
            *lines, rest = (rest + some).split(b"\n")
            for line in lines:
                self._hear(line)

    def _hear(self, line: bytes) -> None:
        try:
            report = msgspec.json.decode(line, type=Report)
        except msgspec.DecodeError:
            return
        if report.trial is not None:
            self.heard.trial = report.trial
            self.heard.over.set()
        elif report.phase in PHASES:
            self.heard.phase = report.phase
        self.heard.begun.set()

    async def _read_output(self) -> None:
        assert self.process.stdout is not None
        while some := await self.process.stdout.read(65_536):
            self.heard.output = (self.heard.output + some)[-OUTPUT_BYTES_MAX:]

    async def end(self) -> None:
        """End it with everything that it started; a second call does nothing."""
        if self._has_ended:
            return
        self._has_ended = True
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        await self.process.wait()
        _, late = await asyncio.wait(self._reading, timeout=END_LIMIT_S)
        for task in late:
            task.cancel()
        await asyncio.gather(*self._reading, return_exceptions=True)
        self._pipe.close()

    def frame(self, folder: Path) -> tuple[str, int]:
        """The innermost line of the package that ran when it was stopped or crashed."""
        try:
            text = (self.place / FRAMES_NAME).read_text("utf-8", errors="replace")
        except OSError:
            return "", 0
        frames = [(found["file"], int(found["line"])) for found in _FRAME.finditer(text)]
        return next((one for one in frames if Path(one[0]).is_relative_to(folder)), ("", 0))


def _lost(request: Request, process: _Process, *, has_hung: bool) -> Trial:
    """The outcome of a process that gave none."""
    file, line = process.frame(Path(request.folder).resolve())
    at = f" at {file}:{line}" if file else ""
    doing = PHASES[process.heard.phase]
    status = process.process.returncode or 0
    if has_hung or status == -signal.SIGXCPU:
        found = finding(
            "hangs", f"{request.plugin_id}: {doing} did not end within {request.limit_s:g} s{at}", file, line
        )
    else:
        found = _crash(request, f"{_show(status)} while {doing}{at}", process.heard.output, file, line)
    return Trial(ok=False, findings=[found])


def _crash(request: Request, said: str, output: bytes, file: str, line: int) -> Finding:
    last = output.decode("utf-8", errors="replace").strip().rpartition("\n")[2]
    more = f"; the last it wrote was {last[-200:]!r}" if last else ""
    return finding("crashes", f"{request.plugin_id}: its process ended with {said}{more}", file, line)


def _show(status: int) -> str:
    return f"exit status {status}" if status >= 0 else signal.Signals(-status).name
