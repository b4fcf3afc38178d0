"""A kernel of this process with the event log, and a plugin `acme.notes` that tells and hears."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from core_plugins.eventbus.operations.consuming import Consumer
from core_plugins.eventbus.operations.counting import Counts
from core_plugins.eventbus.operations.parts import Parts
from core_plugins.eventbus.operations.relaying import Relay
from core_plugins.eventbus.settings import Settings
from host.generations import Generation
from host.kernel import Kernel
from host.migrations import migrate
from host.runtime import PluginCalls
from plugin_api.call import Call
from plugin_api.events import Event, EventEnvelope
from plugin_api.manifest import names_of, read_manifest
from plugin_api.ports.event_log import Reaction
from plugin_api.ports.migrations import MIGRATOR
from plugin_api.ports.wakeups import WAKEUPS
from plugin_api.testing.clock import FakeClock
from plugin_api.testing.waiting import until
from tests.conftest import NOTES, MakeDatabase

MANIFEST = """id = "acme.notes"
version = "1.0.0"
api = ">=1.0,<2"
summary = "Notes"
requires = ["data", "eventbus"]
[events]
emits = ["note.added.v1", "note.changed.v1"]
consumes = ["acme.notes.note.added.v1"]
"""
ADDED = "acme.notes.note.added.v1"
Handle = Callable[[Call, EventEnvelope], Awaitable[None]]


async def at_once(_: float) -> None:
    """A pause that takes no time."""
    await asyncio.sleep(0)


@dataclass
class Bus:
    """The event log with one plugin beside it."""

    kernel: Kernel
    generation: Generation
    dsn: str
    tenant: UUID = field(default_factory=uuid4)
    reading: list[asyncio.Task[None]] = field(default_factory=list)
    counts: Counts = field(default_factory=Counts)

    @property
    def calls(self) -> PluginCalls:
        """Those of `acme.notes`."""
        return PluginCalls(self.kernel.runtime(self.generation))

    def parts(self, sleep: Any = at_once, **settings: Any) -> Parts:
        """What operations of the event log share; of the kernel's own plugin, with other settings."""
        bus = self.kernel.table.generations["kernel.eventbus"]
        return Parts(
            PluginCalls(self.kernel.runtime(bus)),
            self.kernel.require(WAKEUPS),
            self.kernel.log,  # type: ignore[arg-type]
            Settings(**{"poll_s": 0.05, "lease_s": 3.0, **settings}),
            sleep,
            self.counts,
        )

    def event(self, subject: str, **data: Any) -> Event:
        """One to tell."""
        return Event("note.added.v1", subject, data)

    async def tell(self, subject: str, *, tenant: UUID | None = None, **data: Any) -> UUID:
        """Emit `note.added`, with a row of the same id."""
        event = self.event(subject, **data)
        async with self.calls.open(tenant or self.tenant, "tell") as call:
            tx = await call.tx()
            await tx.execute("insert into notes (id, body) values ($1, $2)", event.id, str(event.id))
            tx.emit(event)
        return event.id

    def reaction(self, handle: Handle, *, name: str = "hear", member: str = "0") -> Reaction:
        """A reaction of `acme.notes`."""
        return Reaction(
            f"acme.notes.{name}",
            member,
            frozenset([ADDED]),
            self.calls.continued,
            handle,
        )

    def read(
        self, handle: Handle, *, sleep: Any = at_once, name: str = "hear", member: str = "0", **settings: Any
    ) -> Any:
        """Begin to read; the task, which the test's end cancels."""
        consumer = Consumer(self.parts(sleep, **settings), self.reaction(handle, name=name, member=member))
        task = asyncio.create_task(consumer.run())
        self.reading.append(task)
        return task

    @asynccontextmanager
    async def reader(self, handle: Handle, **given: Any) -> AsyncIterator[Consumer]:
        """A consumer that the test steps by hand; it has joined."""
        member, name = given.pop("member", "0"), given.pop("name", "hear")
        consumer = Consumer(self.parts(**given), self.reaction(handle, name=name, member=member))
        await consumer.step()
        yield consumer
        await consumer.leave()

    async def relayed(self) -> None:
        """Wait until the outbox is empty."""

        async def is_empty() -> bool:
            async with self.parts().tx("look") as tx:
                row = await tx.fetch_one("select events from pk.outbox_backlog()")
            return row is not None and row["events"] == 0

        await until(is_empty, "the outbox is empty")

    def relay(self, member: str) -> Relay:
        """One more relay."""
        return Relay(self.parts(), member)

    async def query(self, sql: str, *arguments: Any) -> list[Any]:
        """Ask as the administrator."""
        connection = await asyncpg.connect(self.dsn)
        try:
            return list(await connection.fetch(sql, *arguments))
        finally:
            await connection.close()


@pytest.fixture
async def bus(
    make_database: MakeDatabase, open_kernel: Callable[..., Awaitable[Kernel]], tmp_path: Any
) -> AsyncIterator[Bus]:
    """One, with an empty log."""
    dsn = await make_database("data", "eventbus")
    kernel = await open_kernel(
        ["data", "eventbus"],
        {"postgres": dsn},
        **{"eventbus.poll_s": 0.05, "eventbus.measure_s": 0.1, "data.pool_size": 12},
    )
    folder = tmp_path / "notes"
    folder.mkdir()
    (folder / "0001_notes.sql").write_text(NOTES)
    await migrate(kernel.require(MIGRATOR), "acme.notes", "x_acme_notes", folder)
    generation = Generation("acme.notes", 1, read_manifest(MANIFEST, "manifest.toml"), names_of("acme.notes"), object())
    made = Bus(kernel, generation, dsn)
    yield made
    for task in made.reading:
        task.cancel()
    await asyncio.gather(*made.reading, return_exceptions=True)


@pytest.fixture
def clock() -> FakeClock:
    """A clock that the test turns."""
    return FakeClock()


@pytest.fixture
def work(bus: Bus, clock: FakeClock) -> Any:
    """Jobs, worked off by hand at the clock's time."""
    from tests.core_plugins.eventbus.work import Work

    return Work(bus, clock)
