"""What a record says, and how it says it: printable ASCII of bounded length, and nothing that was in a body."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from string import punctuation
from typing import Any, Final, Literal
from urllib.parse import quote
from uuid import UUID

from msgspec import Struct

from plugin_api.call import Call
from plugin_api.ids import uuid7
from plugin_api.pipeline import BoundOperation

Outcome = Literal["done", "refused"]
PARAMETER_CHARACTERS_MAX: Final = 200
TARGET_CHARACTERS_MAX: Final = 500
NAME_CHARACTERS_MAX: Final = 200
REQUEST_ID_CHARACTERS_MAX: Final = 100
TRACE_ID_CHARACTERS_MAX: Final = 32


class Entry(Struct, frozen=True):
    """One record, before it is written; the database adds tenant, plugin and time."""

    id: UUID
    operation: str
    actor: str
    on_behalf_of: str
    session_id: UUID | None
    target: str
    request_id: str
    trace_id: str


class RecordView(Struct, frozen=True):
    """One thing that was done, or refused."""

    id: UUID
    at: datetime
    plugin: str
    operation: str
    actor: str
    """`user:ID`, `api_key:ID`, `plugin:ID`, or `anonymous` for what nobody needs to be known for: a log-in, say."""
    on_behalf_of: str | None
    """The person behind an API key."""
    session_id: UUID | None
    target: str
    """The path that was asked for, or that of what was made."""
    outcome: Outcome
    request_id: str
    """As in the log's lines and the answer's `X-Request-ID`."""
    trace_id: str | None


def entry_of(bound: BoundOperation, call: Call, target: str) -> Entry:
    """What is to be recorded of a call."""
    identity = call.identity
    behind = identity.user_id if identity is not None and call.actor.kind != "user" else None
    return Entry(
        uuid7(),
        printable(bound.id, NAME_CHARACTERS_MAX),
        printable(str(call.actor), NAME_CHARACTERS_MAX),
        "" if behind is None else f"user:{behind}",
        identity.session_id if identity is not None else None,
        target,
        printable(call.request_id, REQUEST_ID_CHARACTERS_MAX),
        printable(call.trace.trace_id if call.trace is not None else "", TRACE_ID_CHARACTERS_MAX),
    )


def target_of(bound: BoundOperation, parameters: Mapping[str, str], answer: Any = None) -> str:
    """The path of what an operation is about: its placeholders filled, and the id added of what it made (status 201).

    In the path of a public operation the placeholders stay: what stands there is the very proof of the caller (a signed URL).
    """
    path = bound.path
    if not bound.spec.public:
        path = path.format_map({name: _segment(value) for name, value in parameters.items()})
    made = getattr(answer, "id", None) if bound.spec.status == 201 else None
    if isinstance(made, UUID | str | int):
        path = f"{path}/{_segment(str(made))}"
    return path[:TARGET_CHARACTERS_MAX]


def printable(text: str, characters_max: int) -> str:
    """`text` as printable ASCII without blanks, percent-encoded where it is not, cut to so many characters."""
    return quote(text, safe=punctuation, errors="replace")[:characters_max]


def _segment(value: str) -> str:
    """One segment of a path; no value can pass for two, or for the end of it."""
    return quote(value, safe=":@", errors="replace")[:PARAMETER_CHARACTERS_MAX]
