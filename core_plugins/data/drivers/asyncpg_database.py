"""Transactions behind the tenant wall, through asyncpg.

A transaction begins in ONE round trip: a simple query that resets what a former borrower may have set, begins, takes the
plugin's role and its search path, counts the session's turn and sets the signed tenant context. Nothing else of a session
can leak from one borrower to the next:

* settings (`set_config(.., false)`): `reset all` in the next BEGIN; the role is set anew by each.
* temporary tables, session advisory locks, large objects, DO blocks: no plugin's role may make any (see `storage.HARDEN`).
* SET, PREPARE, LISTEN, DECLARE .. WITH HOLD, transaction control: `model.check_statement` refuses the statement; the
  extended protocol, used throughout, takes one statement at a time, so none hides behind another.
* an open transaction: a connection goes back to the pool only after COMMIT or ROLLBACK was answered; a call that is
  cancelled in between has its connection thrown away.

Correctness won over speed where a cancelled call costs a new connection.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, NoReturn
from uuid import UUID

import asyncpg

from core_plugins.data.drivers.asyncpg_errors import (
    HAD_FAILED,
    is_away,
    is_left_over,
    is_stale,
    is_standby,
    leaves_connection_usable,
    mapped,
    was_not_executed,
)
from core_plugins.data.drivers.asyncpg_pool import Link, Pool
from core_plugins.data.drivers.asyncpg_types import Statement
from core_plugins.data.events import Told
from core_plugins.data.model import CONTEXT_SPARE_S, ContextSigner, check_schema, check_statement
from core_plugins.data.storage import EMIT, EMIT_ONE, call_by_literals, call_by_parameters, emit_statement
from plugin_api.errors import CommitUnknown, DeadlinePassed, KernelBug, KernelError, StoreUnavailable
from plugin_api.events import Event, Origin
from plugin_api.ports.database import Row, Transaction

TEXTS_PER_GENERATION_MAX: Final = 5_000
COMMIT_SPARE_S: Final = 1.0
"""How much longer than its deadline a commit that has been sent may take before it is given up as `CommitUnknown`."""
ROLLBACK_S_MAX: Final = 1.0
PING_S_MAX: Final = 1.0
IDLE_S_MAX: Final = 50.0
"""A little less than `storage.GUARD` lets a transaction of the role be idle."""
_FUNCTION: Final = re.compile(r"pk\.[a-z_]{1,60}\Z")


class _Place:
    """What is the same for every transaction of one generation of one plugin."""

    __slots__ = ("begin", "prefix", "role", "texts")

    def __init__(self, schema: str, generation: int) -> None:
        self.role = check_schema(schema)
        self.prefix = f"/*{schema}@{generation}*/"
        # What `default_transaction_*` a former borrower set holds for the transaction in which RESET ALL runs: say all three.
        mode = "isolation level read committed read write not deferrable"
        self.begin = f'reset all;begin {mode};set local role "{schema}";set local statement_timeout='
        self.texts: dict[str, str] = {}

    def text(self, sql: str) -> str:
        """The checked statement as it is sent: marked, so that no two generations share a prepared one."""
        found = self.texts.get(sql)
        if found is None:
            check_statement(sql)
            if len(self.texts) >= TEXTS_PER_GENERATION_MAX:
                self.texts.clear()
            found = self.texts[sql] = self.prefix + sql
        return found


class AsyncpgDatabase:
    """The port `Database` over a pool of asyncpg connections that log in as `pk_app`."""

    def __init__(self, pool: Pool, signer: ContextSigner, *, statements_max: int) -> None:
        self._pool = self.pool = pool
        self._signer = signer
        self.statements_max = statements_max
        self._places: dict[tuple[str, int], _Place] = {}
        self.told: Callable[[], None] = _nobody
        """Called when a transaction that told something has committed."""

    async def begin(
        self,
        schema: str,
        tenant_id: UUID | None,
        *,
        deadline: float,
        generation: int = 0,
        readonly: bool = False,
        origin: Callable[[], Origin] = Origin,
    ) -> Transaction:
        """Open a transaction; see the port.

        A connection that turns out to have died is replaced, and BEGIN sent once more on a new one: nothing can have
        happened yet.
        """
        place = self._places.get((schema, generation)) or self._new_place(schema, generation)
        while True:
            link = self._pool.take(deadline) or await self._pool.acquire(deadline)
            was_used, link.used = link.used, True
            try:
                await link.connection.execute(self._opening(link, place, tenant_id, deadline, readonly))
                return AsyncpgTransaction(self._pool, self, link, place, tenant_id, deadline, origin)
            except BaseException as error:
                self._pool.bury(link)
                if not isinstance(error, Exception) or isinstance(error, KernelError):
                    raise
                if is_away(error) or is_standby(error):
                    self._pool.retire_all()
                if is_left_over(error) and was_used and deadline > time.monotonic():
                    continue
                raise _begin_failed(error) from error

    async def open_beside(self, timeout_s: float) -> Link:
        """Make a connection that no transaction uses; whoever asks closes it."""
        return await self._pool.open_beside(timeout_s)

    def _opening(self, link: Link, place: _Place, tenant_id: UUID | None, deadline: float, readonly: bool) -> str:
        """All statements that open a transaction, for one round trip. Nothing in it comes from a caller as text."""
        now = time.monotonic()
        left_s = deadline - now
        if left_s <= 0:
            raise DeadlinePassed("the call ran out of time before its transaction began")
        turn = link.turn = link.turn + 1
        link.turns_left -= 1
        context = self._signer.sign(place.role, tenant_id, turn, int(now + link.clock_offset_s) + CONTEXT_SPARE_S)
        # The role's own bound on what is idle is a minute; whoever was given longer may do something else as long.
        idle = f";set local idle_in_transaction_session_timeout={int(left_s * 1000) + 1}" if left_s > IDLE_S_MAX else ""
        # The counter moves before the transaction becomes read-only, which would forbid it.
        end = ";set transaction read only" if readonly else ""
        return f"{place.begin}{int(left_s * 1000) + 1}{idle};{link.take_turn};set local pk.ctx='{context}'{end}"

    def _new_place(self, schema: str, generation: int) -> _Place:
        place = self._places[schema, generation] = _Place(schema, generation)
        stale = [key for key in self._places if key[0] == schema and key[1] < generation - 1]
        for key in stale:
            del self._places[key]
        return place

    async def ping(self) -> None:
        """Return when the database answers; see the port."""
        link = await self._pool.acquire(time.monotonic() + PING_S_MAX)
        try:
            async with asyncio.timeout(PING_S_MAX):
                await link.connection.execute("select 1")
        except BaseException as error:
            self._pool.bury(link)
            if isinstance(error, Exception):
                raise StoreUnavailable(f"the database did not answer within {PING_S_MAX:g} s") from error
            raise
        self._pool.release(link)

    async def close(self) -> None:
        """Close the pool."""
        await self._pool.close()


class AsyncpgTransaction:
    """One transaction; the port `Transaction`. Statements of one transaction run one after another."""

    __slots__ = ("_database", "_deadline", "_last", "_link", "_origin", "_place", "_pool", "_tenant_id", "_told")

    def __init__(
        self,
        pool: Pool,
        database: AsyncpgDatabase,
        link: Link,
        place: _Place,
        tenant_id: UUID | None,
        deadline: float,
        origin: Callable[[], Origin],
    ) -> None:
        self._pool = pool
        self._database = database
        self._link: Link | None = link
        self._place = place
        self._tenant_id = tenant_id
        self._deadline = deadline
        self._origin = origin
        self._told: Told | None = None
        self._last: list[tuple[str, tuple[str | UUID | None, ...]]] = []

    async def fetch(self, sql: str, *arguments: Any) -> Sequence[Row]:
        """Run one statement; all of its rows."""
        try:
            statement = self._statement(sql) or await self._prepare(sql)
            return await statement.fetch(*arguments)
        except BaseException as error:  # noqa: BLE001 - whatever it is, _fail raises it
            self._fail(error)

    async def fetch_one(self, sql: str, *arguments: Any) -> Row | None:
        """Run one statement; its first row, or None."""
        try:
            statement = self._statement(sql) or await self._prepare(sql)
            return await statement.fetchrow(*arguments)
        except BaseException as error:  # noqa: BLE001 - whatever it is, _fail raises it
            self._fail(error)

    async def execute(self, sql: str, *arguments: Any) -> int:
        """Run one statement; how many rows it touched."""
        try:
            statement = self._statement(sql) or await self._prepare(sql)
            await statement.fetch(*arguments)
        except BaseException as error:  # noqa: BLE001 - whatever it is, _fail raises it
            self._fail(error)
        count = statement.get_statusmsg().rpartition(" ")[2]
        return int(count) if count.isdigit() else 0

    def emit(self, event: Event) -> None:
        """Tell a fact; see the port."""
        if self._tenant_id is None:
            raise KernelBug("an event belongs to a tenant; a transaction without one cannot emit")
        told = self._told or Told(self._origin())
        told.add(event)
        self._told = told

    def at_commit(self, function: str, *arguments: str | UUID | None) -> None:
        """Call a function of the kernel's schema just before the commit; see the port."""
        if not _FUNCTION.match(function):
            raise KernelBug(f"{function!r} is no function of the kernel's schema; write one like pk.record")
        self._last.append((function, arguments))

    async def commit(self) -> None:
        """Make it durable; see the port."""
        try:
            ending = await self._ending()
        except BaseException:
            await self.rollback()
            raise
        link = self._opened()
        self._link = None
        link.deadline += COMMIT_SPARE_S
        try:
            answer = await link.connection.execute(ending)
        except BaseException as error:
            await self._give_back(link, error)
            if isinstance(error, Exception):
                raise _commit_failed(error) from error
            raise
        self._pool.release(link)
        if answer != "COMMIT":
            raise KernelBug(HAD_FAILED)
        if self._told is not None:
            self._database.told()

    async def _ending(self) -> str:
        """What ends the transaction; with what is written last, in one round trip, where the server does not log what fails."""
        link = self._opened()
        if not link.is_discreet:
            await self._write_last()
        left_s = self._deadline - time.monotonic()
        if left_s <= 0:
            raise DeadlinePassed("the call ran out of time; its transaction was rolled back")
        if not link.connection.is_in_transaction():
            self._drop_link()
            raise KernelBug("the transaction was ended by a statement; statements may not commit or roll back")
        statements = self._last_statements() if link.is_discreet else []
        if not statements:
            return "commit"
        return ";".join([f"set local statement_timeout={int(left_s * 1000) + 1}", *statements, "commit"])

    async def _write_last(self) -> None:
        """What is written just before the commit, in round trips of its own."""
        for function, arguments in self._last:
            await self.fetch(call_by_parameters(function, arguments), *arguments)
        if self._told is not None:
            only = self._told.only()
            await (self.fetch(EMIT, *self._told.arguments()) if only is None else self.fetch(EMIT_ONE, *only))

    def _last_statements(self) -> list[str]:
        """The same as statements that hold their data."""
        statements = [call_by_literals(function, arguments) for function, arguments in self._last]
        if self._told is not None:
            only = self._told.only()
            statements.append(
                emit_statement(*self._told.arguments()) if only is None else call_by_literals("pk.emit_one", only)
            )
        return statements

    async def _give_back(self, link: Link, error: BaseException) -> None:
        """After a commit that failed."""
        if leaves_connection_usable(error):
            self._link = link
            await self.rollback()
        else:
            self._pool.bury(link)

    async def rollback(self) -> None:
        """Undo everything; see the port. After `commit` or a second time it does nothing."""
        link, self._link = self._link, None
        if link is None:
            return
        link.deadline = time.monotonic() + ROLLBACK_S_MAX
        try:
            await link.connection.execute("rollback")
        except BaseException as error:
            self._pool.bury(link)
            if not isinstance(error, Exception):
                raise
        else:
            self._pool.release(link)

    def _statement(self, sql: str) -> Statement | None:
        """The prepared statement, if this connection has it."""
        if self._deadline <= time.monotonic():
            raise DeadlinePassed("the call ran out of time")
        text = self._place.texts.get(sql)
        return None if text is None else self._opened().statements.get(text)

    async def _prepare(self, sql: str) -> Statement:
        link = self._opened()
        text = self._place.text(sql)
        statement = await link.connection.prepare(text)
        if len(link.statements) >= self._database.statements_max:
            del link.statements[next(iter(link.statements))]
        link.statements[text] = statement
        return statement

    def _opened(self) -> Link:
        if self._link is None:
            raise KernelBug("the transaction has ended; open a new one")
        return self._link

    def _fail(self, error: BaseException) -> NoReturn:
        """Raise what a failed statement means. A connection in an unknown state never goes back to the pool."""
        if isinstance(error, KernelError):
            raise error
        if not leaves_connection_usable(error):
            self._drop_link()
        if is_stale(error):
            self._pool.retire_all()
        if isinstance(error, Exception):
            raise mapped(error) from error
        raise error

    def _drop_link(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            self._pool.bury(link)


def _nobody() -> None:
    """No event log is there to be told."""


def _begin_failed(error: Exception) -> KernelError:
    if isinstance(error, TimeoutError) or is_away(error) or is_standby(error):
        return StoreUnavailable("the database went away, or did not answer until the deadline; try again")
    return mapped(error)


def _commit_failed(error: BaseException) -> BaseException:
    """The server's own refusal means that nothing was committed; anything else leaves it open."""
    if not isinstance(error, Exception):
        return error
    if was_not_executed(error) or (isinstance(error, asyncpg.PostgresError) and not is_away(error)):
        return mapped(error)
    return CommitUnknown("the database went away during the commit: it may or may not have happened")
