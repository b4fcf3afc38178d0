"""What commands print: tables for people, one JSON document for programs. Nothing but plain text without a terminal."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from host.cli.ending import plain

if TYPE_CHECKING:
    from rich.console import Console

PROGRESS_AFTER_S: Final = 0.5
STYLES: Final[Mapping[str, str]] = {
    "ok": "green",
    "active": "green",
    "ready": "green",
    "applied": "green",
    "warn": "yellow",
    "pending": "yellow",
    "starting": "yellow",
    "draining": "yellow",
    "half_open": "yellow",
    "default": "dim",
    "fail": "bold red",
    "failed": "bold red",
    "blocked": "bold red",
    "quarantined": "bold red",
    "stopped": "dim",
    "changed": "bold red",
    "missing": "bold red",
    "hung": "bold red",
    "gone": "bold red",
}
"""Words that mean the same wherever they stand in a table."""


def print_json(document: Any) -> None:
    """One JSON document on stdout."""
    import msgspec  # noqa: PLC0415 - not every command prints

    raw = msgspec.json.format(msgspec.json.encode(document), indent=2)
    sys.stdout.buffer.write(raw + b"\n")
    sys.stdout.buffer.flush()


def print_text(text: str) -> None:
    """Lines on stdout."""
    sys.stdout.write(f"{plain(text)}\n")


def print_table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table on stdout; without a terminal one line for each row, for programs that read lines."""
    cells = [[plain(cell) for cell in row] for row in rows]
    if not sys.stdout.isatty():
        _print_lines([list(headers), *([cell.replace("\n", " ") for cell in row] for row in cells)])
        return
    from rich import box  # noqa: PLC0415 - takes longer to load than most commands to run
    from rich.table import Table  # noqa: PLC0415 - as above
    from rich.text import Text  # noqa: PLC0415 - as above

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for header in headers:
        table.add_column(header, overflow="fold")
    for row in cells:
        table.add_row(*(Text(cell, style=STYLES.get(cell, "")) for cell in row))
    console().print(table)


def _print_lines(rows: Sequence[Sequence[str]]) -> None:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        sys.stdout.write("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() + "\n")


def console(*, stderr: bool = False) -> Console:
    """A terminal to print on; nothing in a text is taken for markup."""
    from rich.console import Console  # noqa: PLC0415 - as above

    return Console(stderr=stderr, markup=False, highlight=False, emoji=False)


@contextmanager
def working(on: str) -> Iterator[None]:
    """Show on the terminal that something takes its time; nothing when it is quick, or where there is no terminal."""
    with progress(on):
        yield


@contextmanager
def progress(on: str) -> Iterator[Callable[[str], None]]:
    """`working`, with a function that changes what is shown."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.status import Status  # noqa: PLC0415 - as above

    status = Status(plain(on), console=console(stderr=True))
    timer = threading.Timer(PROGRESS_AFTER_S, status.start)
    timer.daemon = True
    timer.start()
    try:
        yield lambda text: status.update(plain(text))
    finally:
        timer.cancel()
        timer.join()  # it may be about to start what is stopped next
        status.stop()


def seconds(count: object) -> str:
    """A duration as people say it: `3 d 4 h`, `12 min`, `7 s`."""
    left = int(count) if isinstance(count, int | float) else 0
    days, left = divmod(left, 86_400)
    hours, left = divmod(left, 3_600)
    minutes, rest = divmod(left, 60)
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min" if minutes else f"{rest} s"
