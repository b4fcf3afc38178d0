"""A process of its own with the event log: it relays, and reads for `acme.notes`, whose handler writes one row an event.

Arguments: address of the database, data folder, name of this reader. Prints "ready", then works until it is killed.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from host.generations import Generation
from host.kernel import Kernel, Place
from host.runtime import PluginCalls
from host.stamps import FileStamps
from host.startup import Startup
from plugin_api.call import Call
from plugin_api.events import EventEnvelope
from plugin_api.manifest import names_of, read_manifest
from plugin_api.ports.event_log import EVENT_LOG, Reaction

MANIFEST = """id = "acme.notes"
version = "1.0.0"
api = ">=1.0,<2"
summary = "Notes"
requires = ["data", "eventbus"]
"""


async def record(call: Call, event: EventEnvelope) -> None:
    """The effect: a row, in the transaction that marks the event as done."""
    tx = await call.tx()
    await tx.execute(
        "insert into effects (event_id, subject, sequence) values ($1, $2, $3)",
        event.id, event.subject, int(event.sequence),
    )  # fmt: skip


async def main(dsn: str, folder: Path, member: str) -> None:
    """Read until the end."""
    place = Place(folder, "embedded", int(member), {"postgres": dsn})
    kernel = Kernel(place, FileStamps(folder / "run" / "stamps"), b"k" * 32, lambda text: None)
    overrides = {"data.pool_size": 16, "eventbus.lease_s": 2.0, "eventbus.poll_s": 0.2}
    await Startup(kernel, ["data", "eventbus"], overrides).run()
    notes = Generation("acme.notes", 1, read_manifest(MANIFEST, "manifest.toml"), names_of("acme.notes"), object())
    calls = PluginCalls(kernel.runtime(notes))
    reaction = Reaction(
        "acme.notes.record",
        member,
        frozenset(["acme.notes.note.added.v1"]),
        calls.continued,
        record,
    )
    print("ready", flush=True)
    await kernel.require(EVENT_LOG).consume(reaction)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2]), sys.argv[3]))
