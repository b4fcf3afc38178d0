"""Whatever dies in a change of plugins leaves nothing half done, and nobody who goes on with it."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Final

from host.store import Store
from plugin_api.testing import until
from plugin_api.testing.processes import end, processes_within

PREPARING: Final = """
import asyncio, sys
from pathlib import Path
from host.changes.installer import Installer
from host.store import Sources

asyncio.run(Installer(Path(sys.argv[1]), Sources()).prepare(sys.argv[2], lambda doing: None))
"""
BACKEND: Final = """
import os, time

def build_wheel(*_, **__):
    with open(os.environ["TOLD"], "w") as told:
        told.write(f"{os.getpid()} {os.getppid()}")
    time.sleep(1000)
"""


async def test_nothing_goes_on_preparing_for_a_parent_that_is_gone(tmp_path: Path) -> None:
    """It would put its package into a store that the next kernel has swept already."""
    store, told, project = tmp_path / "plugins", tmp_path / "told", tmp_path / "project"
    os.mkfifo(told)
    project.mkdir()
    (project / "backend.py").write_text(BACKEND)
    (project / "pyproject.toml").write_text(
        '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
        '[project]\nname = "acme-slow"\nversion = "1.0.0"\n'
    )
    parent = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-c", PREPARING, store, project),
        cwd=tmp_path,
        env={**os.environ, "TOLD": str(told)},
    )
    await asyncio.to_thread(told.read_text)
    assert any("host.changes.prepare" in process.command for process in processes_within(tmp_path))
    parent.kill()
    await parent.wait()

    try:
        await until(lambda: not processes_within(tmp_path), "all of them have ended", 30.0)
    finally:
        for process in processes_within(tmp_path):
            end(process)
    assert [draft for draft in Store(store).sweep([]) if not draft.startswith(".drafts/")] == []
