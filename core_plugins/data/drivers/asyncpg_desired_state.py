"""The port `DesiredState`, in tables of the kernel's own schema."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Final

import asyncpg
import msgspec

from core_plugins.data import storage
from core_plugins.data.drivers.asyncpg_errors import is_away, is_standby, mapped
from core_plugins.data.drivers.asyncpg_migrator import log_in
from core_plugins.data.drivers.asyncpg_types import Connection
from core_plugins.data.model import check_change
from plugin_api.errors import CommitUnknown, Conflict, LimitReached, StoreUnavailable
from plugin_api.ports.database import Row
from plugin_api.ports.desired_state import (
    CHANGES_KEPT,
    PLUGINS_MAX,
    DesiredPlugin,
    DesiredPlugins,
    PreviousVersion,
)

ANSWER_S_MAX: Final = 15.0
"""How long one statement, or the commit, may take as seen from here; more than the server's own limit on it."""
_PREVIOUS: Final = "previous_"
_FAILURES: Final = (
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    OSError,
    TimeoutError,
)


class AsyncpgDesiredState:
    """The port `DesiredState`, with a connection of its own for each call: calls are rare, and none is kept idle."""

    def __init__(
        self,
        dsn: str,
        *,
        lock_timeout_ms: int = 3_000,
        statement_timeout_ms: int = 10_000,
        transaction_timeout_ms: int = 30_000,
    ) -> None:
        self._dsn = dsn
        self._begin = (
            f"begin;set local lock_timeout={lock_timeout_ms};set local statement_timeout={statement_timeout_ms};"
            # A worker that is stopped in the middle does not keep the lock from the others.
            f"set local transaction_timeout={transaction_timeout_ms};"
            # An acknowledged change is on disk, whatever the server's own setting is.
            "set local synchronous_commit=on"
        )

    async def read(self) -> DesiredPlugins:
        """All plugins as of one moment; see the port."""
        async with self._connected() as connection:
            await connection.execute(self._begin)
            rows = await connection.fetch(storage.READ_PLUGINS)
        plugins = tuple(_plugin(row) for row in rows if row["id"] is not None)
        return DesiredPlugins(rows[0]["last_sequence"], rows[0]["change_id"], plugins)

    async def change(
        self, change_id: str, expected_sequence: int, put: Sequence[DesiredPlugin] = (), drop: Sequence[str] = ()
    ) -> int:
        """Put and drop, all or nothing; see the port."""
        check_change(change_id, put, drop)
        async with self._connected() as connection:
            await connection.execute(self._begin)
            await connection.execute(storage.LOCK_PLUGINS)
            done: int | None = await connection.fetchval(storage.FIND_CHANGE, change_id)
            if done is not None:
                return done
            await _check_sequence(connection, expected_sequence)
            sequence = expected_sequence + 1
            await _write(connection, sequence, change_id, put, drop)
            await _commit(connection)
        return sequence

    @asynccontextmanager
    async def _connected(self) -> AsyncGenerator[Connection, None]:
        """A connection that is thrown away, and with it what was not committed."""
        connection = await log_in(self._dsn, command_timeout=ANSWER_S_MAX)
        try:
            yield connection
        except _FAILURES as error:
            if _is_silent(error):
                raise StoreUnavailable("the database went away, or did not answer; nothing was changed") from error
            raise mapped(error) from error
        finally:
            connection.terminate()


def _is_silent(error: BaseException) -> bool:
    return is_away(error) or is_standby(error) or isinstance(error, (TimeoutError, asyncpg.QueryCanceledError))


async def _check_sequence(connection: Connection, expected: int) -> None:
    last = await connection.fetchval(storage.LAST_CHANGE)
    if last != expected:
        raise Conflict(
            f"another change of the plugins came between: expected number {expected} as the last, it is {last};"
            " read them again, then repeat",
            code="plugins_changed",
        )


async def _write(
    connection: Connection, sequence: int, change_id: str, put: Sequence[DesiredPlugin], drop: Sequence[str]
) -> None:
    what = [f"{plugin.id} {plugin.version}{'' if plugin.enabled else ' disabled'}" for plugin in put]
    await connection.execute(storage.ADD_CHANGE, sequence, change_id, what, list(drop))
    await connection.execute(storage.TRIM_CHANGES, sequence - CHANGES_KEPT)
    await connection.execute(storage.DROP_PLUGINS, list(drop))
    await connection.execute(storage.PUT_PLUGINS, msgspec.json.encode(put).decode(), sequence)
    count = await connection.fetchval(storage.COUNT_PLUGINS)
    if count > PLUGINS_MAX:
        raise LimitReached(f"expected at most {PLUGINS_MAX} plugins, there would be {count}; remove some first")


async def _commit(connection: Connection) -> None:
    """The server's own refusal means that nothing was committed; anything else leaves it open."""
    try:
        await connection.execute("commit")
    except _FAILURES as error:
        if isinstance(error, asyncpg.PostgresError) and not is_away(error):
            raise
        text = "the answer to a change of the plugins was lost: repeat it with the same change id to learn whether it is done"
        raise CommitUnknown(text) from error


def _plugin(row: Row) -> DesiredPlugin:
    columns = {name: row[name] for name in DesiredPlugin.__struct_fields__ if name != "previous"}
    previous = {name: row[_PREVIOUS + name] for name in PreviousVersion.__struct_fields__}
    known = previous["version"] is not None
    return DesiredPlugin(**columns, previous=PreviousVersion(**previous) if known else None)
