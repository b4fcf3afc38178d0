"""Child servers: kept alive, found again after a kill, and never mistaken for somebody else's process."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest

from host.children import DELAY_S_MAX, STABLE_S, Backoff, Left, Place, Register, RunningServer, Servers
from host.datafolder import DataFolder, write_whole
from host.privileges import choose_privileges
from host.processes import Identity, end_all, find_inside, identify, is_running
from plugin_api.servers import Command, ServerPlace, StartRefused

LIMIT_S = 20.0
PYTHON = os.path.realpath(sys.executable)


@dataclass
class ToyServer:
    """A server of three lines: ready when its file is there."""

    name: str = "toy"
    code: str = "signal.pause()"
    comes_up: bool = True
    programs: frozenset[str] = frozenset({os.path.basename(PYTHON)})
    stop_signal: signal.Signals = signal.SIGTERM
    prepared: int = 0
    refuse: bool = False

    async def prepare(self, place: ServerPlace) -> None:
        self.prepared += 1
        (place.run / "ready").unlink(missing_ok=True)
        if self.refuse:
            raise StartRefused("the toy is broken")

    def command(self, place: ServerPlace) -> Command:
        code = textwrap.dedent(f"""
            import os, signal, sys, time
            from pathlib import Path
            if {self.comes_up}:
                Path({place.inside(place.run)!r}, "ready").write_text(str(os.getpid()))
            {self.code}
        """)
        return Command((PYTHON, "-c", code), place.folder, {"PATH": "/usr/bin:/bin"})

    async def is_ready(self, place: ServerPlace) -> bool:
        return (place.run / "ready").exists()

    def address(self, place: ServerPlace) -> str:
        return str(place.run)


class Ground:
    """A data folder with supervised servers, and what they told."""

    def __init__(self, path: Path) -> None:
        self.folder = DataFolder.open(path)
        self.register = Register(self.folder)
        self.changed = asyncio.Event()
        self.servers = Servers(self.folder, self.register, self.changed.set)

    async def start(self, *servers: ToyServer) -> None:
        await self.servers.start(servers, choose_privileges())

    def noted(self) -> list[Left]:
        return msgspec.json.decode((self.folder.run / "children.json").read_bytes(), type=list[Left])


@pytest.fixture
async def ground(tmp_path: Path) -> AsyncIterator[Ground]:
    made = Ground(tmp_path / "pk")
    yield made
    await made.servers.stop(2.0)
    made.folder.close()


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something that another process or a task in the background does."""
    async with asyncio.timeout(LIMIT_S):
        while not condition():
            await asyncio.sleep(0.01)


def spawn(*words: str, **given: Any) -> subprocess.Popen[bytes]:
    return subprocess.Popen(words, **given)


def identity_of(pid: int) -> Identity:
    found = identify(pid)
    assert found is not None
    return found


def test_backoff_starts_at_nothing_and_is_bounded() -> None:
    backoff = Backoff()
    delays = [backoff.delay_s(0.0) for _ in range(40)]

    assert delays[0] == 0.0
    assert delays == sorted(delays)
    assert delays[-1] == DELAY_S_MAX
    assert backoff.delay_s(STABLE_S) == 0.0
    assert backoff.delay_s(0.0) == 0.0


async def test_servers_start_at_the_same_time_and_are_noted(ground: Ground) -> None:
    one, other = ToyServer("one"), ToyServer("other")
    await ground.start(one, other)

    assert sorted(ground.servers.addresses()) == ["one", "other"]
    assert {left.name: left.process.pid for left in ground.noted()} == ground.servers.pids()
    assert [running.state for running in ground.servers.running] == ["ready", "ready"]


async def test_a_dead_server_is_started_again(ground: Ground) -> None:
    toy = ToyServer()
    await ground.start(toy)
    before = ground.servers.pids()["toy"]
    os.kill(before, signal.SIGKILL)
    await asyncio.wait_for(ground.changed.wait(), LIMIT_S)

    assert ground.servers.pids()["toy"] != before
    assert [left.process.pid for left in ground.noted()] == [ground.servers.pids()["toy"]]
    assert (toy.prepared, ground.servers.running[0].restarts, ground.servers.running[0].state) == (2, 1, "ready")


async def test_a_server_that_cannot_be_restarted_is_tried_until_it_can(ground: Ground) -> None:
    toy = ToyServer()
    await ground.start(toy)
    toy.refuse = True
    os.kill(ground.servers.pids()["toy"], signal.SIGKILL)
    await until(lambda: toy.prepared >= 4)
    states = [ground.servers.running[0].state]
    toy.refuse = False
    await asyncio.wait_for(ground.changed.wait(), LIMIT_S)
    states.append(ground.servers.running[0].state)

    assert states == ["restarting", "ready"]


async def test_one_that_does_not_come_up_takes_the_others_down(ground: Ground) -> None:
    with pytest.raises(StartRefused, match=r"bad ended with exit status 3 before it was ready \(no luck\)"):
        await ground.start(ToyServer("good"), ToyServer("bad", "print('no luck'); sys.exit(3)", comes_up=False))
    await ground.servers.stop(2.0)

    assert find_inside(ground.folder.path, ToyServer().programs) == []
    assert ground.noted() == []


async def test_a_stubborn_server_is_killed(ground: Ground) -> None:
    await ground.start(ToyServer(code="signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(3600)"))
    process = identity_of(ground.servers.pids()["toy"])
    await ground.servers.stop(0.2)

    assert not is_running(process)


async def test_what_a_dead_server_left_at_work_is_ended_before_the_next_start(ground: Ground) -> None:
    forks = "child = os.fork(); Path('child').write_text(str(os.getpid())) if child == 0 else None; time.sleep(3600)"
    await ground.start(ToyServer(code=forks))
    child_file = ground.folder.path / "toy" / "child"
    await until(lambda: child_file.exists() and child_file.read_text() != "")
    child = identity_of(int(child_file.read_text()))
    os.kill(ground.servers.pids()["toy"], signal.SIGKILL)
    await asyncio.wait_for(ground.changed.wait(), LIMIT_S)

    assert not is_running(child)


async def test_what_a_killed_kernel_noted_is_ended(tmp_path: Path) -> None:
    ground = Ground(tmp_path / "pk")
    place = Place("toy", ground.folder, choose_privileges())
    toy = ToyServer()
    left = RunningServer(toy, place)
    await left.start(ground.register)
    process = identity_of(left.pid)

    assert await Register(ground.folder).end_left() == 1  # as the next kernel reads it
    await until(lambda: not is_running(process))
    ground.folder.close()


@pytest.mark.parametrize("mistake", ["other start", "other folder"])
async def test_another_process_with_a_noted_number_is_left_alone(tmp_path: Path, mistake: str) -> None:
    ground = Ground(tmp_path / "pk")
    cwd = ground.folder.path if mistake == "other start" else tmp_path
    bystander = spawn(sys.executable, "-c", "import signal; signal.pause()", cwd=cwd)
    process = identity_of(bystander.pid)
    noted = Identity(process.pid, "1") if mistake == "other start" else process
    try:
        write_whole(ground.folder.run / "children.json", [msgspec.to_builtins(Left("postgres", noted, signal.SIGKILL))])

        assert await ground.register.end_left() == 0
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()
        ground.folder.close()


@pytest.mark.parametrize("content", ["", "[{]", '{"a": 1}', '[{"name": 5}]'])
async def test_a_damaged_note_stops_nothing(ground: Ground, content: str) -> None:
    (ground.folder.run / "children.json").write_text(content)

    assert await ground.register.end_left() == 0


async def test_another_program_in_the_folder_of_a_server_is_left_alone(ground: Ground) -> None:
    ground.folder.make("toy")
    shell = spawn("/bin/sleep", "3600", cwd=ground.folder.path / "toy")
    try:
        await ground.start(ToyServer())

        assert shell.poll() is None
    finally:
        shell.kill()
        shell.wait()


async def test_a_process_that_ignores_every_signal_but_one_is_ended() -> None:
    code = "import signal, sys; [signal.signal(s, signal.SIG_IGN) for s in (2, 15)]; print(flush=True); signal.pause()"
    stubborn = spawn(sys.executable, "-c", code, stdout=subprocess.PIPE)
    assert stubborn.stdout is not None
    stubborn.stdout.readline()
    process = identity_of(stubborn.pid)
    left = await end_all([process], [(signal.SIGINT, 0.05), (signal.SIGTERM, 0.05), (signal.SIGKILL, LIMIT_S)])
    stubborn.stdout.close()

    assert (left, stubborn.wait(LIMIT_S)) == ([], -signal.SIGKILL)
