"""Measuring on a noisy machine: CPU seconds instead of wall time, sides interleaved, medians with their spread."""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

CONNECTIONS = 16


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
    """Keep-alive connections that send one prepared request over and over; every answer must begin as expected."""

    def __init__(self, port: int, request: bytes, expected: bytes = b"HTTP/1.1 200 ") -> None:
        self._port = port
        self._request = request
        self._expected = expected

    async def __call__(self, count: int) -> None:
        """Send about `count` requests over CONNECTIONS connections."""
        share = -(-count // CONNECTIONS)
        await asyncio.gather(*(self._connection(share) for _ in range(CONNECTIONS)))

    async def _connection(self, count: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        for _ in range(count):
            writer.write(self._request)
            head = await reader.readuntil(b"\r\n\r\n")
            if not head.startswith(self._expected):
                rest = await reader.read(2000)
                raise AssertionError(f"expected {self._expected!r}, saw {head!r} {rest!r}")
            at = head.lower().find(b"content-length: ")
            if at > 0:
                await reader.readexactly(int(head[at + 16 : head.index(b"\r", at)]))
        writer.close()
