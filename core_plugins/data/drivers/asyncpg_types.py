"""asyncpg ships no types; these are the parts of it that we use, typed where they enter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, cast

import asyncpg

from plugin_api.ports.database import Row


class Statement(Protocol):
    """A prepared statement."""

    async def fetch(self, *arguments: Any) -> Sequence[Row]: ...

    async def fetchrow(self, *arguments: Any) -> Row | None: ...

    def get_statusmsg(self) -> str: ...


class Transaction(Protocol):
    """`async with connection.transaction()`."""

    async def __aenter__(self) -> object: ...

    async def __aexit__(self, *reason: object) -> object: ...


class Connection(Protocol):
    """A connection."""

    async def execute(self, sql: str, *arguments: Any) -> str: ...

    async def fetch(self, sql: str, *arguments: Any) -> Sequence[Row]: ...

    async def fetchrow(self, sql: str, *arguments: Any) -> Row | None: ...

    async def fetchval(self, sql: str, *arguments: Any) -> Any: ...

    async def prepare(self, sql: str) -> Statement: ...

    async def set_type_codec(
        self,
        typename: str,
        *,
        schema: str,
        encoder: Callable[[Any], bytes],
        decoder: Callable[[bytes], Any],
        format: str,
    ) -> None: ...

    async def copy_from_query(self, query: str, *, output: str, **options: Any) -> str: ...

    def transaction(self, *, isolation: str | None = None) -> Transaction: ...

    async def add_listener(self, channel: str, callback: Callable[[object, int, str, object], None]) -> None: ...

    def add_termination_listener(self, callback: Callable[[object], None]) -> None: ...

    def get_server_pid(self) -> int: ...

    def is_closed(self) -> bool: ...

    def is_in_transaction(self) -> bool: ...

    def terminate(self) -> None: ...

    async def close(self) -> None: ...


async def connect(dsn: str, **options: Any) -> Connection:
    """Open a connection; options as in `asyncpg.connect`."""
    opening: Any = asyncpg.connect
    return cast("Connection", await opening(dsn, **options))


def state_of(error: BaseException) -> str:
    """The five characters of PostgreSQL's error code; empty for what the server did not say."""
    return str(getattr(error, "sqlstate", None) or "")


def field_of(error: BaseException, name: str) -> str:
    """A field of the server's error (`constraint_name`, `table_name`, `position`); empty when it has none."""
    return str(getattr(error, name, None) or "")
