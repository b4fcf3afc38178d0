"""Where a plugin's numbers come from: its own lock, or what this data folder has given it at first and keeps."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from host.observe import PluginLog
from host.wire.lock import NAME, Lock, WireLockUnreadable, grown, read_lock, write_text
from host.wire.model import Contract
from host.wire.shapes import contract_of

if TYPE_CHECKING:
    from host.generations import RegisteredOperation

FOLDER: Final = "wire"
"""Below `DIR/plugins`."""
_log = PluginLog("host")


def numbered(
    plugin_id: str, package: str, operations: Sequence[RegisteredOperation], folder: Path | None, kept_in: Path
) -> tuple[Contract, Lock]:
    """A plugin's contract, with numbers for everything in it.

    `folder` is where its manifest is. Without a lock there, the numbers are kept in `kept_in`, for every version that comes.
    OSError when they cannot be.
    """
    own = _own_lock(plugin_id, folder)
    if own is not None:
        contract = contract_of(package, operations, own)
        return contract, grown(own, contract)
    kept_in.mkdir(mode=0o700, parents=True, exist_ok=True)
    file = kept_in / f"{plugin_id}.lock"
    with _held(kept_in):  # another worker may number another version at this moment
        before = _kept_lock(plugin_id, file)
        contract = contract_of(package, operations, before)
        after = grown(before, contract)
        if after != before:
            write_text(file, after.text())
    return contract, after


def _own_lock(plugin_id: str, folder: Path | None) -> Lock | None:
    try:
        return read_lock(folder / NAME) if folder is not None else None
    except WireLockUnreadable as error:
        _log.error("a plugin's wire.lock is left out", plugin=plugin_id, why=str(error))
        return None


def _kept_lock(plugin_id: str, file: Path) -> Lock:
    try:
        return read_lock(file) or Lock()
    except WireLockUnreadable as error:
        _log.error("the numbers of a plugin's messages are lost; they are given anew", plugin=plugin_id, why=str(error))
        return Lock()


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
