"""The trial's process: `python -P -m host.trial REPORT_FD`, started by `host.trial.try_out`.

Reads one JSON document (`findings.Request`) from its standard input, and writes JSON lines (`findings.Report`) to the
descriptor, or to what was its standard output when it is given none. It runs in an empty folder of its own.
"""

from __future__ import annotations

import asyncio
import faulthandler
import fcntl
import gc
import math
import os
import resource
import sys
from pathlib import Path
from typing import Final

import msgspec

from host.lifeline import end_with_parent
from host.trial.findings import FRAMES_NAME, Report, Request

MEMORY_BYTES_MAX: Final = 2 * 1_073_741_824
FILE_BYTES_MAX: Final = 256 * 1_048_576
REPORT_FD_MIN: Final = 200
"""Out of the way of code that closes or reuses low descriptors."""


class Reporter:
    """Writes the reports where the package's own output does not go."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, REPORT_FD_MIN)
        if descriptor > 2:
            os.close(descriptor)
        empty = os.open(os.devnull, os.O_RDONLY)
        os.dup2(empty, 0)
        os.close(empty)
        os.dup2(2, 1)

    def write(self, report: Report) -> None:
        """Write one line, whole."""
        left = msgspec.json.encode(report) + b"\n"
        while left:
            left = left[os.write(self._descriptor, left) :]

    def phase(self, name: str) -> None:
        """Tell that a phase begins."""
        self.write(Report(phase=name))


def main(words: list[str]) -> None:
    """Try one package; ends the process by itself, past everything that the package left to be done at the end."""
    gc.disable()
    from host.trial.rehearsal import Rehearsal  # noqa: PLC0415 - takes a while: the package may not be there yet

    gc.enable()
    gc.freeze()  # the host's own; the proofs that the package is gone need not look at it
    request = msgspec.json.decode(sys.stdin.buffer.read(), type=Request)
    reporter = Reporter(int(words[0]) if words else 1)
    _limit(request.limit_s)
    end_with_parent(request.limit_s)
    place = Path.cwd()
    frames = os.open(place / FRAMES_NAME, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    faulthandler.enable(frames)
    faulthandler.dump_traceback_later(request.limit_s * 0.8, file=frames)
    trial = asyncio.run(Rehearsal(request, reporter.phase, place).run())
    reporter.write(Report(trial=trial))
    os._exit(0)


def _limit(limit_s: float) -> None:
    """What it may use; the time is watched from outside, and by the system should nobody watch any more."""
    seconds = math.ceil(limit_s) + 30
    for kind, most in (
        (resource.RLIMIT_AS, MEMORY_BYTES_MAX),
        (resource.RLIMIT_FSIZE, FILE_BYTES_MAX),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_CPU, seconds),
    ):
        _, hard = resource.getrlimit(kind)
        resource.setrlimit(kind, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


if __name__ == "__main__":
    main(sys.argv[1:])
