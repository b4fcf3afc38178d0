"""How far everything is behind, measured by one process of all: whoever leads the relay. Others show nothing.

A scrape reads what was measured last, and never asks the database.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Final

from core_plugins.eventbus import storage
from core_plugins.eventbus.operations.job_parts import JobParts
from core_plugins.eventbus.operations.relaying import Relay
from core_plugins.eventbus.storage import jobs as job_storage
from plugin_api.errors import KernelError
from plugin_api.ports.database import Row
from plugin_api.registrar import Registrar

LOOK_EVERY_S: Final = 1.0
"""Who does not lead looks as often: it may lead by now."""
Numbers = dict[tuple[str, ...], float]
GAUGES: Final[Mapping[str, tuple[str, tuple[str, ...]]]] = {
    "consumer_behind_events": ("Events that a consumer has not passed yet.", ("consumer", "topic")),
    "consumer_behind_seconds": ("Age of the oldest event that a consumer has not passed yet.", ("consumer",)),
    "dead_letters": ("Events that wait among a consumer's dead letters.", ("consumer", "topic")),
    "outbox_events": ("Events that are not in the log yet.", ()),
    "outbox_seconds": ("Age of the oldest event that is not in the log yet.", ()),
    "waiting_jobs": ("Jobs that wait.", ("queue",)),
    "running_jobs": ("Jobs that are being done.", ("queue",)),
    "dead_jobs": ("Jobs that failed too often.", ("queue",)),
    "due_jobs_seconds": ("How long the oldest job that is due has been.", ("queue",)),
}


class Meter:
    """Measures while this process leads the relay."""

    def __init__(self, jobs: JobParts, relay: Relay) -> None:
        self._jobs = jobs
        self._parts = jobs.parts
        self._relay = relay
        self._seen: dict[str, Numbers] = {}

    def register(self, registrar: Registrar) -> None:
        """Show every gauge, and measure in the background."""
        for name, (text, labels) in GAUGES.items():
            registrar.gauge(name, text, labels, partial(self.read, name))
        registrar.task("measure", self.run)

    def read(self, name: str) -> Numbers:
        """What was measured last, as long as this process leads."""
        return self._seen.get(name, {}) if self._relay.is_leading else {}

    async def run(self) -> None:
        """Measure for as long as the process lives."""
        every_s = self._parts.settings.measure_s
        while True:
            try:
                await self.step()
            except KernelError as error:
                self._seen = {}  # better none than old ones
                self._parts.log.warning("metrics could not be measured; it is tried again", why=error.detail)
            await self._parts.sleep(every_s if self._seen else min(every_s, LOOK_EVERY_S))

    async def step(self) -> None:
        """Measure once, if this process leads."""
        if not self._relay.is_leading:
            self._seen = {}
            return
        async with self._parts.tx("measure") as tx:
            consumers = await storage.measure_consumers(tx)
            outbox = await storage.measure_outbox(tx)
            queues = await job_storage.measure_queues(tx, self._jobs.at())
        self._seen = {**_of_consumers(consumers), **_of_outbox(outbox), **_of_queues(queues)}


def _of_consumers(rows: Sequence[Row]) -> dict[str, Numbers]:
    oldest: defaultdict[tuple[str, ...], float] = defaultdict(float)
    for row in rows:
        oldest[row["consumer"],] = max(oldest[row["consumer"],], row["oldest_s"])
    return {
        "consumer_behind_events": {(row["consumer"], row["topic"]): row["behind"] for row in rows},
        "consumer_behind_seconds": dict(oldest),
        "dead_letters": {(row["consumer"], row["topic"]): row["letters"] for row in rows},
    }


def _of_outbox(row: Row) -> dict[str, Numbers]:
    return {"outbox_events": {(): row["events"]}, "outbox_seconds": {(): row["oldest_s"]}}


def _of_queues(rows: Sequence[Row]) -> dict[str, Numbers]:
    columns = {
        "waiting_jobs": "waiting",
        "running_jobs": "running",
        "dead_jobs": "dead",
        "due_jobs_seconds": "oldest_s",
    }
    return {name: {(row["queue"],): row[column] for row in rows} for name, column in columns.items()}
