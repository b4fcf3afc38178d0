"""Generations: one loaded version of one plugin in this process, and the one table of everything that is active."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final, Protocol

from host.dispatch import Dispatch
from host.request_plan import Octets
from plugin_api.call import Call
from plugin_api.event_schemas import Payload
from plugin_api.events import EventEnvelope
from plugin_api.manifest import Manifest, Names
from plugin_api.operation import OperationSpec
from plugin_api.pipeline import Authorizer, BoundOperation, Identifier, Resolver
from plugin_api.ports.job_queue import MissedRuns, RunningJob

if TYPE_CHECKING:
    from host.leaks import Remains
    from host.pipeline import Checks, CompiledOperation, InnerOperation
    from host.wire.served import ServedContract

STATES: Final = (
    "discovered",
    "resolved",
    "verified",
    "staged",
    "active",
    "draining",
    "stopped",
    "failed",
    "blocked",
    "quarantined",
    "half_open",
)


@dataclass(frozen=True)
class RegisteredOperation:
    """A method that a generation registered, with everything a door needs."""

    bound: BoundOperation
    function: Callable[..., Awaitable[Any]]
    request_type: type
    answer_type: Any
    """The answer's type, or None when the operation answers nothing (204)."""
    description: str
    bind: Callable[..., Any]
    """(raw placeholder values, raw query, body) -> request; made once, whatever the table."""
    encode: Callable[[Any], bytes]
    octets: Octets | None = None
    """The field that the body may be, sent as it is."""
    bind_fields: Callable[[dict[str, Any]], Any] = lambda fields: fields
    """(all fields as the JSON values that they are in REST) -> request, checked just as closely."""
    service: str = ""
    """The name of the class that it is a method of."""
    notices: tuple[tuple[str, str], ...] = ()
    """Header fields of each of its answers."""

    @property
    def takes_body(self) -> bool:
        """Whether the request comes in a body."""
        return self.bound.method not in ("GET", "DELETE") and not self.bound.spec.stream

    @property
    def status(self) -> int:
        """The HTTP status of success."""
        return self.bound.spec.status or (204 if self.answer_type is None else 200)


@dataclass(frozen=True)
class RegisteredTask:
    """A background coroutine of a generation."""

    name: str
    run: Callable[[], Awaitable[None]]


@dataclass(frozen=True)
class RegisteredReaction:
    """A method of a generation that is called for events of one type."""

    consumer: str
    """`{area}.{method}`."""
    event_type: str
    handle: Callable[[Call, EventEnvelope], Awaitable[None]]


@dataclass(frozen=True)
class RegisteredWorker:
    """A method of a generation that does the jobs of one of its queues."""

    queue: str
    handle: Callable[[Call, RunningJob], Awaitable[None]]
    prefetch: int
    limit_s: float


@dataclass(frozen=True)
class RegisteredSchedule:
    """When a generation puts a job into one of its queues again and again."""

    name: str
    queue: str
    cron: str
    time_zone: str
    per_tenant: bool
    missed: MissedRuns


@dataclass
class SlotFillers:
    """What one generation put into the pipeline's slots."""

    identify: Identifier | None = None
    authorize: Authorizer | None = None
    resolve: Resolver | None = None
    admit: Callable[[BoundOperation], Any] | None = None
    entitle: Callable[[BoundOperation], Any] | None = None
    limit: Callable[[BoundOperation], Any] | None = None
    guard: Callable[[BoundOperation], Any] | None = None
    idempotency: Callable[[BoundOperation], Any] | None = None
    record: Callable[[BoundOperation], Any] | None = None
    body_bytes_max: int | None = None

    def filled(self) -> list[str]:
        """Names of the slots that are filled."""
        return [name for name, value in vars(self).items() if value is not None]


class Code(Protocol):
    """The imported code of one generation."""

    plugin: object
    """What the entry point names."""

    def module(self, name: str) -> ModuleType | None:
        """Import one of its modules by its public name; None when it has no such module."""
        ...

    def unload(self) -> Remains:
        """Forget it; what is told lets the leak detector see whether it goes."""
        ...


@dataclass(eq=False)
class Generation:
    """One loaded version of one plugin; owns everything that it registered."""

    plugin_id: str
    number: int
    manifest: Manifest
    names: Names
    plugin: object
    state: str = "staged"
    reason: str = ""
    since: float = field(default_factory=time.monotonic)
    operations: list[RegisteredOperation] = field(default_factory=list)
    services: dict[str, object] = field(default_factory=dict)
    tasks: list[RegisteredTask] = field(default_factory=list)
    reactions: list[RegisteredReaction] = field(default_factory=list)
    payloads: dict[str, Payload] = field(default_factory=dict)
    """What it declares of the events that it tells, by type relative to its area."""
    workers: list[RegisteredWorker] = field(default_factory=list)
    schedules: list[RegisteredSchedule] = field(default_factory=list)
    slots: SlotFillers = field(default_factory=SlotFillers)
    running: list[asyncio.Task[None]] = field(default_factory=list)
    in_flight: int = 0
    _endings: set[asyncio.Event] = field(default_factory=set)
    idle: asyncio.Event | None = None
    code: Code | None = None
    """Third parties' code, which is unloaded when the generation has stopped."""
    folder: Path | None = None
    """Where its manifest is, and its `wire.lock` if it has one."""
    wire: ServedContract | None = None
    """What gRPC has of it, made when it is first asked for."""
    has_no_wire: bool = False
    """Whether that failed; it is told once."""
    digest: str = ""
    """Of the package that it was loaded from; empty for what comes with the environment."""

    @property
    def key(self) -> str:
        """`id@generation`, its name towards pluggy."""
        return f"{self.plugin_id}@{self.number}"

    @contextmanager
    def held(self) -> Iterator[None]:
        """One call more is in flight."""
        self.in_flight += 1
        try:
            yield
        finally:
            self.leave()

    @contextmanager
    def ending(self) -> Iterator[asyncio.Event]:
        """Set when endless streams of this generation are to end; for one of them."""
        event = asyncio.Event()
        if self.state == "draining":
            event.set()
        self._endings.add(event)
        try:
            yield event
        finally:
            self._endings.discard(event)

    def end_streams(self) -> None:
        """Let endless streams end."""
        for event in self._endings:
            event.set()

    def leave(self) -> None:
        """One call has ended."""
        self.in_flight -= 1
        if self.in_flight == 0 and self.idle is not None:
            self.idle.set()

    async def drained(self, deadline_s: float) -> bool:
        """Wait until no call is in flight; False when some still is after `deadline_s`."""
        if self.in_flight == 0:
            return True
        self.idle = asyncio.Event()
        try:
            async with asyncio.timeout(deadline_s):
                await self.idle.wait()
        except TimeoutError:
            return False
        return True

    def empty(self) -> None:
        """Let go of everything that it registered and of its code: it has stopped."""
        self.plugin = None
        self.code = None
        self.wire = None
        self.slots = SlotFillers()
        self.payloads = {}  # calls that are cut off keep the ones that they began with
        for held in (self.operations, self.services, self.tasks, self.reactions, self.running):
            held.clear()
        self.workers.clear()
        self.schedules.clear()

    def permissions(self) -> dict[str, str]:
        """Full permission names with their descriptions; those of operator operations begin `platform.`."""
        operator = {o.bound.spec.permission for o in self.operations if o.bound.spec.operator}
        named = self.manifest.permissions.items()
        return {full_permission(self.names.area, name, operator=name in operator): text for name, text in named}


def full_permission(area: str, relative: str, *, operator: bool) -> str:
    """`hold.create` of area `money` is `money.hold.create`, for operators `platform.money.hold.create`."""
    return f"platform.{area}.{relative}" if operator else f"{area}.{relative}"


def absolute_path(names: Names, spec: OperationSpec) -> str:
    """The whole path of an operation."""
    if spec.path.startswith(("/api/", "/.well-known/")):
        return spec.path
    return f"{names.rest_prefix}{spec.path}".rstrip("/")


@dataclass(frozen=True)
class Provided:
    """A capability and who provides it."""

    generation: Generation
    implementation: object


@dataclass(frozen=True)
class Table:
    """Everything that is active in this process. Never changed: a change is a new table, put in place by one swap."""

    version: int
    generations: Mapping[str, Generation]
    """Active generations by plugin id, in start order."""
    services: Mapping[str, Provided]
    permissions: Mapping[str, str]
    slots: SlotFillers
    recorders: tuple[Callable[[BoundOperation], Any], ...]
    operations: tuple[CompiledOperation, ...]
    inner: Mapping[tuple[str, str], InnerOperation]
    dispatch: Dispatch[CompiledOperation]
    methods: Mapping[str, CompiledOperation] = field(default_factory=dict)
    """By their paths in gRPC, those too that turn out to have no form there."""
    checks: Checks | None = None
    """Of every registered permission; None while it is being built."""


def merged_slots(generations: Iterable[Generation]) -> SlotFillers:
    """The slots of all generations together; each but `record` is filled by one at most (checked when staged)."""
    merged = SlotFillers()
    for generation in generations:
        for name in generation.slots.filled():
            setattr(merged, name, getattr(generation.slots, name))
    return merged


def merged_permissions(generations: Iterable[Generation]) -> dict[str, str]:
    """Every permission of all generations."""
    merged: dict[str, str] = {}
    for generation in generations:
        merged.update(generation.permissions())
    return merged


def merged_services(generations: Iterable[Generation]) -> dict[str, Provided]:
    """Every capability of all generations."""
    return {
        name: Provided(generation, implementation)
        for generation in generations
        for name, implementation in generation.services.items()
    }
