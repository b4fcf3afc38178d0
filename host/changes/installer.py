"""The parent's side of preparing a package: a child process, its progress, its end."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from host.changes.prepare import Prepared, Wanted
from host.changes.refusal import REFUSAL, accepted
from host.store.packages import Package
from host.store.pip_process import Sources
from plugin_api.errors import DeadlinePassed, InvalidRequest, KernelBug

PREPARE_LIMIT_S: Final = 300.0
SPARE_S: Final = 60.0
SPARE_AFTER_S: Final = 1.0
"""After a package was made, so that the process does not compete with what follows."""
COMMAND: Final = (sys.executable, "-P", "-m", "host.changes.prepare")
LINE_BYTES_MAX: Final = 1_048_576
_STDERR_SHOWN: Final = 600


class _Doing(Struct, frozen=True):
    doing: str


class Installer:
    """Prepares packages, each in a child process.

    A process that has just been used leaves a fresh one behind, for SPARE_S: an author's next save comes soon, and a process
    takes a third of a second to load the host's modules.
    """

    def __init__(self, folder: Path, sources: Sources, limit_s: float = PREPARE_LIMIT_S) -> None:
        self._folder = folder
        self._sources = sources
        self._limit_s = limit_s
        self._spare: asyncio.subprocess.Process | None = None
        self._keeping: asyncio.Task[None] | None = None

    async def prepare(self, what: str, progress: Callable[[str], None]) -> tuple[Package, list[str]]:
        """Make the package of a requirement, a wheel or a folder, and check its files; it, and warnings.

        Raises:
            KernelError: as `Store.prepare` does.
            InvalidRequest: `plugin_failed`: a check found errors.
            DeadlinePassed: it took too long; nothing of it is left running.
        """
        wanted = msgspec.json.encode(Wanted(str(self._folder), what, os.getpid(), self._sources))
        process = self._take_spare() or await _start()
        try:
            async with asyncio.timeout(self._limit_s):
                prepared = await _answer(process, wanted, progress)
        except TimeoutError as error:
            told = f"{what} could not be prepared within {self._limit_s:g} s; try again, or give the wheel itself"
            raise DeadlinePassed(told) from error
        finally:
            await _end(process)
            self._keeping = self._keeping or asyncio.create_task(self._keep_spare(), name="spare for packages")
        return prepared.package, prepared.warnings

    def _take_spare(self) -> asyncio.subprocess.Process | None:
        """The process that waits, unless it has ended meanwhile."""
        spare, self._spare = self._spare, None
        if self._keeping is not None:
            self._keeping.cancel()
            self._keeping = None
        return spare if spare is not None and spare.returncode is None else None

    @property
    def is_ready(self) -> bool:
        """Whether a process waits for the next package."""
        return self._spare is not None and self._spare.returncode is None

    async def close(self) -> None:
        """Let nothing wait any more."""
        keeping = self._keeping
        spare = self._take_spare()
        if keeping is not None:
            await asyncio.wait([keeping])
        if spare is not None:
            await _end(spare)

    async def _keep_spare(self) -> None:
        """Start a process for the next package when the change at hand is over, and end it when none comes."""
        await asyncio.sleep(SPARE_AFTER_S)
        spare = self._spare = await _start()
        await asyncio.sleep(SPARE_S)
        self._spare = None
        await _end(spare)


async def _start() -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *COMMAND,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
        limit=LINE_BYTES_MAX,
    )


async def _end(process: asyncio.subprocess.Process) -> None:
    """End it with everything that it started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    await process.wait()


async def _answer(process: asyncio.subprocess.Process, wanted: bytes, progress: Callable[[str], None]) -> Prepared:
    stdin, stdout, stderr = process.stdin, process.stdout, process.stderr
    assert stdin is not None, "all three are pipes"
    assert stdout is not None, "all three are pipes"
    assert stderr is not None, "all three are pipes"
    stdin.write(wanted)
    stdin.write_eof()
    said = asyncio.create_task(stderr.read())
    async for line in stdout:
        document = msgspec.json.decode(line)
        if "doing" in document:
            progress(msgspec.convert(document, _Doing).doing)
        elif REFUSAL in document:
            accepted(document)
        else:
            return msgspec.convert(document, Prepared)
    told = (await said)[-_STDERR_SHOWN:].decode(errors="replace").strip()
    status = await process.wait()
    if status < 0:
        raise InvalidRequest(f"preparing the package was ended by signal {-status}; is there enough memory?")
    raise KernelBug(f"the process that prepares packages ended with {status}: {told}")
