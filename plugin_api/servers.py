"""Child servers: what a kernel plugin declares from hook `pk_servers`, and what the parent process gives them.

A plugin only says how its server is prepared, started and asked; the parent runs it: never as root, inside the data
folder alone, restarted when it dies and stopped with the kernel. The manifest lists the names (`servers = ["postgres"]`),
so that the parent imports no other plugin.
"""

from __future__ import annotations

import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from msgspec import Struct


class StartRefused(Exception):
    """The kernel cannot start here. The text is one line for the operator: what was seen, and the remedy."""


class Command(Struct, frozen=True):
    """A program to run. It gets this environment and no other: the kernel's own may hold secrets."""

    argv: tuple[str, ...]
    cwd: Path
    env: Mapping[str, str] = {}


class Output(Struct, frozen=True):
    """How a program ended."""

    status: int
    """Exit status; negative for the signal that ended it."""
    text: str
    """The end of what it wrote to stdout and stderr, at most 64 KiB."""


class ServerPlace(Protocol):
    """Where one child server lives. Its folders exist, belong to the account it runs as, and are 0700."""

    @property
    def folder(self) -> Path:
        """Its data: `DIR/{name}`."""
        ...

    @property
    def run(self) -> Path:
        """For its sockets; short enough that a name of up to 32 bytes in it makes a Unix socket's path."""
        ...

    @property
    def logs(self) -> Path:
        """For its logs; the server bounds them and keeps them 0600."""
        ...

    def inside(self, path: Path) -> str:
        """How the server itself names a path in one of its folders.

        Write every path of a command line or configuration this way: an account that gave up root cannot pass through
        the data folder, so it is handed its own folders already opened.
        """
        ...

    async def execute(self, command: Command, *, limit_s: float) -> Output:
        """Run a program of the server to its end (`initdb`), as the account that the server runs as.

        Killed with all that it started when it takes longer than `limit_s` or the kernel stops meanwhile.

        Raises:
            StartRefused: it cannot be run at all, or took too long.
        """
        ...


class ChildServer(Protocol):
    """A server that the parent runs."""

    @property
    def name(self) -> str:
        """One lower-case word: `postgres`. Names its folders and its address."""
        ...

    @property
    def programs(self) -> frozenset[str]:
        """File names of its executables: how what a killed kernel left behind is told from other processes."""
        ...

    @property
    def stop_signal(self) -> signal.Signals:
        """What makes it end in good order, within seconds."""
        ...

    async def prepare(self, place: ServerPlace) -> None:
        """Make ready what it needs. Called before every start: idempotent, and fit for whatever a kill left behind.

        Raises:
            StartRefused: its programs or its data cannot be used.
        """
        ...

    def command(self, place: ServerPlace) -> Command:
        """The program to run in the foreground. Called after `prepare`."""
        ...

    async def is_ready(self, place: ServerPlace) -> bool:
        """Whether it serves now. Answers within a second; never raises for a server that is not there yet."""
        ...

    def address(self, place: ServerPlace) -> str:
        """What its clients need, such as a DSN; workers find it in `HostState.servers`."""
        ...
