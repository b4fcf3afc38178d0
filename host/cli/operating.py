"""What the commands about events and jobs share: operators' operations, of the kernel on a data folder or of one elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Protocol

from host.cli.ending import CommandFailed
from host.cli.output import seconds, working
from host.cli.questions import remote_of
from host.control_client import NoAnswer, ask

EVENTBUS: Final = "/api/v1/eventbus"
PAGE: Final = 200
"""Entries of a list that one question asks for, which is the most that it may."""
NAMES_SHOWN: Final = 20
Document = Mapping[str, Any]
Query = Mapping[str, str]


class Operations(Protocol):
    """A kernel, as far as its operators' operations go."""

    def send(self, method: str, path: str, body: Any = None, query: Query | None = None) -> Any:
        """What an operation answers; its JSON, decoded. Raises NoAnswer."""
        ...


class LocalOperations:
    """Those of the kernel on a data folder, through its control socket."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def send(self, method: str, path: str, body: Any = None, query: Query | None = None) -> Any:
        """What an operation answers; see `Operations`."""
        wanted = {"method": method, "path": path, "query": dict(query or {}), "body": body}
        return ask(self._folder, "POST", "/operation", wanted)


def operations_of(data_dir: Path, url: str | None) -> Operations:
    """The operations of the kernel that a command is about.

    Raises:
        CommandFailed: it is elsewhere, and there is no key or its address is none.
    """
    return remote_of(url) if url else LocalOperations(data_dir.absolute())


def asked(kernel: Operations, method: str, path: str, body: Any = None, query: Query | None = None) -> Any:
    """What an operation of the event bus answers.

    Raises:
        CommandFailed: it says no, or the kernel does not answer.
    """
    try:
        with working("asking the kernel"):
            return kernel.send(method, f"{EVENTBUS}{path}", body, query)
    except NoAnswer as error:
        raise CommandFailed(str(error)) from error


def listed(kernel: Operations, path: str, query: Query, most: int) -> tuple[list[Document], bool]:
    """The first entries of a list, and whether there are more. Raises as `asked` does."""
    found: list[Document] = []
    cursor: dict[str, str] = {}
    while True:
        limit = str(min(PAGE, most - len(found)))
        page = asked(kernel, "GET", path, query={**query, **cursor, "limit": limit})
        found += page["items"]
        if not page["next_cursor"] or len(found) >= most:
            return found, bool(page["next_cursor"])
        cursor = {"cursor": str(page["next_cursor"])}


def check_name(kernel: Operations, path: str, field: str, name: str, kind: str) -> None:
    """CommandFailed when a list has no entry of this name; it tells which ones it has."""
    names = sorted({str(one[field]) for one in asked(kernel, "GET", path)["items"]})
    if name not in names:
        more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
        raise CommandFailed(f"there is no {kind} {name} here; known: {', '.join(names[:NAMES_SHOWN]) or 'none'}{more}")


def age(moment: str | None) -> str:
    """How long ago a moment of an answer was, as people say it."""
    return (
        "-"
        if moment is None
        else seconds(max(0.0, (datetime.now(UTC) - datetime.fromisoformat(moment)).total_seconds()))
    )
