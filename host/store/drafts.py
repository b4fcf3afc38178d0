"""Work in progress: folders that a sweep may remove once whoever made them is gone, and the lock of the store."""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from plugin_api.errors import Conflict

DRAFTS: Final = ".drafts"
_LOCK: Final = ".lock"
_LOOK_EVERY_S: Final = 0.02


@contextmanager
def locked(store: Path, wait_s: float) -> Iterator[None]:
    """Hold the store: for moments only, never while something is built or fetched.

    Raises:
        Conflict: `busy`, another process held it for `wait_s`.
    """
    store.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(store / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        ends_at = time.monotonic() + wait_s
        while not _try_lock(descriptor):
            if time.monotonic() > ends_at:
                said = f"another process has held the package store {store} for {wait_s:g} s; try again when it is done"
                raise Conflict(said, code="busy")
            time.sleep(_LOOK_EVERY_S)
        yield
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def draft(store: Path, wait_s: float) -> Iterator[Path]:
    """A private folder for one piece of work. It is held while this process lives, and gone afterwards."""
    drafts = store / DRAFTS
    with locked(store, wait_s):
        drafts.mkdir(mode=0o700, exist_ok=True)
        folder = drafts / secrets.token_hex(8)
        folder.mkdir(mode=0o700)
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        _try_lock(descriptor)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(descriptor)


def remove_abandoned(store: Path) -> list[str]:
    """Remove the drafts whose makers are gone, and name them. The store is locked by the caller."""
    drafts = store / DRAFTS
    found = sorted(drafts.iterdir()) if drafts.is_dir() else []
    return [f"{DRAFTS}/{entry.name}" for entry in found if _is_abandoned(entry) and _remove(entry)]


def _is_abandoned(entry: Path) -> bool:
    if entry.is_symlink() or not entry.is_dir():
        return True
    descriptor = os.open(entry, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return _try_lock(descriptor)
    finally:
        os.close(descriptor)


def _remove(entry: Path) -> bool:
    if entry.is_symlink() or not entry.is_dir():
        entry.unlink(missing_ok=True)
    else:
        shutil.rmtree(entry, ignore_errors=True)  # a program that outlived its maker may still write there
    return not entry.exists()


def take_away(store: Path, entry: Path) -> None:
    """Remove a file or folder at once for everybody: a kill in the middle leaves a draft, no half of it."""
    (store / DRAFTS).mkdir(mode=0o700, exist_ok=True)
    gone = store / DRAFTS / secrets.token_hex(8)
    try:
        entry.rename(gone)
    except FileNotFoundError:
        return
    _remove(gone)


def sync_folder(folder: Path) -> None:
    """Bring the names in a folder to the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
