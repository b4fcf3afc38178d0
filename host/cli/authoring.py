"""Commands for authors of plugins."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import typer

from host.authoring.event_contract import LockRefused, export_project, lock_project
from host.authoring.examination import TRIAL_LIMIT_S, examine
from host.authoring.scaffold import BadId, NoPlace, new_project
from host.cli.ending import CommandFailed
from host.cli.output import print_json, print_text, working
from host.finding import Finding, Severity

SEVERITIES: Final[tuple[Severity, ...]] = ("error", "warning", "info")


def begin_plugin(plugin_id: str, directory: Path, *, as_json: bool) -> None:
    """`pk new plugin`.

    Raises:
        BadParameter: the id can be none; exit status 2.
        CommandFailed: the folder is taken or cannot be written.
    """
    try:
        made = new_project(plugin_id, directory)
    except BadId as error:
        raise typer.BadParameter(str(error), param_hint="ID") from error
    except NoPlace as error:
        raise CommandFailed(str(error)) from error
    if as_json:
        print_json(made)
        return
    print_text(f"made {made.folder}")
    for file in made.files:
        print_text(f"  {file}")
    print_text(f"\nnext: cd {made.folder}, then")
    print_text("  pk check .              what an installation would refuse, and why")
    print_text("  pk plugins install .    into the running kernel")
    print_text("  pytest                  its tests, in a kernel of their own")


def check_plugin(folder: Path, *, as_json: bool) -> None:
    """`pk check`.

    Raises:
        Exit: with status 1, there is an error.
    """
    with working(f"checking {folder}"):
        found = asyncio.run(examine(folder.absolute()))
    counts: Counter[Severity] = Counter(finding.severity for finding in found)
    if as_json:
        told = {f"{severity}s": counts[severity] for severity in SEVERITIES}
        print_json({"ok": not counts["error"], **told, "findings": found})
    else:
        _show(found, counts)
    raise typer.Exit(1 if counts["error"] else 0)


def lock_contract(folder: Path, *, as_json: bool) -> None:
    """`pk contract lock`.

    Raises:
        CommandFailed: the lock was left as it is.
    """
    try:
        with working(f"looking at {folder}"):
            locked = asyncio.run(lock_project(folder.absolute(), TRIAL_LIMIT_S))
    except LockRefused as error:
        raise CommandFailed(str(error)) from error
    if as_json:
        print_json(locked)
        return
    if locked.types:
        _show_lock(locked.file, locked.gained)
    if locked.wire is not None:
        _show_lock(locked.wire.file, locked.wire.gained)
    if not locked.types and locked.wire is None:
        print_text("it declares no events and has no operations, so there is nothing to lock")


def _show_lock(file: str, gained: Sequence[str]) -> None:
    for said in gained:
        print_text(f"  {said}")
    print_text(f"{file}: {'written; commit it' if gained else 'up to date'}")


def export_contract(folder: Path, out: Path | None, *, as_json: bool) -> None:
    """`pk contract export`.

    Raises:
        CommandFailed: there is nothing to export, or no place for it.
    """
    try:
        with working(f"looking at {folder}"):
            name, text = asyncio.run(export_project(folder.absolute(), TRIAL_LIMIT_S))
        place = out.absolute() / name if out is not None else None
        if place is not None:
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(text, "utf-8")
    except LockRefused as error:
        raise CommandFailed(str(error)) from error
    except OSError as error:
        raise CommandFailed(f"{out} cannot be written: {error.strerror}; give another folder as --out") from error
    if as_json:
        print_json({"file": str(place) if place is not None else name, "proto": text})
    else:
        print_text(str(place) if place is not None else text.rstrip())


def _show(found: Sequence[Finding], counts: Mapping[Severity, int]) -> None:
    for one in found:
        place = f"{one.file}:{one.line}" if one.line else one.file
        print_text(f"{one.severity}: {one.id}{f' in {place}' if place else ''}")
        print_text(f"  {one.message}\n  why:    {one.why}\n  remedy: {one.remedy}\n")
    told = [_counted(counts[one], one) for one in SEVERITIES if counts[one]]
    print_text(", ".join(told) if told else "nothing to say against it")


def _counted(count: int, of: str) -> str:
    return f"{count} {of}{'' if count == 1 else 's'}"
