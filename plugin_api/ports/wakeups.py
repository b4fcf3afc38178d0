"""Wake-ups between the processes of one kernel: they say that there may be work, never which, and may be lost."""

from __future__ import annotations

from typing import Final, Protocol

from plugin_api.services import ServiceKey


class Bell(Protocol):
    """One place where wake-ups of a name arrive, in one process."""

    is_only: bool
    """Set by whoever is the only one in all processes to do what the wake-up is about: others need not be told."""

    async def wait(self, at_most_s: float) -> None:
        """Return at the next wake-up, at once when there was one since the last wait, or after `at_most_s`."""
        ...

    def close(self) -> None:
        """Hear no more."""
        ...


class Wakeups(Protocol):
    """Rings bells of a name in every process; provided by the plugin `kernel.data`, for the kernel's plugins."""

    def ring(self, name: str) -> None:
        """Ring the bells of this process at once and those of others soon; many become one. Never waits, never raises."""
        ...

    def bell(self, name: str) -> Bell:
        """Make a bell that hears `name` from now on."""
        ...


WAKEUPS: ServiceKey[Wakeups] = ServiceKey("wakeups")

OUTBOX: Final = "outbox"
"""Rings when a transaction that told something has committed."""
