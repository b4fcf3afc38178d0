"""The processes in which packages are prepared: one waits for the next package, and none stays for long."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from host.changes import installer
from host.changes.installer import Installer
from host.store import Sources
from plugin_api.errors import InvalidRequest
from plugin_api.testing.processes import end, processes_within
from plugin_api.testing.waiting import until


@pytest.fixture(autouse=True)
def children(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], set[int]]]:
    """The pids of those that work here; they are started in a folder of the test's own, and none outlives it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(Path(installer.__file__).parents[2]))
    monkeypatch.setattr(installer, "SPARE_AFTER_S", 0.0)

    def pids() -> set[int]:
        return {one.pid for one in processes_within(tmp_path)}

    yield pids
    for left in processes_within(tmp_path):
        end(left)


@pytest.fixture
async def maker(tmp_path: Path) -> AsyncIterator[Installer]:
    made = Installer(tmp_path / "plugins", Sources())
    yield made
    await made.close()


async def refused(maker: Installer) -> None:
    """Prepare what cannot be prepared: the quickest there is."""
    with pytest.raises(InvalidRequest, match="no-such-folder"):
        await maker.prepare("./no-such-folder", lambda _: None)


async def test_the_next_package_is_prepared_by_the_process_that_waits(
    maker: Installer, children: Callable[[], set[int]]
) -> None:
    await refused(maker)
    (waiting,) = await until(children, "a process waits")

    await refused(maker)

    assert waiting not in children(), "a process prepares one package"
    (next_one,) = await until(children, "another waits")
    assert next_one != waiting


async def test_a_process_that_waits_in_vain_ends(
    maker: Installer, children: Callable[[], set[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(installer, "SPARE_S", 0.5)
    await refused(maker)
    await until(children, "a process waits")

    await until(lambda: not children(), "it has ended")

    await refused(maker)


async def test_one_that_was_killed_while_it_waited_is_not_missed(
    maker: Installer, children: Callable[[], set[int]]
) -> None:
    await refused(maker)
    (waiting,) = await until(children, "a process waits")
    os.kill(waiting, 9)
    await until(lambda: maker.is_ready is False, "its end is known")

    await refused(maker)
