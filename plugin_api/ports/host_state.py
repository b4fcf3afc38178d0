"""What a plugin may know about the host it runs in."""

from __future__ import annotations

from typing import Any, Protocol

from msgspec import Struct


class PluginState(Struct, frozen=True):
    """One plugin as this process sees it."""

    id: str
    version: str
    state: str
    """`discovered resolved verified staged active draining stopped failed blocked quarantined half_open`."""
    generation: int
    reason: str = ""
    uptime_s: int = 0
    provides: tuple[str, ...] = ()
    requires: tuple[str, ...] = ()
    summary: str = ""
    last_error: str = ""
    """What went wrong last: a version that was refused, a hook that failed. Empty when nothing did."""
    leaks: tuple[str, ...] = ()
    """What its last stopped generation left behind in this process: kind and owner of each."""
    previous: str = ""
    """The version that a rollback returns to; empty when there is none."""


class HostState(Protocol):
    """The host's own view; read only."""

    profile: str
    """`embedded` or `server`."""
    worker: int
    """Number of this worker, from 0."""
    servers: dict[str, str]
    """Address of each child server by name: `{"postgres": "postgresql://..."}`."""

    def plugins(self) -> list[PluginState]:
        """Every known plugin, in start order."""
        ...

    def permissions(self) -> dict[str, str]:
        """Every registered permission by full name, with its description."""
        ...

    def openapi(self) -> dict[str, Any]:
        """The OpenAPI 3.1 document of the current table."""
        ...
