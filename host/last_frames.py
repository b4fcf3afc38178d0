"""What a worker ran when it crashed, or when it does not answer: written past Python by `faulthandler`, read by the parent.

A watchdog's thread cannot look while C code keeps the interpreter's lock, as a long search by a regular expression does;
a signal's handler can.
"""

from __future__ import annotations

import faulthandler
import os
import re
import signal
from contextlib import suppress
from pathlib import Path
from typing import Final

ASKED_BY: Final = signal.SIGUSR2
BYTES_READ_MAX: Final = 65_536
_FRAME: Final = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+) in (?P<name>\S+)')


def frames_file(data_folder: Path, pid: int) -> Path:
    """Where a worker writes them."""
    return data_folder / "run" / f"frames-{pid}"


def keep_frames(file: Path) -> None:
    """Let this process write its frames when it crashes, and when it gets ASKED_BY."""
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600)
    faulthandler.enable(descriptor)
    faulthandler.register(ASKED_BY, descriptor, all_threads=True)


def forget_frames(data_folder: Path) -> None:
    """Remove what workers of an earlier kernel left, which was killed before it could."""
    for file in (data_folder / "run").glob("frames-*"):
        file.unlink(missing_ok=True)


def read_frames(file: Path) -> list[str]:
    """The places that were running, innermost first, as `file:line function`; nothing when none were written.

    Those of the thread that crashed come first.
    """
    text = ""
    with suppress(OSError), file.open("rb") as opened:
        text = opened.read(BYTES_READ_MAX).decode("utf-8", errors="replace")
    return [f"{one['file']}:{one['line']} {one['name']}" for one in _FRAME.finditer(text)]
