"""A real kernel that dies in the middle of a change of its plugins, at the very step that it is told.

`up JSON` with `{options, settings}` runs what `pk up` runs; its workers run this program too. The coroutine of each change
(in the parent) and of each order (in a worker) is driven step by step: wherever it waits it comes to two moments, `asked`,
when what it waits for has begun, and `answered`, when it goes on. Each is written to `DIR/../steps/WHO.jsonl`. At the one that
`DIR/../doom.json` names somebody is killed: the process itself, a server, or a child of it. That file is gone by then, so it
happens once.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections import Counter
from collections.abc import Callable, Coroutine, Generator, Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Any, Final

import host.worker
from host.changes.coordinator import Coordinator
from host.changes.follower import Follower
from host.changes.orders import Change, Outcome
from host.declared import declared_servers
from host.parent import Parts, UpOptions, run

OURS: Final = ("/host/", "/core_plugins/")


class Fate:
    """What one process has come through, and whether its time has come."""

    def __init__(self, who: str, place: Path) -> None:
        self._who = who
        self._place = place
        self._doom = place / "doom.json"
        self._told: dict[str, Any] = {}
        self._seen: Counter[str] = Counter()

    def reach(self, step: str) -> None:
        """Note a step; act when it is the one."""
        folder = self._place / "steps"
        folder.mkdir(exist_ok=True)
        with (folder / f"{self._who}.jsonl").open("a") as file:
            file.write(json.dumps(step) + "\n")
        self._look()
        self._seen[step] += 1
        told = self._told
        if told.get("who") == self._who and told.get("step") == step and told.get("nth") == self._seen[step]:
            self._told = {}
            self._doom.unlink(missing_ok=True)
            for pid in self._victims(str(told["victim"])):
                os.kill(pid, signal.SIGKILL)

    def _look(self) -> None:
        """Read what is told; a new doom counts from its beginning."""
        try:
            told = json.loads(self._doom.read_text())
        except (OSError, ValueError):
            told = {}
        if told != self._told:
            self._told = told
            self._seen.clear()

    def _victims(self, name: str) -> list[int]:
        """Ourselves, a server by its name, or our children whose command line has the name in it."""
        if name == "self":
            return [os.getpid()]
        servers = json.loads((self._place / "data" / "run" / "kernel.json").read_text())["servers"]
        return [servers[name]] if name in servers else [pid for pid in _children() if name in _command(pid)]


class Stepped:
    """Awaits a coroutine; `reach` is told every moment at which it stands still."""

    def __init__(self, work: Coroutine[Any, Any, Any], label: str, reach: Callable[[str], None]) -> None:
        self._work = work
        self._label = label
        self._reach = reach

    def __await__(self) -> Generator[Any, Any, Any]:
        """Drive it as its task would."""
        given: Any = None
        thrown: BaseException | None = None
        while True:
            try:
                awaited = self._work.send(given) if thrown is None else self._work.throw(thrown)
            except StopIteration as end:
                return end.value
            step, given, thrown = f"{self._label}: {place_of(self._work)}", None, None
            self._reach(f"{step} asked")
            try:
                given = yield awaited
            except BaseException as error:
                thrown = error
            self._reach(f"{step} answered")


def place_of(work: object) -> str:
    """Where a coroutine stands: its functions, from the outermost to the innermost, with the lines at which they wait."""
    return " > ".join(f"{frame.f_code.co_name}:{frame.f_lineno}" for frame in _frames(work) if _is_ours(frame))


def _frames(work: object) -> Iterator[FrameType]:
    """From the outermost to the innermost, as far as awaiting shows it."""
    inner: Any = work
    while inner is not None:
        frame = next((found for name in ("cr_frame", "gi_frame") if (found := getattr(inner, name, None))), None)
        if isinstance(frame, FrameType):
            yield frame
        inner = getattr(inner, "cr_await", None) or getattr(inner, "gi_yieldfrom", None)


def _is_ours(frame: FrameType) -> bool:
    return any(part in frame.f_code.co_filename for part in OURS)


def _children() -> Iterator[int]:
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text(errors="replace").rsplit(")", 1)[1].split()[1])
        except (OSError, IndexError):
            continue
        if parent == os.getpid():
            yield int(stat.parent.name)


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace")
    except OSError:
        return ""


def up(given: Mapping[str, Any]) -> int:
    """Run the kernel until a signal, or until its doom."""
    told: dict[str, Any] = {**given["options"], "data_dir": Path(given["options"]["data_dir"])}
    options = UpOptions(**told)
    fate = Fate("parent", options.data_dir.parent)
    change, resume = Coordinator.run, Coordinator._resume

    async def stepped(self: Coordinator, wanted: Change) -> Outcome:
        outcome: Outcome = await Stepped(change(self, wanted), wanted.verb, fate.reach)
        return outcome

    async def resumed(self: Coordinator) -> None:
        await Stepped(resume(self), "resume", fate.reach)

    Coordinator.run = stepped  # type: ignore[assignment, method-assign]
    Coordinator._resume = resumed  # type: ignore[method-assign]
    worker = (sys.executable, "-P", __file__)
    return run(options, given["settings"], Parts(declared_servers, worker))


def work(channel: str, data_dir: str) -> int:
    """Run a worker until its parent ends it, or until its doom."""
    carry_out = Follower.carry_out

    async def stepped(self: Follower, fields: Mapping[str, Any]) -> dict[str, Any]:
        who = f"worker{self._kernel.state.worker}"
        fate = fates.setdefault(who, Fate(who, Path(data_dir).parent))
        reply: dict[str, Any] = await Stepped(carry_out(self, fields), str(fields["step"]), fate.reach)
        return reply

    fates: dict[str, Fate] = {}
    Follower.carry_out = stepped  # type: ignore[method-assign]
    return host.worker.main([channel, data_dir])


if __name__ == "__main__":
    sys.exit(up(json.loads(sys.argv[2])) if sys.argv[1] == "up" else work(*sys.argv[1:]))
