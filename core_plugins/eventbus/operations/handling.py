"""One event, one consumer: handled with effect once, tried again a few times, parked when nothing helps."""

from __future__ import annotations

import asyncio
from typing import Final

from core_plugins.eventbus import storage
from core_plugins.eventbus.model import RETRY_PAUSES_S, Logged, lease_of
from core_plugins.eventbus.operations.parts import Parts
from plugin_api.call import Call
from plugin_api.errors import CommitUnknown, KernelError, StoreUnavailable
from plugin_api.ports.event_log import Reaction

REASON_LENGTH_MAX: Final = 1_000
ENDED_TIMES_MAX: Final = 3


class Fenced(Exception):
    """The partition is another reader's by now."""


class HandlerFailed(Exception):
    """The plugin's method raised its cause, whatever that is: a store that it blames is not the event log's."""


class Handler:
    """Hands events to one reaction."""

    def __init__(self, parts: Parts, reaction: Reaction) -> None:
        self._parts = parts
        self._reaction = reaction

    async def attempt(self, event: Logged, epoch: int) -> str | None:
        """Handle an event, again after each of RETRY_PAUSES_S when that fails; why it failed at last, None when it has had
        its effect, now or before.

        Raises:
            Fenced: the partition is another's by now.
            StoreUnavailable, CommitUnknown: the database is away, which is nobody's fault; try later.
        """
        for pause_s in (*RETRY_PAUSES_S, None):
            failure = await self._once(event, epoch)
            if failure is None or pause_s is None:
                return failure
            self._parts.log.warning(
                "an event was not handled; it is tried again", consumer=self._reaction.consumer, event=event.envelope.id,
                after_s=pause_s, why=failure,
            )  # fmt: skip
            self._parts.counts.retried.add(consumer=self._reaction.consumer)
            await self._parts.sleep(pause_s)
        raise AssertionError("the last pause is None")

    async def _once(self, event: Logged, epoch: int) -> str | None:
        """Handle it once, whatever the plugin's code raises; why it failed."""
        task = asyncio.current_task()
        begun_cancelling = task.cancelling() if task is not None else 0
        try:
            if await self._handle(event, epoch):
                self._parts.counts.handled.add(consumer=self._reaction.consumer)
        except (Fenced, StoreUnavailable, CommitUnknown):
            raise
        except TimeoutError:
            return f"it took longer than {self._parts.settings.handler_s:g} s (eventbus.handler_s)"
        except HandlerFailed as failure:
            return _told(failure.__cause__ or failure)
        except BaseException as error:
            if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling() > begun_cancelling:
                raise
            return _told(error)
        return None

    async def _handle(self, event: Logged, epoch: int) -> bool:
        """Handle and commit; False when it had had its effect before."""
        reaction, limit_s = self._reaction, self._parts.settings.handler_s
        traceparent = event.envelope.traceparent
        async with reaction.open(event.tenant_id, f"react {reaction.consumer}", limit_s, traceparent) as call:
            tx = await call.tx()
            lease = lease_of(reaction.consumer, event.partition)
            state = await storage.enter_inbox(tx, reaction.consumer, event.envelope.id, lease, epoch)
            if state == "fenced":
                raise Fenced
            if state == "new":
                async with asyncio.timeout(limit_s):
                    await self._call(call, event)
        return state == "new"

    async def _call(self, call: Call, event: Logged) -> None:
        try:
            await self._reaction.handle(call, event.envelope)
        except KernelError as error:
            raise HandlerFailed from error

    async def examine(self, event: Logged, epoch: int) -> tuple[bool, str | None]:
        """Look at an event of a partition whose reader vanished: whether it was done then; if not, note that it begins now,
        and tell why it is to be parked untried when workers have ended at it before."""
        reaction, limit_s, traceparent = self._reaction, self._parts.settings.handler_s, event.envelope.traceparent
        async with reaction.open(event.tenant_id, f"examine {reaction.consumer}", limit_s, traceparent) as call:
            if await storage.has_handled(await call.tx(), reaction.consumer, event.envelope.id):
                return True, None
        async with self._parts.tx("suspect an event") as tx:
            times = await storage.suspect(tx, reaction.consumer, event.partition, epoch, event.offset)
        if times == 0:
            raise Fenced
        if times > ENDED_TIMES_MAX:
            return False, f"a worker ended while it handled the event, {times - 1} times in a row"
        return False, None


def _told(error: BaseException) -> str:
    text = error.detail if isinstance(error, KernelError) else str(error)
    return f"{type(error).__name__}: {text}"[:REASON_LENGTH_MAX]
