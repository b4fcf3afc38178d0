"""`events.lock`: the schemas of a plugin's events as its author has committed them, beside the manifest.

One JSON document, sorted: `{"events": {"note.written.v1": SCHEMA}, "format": 1}`. Types stay in it when they are told no more.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from plugin_api.event_schemas import Schema, broken, compare, next_version

NAME: Final = "events.lock"
BYTES_MAX: Final = 16_777_216


class Lock(Struct, frozen=True, forbid_unknown_fields=True):
    """The file's content."""

    events: dict[str, Schema]
    format: int = 1


class LockUnreadable(ValueError):
    """The file is none that `pk contract lock` wrote."""


def read_lock(package: Path) -> dict[str, Schema] | None:
    """The schemas in a package's lock, by type; None when it has none.

    Raises:
        LockUnreadable: it cannot be read.
    """
    try:
        with (package / NAME).open("rb") as file:
            content = file.read(BYTES_MAX + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise LockUnreadable(f"{NAME} cannot be read: {error.strerror}") from error
    if len(content) > BYTES_MAX:
        raise LockUnreadable(f"{NAME} has more than {BYTES_MAX} bytes")
    try:
        lock = msgspec.json.decode(content, type=Lock)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise LockUnreadable(f"{NAME} is no lock: {error}") from error
    if lock.format != 1:
        raise LockUnreadable(f"{NAME} has the format {lock.format}, and this kernel knows 1; a later `pk` wrote it")
    return lock.events


def lock_text(events: Mapping[str, Schema]) -> str:
    """The file's text; the same for the same schemas."""
    return msgspec.json.format(msgspec.json.encode(Lock(dict(events)), order="sorted"), indent=2).decode() + "\n"


def write_lock(package: Path, events: Mapping[str, Schema]) -> None:
    """Put the file in place, whole. OSError as it comes."""
    draft = package / f".{NAME}.{os.getpid()}"
    try:
        draft.write_text(lock_text(events), "utf-8")
        draft.replace(package / NAME)
    finally:
        draft.unlink(missing_ok=True)


def breaks(locked: Mapping[str, Schema], declared: Mapping[str, Schema], emitted: Collection[str]) -> Iterator[str]:
    """What the code does that the lock forbids, a sentence for each; `emitted` are the types that the manifest lists.

    A type that is not emitted any more may be gone from the code.
    """
    for event_type, schema in sorted(locked.items()):
        if event_type in declared:
            for one in _compared(schema, declared[event_type]):
                yield f"{event_type}: {one}; keep the field as it was, or tell {next_version(event_type)} beside it"
        elif event_type in emitted:
            yield f"{event_type} is emitted and no Struct is declared for it any more; declare it with registrar.events"


def _compared(before: Schema, after: Schema) -> list[str]:
    try:
        return [str(one) for one in broken(before, after)]
    except (KeyError, TypeError, AttributeError, ValueError):
        return [f"what {NAME} has of it is no schema that `pk contract lock` wrote"]


def gains(locked: Mapping[str, Schema], declared: Mapping[str, Schema]) -> list[str]:
    """What the code has and the lock lacks, a sentence for each; when nothing breaks."""
    found: list[str] = []
    for event_type, schema in sorted(declared.items()):
        before = locked.get(event_type)
        if before is None:
            found.append(f"{event_type} is new")
        elif before != schema:
            found += [f"{event_type}: {one}" for one in compare(before, schema)] or [f"{event_type} promises more"]
    return found
