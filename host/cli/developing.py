"""`pk dev`: a running kernel's copy of a plugin follows its folder."""

from __future__ import annotations

import os
import time
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from host.cli.changes import change_here
from host.cli.ending import CommandFailed, tell
from host.cli.output import print_text
from host.cli.questions import ask_kernel
from host.discovery import GROUP

LOOK_EVERY_S: Final = 0.2
SETTLED_S: Final = 0.15
"""An editor writes several files, or one twice; what was saved this long ago is whole."""
_LEFT_OUT: Final = frozenset({"__pycache__", ".git", ".venv", "venv", "build", "dist", "node_modules", ".pk"})
Stamp = Mapping[str, tuple[int, int]]
"""Path -> time of its last change in ns, size in bytes."""


def develop(folder: Path, data_dir: Path) -> None:
    """Bring the folder's plugin into the kernel, and again whenever a file changes, until Ctrl-C.

    Raises:
        CommandFailed: no kernel runs there, or the folder is no plugin's.
    """
    folder = folder.absolute()
    plugin_id, before = id_of(folder), stamp(folder)
    _bring(folder, plugin_id, data_dir, is_first=True)
    print_text(f"watching {folder}; Ctrl-C ends it, and {plugin_id} stays installed")
    for changed in changes(folder, before):
        print_text(f"{time.strftime('%H:%M:%S')} {changed} was saved")
        _bring(folder, plugin_id, data_dir, is_first=False)


def id_of(folder: Path) -> str:
    """The id that the folder's pyproject.toml declares.

    Raises:
        CommandFailed: it declares none, or several.
    """
    try:
        content = tomllib.loads((folder / "pyproject.toml").read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise CommandFailed(
            f"{folder / 'pyproject.toml'} cannot be read ({error}); `pk new plugin` makes one"
        ) from error
    declared = content.get("project", {}).get("entry-points", {}).get(GROUP, {})
    if len(declared) != 1:
        raise CommandFailed(
            f'{folder / "pyproject.toml"} declares {len(declared)} plugins below "{GROUP}"; expected one'
        )
    return str(next(iter(declared)))


def _bring(folder: Path, plugin_id: str, data_dir: Path, *, is_first: bool) -> None:
    """Install or upgrade; what is wrong is told, and ends nothing but the first attempt."""
    begun = time.monotonic()
    is_there = any(one["id"] == plugin_id for one in _listed(data_dir))
    asked: dict[str, Any] = {"verb": "install", "what": str(folder)}
    if is_there:
        asked = {"verb": "upgrade", "plugin_id": plugin_id, "what": str(folder)}
    try:
        outcome = change_here(data_dir, asked)
    except CommandFailed as error:
        if is_first and not is_there:
            raise
        tell(str(error))
        return
    took_s = time.monotonic() - begun
    state = "serves" if outcome.get("changed", True) else "serves already"
    print_text(f"{plugin_id} {outcome['version']} {state} after {took_s:.1f} s")


def _listed(data_dir: Path) -> list[Mapping[str, Any]]:
    items: list[Mapping[str, Any]] = ask_kernel(data_dir, "GET", "/plugins", doing="asking the kernel")["items"]
    return items


# ------------------------------------------------------------------------------------------------- watching


def changes(folder: Path, before: Stamp) -> Iterator[str]:
    """The path of something that changed since `before`, each time that what was saved has settled. Never ends."""
    while True:
        time.sleep(LOOK_EVERY_S)
        now = stamp(folder)
        if now == before:
            continue
        while (settled := _after_a_moment(folder)) != now:
            now = settled
        changed = sorted(path for path in before.keys() | now.keys() if before.get(path) != now.get(path))
        before = now
        if changed:
            yield changed[0]


def _after_a_moment(folder: Path) -> Stamp:
    time.sleep(SETTLED_S)
    return stamp(folder)


def stamp(folder: Path) -> Stamp:
    """When each file of a plugin was changed last. A plugin has tens of files: looking at all of them takes less than a
    millisecond, and works on every file system."""
    found: dict[str, tuple[int, int]] = {}
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if name not in _LEFT_OUT and not name.endswith(".egg-info")]
        for name in files:
            path = Path(place, name)
            try:
                seen = path.stat()
            except OSError:
                continue  # an editor's own file that has gone already
            found[str(path.relative_to(folder))] = (seen.st_mtime_ns, seen.st_size)
    return found
