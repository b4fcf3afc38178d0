"""One effect and one answer for each idempotency key, whatever is repeated, raced or killed."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final
from uuid import UUID

from core_plugins.gateway import storage
from core_plugins.gateway.model.keys import (
    AnswerKey,
    Kept,
    decrypt,
    digest_of,
    new_answer_key,
    read_key,
    scope_of,
    split,
)
from core_plugins.gateway.model.refusals import REPLAYED, mark_excluded
from plugin_api.call import Call
from plugin_api.errors import Conflict, InvalidRequest, KernelBug, KernelError, Unreadable
from plugin_api.ids import uuid7
from plugin_api.pipeline import AnswerForm, BoundOperation, Idempotency
from plugin_api.ports.database import Tx
from plugin_api.ports.secrets import Secrets
from plugin_api.registrar import Calls, Logger

SPARE_S: Final = 0.1
"""So long before its deadline a waiting call is told that the first one is still under way."""
LOOK_S: Final = (0.01, 0.1)
"""How long a call waits before it looks again whether another process is done: at first, and at most."""
FORGET_BATCH: Final = 1_000
SWEEP_BATCHES_MAX: Final = 2_000
"""In one run; the rest goes in the next."""
SWEEP_EVERY_S: Final = 600.0
LOOK_EVERY_S: Final = 60.0

Place = tuple[UUID, bytes]
Rest = Callable[[], Awaitable[Any]]


class KeyedCalls:
    """Fills the slot `idempotency`.

    The claim, the effect and the answer are one transaction. Who comes with the same key meanwhile waits without one: in this
    process for the end of the first call, in others by looking again. What a call needs from the vault it gets before its
    transaction begins, so that nobody who holds a connection waits for another one.
    """

    def __init__(self, secrets: Secrets, keep_s: int) -> None:
        self._secrets = secrets
        self._keep_s = keep_s
        self._running: dict[Place, asyncio.Future[None]] = {}

    def make(self, bound: BoundOperation) -> Idempotency | None:
        """What keeps the answers of one operation; None when it takes no keys."""
        spec = bound.spec
        if spec.public or bound.method == "GET" or spec.idempotency == "none" or spec.transaction == "own":
            return None
        form = bound.answer
        return None if form is None else partial(self._once, bound.id, form)

    async def _once(self, operation: str, form: AnswerForm, call: Call, request: Any, rest: Rest) -> Any:
        if call.idempotency_key is None:
            raise _refusal(
                Unreadable,
                "this operation needs the header Idempotency-Key; send a new UUID for each new request, and the same one "
                "when you repeat it",
                "idempotency_key_required",
            )
        tenant_id, key = call.tenant_id, read_key(call.idempotency_key)
        scope = await self._secrets.fingerprint(tenant_id, "key", scope_of(str(call.actor), operation, key))
        asked = await self._secrets.fingerprint(tenant_id, "request", digest_of(request))
        answer_key = await self._new_answer_key(tenant_id, scope)
        ending = await self._enter((tenant_id, scope), call)
        stored = await _claim(call, scope, asked)
        if stored is not None:
            _settle(ending)
            return await self._replay(call, form, scope, stored)
        call.after_commit(partial(_settle, ending))
        return await self._run(call, form, scope, asked, answer_key, rest)

    async def _new_answer_key(self, tenant_id: UUID, scope: bytes) -> AnswerKey:
        key = new_answer_key()
        return AnswerKey(key, await self._secrets.seal(tenant_id, "answer", key, context=scope))

    # ------------------------------------------------------------------------------- one at a time

    async def _enter(self, place: Place, call: Call) -> asyncio.Future[None] | None:
        """Be the one call of this process with this key, or come after it (None). Whoever is the one settles what it is given
        as soon as there is an answer.

        Raises:
            Conflict: `idempotency_in_progress`, another one is still under way at the deadline.
        """
        while (running := self._running.get(place)) is not None:
            await asyncio.wait((running,), timeout=_time_left(call))
            if running.done() and not running.cancelled():
                return None  # it has committed, or nobody knows: the database does
        ending = self._running[place] = asyncio.get_running_loop().create_future()
        call.at_end(partial(self._leave, place, ending))
        return ending

    def _leave(self, place: Place, ending: asyncio.Future[None]) -> None:
        del self._running[place]
        ending.cancel()  # unless it is settled: then those who wait find an answer

    @property
    def running(self) -> int:
        """Calls with a key that are under way as the first of it."""
        return len(self._running)

    # ------------------------------------------------------------------------------- run or replay

    async def _run(
        self, call: Call, form: AnswerForm, scope: bytes, asked: bytes, answer_key: AnswerKey, rest: Rest
    ) -> Any:
        before = len(call.response_headers or ())
        answer = await rest()
        body = call.stored_answer = form.encode(answer)
        if call.transaction is None:
            raise KernelBug("the transaction that holds the claim is gone")
        kept = answer_key.encrypt(Kept(body, (call.response_headers or [])[before:]), scope)
        storage.keep_answer(call.transaction, scope, asked, kept, self._keep_s)
        return answer

    async def _replay(self, call: Call, form: AnswerForm, scope: bytes, stored: bytes) -> Any:
        await call.roll_back()  # the vault may need a connection of its own
        sealed, encrypted = split(stored)
        key = await self._secrets.open(call.tenant_id, "answer", sealed, context=scope)
        kept = decrypt(key, encrypted, scope)
        call.stored_answer = kept.body
        for name, value in kept.headers:
            call.add_response_header(name, value)
        call.add_response_header(*REPLAYED)
        return form.decode(kept.body)


async def _claim(call: Call, scope: bytes, asked: bytes) -> bytes | None:
    """The stored answer of a key, or None when the key is this call's now.

    Raises:
        Conflict: `idempotency_in_progress`.
        InvalidRequest: `idempotency_key_reused`.
    """
    pause_s, longest_s = LOOK_S
    while True:
        outcome, stored = await storage.claim_key(await call.tx(), scope, asked)
        if outcome == "other":
            raise _refusal(
                InvalidRequest,
                "this Idempotency-Key was used for another request; send a new key with each new request",
                "idempotency_key_reused",
            )
        if outcome != "busy":
            return stored if outcome == "done" else None
        await call.roll_back()
        await asyncio.sleep(min(pause_s * random.uniform(0.5, 1.5), _time_left(call)))  # noqa: S311 - spreads callers
        pause_s = min(pause_s * 1.5, longest_s)


def _time_left(call: Call) -> float:
    left = call.deadline - time.monotonic() - SPARE_S
    if left > 0:
        return left
    error = _refusal(
        Conflict,
        "the first request with this Idempotency-Key is still under way; repeat it to get its answer",
        "idempotency_in_progress",
    )
    error.retry_after_s = 1
    raise error


def _refusal(kind: type[KernelError], detail: str, code: str) -> KernelError:
    """An error that says nothing about the operation, which was not asked."""
    error = kind(detail, code=code)
    mark_excluded(error)
    return error


def _settle(ending: asyncio.Future[None] | None) -> None:
    if ending is not None and not ending.done():
        ending.set_result(None)


class KeptAnswers:
    """What becomes of kept answers: a background task that one worker of all runs every few minutes forgets the old ones."""

    def __init__(self, calls: Calls, log: Logger) -> None:
        self._calls = calls
        self._log = log

    async def run(self) -> None:
        """Look now and then whether it is this worker's turn."""
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            await self.sweep_if_due()

    async def sweep_if_due(self) -> int | None:
        """Forget answers whose time is over; how many, None when another worker has done it lately."""
        async with self._tx() as tx:
            due = await storage.claim_sweep(tx, str(uuid7()), SWEEP_EVERY_S)
        return await self._sweep() if due else None

    async def forget_tenant(self, tenant_id: UUID) -> None:
        """Forget every answer of a tenant that is erased, a batch at a time."""
        batch = FORGET_BATCH
        while batch == FORGET_BATCH:
            async with self._calls.open(tenant_id, "erase answers") as call:
                batch = await storage.erase(await call.tx(), FORGET_BATCH)

    async def _sweep(self) -> int:
        gone = 0
        for _ in range(SWEEP_BATCHES_MAX):
            async with self._tx() as tx:
                batch = await storage.sweep(tx, FORGET_BATCH)
            gone += batch
            if batch < FORGET_BATCH:
                break
        if gone:
            self._log.info("kept answers whose time is over were forgotten", answers=gone)
        return gone

    @asynccontextmanager
    async def _tx(self) -> AsyncIterator[Tx]:
        async with self._calls.open(None, "sweep answers") as call, call.system_tx("sweep answers") as tx:
            yield tx
