"""Processes as the system shows them, told apart from others that were given the same number later."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from msgspec import Struct

_PROC: Final = Path("/proc")
_LOOK_EVERY_S: Final = 0.02
_PS_LIMIT_S: Final = 5.0


class Identity(Struct, frozen=True):
    """One process for as long as it lives; a later process with the same pid has another `started`."""

    pid: int
    started: str
    """When it started, in the system's own words."""


def identify(pid: int) -> Identity | None:
    """The process that has this pid now; None when there is none, or only its exit status is left."""
    if sys.platform != "linux":
        return _identify_by_ps(pid)
    try:
        fields = (_PROC / str(pid) / "stat").read_text(errors="replace").rsplit(")", 1)[1].split()
    except (OSError, IndexError):
        return None
    return None if fields[0] in "ZX" else Identity(pid, fields[19])


def _identify_by_ps(pid: int) -> Identity | None:
    shown = _ps("stat=,lstart=", pid).split(maxsplit=1)
    return Identity(pid, shown[1]) if len(shown) == 2 and "Z" not in shown[0] else None


def _ps(columns: str, pid: int) -> str:
    words = ["ps", "-o", columns, "-p", str(pid)]
    ran = subprocess.run(words, capture_output=True, text=True, errors="replace", timeout=_PS_LIMIT_S, check=False)
    return ran.stdout.strip()


def is_running(process: Identity) -> bool:
    """Whether this very process still runs."""
    return identify(process.pid) == process


def is_at_home(process: Identity, folder: Path) -> bool:
    """Whether it names `folder` on its command line, or works inside it."""
    if sys.platform != "linux":
        return str(folder) in _ps("command=", process.pid)
    try:
        words = (_PROC / str(process.pid) / "cmdline").read_bytes()
    except OSError:
        return False
    return os.fsencode(folder) in words or _is_inside(_link(process.pid, "cwd"), folder)


def _link(pid: int, name: str) -> str:
    try:
        return os.readlink(_PROC / str(pid) / name).removesuffix(" (deleted)")
    except OSError:
        return ""


def _is_inside(place: str, folder: Path) -> bool:
    return f"{place}/".startswith(f"{folder}/")


def find_inside(folder: Path, programs: Collection[str]) -> list[Identity]:
    """Processes of these executables that work inside `folder`, oldest first. Linux only; elsewhere none are found."""
    if sys.platform != "linux":
        return []
    numbers = sorted(int(entry.name) for entry in _PROC.iterdir() if entry.name.isdigit())
    found = [
        identify(pid)
        for pid in numbers
        if os.path.basename(_link(pid, "exe")) in programs and _is_inside(_link(pid, "cwd"), folder)
    ]
    return sorted((process for process in found if process is not None), key=lambda process: int(process.started))


def send_signal(process: Identity, number: signal.Signals) -> None:
    """Signal this very process. One that has ended is no error.

    Raises:
        PermissionError: it belongs to another account.
    """
    with suppress(ProcessLookupError):
        if not hasattr(os, "pidfd_open"):
            if is_running(process):
                os.kill(process.pid, number)
            return
        descriptor = os.pidfd_open(process.pid)  # held while we look, so the number cannot change hands in between
        try:
            if is_running(process):
                signal.pidfd_send_signal(descriptor, number)
        finally:
            os.close(descriptor)


async def end_all(processes: Iterable[Identity], steps: Sequence[tuple[signal.Signals, float]]) -> list[Identity]:
    """End processes that need not be children of ours: each step is a signal and the seconds to wait after it.

    Returns those that still run after the last step.
    """
    left = [process for process in processes if is_running(process)]
    for number, wait_s in steps:
        for process in left:
            send_signal(process, number)
        end = time.monotonic() + wait_s
        while left and time.monotonic() < end:
            await asyncio.sleep(_LOOK_EVERY_S)
            left = [process for process in left if is_running(process)]
        if not left:
            break
    return left
