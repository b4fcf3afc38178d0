"""The relational store. Durable truth is here alone (PostgreSQL 17 and 18)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol
from uuid import UUID

from plugin_api.events import Event, Origin
from plugin_api.services import ServiceKey


class Row(Protocol):
    """One row, read by column name."""

    def __getitem__(self, column: str, /) -> Any: ...

    def get(self, column: str, /) -> Any:
        """The column's value, or None when the query has no such column."""
        ...

    def keys(self) -> Iterator[str]:
        """The column names."""
        ...


class Tx(Protocol):
    """A transaction in one tenant, as one plugin's role, that plugin's schema first in the search path.

    Placeholders are `$1, $2, ...`. Values come back as Python types (uuid.UUID, aware datetime, int, str, bytes,
    decoded JSON).

    Raises, all of them:
        UniqueViolation, Conflict: a constraint forbids it (the transaction can only be rolled back then).
        StoreUnavailable: the database went away; nothing was committed.
        DeadlinePassed: the call's deadline ended the statement.
    """

    async def fetch(self, sql: str, *arguments: Any) -> Sequence[Row]:
        """Run one statement; all of its rows."""
        ...

    async def fetch_one(self, sql: str, *arguments: Any) -> Row | None:
        """Run one statement; its first row, or None."""
        ...

    async def execute(self, sql: str, *arguments: Any) -> int:
        """Run one statement; how many rows it touched."""
        ...

    def emit(self, event: Event) -> None:
        """Tell a fact: written with the commit, or not at all. At most EVENTS_PER_TRANSACTION_MAX each.

        The events of one entity are numbered in the order in which their transactions commit; that of two transactions is
        the order of their commits, whatever they lock themselves.

        Raises:
            PayloadTooLarge: `event_too_large`, the data's JSON is longer than EVENT_BYTES_MAX.
            KernelBug: the manifest does not declare the type, the data does not fit the Struct that `registrar.events`
                declares for it (types, bounds of `Meta`, unknown fields), the subject is empty or longer than
                EVENT_SUBJECT_BYTES_MAX, or the transaction has no tenant.
        """
        ...


class Transaction(Tx, Protocol):
    """A `Tx` with its end; in the hands of the host only."""

    async def commit(self) -> None:
        """Make it durable. CommitUnknown when the connection broke meanwhile: it may or may not have happened."""
        ...

    def at_commit(self, function: str, *arguments: str | UUID | None) -> None:
        """Call a function of the kernel's schema `pk` just before the commit, in one round trip with it where the server lets
        us; for what is written with every effect. Its answer is dropped, and when it fails nothing is committed.

        Raises:
            KernelBug: the name is none of a function there.
        """
        ...

    async def rollback(self) -> None:
        """Undo everything. Never raises; a broken connection is thrown away."""
        ...


class Database(Protocol):
    """Opens transactions; provided by the plugin `kernel.data` as the capability `data`."""

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
        """Open a transaction in one round trip: BEGIN, the role of `schema`, the signed tenant context.

        Without a tenant (`tenant_id=None`) no row of any protected table can be seen. `deadline` (monotonic seconds)
        bounds the wait for a connection and each statement. `generation` keeps prepared statements of two versions of
        one plugin apart. `origin` is asked when the transaction emits; by default it may emit nothing.

        Raises:
            StoreUnavailable: the database is away, or no connection came free until the deadline.
        """
        ...

    async def ping(self) -> None:
        """Return when the database answers. StoreUnavailable when it does not within a second."""
        ...


DATABASE: ServiceKey[Database] = ServiceKey("data")
