"""The command line `pk`. Each command imports what it needs when it runs, so that `pk --help` is quick."""

from __future__ import annotations

from collections.abc import Sequence

from host.cli.ending import guarded


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit status: 0 done, 1 failed (the reason is on stderr), 2 usage, 130 interrupted."""
    return guarded(arguments)
