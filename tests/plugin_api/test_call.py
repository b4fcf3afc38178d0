"""A call: its tenant is chosen once, its transaction is one, its versions are compared."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest

from plugin_api.call import ANONYMOUS, Actor, Call
from plugin_api.errors import DeadlinePassed, KernelBug, NotAllowed, PreconditionFailed, PreconditionRequired
from plugin_api.ids import uuid7

TENANT = uuid7()


class Runtime:
    """What the host would put behind a call; counts the transactions that it opens."""

    plugin_id = "acme.crm"
    is_kernel = False

    def __init__(self) -> None:
        self.begun = 0
        self.gate = asyncio.Event()
        self.gate.set()

    async def begin(self, call: Call) -> Any:
        self.begun += 1
        await self.gate.wait()
        return object()

    def system_tx(self, reason: str) -> AbstractAsyncContextManager[Any]:
        return self._system_tx()

    @asynccontextmanager
    async def _system_tx(self) -> AsyncIterator[Any]:
        yield object()

    def seal_cursor(self, call: Call, bound: bytes, values: Sequence[Any]) -> str:
        return repr((bound, list(values)))

    def open_cursor(self, call: Call, bound: bytes, cursor: str) -> list[Any]:
        return [bound, cursor]


class KernelRuntime(Runtime):
    """The same for a plugin of the kernel."""

    plugin_id = "kernel.iam"
    is_kernel = True


def make(runtime: Runtime | None = None, **given: Any) -> Call:
    usual: dict[str, Any] = {
        "tenant_id": TENANT,
        "actor": Actor("user", "u1"),
        "request_id": "r1",
        "deadline": time.monotonic() + 5,
    }
    return Call(runtime or Runtime(), **{**usual, **given})


async def test_the_transaction_is_opened_once() -> None:
    runtime = Runtime()
    call = make(runtime)

    assert call.transaction is None
    assert await call.tx() is await call.tx()
    assert call.transaction is await call.tx()
    assert runtime.begun == 1


async def test_two_tasks_may_not_open_it_at_the_same_time() -> None:
    runtime = Runtime()
    runtime.gate.clear()
    call = make(runtime)
    first = asyncio.ensure_future(call.tx())
    await asyncio.sleep(0)

    with pytest.raises(KernelBug, match="another task"):
        await call.tx()
    runtime.gate.set()
    await first
    assert runtime.begun == 1


async def test_a_begin_that_failed_can_be_tried_again() -> None:
    runtime = Runtime()
    runtime.gate.clear()
    call = make(runtime)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(call.tx(), 0.01)
    runtime.gate.set()

    await call.tx()
    assert runtime.begun == 2


def test_a_call_without_a_tenant_says_so() -> None:
    call = make(tenant_id=None, actor=ANONYMOUS)

    assert not call.has_tenant
    with pytest.raises(KernelBug, match=r"call\.enter"):
        _ = call.tenant_id


def test_only_the_kernels_own_plugins_choose_a_tenant_and_only_once() -> None:
    with pytest.raises(KernelBug, match=r"acme\.crm is no kernel plugin"):
        make(tenant_id=None).enter(TENANT)
    with pytest.raises(KernelBug, match=r"acme\.crm is no kernel plugin"):
        make().system_tx("because")
    call = make(KernelRuntime(), tenant_id=None)
    call.enter(TENANT)
    call.enter(TENANT)

    assert call.tenant_id == TENANT
    with pytest.raises(KernelBug, match="another tenant"):
        call.enter(uuid7())


def test_permissions_are_denied_unless_somebody_says_otherwise() -> None:
    with pytest.raises(NotAllowed, match=r"acme\.crm\.lead\.read"):
        make().require("acme.crm.lead.read")

    make(allows=lambda permission: permission == "acme.crm.lead.read").require("acme.crm.lead.read")


def test_as_plugin_changes_the_actor_and_nothing_else() -> None:
    call = make(address="10.0.0.1", idempotency_key="k", if_match='"1"')
    elevated = call.as_plugin()

    assert elevated.actor == Actor("plugin", "acme.crm")
    assert (elevated.tenant_id, elevated.request_id, elevated.deadline) == (TENANT, "r1", call.deadline)
    assert (elevated.identity, elevated.idempotency_key, elevated.if_match) == (None, None, None)
    assert elevated.transaction is None
    elevated.require("anything.at.all")


def test_the_deadline_is_told() -> None:
    assert 0 < make().remaining_s() <= 5
    with pytest.raises(DeadlinePassed):
        make(deadline=time.monotonic() - 0.1).remaining_s()


@pytest.mark.parametrize("if_match", ['"3"', '"1", "3"', "*", ' "3" ', None])
def test_a_version_that_fits_passes(if_match: str | None) -> None:
    make(if_match=if_match).expect_version(3)


@pytest.mark.parametrize("if_match", ['"2"', "3", 'W/"3"', '"33"', "", '"*"', '"1","2"'])
def test_another_version_fails(if_match: str) -> None:
    with pytest.raises(PreconditionFailed):
        make(if_match=if_match).need_version(3)


def test_a_version_may_be_required() -> None:
    with pytest.raises(PreconditionRequired, match="If-Match"):
        make().need_version(3)


def test_headers_and_callbacks_are_kept_in_order() -> None:
    call, told = make(), list[int]()
    call.add_response_header("Set-Cookie", "a=1")
    call.add_response_header("Set-Cookie", "b=2")
    call.after_commit(lambda: told.append(1))
    call.after_commit(lambda: told.append(2))
    for callback in call.after or ():
        callback()

    assert call.response_headers == [("Set-Cookie", "a=1"), ("Set-Cookie", "b=2")]
    assert told == [1, 2]


def test_actors_print_as_kind_and_id() -> None:
    assert (str(Actor("user", "u1")), str(ANONYMOUS)) == ("user:u1", "anonymous")
