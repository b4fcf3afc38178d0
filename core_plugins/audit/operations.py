"""Keeping records, reading them, and forgetting those that are too old or of a tenant that leaves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Annotated, Any, Final, Literal
from uuid import UUID

from msgspec import Meta

from core_plugins.audit import storage
from core_plugins.audit.model import (
    NAME_CHARACTERS_MAX,
    TARGET_CHARACTERS_MAX,
    RecordView,
    entry_of,
    target_of,
)
from plugin_api import Call, operation
from plugin_api.errors import NotAllowed
from plugin_api.ids import uuid7
from plugin_api.limits import RECORD_REFUSED_S
from plugin_api.pages import Page, PageRequest, keyset
from plugin_api.pipeline import BoundOperation
from plugin_api.ports.database import Tx
from plugin_api.registrar import Calls, Logger

REFUSALS_AT_ONCE_MAX: Final = 4
"""Refusals that one worker writes down at once: a caller who is refused again and again takes no more connections."""
FORGET_BATCH: Final = 1_000
SWEEP_BATCHES_MAX: Final = 200
"""In one run; the rest goes in the next."""
SWEEP_EVERY_S: Final = 3_600.0
LOOK_EVERY_S: Final = 600.0


class OperationRecorder:
    """Records the calls of one operation: those that were done, and those that the caller was not allowed.

    Calls that fail otherwise leave no record: they had no effect, and a record of them would tell of what is not. A public
    call that entered no tenant leaves none either, since nobody could read it.
    """

    def __init__(self, bound: BoundOperation, calls: Calls, refusals: asyncio.Semaphore) -> None:
        self._bound = bound
        self._calls = calls
        self._refusals = refusals

    async def done(self, call: Call, request: Any, answer: Any) -> None:
        """Record what was done, in its own transaction; what had none is recorded in one of this plugin.

        Raises:
            StoreUnavailable, DeadlinePassed: it cannot be recorded; the call fails then.
        """
        if _is_nobodys(call):
            return
        entry = entry_of(self._bound, call, target_of(self._bound, self._bound.parameters(request), answer))
        if call.transaction is not None:
            storage.record(call.transaction, entry)
            return
        async with self._calls.open(call.tenant_id, "record", deadline_s=call.remaining_s()) as own:
            await storage.record_for(await own.tx(), self._bound.plugin_id, "done", entry)

    async def refused(self, call: Call, parameters: Mapping[str, str], error: NotAllowed) -> None:
        """Record a refusal in a transaction of this plugin."""
        if _is_nobodys(call):
            return
        entry = entry_of(self._bound, call, target_of(self._bound, parameters))
        async with (
            self._refusals,
            self._calls.open(call.tenant_id, "record a refusal", deadline_s=RECORD_REFUSED_S) as own,
        ):
            await storage.record_for(await own.tx(), self._bound.plugin_id, "refused", entry)


def _is_nobodys(call: Call) -> bool:
    """Whether no tenant could read the record: a public call in none, or the command line of a kernel that has none."""
    return not call.has_tenant or call.tenant_id.int == 0


class RecordList(PageRequest, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which records, the newest first. A filter looks at one after the other: `since` and `until` keep that short."""

    sort: Literal["-at"] = "-at"
    actor: Annotated[str, Meta(max_length=NAME_CHARACTERS_MAX, description="As records show it: `user:ID`.")] | None = (
        None
    )
    operation: Annotated[str, Meta(max_length=NAME_CHARACTERS_MAX, description="Like `iam.create_user`.")] | None = None
    target: (
        Annotated[str, Meta(max_length=TARGET_CHARACTERS_MAX, description="What the target begins with.")] | None
    ) = None
    since: datetime | None = None
    until: datetime | None = None


class AuditOperations:
    """What a tenant asks about its records, and who writes them."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self._refusals = asyncio.Semaphore(REFUSALS_AT_ONCE_MAX)

    def recorder(self, bound: BoundOperation) -> OperationRecorder:
        """What records the calls of one operation; fills the slot `record`."""
        return OperationRecorder(bound, self._calls, self._refusals)

    @operation("GET /records", permission="record.read")
    async def list_records(self, call: Call, request: RecordList) -> Page[RecordView]:
        """List who did what in one's tenant, the newest first: by actor, operation, beginning of the target, and time."""
        place = keyset(call, request)
        rows = await storage.find_records(
            await call.tx(),
            actor=request.actor,
            operation=request.operation,
            target=request.target,
            since=request.since,
            until=request.until,
            after=place.after,
            most=request.limit + 1,
        )
        return place.page(call, rows, request.limit, storage.view_record)

    async def forget_tenant(self, tenant_id: UUID) -> None:
        """Delete every record of a tenant that is erased, a batch at a time."""
        batch = FORGET_BATCH
        while batch == FORGET_BATCH:
            async with self._calls.open(tenant_id, "erase records") as call:
                batch = await storage.erase(await call.tx(), FORGET_BATCH)


class Retention:
    """A background task that one worker of all runs once an hour. It needs nothing but the database: records are kept, and
    old ones go, whatever other plugins there are."""

    def __init__(self, calls: Calls, keep_days: int, log: Logger) -> None:
        self._calls = calls
        self._keep_days = keep_days
        self._log = log

    async def run(self) -> None:
        """Look now and then whether it is this worker's turn."""
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            await self.sweep_if_due()

    async def sweep_if_due(self) -> bool:
        """Delete records that are too old, if nobody has within the last hour; whether it was done."""
        async with self._tx() as tx:
            due = await storage.claim_sweep(tx, str(uuid7()), SWEEP_EVERY_S)
        if due:
            await self._sweep()
        return due

    async def _sweep(self) -> None:
        gone = 0
        for _ in range(SWEEP_BATCHES_MAX):
            async with self._tx() as tx:
                batch = await storage.sweep(tx, self._keep_days, FORGET_BATCH)
            gone += batch
            if batch < FORGET_BATCH:
                break
        if gone:
            self._log.info("records that are too old were deleted", records=gone, keep_days=self._keep_days)

    @asynccontextmanager
    async def _tx(self) -> AsyncIterator[Tx]:
        async with self._calls.open(None, "sweep records") as call, call.system_tx("sweep records") as tx:
            yield tx
