"""A process of its own with the job queue: it works off `import` for `acme.notes`, whose handler writes one row a job.

Arguments: address of the database, data folder, name of this worker, "hang" to stop in the middle of each job. Prints "ready",
then "begun" for each job, and works until it is killed.
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
from plugin_api.manifest import names_of, read_manifest
from plugin_api.ports.job_queue import JOB_QUEUE, RunningJob, Worker

MANIFEST = """id = "acme.notes"
version = "1.0.0"
api = ">=1.0,<2"
summary = "Notes"
requires = ["data", "jobs"]
"""


async def main(dsn: str, folder: Path, member: str, hangs: bool) -> None:
    """Work until the end."""
    place = Place(folder, "embedded", int(member), {"postgres": dsn})
    kernel = Kernel(place, FileStamps(folder / "run" / "stamps"), b"k" * 32, lambda text: None)
    await Startup(kernel, ["data", "eventbus"], {"eventbus.lease_s": 1.0, "eventbus.poll_s": 0.1}).run()
    notes = Generation("acme.notes", 1, read_manifest(MANIFEST, "manifest.toml"), names_of("acme.notes"), object())
    calls = PluginCalls(kernel.runtime(notes))

    async def handle(call: Call, job: RunningJob) -> None:
        await (await call.tx()).execute(
            "insert into notes (id, body) values (gen_random_uuid(), $1)", f"{job.data['word']} {member} {job.attempt}"
        )
        print("begun", flush=True)
        if hangs:
            await asyncio.Event().wait()

    worker = Worker(
        "x_acme_notes", "acme.notes.import", member, 5, 30.0,
        calls.continued, handle,
    )  # fmt: skip
    print("ready", flush=True)
    await kernel.require(JOB_QUEUE).work(worker)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2]), sys.argv[3], sys.argv[4:] == ["hang"]))
