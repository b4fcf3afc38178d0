"""The child process in which a package is prepared: `python -P -m host.changes.prepare`, started by the parent.

Building a folder and resolving a requirement run code and tools that may hang, or need much memory: a process of their
own can be ended. Reads one JSON document on stdin, writes JSON lines on stdout: `{"doing": ...}`, then one `Prepared` or
one refusal.
"""

from __future__ import annotations

import os
import select
import sys
from pathlib import Path
from typing import BinaryIO

import msgspec
from msgspec import Struct

from host.authoring.rules import check_package
from host.changes.findings import warnings_of
from host.changes.refusal import refused
from host.lifeline import end_with_parent
from host.store import Builder, Package, Sources, Store


class Wanted(Struct, frozen=True):
    """What to prepare."""

    folder: str
    """The store's."""
    what: str
    parent: int
    """The process that wants it. When that is gone nobody would sweep up after us, so we end too."""
    sources: Sources = Sources()


class Prepared(Struct, frozen=True):
    """What came of it."""

    package: Package
    warnings: list[str]
    """Of the checks of its files, a line each."""


def prepare(raw: bytes, answer: BinaryIO, builder: Builder | None = None) -> None:
    """Prepare what is wanted, and tell what happens."""

    def tell(document: object) -> None:
        answer.write(msgspec.json.encode(document) + b"\n")
        answer.flush()

    try:
        wanted = msgspec.json.decode(raw, type=Wanted)
        if os.getppid() != wanted.parent:
            return
        store = Store(Path(wanted.folder), wanted.sources, builder=builder)
        package = store.prepare(wanted.what, lambda doing: tell({"doing": doing}))
        tell({"doing": f"checking {package.plugin_id} {package.version}"})
        findings = check_package(Path(package.folder), package.target.partition(":")[0])
        tell(Prepared(package, warnings_of(package.plugin_id, findings)))
    except Exception as error:  # noqa: BLE001 - the parent is to know it, whatever it is
        tell(refused(error))


def main() -> None:
    """Answer on what was stdout; what anything else prints goes to stderr."""
    os.umask(0o077)
    end_with_parent(0.0)
    with os.fdopen(os.dup(1), "wb") as answer:
        os.dup2(2, 1)
        builder = None if _is_asked() else Builder()
        try:
            prepare(sys.stdin.buffer.read(), answer, builder)
        finally:
            if builder is not None:
                builder.close()


def _is_asked() -> bool:
    """Whether what to prepare is known already; while it is not there is time to start what is probably needed."""
    return bool(select.select([sys.stdin], [], [], 0)[0])


if __name__ == "__main__":
    main()
