"""`pk events tail|dlq|replay`: the log, what could not be handled, and having it told again."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from host.cli.ending import CommandFailed, plain
from host.cli.operating import (
    EVENTBUS,
    PAGE,
    Document,
    Operations,
    age,
    asked,
    check_name,
    listed,
    operations_of,
)
from host.cli.output import print_json, print_table, print_text
from host.control_client import NoAnswer, NoKernel, Refused

LOOK_EVERY_S: Final = 0.5
PATIENCE_S: Final = 30.0
"""For how long whoever follows bears a kernel that does not answer: its workers may be being replaced."""
DATA_SHOWN: Final = 200
_OPTIONAL: Final = ("actor", "traceparent")


# ------------------------------------------------------------------------------------------------------- tail


def tail(
    data_dir: Path, url: str | None, begin: str, wanted: Mapping[str, str], *, follow: bool, as_json: bool
) -> None:
    """`pk events tail`: print events until Ctrl-C, or those that there are."""
    show = _as_cloud_event if as_json else _as_line
    try:
        for one in _events(operations_of(data_dir, url), begin, wanted, follow=follow):
            sys.stdout.write(f"{show(one)}\n")
            sys.stdout.flush()
    except KeyboardInterrupt:
        return
    except BrokenPipeError:  # whoever reads has seen enough; nothing may be written when Python ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _events(kernel: Operations, begin: str, wanted: Mapping[str, str], *, follow: bool) -> Iterator[Document]:
    """Events from a place on, part by part; without `follow` as far as the log was when it was first asked."""
    end: int | None = None
    while True:
        part = _part(kernel, {**wanted, "begin": begin, "limit": str(PAGE)}, follow=follow)
        yield from part["items"]
        begin, end = str(part["next_position"]), part["tip"] if end is None or follow else end
        if part["next_position"] > end:
            if not follow:
                return
            time.sleep(LOOK_EVERY_S)


def _part(kernel: Operations, query: Mapping[str, str], *, follow: bool) -> Document:
    """One part of the log; whoever follows asks again for PATIENCE_S when the kernel is not there for a moment."""
    until = time.monotonic() + (PATIENCE_S if follow else 0.0)
    while True:
        try:
            part: Document = kernel.send("GET", f"{EVENTBUS}/events", query=query)
        except NoAnswer as error:
            is_lasting = isinstance(error, NoKernel) or (isinstance(error, Refused) and error.status < 500)
            if is_lasting or time.monotonic() > until:
                raise CommandFailed(str(error)) from error
            time.sleep(LOOK_EVERY_S)
        else:
            return part


def _as_cloud_event(one: Document) -> str:
    event = {name: value for name, value in one["event"].items() if value or name not in _OPTIONAL}
    return _compact(event)


def _as_line(one: Document) -> str:
    event = one["event"]
    data = _compact(event["data"])
    shown = data if len(data) <= DATA_SHOWN else f"{data[:DATA_SHOWN]}…"
    words = (
        one["position"],
        event["time"],
        event["type"],
        event["subject"],
        f"#{event['sequence']}",
        f"tenant={event['tenantid']}",
        f"at={one['topic']}/{one['partition']}/{one['offset']}",
        shown,
    )
    return plain("  ".join(map(str, words)).replace("\n", " "))


def _compact(value: Any) -> str:
    import msgspec  # noqa: PLC0415 - only where something is printed

    return msgspec.json.encode(value).decode()


# --------------------------------------------------------------------------------------------- dead letters


def list_letters(data_dir: Path, url: str | None, consumer: str | None, most: int, *, as_json: bool) -> None:
    """`pk events dlq`."""
    kernel = operations_of(data_dir, url)
    items, has_more = listed(kernel, "/dead-letters", {"consumer": consumer} if consumer else {}, most)
    if consumer and not items:
        check_consumer(kernel, consumer)
    if as_json:
        print_json({"items": items, "has_more": has_more})
        return
    rows = [
        (
            str(one["id"]),
            str(one["consumer"]),
            f"{one['event']['source'].rpartition('/')[2]} {one['event']['subject']}",
            str(one["attempts"]),
            age(one["parked_at"]),
            f"{one['reason']}{'; it is being replayed' if one['replay_at'] else ''}",
        )
        for one in items
    ]
    print_table(("LETTER", "CONSUMER", "ENTITY", "ATTEMPTS", "AGE", "REASON"), rows)
    if has_more:
        print_text(f"there are more than these {len(items)}; --limit shows more of them")


def check_consumer(kernel: Operations, consumer: str) -> None:
    """CommandFailed when there is no such consumer."""
    check_name(kernel, "/consumers", "consumer", consumer, "consumer")


def replay_letters(data_dir: Path, url: str | None, wanted: Document, *, as_json: bool) -> None:
    """`pk events replay` for dead letters: those of a consumer, of the entity of one letter, or all."""
    kernel = operations_of(data_dir, url)
    answer = asked(kernel, "POST", "/dead-letters/replay", dict(wanted))
    if "consumer" in wanted and not answer["letters"]:
        check_consumer(kernel, wanted["consumer"])
    if as_json:
        print_json(answer)
    elif answer["letters"]:
        print_text(f"letters that are told again now: {answer['letters']}; `pk events dlq` lists those that fail again")
    else:
        print_text("there are no dead letters")


def rewind(data_dir: Path, url: str | None, consumer: str, wanted: Document, *, as_json: bool) -> None:
    """`pk events replay` for what a consumer has passed: from a time on, or from an offset of one partition."""
    kernel = operations_of(data_dir, url)
    check_consumer(kernel, consumer)
    answer = asked(kernel, "POST", "/consumers/rewind", {"consumer": consumer, **wanted})
    if as_json:
        print_json(answer)
    else:
        print_text(
            f"{consumer} begins anew in {answer['partitions']} partitions; what has had its effect has none again"
        )
