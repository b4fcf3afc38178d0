"""Names the plugin that blocks the event loop: a thread looks on, because the loop itself cannot."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType
from typing import Final

LOOK_EVERY_S: Final = 0.1
FRAMES_MAX: Final = 100


@dataclass(frozen=True)
class Stall:
    """A loop that has not turned for a while, and whose code it was in."""

    seconds: float
    plugin_id: str
    """Empty when no plugin's code is on the stack."""
    frame: str
    """`file:line function` of the innermost frame of that plugin."""


class Watchdog:
    """Calls `report` once for each stall longer than `limit_s`; `beat()` is called by the loop. `owner_of` tells the plugin
    whose code a file is, from the watchdog's thread."""

    def __init__(self, limit_s: float, owner_of: Callable[[str], str], report: Callable[[Stall], None]) -> None:
        self._limit_s = limit_s
        self._owner_of = owner_of
        self._report = report
        self._thread_id = threading.get_ident()
        self._beaten = time.monotonic()
        self._reported = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, name="stall-watchdog", daemon=True)

    def start(self) -> None:
        """Begin to look on. Call from the thread of the loop."""
        self._thread.start()

    def stop(self) -> None:
        """Look no more."""
        self._stop.set()

    def beat(self) -> None:
        """The loop turns."""
        self._beaten = time.monotonic()
        self._reported = False

    def _look(self) -> None:
        while not self._stop.wait(LOOK_EVERY_S):
            stalled = time.monotonic() - self._beaten
            if stalled > self._limit_s and not self._reported:
                self._reported = True
                plugin_id, frame = self._culprit(sys._current_frames().get(self._thread_id))  # noqa: SLF001 - no public way
                self._report(Stall(round(stalled, 2), plugin_id, frame))

    def _culprit(self, frame: FrameType | None) -> tuple[str, str]:
        innermost = _shown(frame) if frame is not None else ""
        for _ in range(FRAMES_MAX):
            if frame is None:
                break
            if plugin_id := self._owner_of(frame.f_code.co_filename):
                return plugin_id, _shown(frame)
            frame = frame.f_back
        return "", innermost


def _shown(frame: FrameType) -> str:
    return f"{frame.f_code.co_filename}:{frame.f_lineno} {frame.f_code.co_name}"
