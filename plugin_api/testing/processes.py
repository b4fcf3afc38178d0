"""The processes of one kernel, as the system shows them (Linux; elsewhere none are seen)."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

_PROC: Final = Path("/proc")


class Process(NamedTuple):
    """One process; `started` tells it apart from a later one with the same pid."""

    pid: int
    started: str
    command: str


def processes_within(folder: Path) -> list[Process]:
    """Those that work inside `folder` or name it on their command line, ourselves left out."""
    if sys.platform != "linux":
        return []
    numbers = [int(entry.name) for entry in _PROC.iterdir() if entry.name.isdigit()]
    found = [process for number in numbers if number != os.getpid() and (process := _look_at(number)) is not None]
    return [process for process in found if str(folder) in process.command or _works_in(process.pid, folder)]


def end(process: Process) -> None:
    """Kill this very process. One that is gone already is no error."""
    if _look_at(process.pid) == process:
        with suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)


def _look_at(pid: int) -> Process | None:
    try:
        fields = (_PROC / str(pid) / "stat").read_text(errors="replace").rsplit(")", 1)[1].split()
        command = (_PROC / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except (OSError, IndexError):
        return None
    return None if fields[0] in "ZX" else Process(pid, fields[19], command)


def _works_in(pid: int, folder: Path) -> bool:
    try:
        place = os.readlink(_PROC / str(pid) / "cwd")
    except OSError:
        return False
    return f"{place}/".startswith(f"{folder}/")
