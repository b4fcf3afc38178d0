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
COMMAND: Final = (sys.executable, "-P", "-m", "host.changes.prepare")
LINE_BYTES_MAX: Final = 1_048_576
_STDERR_SHOWN: Final = 600


class _Doing(Struct, frozen=True):
    doing: str


class Installer:
    """Prepares packages, each in a child process."""

    def __init__(self, folder: Path, sources: Sources, limit_s: float = PREPARE_LIMIT_S) -> None:
        self._folder = folder
        self._sources = sources
        self._limit_s = limit_s

    async def prepare(self, what: str, progress: Callable[[str], None]) -> tuple[Package, list[str]]:
        """Make the package of a requirement, a wheel or a folder, and check its files; it, and warnings.

        Raises:
            KernelError: as `Store.prepare` does.
            InvalidRequest: `plugin_failed`: a check found errors.
            DeadlinePassed: it took too long; nothing of it is left running.
        """
        wanted = msgspec.json.encode(Wanted(str(self._folder), what, os.getpid(), self._sources))
        process = await asyncio.create_subprocess_exec(
            *COMMAND,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
            limit=LINE_BYTES_MAX,
        )
        try:
            async with asyncio.timeout(self._limit_s):
                prepared = await _answer(process, wanted, progress)
        except TimeoutError as error:
            told = f"{what} could not be prepared within {self._limit_s:g} s; try again, or give the wheel itself"
            raise DeadlinePassed(told) from error
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
        return prepared.package, prepared.warnings


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
