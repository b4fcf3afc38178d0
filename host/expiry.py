"""The end of a call's time: its task is cancelled, and the cancellation becomes an error that says so."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from typing import Protocol

from plugin_api.errors import DeadlinePassed, KernelBug


class Timer(Protocol):
    """What a timer is to us."""

    def cancel(self) -> None:
        """Do not fire."""
        ...


CallLater = Callable[[float, Callable[[], None]], Timer]
"""The event loop's own: `call_later(seconds, callback)`."""


def running_task() -> asyncio.Task[object]:
    """The task that is running now. KernelBug outside one."""
    task = asyncio.current_task()
    if task is None:
        raise KernelBug("calls are answered in tasks")
    return task


class Expiry:
    """Ends the calls of one task, one at a time, when each one's time is up.

    Its timer stays armed between calls and looks, when it fires, which call is under way now: a connection in use arms one
    every few seconds, where `asyncio.timeout` would arm and cancel one for each request.
    """

    __slots__ = ("_armed_until", "_call_later", "_ends", "_fired", "_monotonic", "_seconds", "_task", "_timer")

    def __init__(
        self, task: asyncio.Task[object], call_later: CallLater, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._task = task
        self._call_later = call_later
        self._monotonic = monotonic
        self._timer: Timer | None = None
        self._armed_until = math.inf
        self._ends = math.inf
        self._seconds = 0.0
        self._fired = False

    def start(self, seconds: float) -> float:
        """Let a call begin that may take so long; when it must have ended (monotonic seconds)."""
        ends = self._ends = self._monotonic() + seconds
        self._seconds = seconds
        if ends < self._armed_until:
            self._arm(seconds, ends)
        return ends

    def stop(self) -> None:
        """Cancel nothing until the next call; a cancellation of ours that somebody swallowed is taken back."""
        self._ends = math.inf
        if self._fired:
            self._fired = False
            self._task.uncancel()

    def translate(self, error: asyncio.CancelledError) -> BaseException:
        """DeadlinePassed when the cancellation is ours, KernelBug when nobody asked for one, else the cancellation itself."""
        if not self._fired:
            return error if self._task.cancelling() else KernelBug("an operation raised CancelledError by itself")
        self._fired = False
        if self._task.uncancel() > 0:
            return error
        return DeadlinePassed(f"the call was not done within {self._seconds:g} s; try again, or ask for less at once")

    def close(self) -> None:
        """Let the timer go; the task ends."""
        if self._timer is not None:
            self._timer.cancel()

    def _arm(self, seconds: float, until: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._call_later(seconds, self._look)
        self._armed_until = until

    def _look(self) -> None:
        self._timer, self._armed_until = None, math.inf
        if self._ends == math.inf:
            return  # nothing is under way; the next call arms the timer again
        left = self._ends - self._monotonic()
        if left > 0:
            self._arm(left, self._ends)
        else:
            self._ends = math.inf
            self._fired = True
            self._task.cancel()
