"""The processes of one kernel, as the system shows them (Linux; elsewhere none are seen)."""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

_PROC: Final = Path("/proc")


@dataclass(frozen=True, order=True)
class Process:
    """One process; `started` tells it apart from a later one with the same pid."""

    pid: int
    started: int
    """When, in clock ticks since the system's start."""
    command: str = field(compare=False)
    """Its command line as it is now: servers show in it what they are doing, so it tells nobody apart."""


def processes_within(folder: Path) -> list[Process]:
    """Those that work inside `folder` or name it on their command line, ourselves left out."""
    if sys.platform != "linux":
        return []
    numbers = [int(entry.name) for entry in _PROC.iterdir() if entry.name.isdigit()]
    found = [process for number in numbers if number != os.getpid() and (process := _look_at(number)) is not None]
    return [process for process in found if str(folder) in process.command or _works_in(process.pid, folder)]


def end(process: Process) -> bool:
    """Kill this very process; False when it was gone already."""
    if _look_at(process.pid) != process:
        return False
    try:
        os.kill(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def _look_at(pid: int) -> Process | None:
    try:
        fields = (_PROC / str(pid) / "stat").read_text(errors="replace").rsplit(")", 1)[1].split()
        command = (_PROC / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except (OSError, IndexError):
        return None
    return None if fields[0] in "ZX" else Process(pid, int(fields[19]), command)


def _works_in(pid: int, folder: Path) -> bool:
    try:
        place = os.readlink(_PROC / str(pid) / "cwd")
    except OSError:
        return False
    return f"{place}/".startswith(f"{folder}/")
