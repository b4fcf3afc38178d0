"""One declaration, every door: `@operation` makes REST, OpenAPI, gRPC and the in-process call of one method."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from typing import Any, Final, Literal, TypeVar

_ROUTE = re.compile(r"(GET|POST|PUT|PATCH|DELETE) (/[A-Za-z0-9_.~/{}-]*)\Z")
_PLACEHOLDER = re.compile(r"\{([a-z][a-z0-9_]*)\}")
_ADDRESS: Final = re.compile(r"https?://[!#-;=?-~]{1,500}\Z")
OPERATION_ATTRIBUTE: Final = "__pk_operation__"
REACTION_ATTRIBUTE: Final = "__pk_reaction__"
JOB_ATTRIBUTE: Final = "__pk_job__"

Function = TypeVar("Function", bound=Callable[..., Any])
Idempotency = Literal["none", "optional", "required"]
TransactionMode = Literal["shared", "own"]


@dataclass(frozen=True)
class OperationSpec:
    """What `@operation` was told; the host adds prefixes, types and the pipeline."""

    method: str
    path: str
    """Relative to the plugin's area, or absolute when it begins `/api/` or `/.well-known/` (kernel plugins only)."""
    placeholders: tuple[str, ...]
    permission: str | None
    """Relative to the plugin's area; None: any authenticated actor may call it (or anybody, when `public`)."""
    public: bool
    operator: bool
    idempotency: Idempotency
    status: int | None
    transaction: TransactionMode
    deadline_s: float | None
    deprecated: bool
    stream: bool = False
    """Its body and its answer may come in pieces; see `plugin_api.streams`."""
    media: str = "*/*"
    """The media type of a streamed answer, for the documentation."""
    recorded: bool = True
    """Whether the slot `record` is told of its calls, unless it only reads (GET)."""
    deprecated_since: date | None = None
    sunset: date | None = None
    """The day on which it goes."""
    deprecation_page: str | None = None

    @property
    def is_recorded(self) -> bool:
        """Whether the slot `record` is told of its calls."""
        return self.recorded and self.method != "GET"


@dataclass(frozen=True)
class ReactionSpec:
    """What `@on` was told."""

    event_type: str


@dataclass(frozen=True)
class JobSpec:
    """What `@job` was told."""

    cron: str
    per_tenant: bool
    time_zone: str
    missed: Literal["skip", "once", "all"]


def operation(
    route: str,
    *,
    permission: str | None = None,
    public: bool = False,
    operator: bool = False,
    idempotency: Idempotency = "optional",
    status: int | None = None,
    transaction: TransactionMode = "shared",
    deadline_s: float | None = None,
    deprecated: bool = False,
    stream: bool = False,
    media: str = "*/*",
    recorded: bool = True,
    deprecated_since: str | None = None,
    sunset: str | None = None,
    deprecation_page: str | None = None,
) -> Callable[[Function], Function]:
    """Declare a method `async def name(self, call: Call, request: SomeStruct) -> SomeStruct | None` as an operation.

    `route` is `"POST /wallets/{wallet_id}/holds"`: placeholders are filled into the fields of the same name, the rest of
    the request comes from the query (GET, DELETE) or from the JSON body. `permission` is relative (`hold.create`);
    `operator=True` puts `platform.` before it. `status` is the success status (default 200, 204 without an answer).
    `deadline_s` may only shorten the host's deadline (kernel plugins may lengthen it). The method's docstring is the
    operation's description. `stream=True` gives the body in pieces as `call.transfer` (the request then comes from path
    and query alone) and lets the operation answer a `plugin_api.streams.Stream`, of the media type `media`.
    `deprecated=True` marks it in the documentation. `deprecated_since` and `sunset` (days like `2027-03-01`) and
    `deprecation_page` (an address) do too, and each answer says so: `Deprecation`, `Sunset`, `Link` (RFC 9745, RFC 8594).
    `recorded=False` (kernel plugins only) keeps one that changes nothing, though it is no GET, out of the records.

    Raises:
        ValueError: at import, when the declaration contradicts itself.
    """
    method, path, placeholders = _parse(route)
    if public and (permission or operator):
        raise ValueError(f"{route}: public means that nobody is asked for a permission; drop one of the two")
    if operator and not permission:
        raise ValueError(f"{route}: operator=True needs a permission to put `platform.` before")
    spec = OperationSpec(
        method,
        path,
        placeholders,
        permission,
        public,
        operator,
        idempotency,
        status,
        transaction,
        deadline_s,
        deprecated or not (deprecated_since is None and sunset is None and deprecation_page is None),
        stream,
        media,
        recorded,
        _day(route, deprecated_since),
        _day(route, sunset),
        _address(route, deprecation_page),
    )
    return _mark(OPERATION_ATTRIBUTE, spec)


def on(event_type: str) -> Callable[[Function], Function]:
    """Call `async def name(self, call: Call, event: EventEnvelope)` for every event of this full type.

    Runs in the event's tenant; the inbox and the handler's writes are one transaction.
    """
    return _mark(REACTION_ATTRIBUTE, ReactionSpec(event_type))


def job(
    cron: str, *, per_tenant: bool = False, time_zone: str = "UTC", missed: Literal["skip", "once", "all"] = "once"
) -> Callable[[Function], Function]:
    """Call `async def name(self, call: Call)` on a schedule, once per cluster and firing; a failed call is tried again.

    `cron` is five fields (minute hour day-of-month month day-of-week) of wall time in `time_zone`. A local time that is
    skipped when clocks are set comes at the next moment that there is, one that is repeated comes once; where minute or hour
    begin with a star (`*/5 * * * *`), the schedule goes by the time that passes. `per_tenant=True` calls it in each active
    tenant; without it the call has no tenant, which is for kernel plugins alone. `missed` says what becomes of moments at
    which nobody ran: `once` makes up for the newest, `all` for the newest hundred, `skip` for none older than a minute.
    """
    return _mark(JOB_ATTRIBUTE, JobSpec(cron, per_tenant, time_zone, missed))


def _parse(route: str) -> tuple[str, str, tuple[str, ...]]:
    matched = _ROUTE.match(route)
    if not matched:
        raise ValueError(f'{route!r} is no route; write it like "GET /leads/{{lead_id}}"')
    method, path = matched.groups()
    placeholders = tuple(_PLACEHOLDER.findall(path))
    if len(set(placeholders)) != len(placeholders):
        raise ValueError(f"{route}: a placeholder stands twice")
    if re.search(r"[{}]", _PLACEHOLDER.sub("", path)):
        raise ValueError(f"{route}: a placeholder is a whole lower-case word in braces, like {{lead_id}}")
    return method, path, placeholders


def _day(route: str, text: str | None) -> date | None:
    try:
        return None if text is None else date.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{route}: {text!r} is no day; write it like 2027-03-01") from None


def _address(route: str, text: str | None) -> str | None:
    if text is not None and not _ADDRESS.match(text):
        raise ValueError(f"{route}: {text!r} is no address of a page; write it like https://example.com/why")
    return text


def _mark(attribute: str, spec: object) -> Callable[[Function], Function]:
    def mark(function: Function) -> Function:
        setattr(function, attribute, spec)
        return function

    return mark
