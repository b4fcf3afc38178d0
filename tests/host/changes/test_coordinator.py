"""What the parent does with a worker that cannot follow a change, told by workers that do as the test says."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from host.changes import coordinator
from host.changes.coordinator import Coordinator
from host.changes.orders import Blame, Change, Order, Outcome, Reply
from host.changes.quarantine import Quarantines
from host.changes.refusal import refused
from host.store import Package
from plugin_api.errors import Unavailable
from plugin_api.ports.desired_state import DesiredPlugin, DesiredPlugins

ACME = DesiredPlugin("acme.crm", "1.0.0", "", "acme-crm", "acme_crm:plugin", "", enabled=False)
Converge = Callable[[], Reply]


class Worker:
    """Keeps what is desired; converges as the test says."""

    index = 0

    def __init__(self, converge: Converge) -> None:
        self._converge = converge
        self.desired = DesiredPlugins(1, "", (ACME,))
        self.steps: list[str] = []
        self.is_killed = False

    async def ask(self, kind: str, fields: Mapping[str, Any], limit_s: float) -> Mapping[str, Any]:
        order = msgspec.convert(fields, Order)
        self.steps.append(order.step)
        try:
            reply = self._reply(order)
        except Unavailable as error:
            return refused(error)
        made: dict[str, Any] = msgspec.to_builtins(reply)
        return made

    def _reply(self, order: Order) -> Reply:
        if order.step == "commit":
            self.desired = DesiredPlugins(order.expected + 1, order.change_id, tuple(order.put))
        return self._converge() if order.step == "converge" else Reply(desired=self.desired)

    async def blamed(self) -> Blame | None:
        return None

    def kill(self) -> None:
        self.is_killed = True


class NothingPrepared:
    async def prepare(self, what: str, progress: Callable[[str], None]) -> tuple[Package, list[str]]:
        raise AssertionError("nothing is installed here")


async def enable(worker: Worker, folder: Path) -> Outcome:
    parent = Coordinator(folder, lambda: [worker], NothingPrepared(), Quarantines(folder / "quarantine.json"))
    return await parent.run(Change(verb="enable", plugin_id="acme.crm"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "plugins"
    made.mkdir()
    return made


async def test_a_worker_that_cannot_read_for_a_moment_is_asked_again(folder: Path) -> None:
    outages = [Unavailable("the database is away"), Unavailable("the database is away")]

    def converge() -> Reply:
        if outages:
            raise outages.pop()
        return Reply()

    worker = Worker(converge)

    assert (await enable(worker, folder)).changed
    assert worker.steps.count("converge") == 3
    assert not worker.is_killed


async def test_a_worker_that_cannot_read_for_long_is_replaced(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coordinator, "COMMIT_LIMIT_S", 0.0)
    monkeypatch.setattr(coordinator, "AGAIN_SOON_S", 0.0)

    def converge() -> Reply:
        raise Unavailable("the database is away")

    worker = Worker(converge)

    assert (await enable(worker, folder)).changed, "it is written down: the successor starts with it"
    assert worker.is_killed


async def test_a_worker_that_fails_to_run_it_is_replaced_at_once(folder: Path) -> None:
    worker = Worker(lambda: Reply(failures={"acme.crm": "it could not be started"}))

    assert (await enable(worker, folder)).changed
    assert worker.steps.count("converge") == 1
    assert worker.is_killed
