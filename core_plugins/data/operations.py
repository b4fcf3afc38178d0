"""The capability: transactions behind the tenant wall, from the start of a worker to its end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final, Protocol
from uuid import UUID

from plugin_api.errors import StoreUnavailable
from plugin_api.events import Origin
from plugin_api.ports.database import Database, Transaction
from plugin_api.registrar import Logger

RETRY_S: Final = 0.05


class Store(Database, Protocol):
    """A `Database` that can be closed."""

    async def close(self) -> None:
        """Close what is idle; what is in use closes when it is given back."""
        ...


class DataOperations:
    """The port `Database`, open between `start` and `stop`."""

    def __init__(self, open_store: Callable[[], Awaitable[Store]], log: Logger) -> None:
        self._open_store = open_store
        self._log = log
        self._store: Store | None = None

    async def start(self, timeout_s: float) -> None:
        """Open the store, waiting for the server to answer.

        Raises:
            StoreUnavailable: it did not answer within `timeout_s`; the last reason is its cause.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                self._store = await self._open_store()
                return
            except StoreUnavailable:
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(RETRY_S)

    async def stop(self) -> None:
        """Close the store. Not being open is no error."""
        store, self._store = self._store, None
        if store is not None:
            await store.close()

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
        """Open a transaction; see the port."""
        return await self._opened().begin(
            schema, tenant_id, deadline=deadline, generation=generation, readonly=readonly, origin=origin
        )

    async def ping(self) -> None:
        """Return when the database answers; see the port."""
        await self._opened().ping()

    def _opened(self) -> Store:
        if self._store is None:
            raise StoreUnavailable("the database is not open in this process")
        return self._store
