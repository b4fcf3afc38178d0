"""Names the plugin that blocks the event loop: a thread looks on, because the loop itself cannot."""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter
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
    """Calls `report` for each stall longer than `limit_s`, and again when another plugin has held it up for longer since.

    `beat()` is called by the loop. `owner_of` tells the plugin whose code a file is, from the watchdog's thread.
    """

    def __init__(self, limit_s: float, owner_of: Callable[[str], str], report: Callable[[Stall], None]) -> None:
        self._limit_s = limit_s
        self._owner_of = owner_of
        self._report = report
        self._thread_id = threading.get_ident()
        self._beaten = time.monotonic()
        self._seen: Counter[str] = Counter()
        """How often each plugin's code was found running in this stall."""
        self._reported: str | None = None
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

    def _look(self) -> None:
        stall = self._beaten
        while not self._stop.wait(LOOK_EVERY_S):
            if stall != self._beaten:
                stall, self._reported = self._beaten, None
                self._seen.clear()
            if (seconds := time.monotonic() - stall) > self._limit_s:
                self._look_at(seconds)

    def _look_at(self, seconds: float) -> None:
        """One turn of the loop runs many callbacks: whoever was seen most often holds it up, not who was first."""
        plugin_id, frame = self._culprit(sys._current_frames().get(self._thread_id))  # noqa: SLF001 - no public way
        self._seen[plugin_id] += 1
        if plugin_id != self._reported and self._seen[plugin_id] == max(self._seen.values()):
            self._reported = plugin_id
            self._report(Stall(round(seconds, 2), plugin_id, frame))

    def _culprit(self, frame: FrameType | None) -> tuple[str, str]:
        """The innermost code of a third party's plugin; where none runs, of the kernel's own.

        What the kernel does for a plugin, such as encoding what that gave it, is that plugin's doing.
        """
        found = "", _shown(frame) if frame is not None else ""
        for _ in range(FRAMES_MAX):
            if frame is None:
                break
            plugin_id = self._owner_of(frame.f_code.co_filename)
            if plugin_id and not plugin_id.startswith("kernel."):
                return plugin_id, _shown(frame)
            if plugin_id and not found[0]:
                found = plugin_id, _shown(frame)
            frame = frame.f_back
        return found


def _shown(frame: FrameType) -> str:
    return f"{frame.f_code.co_filename}:{frame.f_lineno} {frame.f_code.co_name}"
