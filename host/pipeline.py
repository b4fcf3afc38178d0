"""The one pipeline: each operation becomes one function, compiled when the table changes, never on the request path.

`admit -> identify -> tenant -> authorize -> entitle -> limit -> validate -> guard(transaction(idempotency -> run ->
record))`. Whatever door a call comes through, it passes these steps in this order.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from types import CoroutineType
from typing import Any, Protocol
from urllib.parse import unquote

from host.expiry import Expiry
from host.generations import Generation, RegisteredOperation, Table
from host.inner_requests import compile_revalidate
from host.recording import Run, compile_refused, recorders_of, with_done
from host.tracing import Tracing, with_span
from plugin_api.call import ANONYMOUS, Call, CallRuntime, Identity, Trace
from plugin_api.errors import (
    KernelBug,
    KernelError,
    NotAllowed,
    NotAuthenticated,
    PreconditionRequired,
)
from plugin_api.pipeline import BoundOperation, Credentials, Recorder

_VERSION_NEEDED = 'a change needs the version that you have read: send If-Match with the ETag, like If-Match: "1"'
_CREDENTIALS_NEEDED = "credentials are missing; send Authorization: Bearer with an access token or an API key"


@dataclass(eq=False)
class Load:
    """What this process is doing."""

    calls: int = 0
    """Calls under way that came through a door."""


class Inbound(Protocol):
    """What a door knows about one request."""

    request_id: str
    address: str
    declared_bytes: int
    """Length of the body as announced, 0 when unknown."""
    idempotency_key: str | None
    if_match: str | None
    trace: Trace | None
    user_agent: str
    call: Call | None
    """Set as soon as the caller is known, also when it may not do this."""
    deadline_s: float | None
    """How long the caller itself is willing to wait, where it says so: less than usual counts, more does not."""
    expiry: Expiry
    """Ends the call when its time is up; of the task that runs it."""

    @property
    def values(self) -> tuple[str, ...]:
        """What stands in the path for its placeholders, in order, percent-encoded as it came."""
        ...

    def credentials(self) -> Credentials:
        """What the caller showed."""
        ...

    def request(self) -> Any:
        """Read and validate the request of the operation; a coroutine only when its bytes are still on their way."""
        ...


@dataclass(frozen=True, eq=False)
class CompiledOperation:
    """An operation as doors call it."""

    registered: RegisteredOperation
    generation: Generation
    invoke: Callable[[Inbound], Awaitable[Any]]
    still_allows: Callable[[Inbound], Awaitable[bool]]
    """Whether the caller of a request that was let in before would be let in now."""


@dataclass(frozen=True, eq=False)
class InnerOperation:
    """An operation as other plugins call it."""

    invoke: Callable[[Call, Any], Awaitable[Any]]


async def settle(call: Call) -> None:
    """Commit what the call wrote, then run its callbacks; they run too when the commit's outcome is unknown."""
    transaction = call.transaction
    try:
        if transaction is not None:
            await transaction.commit()
    finally:
        for callback in call.after or ():
            callback()
        _tell_end(call)


def _tell_end(call: Call) -> None:
    for callback in call.endings or ():
        callback()
    call.endings = None


def _in_transaction(run: Run) -> Run:
    """Run in the call's one transaction: everything that was written commits together or not at all."""

    async def transacted(call: Call, request: Any) -> Any:
        try:
            answer = await run(call, request)
        except BaseException:
            try:
                await call.roll_back()
            finally:
                _tell_end(call)
            raise
        await settle(call)
        return answer

    return transacted


def _with_idempotency(run: Run, idempotency: Any, *, is_required: bool) -> Run:
    if idempotency is None:
        return run

    def once(call: Call, request: Any) -> Awaitable[Any]:
        if call.idempotency_key is None and not is_required:
            return run(call, request)
        rest: Awaitable[Any] = idempotency(call, request, partial(run, call, request))
        return rest

    return once


def _with_guard(run: Run, guard: Any) -> Run:
    if guard is None:
        return run

    async def guarded(call: Call, request: Any) -> Any:
        return await guard(call, partial(run, call, request))

    return guarded


def compose(
    registered: RegisteredOperation, table: Table, recorders: Sequence[Recorder], *, is_inner: bool = False
) -> Run:
    """`guard(transaction(idempotency -> run -> record))` of one operation; a call of another plugin carries no key."""
    bound, slots = registered.bound, table.slots
    inside = with_done(registered.function, recorders)
    if slots.idempotency is not None and not is_inner:
        is_required = bound.spec.idempotency == "required"
        inside = _with_idempotency(inside, slots.idempotency(bound), is_required=is_required)
    return _with_guard(_in_transaction(inside), slots.guard(bound) if slots.guard else None)


class Checks:
    """Permission checks by full name, made once each when the table is built; denies everything while nobody fills
    `authorize`, and always what nobody registered.

    All are made before the table is in place, those that no operation names too: whoever fills `authorize` learns of a new
    permission before anybody can be asked for it, and of names that exist only in a question never.
    """

    def __init__(self, table: Table) -> None:
        authorizer = table.slots.authorize
        asked = {o.bound.permission for g in table.generations.values() for o in g.operations if o.bound.permission}
        names = sorted(asked | table.permissions.keys())
        self._made = {name: authorizer.check(name) for name in names} if authorizer else {}

    def of(self, permission: str) -> Callable[[Identity], bool]:
        """The check of one permission."""
        return self._made.get(permission, _deny)

    def allows(self, identity: Identity, permission: str) -> bool:
        """Whether this identity holds a permission."""
        return self.of(permission)(identity)


def _deny(identity: Identity) -> bool:
    return False


def refuse(permission: str, call_or_actor: object) -> NotAllowed:
    """The error of a missing permission; it names the permission."""
    return NotAllowed(
        f"this needs the permission {permission}, which {call_or_actor} does not hold; ask an administrator"
    )


def compile_invoke(
    registered: RegisteredOperation,
    table: Table,
    runtime: CallRuntime,
    checks: Checks,
    deadline_s: float,
    load: Load,
) -> Callable[[Inbound], Awaitable[Any]]:
    """Make the function that a door calls for one operation."""
    identify = _identify(registered, table, checks)
    generation = table.generations[registered.bound.plugin_id]
    admit = table.slots.admit(registered.bound) if table.slots.admit else None
    before = [
        step
        for make in (table.slots.entitle, table.slots.limit)
        if make is not None and (step := make(registered.bound)) is not None
    ]
    bound = registered.bound
    recorders = recorders_of(bound, table)
    run, refused = compose(registered, table, recorders), compile_refused(bound, recorders)
    needs_version = bound.method == "PATCH"
    seconds = _seconds(bound, deadline_s)

    async def invoke(inbound: Inbound) -> Any:
        if admit is not None:
            admit(bound, inbound.address, inbound.declared_bytes)
        expiry = inbound.expiry
        willing = inbound.deadline_s
        deadline = expiry.start(seconds if willing is None else min(willing, seconds))
        generation.in_flight += 1
        load.calls += 1
        try:
            call = identify(inbound, runtime, deadline)
            if not isinstance(call, Call):
                call = await call
            for step in before:
                waiting = step(call)
                if waiting is not None:
                    await waiting
            request = inbound.request()
            if isinstance(request, CoroutineType):
                request = await request
            if needs_version and call.if_match is None:
                raise PreconditionRequired(_VERSION_NEEDED)
            return await run(call, request)
        except NotAllowed as error:
            if refused is not None and inbound.call is not None:
                expiry.stop()  # the answer is known; only its record is still to be written, which has a time of its own
                await refused(inbound.call, _parameters(bound, inbound.values), error)
            raise
        except asyncio.CancelledError as error:
            raise expiry.translate(error) from None
        except (SystemExit, KeyboardInterrupt) as error:
            raise as_kernel_error(error) from error  # past here it would end the process
        finally:
            expiry.stop()
            load.calls -= 1
            generation.leave()

    return invoke


def _parameters(bound: BoundOperation, values: Sequence[str]) -> dict[str, str]:
    """What the placeholders of the path stand for in a request that may never be read."""
    return dict(zip(bound.spec.placeholders, map(unquote, values), strict=True))


def _seconds(bound: BoundOperation, deadline_s: float) -> float:
    """How long a call may take. Only the kernel's own operations may take longer than the host's deadline."""
    declared = bound.spec.deadline_s
    if declared is None:
        return deadline_s
    return declared if bound.plugin_id.startswith("kernel.") else min(declared, deadline_s)


def _identify(
    registered: RegisteredOperation, table: Table, checks: Checks
) -> Callable[[Inbound, CallRuntime, float], Call | Awaitable[Call]]:
    bound = registered.bound
    if bound.spec.public:
        return _anonymous
    identifier, permission = table.slots.identify, bound.permission
    allowed = checks.of(permission) if permission else None

    def accept(inbound: Inbound, runtime: CallRuntime, deadline: float, identity: Identity) -> Call:
        call = inbound.call = Call(
            runtime,
            tenant_id=identity.tenant_id,
            actor=identity.actor,
            request_id=inbound.request_id,
            deadline=deadline,
            identity=identity,
            allows=partial(checks.allows, identity),
            idempotency_key=inbound.idempotency_key,
            if_match=inbound.if_match,
            trace=inbound.trace,
            address=inbound.address,
            user_agent=inbound.user_agent,
        )
        if allowed is not None and not allowed(identity):
            raise refuse(str(permission), f"this {identity.actor.kind.replace('_', ' ')}")
        return call

    async def look_up(inbound: Inbound, runtime: CallRuntime, deadline: float, credentials: Credentials) -> Call:
        identity = await identifier.identify(credentials) if identifier else None
        if identity is None:
            raise NotAuthenticated(_CREDENTIALS_NEEDED)
        return accept(inbound, runtime, deadline, identity)

    def identify(inbound: Inbound, runtime: CallRuntime, deadline: float) -> Call | Awaitable[Call]:
        credentials = inbound.credentials()
        identity = identifier.recall(credentials) if identifier else None
        if identity is None:
            return look_up(inbound, runtime, deadline, credentials)
        return accept(inbound, runtime, deadline, identity)

    return identify


def compile_still_allows(
    registered: RegisteredOperation, table: Table, checks: Checks
) -> Callable[[Inbound], Awaitable[bool]]:
    """Make the function that asks anew whether a caller may go on; a store that is away counts as no."""
    bound, identifier = registered.bound, table.slots.identify
    allowed = checks.of(bound.permission) if bound.permission else None

    async def still_allows(inbound: Inbound) -> bool:
        if bound.spec.public:
            return True
        if identifier is None or inbound.call is None:
            return False
        credentials = inbound.credentials()
        try:
            identity = identifier.recall(credentials) or await identifier.identify(credentials)
        except KernelError:
            return False
        if identity is None or identity.tenant_id != inbound.call.tenant_id:
            return False
        return allowed is None or allowed(identity)

    return still_allows


def _anonymous(inbound: Inbound, runtime: CallRuntime, deadline: float) -> Call:
    call = inbound.call = Call(
        runtime,
        tenant_id=None,
        actor=ANONYMOUS,
        request_id=inbound.request_id,
        deadline=deadline,
        if_match=inbound.if_match,
        trace=inbound.trace,
        address=inbound.address,
        user_agent=inbound.user_agent,
    )
    return call


def refusal_of(bound: BoundOperation, call: Call) -> KernelError | None:
    """Why the actor of a call may not do this inside, or None. Whoever may not is not told what else is wrong."""
    if call.actor.kind == "anonymous" and not bound.spec.public:
        return NotAuthenticated(_CREDENTIALS_NEEDED)
    if bound.permission is not None and not call.allows(bound.permission):
        return refuse(bound.permission, call.actor)
    return None


def compile_inner(
    registered: RegisteredOperation, table: Table, runtime: CallRuntime, tracing: Tracing | None = None
) -> InnerOperation:
    """Make the function that another plugin's call goes through: same checks, its own transaction, no limits."""
    bound = registered.bound
    recorders = recorders_of(bound, table)
    run, refused = compose(registered, table, recorders, is_inner=True), compile_refused(bound, recorders)
    run = with_span(run, tracing, bound)
    generation = table.generations[bound.plugin_id]
    revalidate = compile_revalidate(registered)

    async def invoke(call: Call, request: Any) -> Any:
        callee = _callee(call, runtime)
        generation.in_flight += 1
        try:
            refusal = refusal_of(bound, call)
            if refusal is not None:
                raise refusal
            return await run(callee, revalidate(request))
        except NotAllowed as error:
            if refused is not None:
                await refused(callee, bound.parameters(request), error)
            raise
        finally:
            generation.leave()

    return InnerOperation(invoke)


def _callee(call: Call, runtime: CallRuntime) -> Call:
    """The call of another plugin's operation that this call makes: who, in which tenant, until when stays as it is."""
    return Call(
        runtime,
        tenant_id=call.tenant_id if call.has_tenant else None,
        actor=call.actor,
        request_id=call.request_id,
        deadline=call.deadline,
        identity=call.identity,
        allows=call.allows,
        if_match=call.if_match,
        trace=call.trace,
        address=call.address,
        user_agent=call.user_agent,
    )


def as_kernel_error(error: BaseException) -> KernelError:
    """Whatever an operation raised, as one of our errors; anything unforeseen is a KernelBug that hides it."""
    if isinstance(error, KernelError):
        return error
    bug = KernelBug(f"{type(error).__name__}: {error}")
    bug.__cause__ = error
    return bug
