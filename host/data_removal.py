"""What becomes of a plugin's data when it leaves: looked at, written into a folder, destroyed."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from plugin_api.manifest import names_of
from plugin_api.ports.event_log import EVENT_LOG
from plugin_api.ports.job_queue import JOB_QUEUE
from plugin_api.ports.migrations import MIGRATOR

if TYPE_CHECKING:
    from host.changes.orders import Data
    from host.kernel import Kernel

EXPORTS_FOLDER: Final = "exports"


async def survey(kernel: Kernel, plugin_id: str) -> dict[str, Any]:
    """What there is of a plugin: its schema with the tables and about how many rows each has, routes, permissions."""
    names = names_of(plugin_id)
    generation = kernel.table.generations.get(plugin_id)
    routes = [f"{o.bound.method} {o.bound.path}" for o in generation.operations] if generation is not None else []
    permissions = sorted(generation.permissions()) if generation is not None else []
    tables = await kernel.require(MIGRATOR).tables(names.schema)
    return {"schema": names.schema, "tables": dict(tables), "routes": routes, "permissions": permissions}


async def dispose(kernel: Kernel, plugin_id: str, data: Data) -> dict[str, Any]:
    """Do with the data of a plugin that runs nowhere any more what was asked; may be repeated.

    An export comes before the destruction, which does not happen when it fails.
    """
    if data == "keep":
        return {}
    migrator, schema = kernel.require(MIGRATOR), names_of(plugin_id).schema
    told: dict[str, Any] = {"tables": dict(await migrator.tables(schema))}
    if data == "export" and told["tables"]:
        folder = _export_folder(kernel.data_folder, plugin_id)
        for draft in folder.parent.glob(f".{plugin_id}-*"):
            shutil.rmtree(draft, ignore_errors=True)  # of a try that was cut off
        told["files"] = await migrator.export(schema, folder)
        told["folder"] = str(folder)
    await _forget(kernel, plugin_id)
    await migrator.purge(schema)
    return told


async def _forget(kernel: Kernel, plugin_id: str) -> None:
    """Let those that keep something for plugins forget it; before the schema goes, so that whoever is cut off begins anew."""
    names = names_of(plugin_id)
    if (event_log := kernel.find(EVENT_LOG)) is not None:
        await event_log.forget(names.schema, names.area)
    if (jobs := kernel.find(JOB_QUEUE)) is not None:
        await jobs.forget(names.schema)


def _export_folder(data_folder: Path, plugin_id: str) -> Path:
    """One that is not there yet: a removal that was cut off may have made one in the same second."""
    now_ms = time.time_ns() // 1_000_000
    stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime(now_ms // 1_000))
    return data_folder / EXPORTS_FOLDER / f"{plugin_id}-{stamp}.{now_ms % 1_000:03d}Z"
