"""A worker must not outlive its parent for long, even when its event loop never turns again."""

from __future__ import annotations

import os
import select
import signal
import threading
import time
from typing import Final

LOOK_EVERY_S: Final = 1.0


def end_with_parent(drain_limit_s: float) -> None:
    """Let the system end this process `drain_limit_s` after its parent died, whatever Python code does then.

    The worker's own reaction is the end of its channel: it drains and exits. This is for one that hangs: the timer's
    signal has no handler, so it needs neither the loop nor the interpreter. Call once, early.
    """
    parent = os.getppid()
    thread = threading.Thread(target=_look, args=(parent, drain_limit_s), name="lifeline", daemon=True)
    thread.start()


def _look(parent: int, drain_limit_s: float) -> None:
    _wait_for_end(parent)
    signal.setitimer(signal.ITIMER_REAL, max(drain_limit_s, 0.001))


def _wait_for_end(parent: int) -> None:
    if hasattr(os, "pidfd_open"):
        try:
            descriptor = os.pidfd_open(parent)
        except OSError:
            descriptor = -1
        if descriptor >= 0 and os.getppid() == parent:
            select.select([descriptor], [], [])
    while os.getppid() == parent:
        time.sleep(LOOK_EVERY_S)
