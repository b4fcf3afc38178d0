"""What the event bus counts, for metrics."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from plugin_api.registrar import Counter, Registrar


class Uncounted:
    """Counts nothing."""

    def add(self, by: float = 1, /, **labels: str) -> None:
        """Let it pass."""


_UNCOUNTED: Final = Uncounted()


@dataclass(frozen=True)
class Counts:
    """Counters of this process; without a registrar nothing is counted."""

    relayed: Counter = _UNCOUNTED
    handled: Counter = _UNCOUNTED
    retried: Counter = _UNCOUNTED
    parked: Counter = _UNCOUNTED
    jobs_done: Counter = _UNCOUNTED
    jobs_failed: Counter = _UNCOUNTED
    jobs_dead: Counter = _UNCOUNTED


def make_counts(registrar: Registrar) -> Counts:
    """Those of the plugin."""
    consumer, queue = ["consumer"], ["queue"]
    return Counts(
        relayed=registrar.counter("events_relayed", "Events moved from the outbox into the log."),
        handled=registrar.counter("events_handled", "Events that a consumer has handled, with effect.", consumer),
        retried=registrar.counter("events_retried", "Times that an event was tried again after a failure.", consumer),
        parked=registrar.counter("events_parked", "Events put among the dead letters.", consumer),
        jobs_done=registrar.counter("jobs_done", "Jobs that were done.", queue),
        jobs_failed=registrar.counter("jobs_failed", "Attempts at jobs that failed, and are made again.", queue),
        jobs_dead=registrar.counter("jobs_dead", "Jobs that failed at their last attempt.", queue),
    )
