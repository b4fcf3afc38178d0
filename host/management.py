"""The management door: how this kernel is, for orchestrators and Prometheus. Loopback unless told otherwise."""

from __future__ import annotations

from typing import Any, Protocol

from host.listener import Answer, Asked, Listener
from host.problems import CONTENT_TYPE
from host.totals import CONTENT_TYPE as METRICS_TYPE
from host.totals import Family, show


class Readiness(Protocol):
    """What the parent knows about the kernel."""

    async def readiness(self) -> tuple[bool, dict[str, Any]]:
        """Whether every worker and server serves; how each of them and each plugin is."""
        ...

    def has_started(self) -> bool:
        """Whether everything has been ready once."""
        ...

    async def metrics(self) -> list[Family]:
        """What the workers and the parent count."""
        ...


class Management:
    """`/livez /startupz /readyz /metrics`; nothing else is here."""

    def __init__(self, kernel: Readiness) -> None:
        self._kernel = kernel

    def listener(self) -> Listener:
        """The door, not started."""
        return Listener(
            {
                ("GET", "/livez"): self._livez,
                ("GET", "/startupz"): self._startupz,
                ("GET", "/readyz"): self._readyz,
                ("GET", "/metrics"): self._metrics,
            }
        )

    async def _livez(self, _: Asked) -> Answer:
        return Answer(200, {"status": "alive"})

    async def _startupz(self, asked: Asked) -> Answer:
        if self._kernel.has_started():
            return Answer(200, {"status": "started"})
        return _unavailable(asked.path, "the kernel is starting", {})

    async def _readyz(self, asked: Asked) -> Answer:
        is_ready, detail = await self._kernel.readiness()
        if is_ready:
            return Answer(200, {"status": "ready", **detail})
        return _unavailable(asked.path, "not everything serves; see workers, servers and plugins", detail)

    async def _metrics(self, _: Asked) -> Answer:
        return Answer(200, show(await self._kernel.metrics()), METRICS_TYPE)


def _unavailable(path: str, why: str, detail: dict[str, Any]) -> Answer:
    problem = {
        "type": "urn:platform-kernel:problem:unavailable",
        "title": "Unavailable",
        "status": 503,
        "detail": why,
        "instance": path,
        "code": "unavailable",
        "retry_after_s": 1,
    }
    return Answer(503, {**problem, **detail}, CONTENT_TYPE, {"Retry-After": "1"})
