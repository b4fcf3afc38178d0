"""Measuring on a noisy machine: CPU seconds instead of wall time, sides interleaved, medians with their spread."""

from __future__ import annotations

import asyncio
import statistics
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

LOAD = Path(__file__).with_name("load.py")


@dataclass(frozen=True)
class Figure:
    """One ratio and how it was found."""

    name: str
    ratios: Sequence[float]
    goal: float
    reference: str
    at_least: bool = True

    @property
    def ratio(self) -> float:
        """The median over all rounds."""
        return statistics.median(self.ratios)

    @property
    def met(self) -> bool:
        """Whether the goal is reached."""
        return self.ratio >= self.goal if self.at_least else self.ratio <= self.goal

    def line(self) -> str:
        """The line that `make bench` prints."""
        sign = ">=" if self.at_least else "<="
        return (
            f"BENCH name={self.name} ratio={self.ratio:.3g} goal={sign}{self.goal:g} n={len(self.ratios)} "
            f'spread={min(self.ratios):.3g}..{max(self.ratios):.3g} reference="{self.reference}"{"" if self.met else " SHORT"}'
        )


def cpu_seconds(*pids: int) -> float:
    """CPU time that these processes have used, all threads, in seconds (schedstat: nanoseconds, no sampling)."""
    total = 0
    for pid in pids:
        for task in Path(f"/proc/{pid}/task").iterdir():
            total += int((task / "schedstat").read_text().split()[0])
    return total / 1e9


@dataclass(frozen=True)
class Side:
    """One of the things compared: who does the work, and how to make it do `count` pieces of it."""

    pids: Sequence[int]
    work: Callable[[int], Awaitable[None]]


async def cost(side: Side, count: int) -> float:
    """CPU seconds of one piece of work."""
    before = cpu_seconds(*side.pids)
    await side.work(count)
    return (cpu_seconds(*side.pids) - before) / count


async def interleaved(sides: Sequence[Side], *, count: int, rounds: int) -> list[list[float]]:
    """The cost of each side in each round; the first round warms up and is dropped."""
    found: list[list[float]] = [[] for _ in sides]
    for number in range(rounds + 1):
        for index in range(len(sides)):
            place = (index + number) % len(sides)  # nobody is always first
            value = await cost(sides[place], count)
            if number:
                found[place].append(value)
    return found


class HttpLoad:
    """Sends one prepared request over and over from a process of its own; every answer must have the expected status."""

    def __init__(self, port: int, request: bytes, status: int = 200) -> None:
        self._port = port
        self._request = request
        self._status = status

    async def __call__(self, count: int) -> None:
        """Send `count` requests. AssertionError when an answer was another or did not come."""
        client = await asyncio.create_subprocess_exec(
            sys.executable, str(LOAD), str(self._port), str(count), str(self._status), stdin=asyncio.subprocess.PIPE
        )
        await client.communicate(self._request)
        assert client.returncode == 0, f"expected {count} answers with status {self._status} from port {self._port}"
