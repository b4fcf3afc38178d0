"""Operators' operations of plugins for the command line: what REST offers to operators, without a log-in.

Whoever may open the control door is the operator; so he may do what `@operation(..., operator=True)` marks, and nothing that
is a tenant's.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlencode
from uuid import UUID

import msgspec
from msgspec import Struct

from host.generations import RegisteredOperation
from host.hooks import HookFailed
from host.pipeline import CompiledOperation, compile_inner
from plugin_api.call import Actor, Call
from plugin_api.errors import DeadlinePassed, KernelBug, KernelError, NotFound, Unavailable
from plugin_api.ids import uuid7
from plugin_api.pipeline import Tenant

if TYPE_CHECKING:
    from host.kernel import Kernel

OPERATORS_SLUG: Final = "platform"
FIND_DEADLINE_S: Final = 30.0
OPERATOR: Final = Actor("plugin", "kernel.host")
NOBODYS: Final = UUID(int=0)
"""Stands for the operators' tenant in a kernel that has no tenants."""


class Wanted(Struct, frozen=True, forbid_unknown_fields=True):
    """Which operation, as REST has it."""

    method: str
    path: str
    query: dict[str, str] = {}
    body: Any = None


async def run_operation(kernel: Kernel, wanted: Wanted) -> Any:
    """What an operators' operation answers, as JSON values.

    Raises:
        KernelError: there is no such operation here, or it says no.
    """
    compiled, values = _find(kernel, wanted)
    registered = compiled.registered
    body = msgspec.json.encode({} if wanted.body is None else wanted.body) if registered.takes_body else None
    request = registered.bind(values, urlencode(wanted.query), body)
    runtime = kernel.runtime(compiled.generation)
    deadline_s = kernel.deadline_s
    call = Call(
        runtime,
        tenant_id=await _operators_tenant(kernel),
        actor=OPERATOR,
        request_id=f"command-{uuid7()}",
        deadline=time.monotonic() + deadline_s,
        allows=_everything,
    )
    try:
        async with asyncio.timeout(deadline_s):
            answer = await compile_inner(registered, kernel.table, runtime).invoke(call, request)
    except TimeoutError:
        raise DeadlinePassed(f"{wanted.path} took longer than {deadline_s:g} s (host.deadline_s); try again") from None
    return _plain(registered, answer)


def _find(kernel: Kernel, wanted: Wanted) -> tuple[CompiledOperation, tuple[str, ...]]:
    """The operation, and the raw values of its path."""
    match = kernel.table.dispatch.find(wanted.path)
    compiled = match.methods.get(wanted.method) if match is not None else None
    if (
        match is None
        or compiled is None
        or not compiled.registered.bound.spec.operator
        or compiled.registered.bound.spec.stream
    ):
        told = f"this kernel has no operation {wanted.method} {wanted.path} for operators now"
        raise NotFound(f"{told}; see `pk plugins list` for what serves, and whether `pk` is of the same version")
    return compiled, match.values


def _plain(registered: RegisteredOperation, answer: Any) -> Any:
    return None if registered.answer_type is None else msgspec.json.decode(registered.encode(answer))


def _everything(permission: str) -> bool:
    return True


async def _operators_tenant(kernel: Kernel) -> UUID:
    tenant = await find_tenant(kernel, OPERATORS_SLUG)
    return NOBODYS if tenant is None else tenant.id


async def find_tenant(kernel: Kernel, slug: str) -> Tenant | None:
    """The tenant with a slug, from the plugin that owns tenants; None when there is none, or no such plugin.

    Raises:
        KernelError: the plugin could not look.
    """
    for generation in kernel.table.generations.values():
        try:
            tenant = await kernel.hooks.call(
                generation.key, generation.plugin_id, "pk_find_tenant", FIND_DEADLINE_S, slug=slug
            )
        except HookFailed as failure:
            raise _refused(failure, slug) from failure
        if isinstance(tenant, Tenant):
            return tenant
    return None


def _refused(failure: HookFailed, slug: str) -> KernelError:
    cause = failure.__cause__
    if isinstance(cause, KernelError) and not isinstance(cause, KernelBug):
        return cause
    return Unavailable(f"{failure.plugin_id} could not look for the tenant {slug}; see the kernel's log")
