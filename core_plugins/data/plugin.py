"""Wiring of the database: which address, which driver, when it opens and closes."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

from core_plugins.data.drivers.asyncpg_database import AsyncpgDatabase
from core_plugins.data.drivers.asyncpg_desired_state import AsyncpgDesiredState
from core_plugins.data.drivers.asyncpg_migrator import Access, AsyncpgMigrator
from core_plugins.data.drivers.asyncpg_pool import LoginRefused, Pool
from core_plugins.data.drivers.asyncpg_session import connector
from core_plugins.data.drivers.asyncpg_wakeups import AsyncpgWakeups
from core_plugins.data.drivers.postgres_server import PostgresServer
from core_plugins.data.model import APP_ROLE, ContextSigner
from core_plugins.data.operations import DataOperations, Store
from core_plugins.data.settings import Settings
from plugin_api import Registrar, hookimpl
from plugin_api.errors import InvalidRequest, KernelError
from plugin_api.hooks import Health
from plugin_api.ports.database import DATABASE
from plugin_api.ports.desired_state import DESIRED_STATE
from plugin_api.ports.migrations import MIGRATOR
from plugin_api.ports.wakeups import OUTBOX, WAKEUPS
from plugin_api.servers import ChildServer

BOOTSTRAP: Final = Path(__file__).parent / "bootstrap"


class DataPlugin:
    """`kernel.data`."""

    def __init__(self) -> None:
        self._settings = Settings()
        self._operations: DataOperations | None = None

    @hookimpl
    def pk_servers(self) -> list[ChildServer]:
        """PostgreSQL, in the embedded profile."""
        return [PostgresServer()]

    @hookimpl
    def pk_register(self, registrar: Registrar) -> None:
        """Provide the ports `data`, `migrations`, `desired_state` and `wakeups`."""
        settings = registrar.settings or Settings()
        dsn = _dsn(settings, registrar.host_state.servers)
        migrator = AsyncpgMigrator(
            dsn,
            kernel_version=_kernel_version(),
            lock_timeout_ms=settings.migration_lock_timeout_ms,
            statement_timeout_s=settings.migration_statement_timeout_s,
        )

        wakeups, meter = AsyncpgWakeups(registrar.log), PoolMeter(registrar)

        async def open_store() -> Store:
            database = await open_database(dsn, migrator, settings)
            wakeups.connect = database.open_beside
            database.told = lambda: wakeups.ring(OUTBOX)
            meter.watch(database.pool)
            return database

        self._settings = settings
        self._operations = DataOperations(open_store, registrar.log)
        registrar.service(DATABASE, self._operations)
        registrar.service(MIGRATOR, migrator)
        registrar.service(DESIRED_STATE, AsyncpgDesiredState(dsn))
        registrar.service(WAKEUPS, wakeups)
        registrar.task("wakeups", wakeups.run)

    @hookimpl
    async def pk_enable(self) -> None:
        """Make the kernel's own schema if need be, and open the pool."""
        if self._operations is not None:
            await self._operations.start(self._settings.start_timeout_s)

    @hookimpl
    async def pk_health(self) -> Health:
        """Whether the database answers within a second."""
        try:
            if self._operations is not None:
                await self._operations.ping()
        except KernelError as error:
            return Health(ok=False, detail=error.detail)
        return Health(ok=True)

    @hookimpl
    async def pk_disable(self) -> None:
        """Close the pool."""
        if self._operations is not None:
            await self._operations.stop()


GAUGES: Final[Mapping[str, tuple[str, str]]] = {
    "pool_size": ("size", "Connections that the pools of all workers may have."),
    "pool_open": ("open", "Connections that are open, or being opened or closed."),
    "pool_in_use": ("lent", "Connections with a transaction on them."),
    "pool_waiting": ("waiting", "Calls that wait for a connection."),
}


class PoolMeter:
    """Shows how the pool of this process is."""

    def __init__(self, registrar: Registrar) -> None:
        self._pool: Pool | None = None
        self._waits = registrar.counter("pool_waits", "Times that a call waited for a connection.")
        self._seconds = registrar.counter("pool_wait_seconds", "Seconds that calls waited for a connection.")
        for name, (figure, text) in GAUGES.items():
            registrar.gauge(name, text, (), partial(self._read, figure))

    def watch(self, pool: Pool) -> None:
        """Show this one from now on."""
        self._pool, pool.waited = pool, self._waited

    def _waited(self, seconds: float) -> None:
        self._waits.add()
        self._seconds.add(seconds)

    def _read(self, figure: str) -> dict[tuple[str, ...], float]:
        return {(): self._pool.figures()[figure]} if self._pool is not None else {}


async def open_database(dsn: str, migrator: AsyncpgMigrator, settings: Settings) -> AsyncpgDatabase:
    """Bring the kernel's own schema up to date and open a pool that has proved that it can log in.

    Raises:
        StoreUnavailable: the server is not there (yet).
    """
    access = await migrator.bootstrap(BOOTSTRAP)
    try:
        return await _opened(dsn, access, settings)
    except LoginRefused as error:
        if error.code not in ("28P01", "28000"):
            raise
        # The cluster's log-in has the password of another database's kernel, or of a restored backup.
        await migrator.set_password()
        return await _opened(dsn, access, settings)


async def _opened(dsn: str, access: Access, settings: Settings) -> AsyncpgDatabase:
    connect = connector(dsn, user=APP_ROLE, password=access.password)
    pool = Pool(connect, size=settings.pool_size, connect_timeout_s=settings.connect_timeout_s)
    database = AsyncpgDatabase(pool, ContextSigner(access.key), statements_max=settings.statements_max)
    try:
        await database.ping()
    except BaseException:
        await database.close()
        raise
    return database


def _dsn(settings: Settings, servers: dict[str, str]) -> str:
    if settings.dsn is not None:
        return settings.dsn.reveal()
    if "postgres" in servers:
        return servers["postgres"]
    raise InvalidRequest("no PostgreSQL: set data.dsn, or use the embedded profile, which starts one")


def _kernel_version() -> str:
    try:
        return version("platform-kernel")
    except PackageNotFoundError:
        return "unpackaged"


plugin = DataPlugin()
