"""The way to another kernel: what comes back, what is tried again, and what is left alone."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from host.remote.errors import CLASS_KEY, class_of
from host.remote.link import ClientFiles, Link
from host.rpc_errors import status_of, text_of, trailing_of
from plugin_api import errors
from plugin_api.breaker import State
from plugin_api.errors import DeadlinePassed, KernelBug, KernelError, Unavailable, Violation
from tests.host.test_rpc_tls import Authority

PATH = "/pk.test.v1.Test/Do"
Handle = Callable[[Any], Awaitable[bytes]]


async def well(context: Any) -> bytes:
    """Answer at once."""
    return b"well"


@dataclass
class Other:
    """Another kernel, as far as gRPC goes."""

    link: Any = None
    handle: Handle = well
    calls: int = 0
    later_s: float = 0.0
    """How far the breaker's time has been moved on."""
    began: asyncio.Event = field(default_factory=asyncio.Event)
    server: Any = None

    async def answer(self, data: bytes, context: Any) -> bytes:
        """Count and answer."""
        self.calls += 1
        self.began.set()
        return await self.handle(context)

    async def ask(self, seconds: float = 5.0, *, reads: bool = True) -> bytes:
        """One call."""
        return await self.link.ask(PATH, b"", seconds, (), reads=reads)


@pytest.fixture
async def other(tmp_path: Path) -> AsyncIterator[Other]:
    """It runs, and the way to it is open."""
    authority = Authority("ours")
    signed = authority.sign("kernel")
    for name, pem in {"cert": signed.certificate, "key": signed.key, "ca": authority.pem}.items():
        (tmp_path / name).write_bytes(pem)
    server = grpc.aio.server()
    port = server.add_secure_port(
        "127.0.0.1:0", grpc.ssl_server_credentials([(signed.key, signed.certificate)], authority.pem, True)
    )
    files = ClientFiles(*(str(tmp_path / name) for name in ("cert", "key", "ca")))
    made = Other(server=server)
    made.link = Link(f"127.0.0.1:{port}", files, lambda: time.monotonic() + made.later_s)
    handlers = {"Do": grpc.unary_unary_rpc_method_handler(made.answer)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("pk.test.v1.Test", handlers),))
    await server.start()
    yield made
    await made.link.close()
    await server.stop(None)


def raising(error: KernelError) -> Handle:
    """End with an error, as the door does."""

    async def handle(context: Any) -> bytes:
        trailing = (*trailing_of(error, "r-1"), (CLASS_KEY, class_of(error)))
        await context.abort(status_of(error), text_of(error), trailing)
        raise AssertionError("abort raises")

    return handle


CLASSES = sorted(
    (one for one in vars(errors).values() if isinstance(one, type) and issubclass(one, KernelError)),
    key=lambda one: one.__name__,
)


@pytest.mark.parametrize("cls", [one for one in CLASSES if one is not errors.UniqueViolation], ids=lambda c: c.__name__)
async def test_every_error_comes_back_as_it_was(other: Other, cls: type[KernelError]) -> None:
    sent = cls("it is so; do that")
    sent.violations = sent.violations or (Violation("/parts/1/label", "bound", "at most 3"),)
    sent.retry_after_s = 7
    other.handle = raising(sent)

    with pytest.raises(cls) as caught:
        await other.ask(reads=False)

    assert type(caught.value) is cls
    assert (sent.code, sent.violations, 7) == (caught.value.code, caught.value.violations, caught.value.retry_after_s)
    assert caught.value.detail == text_of(sent)


async def test_a_code_of_its_own_and_a_class_of_a_plugin_come_back_as_the_nearest_that_both_know(other: Other) -> None:
    class LeadClosed(errors.Conflict):
        """A plugin's own."""

    other.handle = raising(LeadClosed("the lead is closed", code="lead_closed"))

    with pytest.raises(errors.Conflict) as caught:
        await other.ask()

    assert (errors.Conflict, "lead_closed") == (type(caught.value), caught.value.code)


@pytest.mark.parametrize(
    ("status", "cls"),
    [("UNAVAILABLE", Unavailable), ("UNKNOWN", Unavailable), ("CANCELLED", Unavailable), ("UNIMPLEMENTED", Unavailable),
     ("DEADLINE_EXCEEDED", DeadlinePassed), ("DATA_LOSS", KernelBug), ("PERMISSION_DENIED", KernelBug)],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)  # fmt: skip
async def test_a_status_without_details_is_no_answer_of_a_kernel(
    other: Other, status: str, cls: type[KernelError]
) -> None:
    async def handle(context: Any) -> bytes:
        await context.abort(grpc.StatusCode[status], "as a proxy says")
        raise AssertionError("abort raises")

    other.handle = handle

    with pytest.raises(cls):
        await other.ask()


async def test_what_may_have_happened_is_not_repeated(other: Other) -> None:
    async def never(context: Any) -> bytes:
        await asyncio.Event().wait()
        return b""

    other.handle = never

    with pytest.raises(DeadlinePassed) as late:
        await other.ask(0.2, reads=False)
    other.began.clear()
    asking = asyncio.create_task(other.ask(reads=False))
    await other.began.wait()
    await other.server.stop(0)
    with pytest.raises(Unavailable) as broken:
        await asking

    assert 2 == other.calls
    assert ["commit_unknown"] * 2 == [one.code for e in (late.value, broken.value) for one in e.violations]


async def test_a_reading_is_tried_once_more(other: Other) -> None:
    async def first_away(context: Any) -> bytes:
        return await (raising(Unavailable("away for now")) if other.calls == 1 else well)(context)

    other.handle = first_away

    assert b"well" == await other.ask()
    assert 2 == other.calls


async def test_nothing_that_never_left_may_have_happened(other: Other) -> None:
    await other.server.stop(0)

    with pytest.raises(Unavailable) as away:
        await other.ask(reads=False)

    assert () == away.value.violations


async def test_after_five_failures_it_is_left_alone_and_one_answer_is_enough(other: Other) -> None:
    other.handle = raising(Unavailable("away for now"))
    for _ in range(5):
        with pytest.raises(Unavailable):
            await other.ask(reads=False)
    with pytest.raises(Unavailable) as refused:
        await other.ask(reads=False)

    assert (5, State.OPEN) == (other.calls, other.link.breaker.state)
    assert 25 < (refused.value.retry_after_s or 0) <= 30
    assert ["circuit_open"] == [one.code for one in refused.value.violations]
    assert "away for now" == other.link.last_error

    other.handle = well
    other.later_s = 31.0
    assert b"well" == await other.ask()
    assert State.CLOSED is other.link.breaker.state


async def test_a_caller_that_sees_the_deadline_first_counts_as_a_failure(other: Other) -> None:
    async def never(context: Any) -> bytes:
        await asyncio.Event().wait()
        return b""

    other.handle = never
    for _ in range(5):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.19):
                await other.ask(0.2)

    assert State.OPEN is other.link.breaker.state


async def test_a_store_that_is_away_there_counts_for_nothing(other: Other) -> None:
    other.handle = raising(errors.StoreUnavailable("PostgreSQL is away"))
    for _ in range(7):
        with pytest.raises(errors.StoreUnavailable):
            await other.ask(reads=False)

    assert (7, State.CLOSED) == (other.calls, other.link.breaker.state)


async def test_a_certificate_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    missing = str(tmp_path / "missing.pem")
    link = Link("127.0.0.1:1", ClientFiles(missing, missing, missing))

    with pytest.raises(Unavailable, match=r"cannot be read.*missing\.pem"):
        await link.ask(PATH, b"", 1.0, (), reads=True)
