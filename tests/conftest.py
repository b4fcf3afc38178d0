"""What tests of several areas share: real servers for the whole run, and databases that last for a test.

The servers are those of the embedded profile, watched as in a kernel: one that a test kills comes back by itself.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any, TypeVar
from uuid import UUID, uuid4

import asyncpg
import pytest
from msgspec import structs

from core_plugins.cache.drivers.valkey_server import ValkeyServer
from core_plugins.data.drivers.asyncpg_database import AsyncpgDatabase
from core_plugins.data.drivers.asyncpg_migrator import AsyncpgMigrator
from core_plugins.data.drivers.postgres_server import PostgresServer
from core_plugins.data.plugin import BOOTSTRAP, open_database
from core_plugins.data.settings import Settings
from host.children import Register, Servers
from host.datafolder import DataFolder
from host.discovery import discover
from host.kernel import Kernel, Place
from host.migrations import migrate
from host.privileges import choose_privileges
from host.resolution import resolve
from host.stamps import FileStamps, create_stamps
from host.startup import Startup
from plugin_api.clock import Clock
from plugin_api.ports.database import Transaction
from plugin_api.servers import ChildServer, Command, ServerPlace

# A test may start servers after another one of its process has used gRPC, whose threads would wake in each forked child.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

LIMIT_S = 60.0
STOP_LIMIT_S = 10.0
T = TypeVar("T")


class ServerThread:
    """One server under its keeper, in a thread so that it outlives the event loops of single tests."""

    def __init__(self, server: ChildServer, folder: Path) -> None:
        self.server = server
        self._folder = DataFolder.open(folder)
        self._servers = Servers(self._folder, Register(self._folder), lambda: None)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(LIMIT_S)

    def pid(self) -> int:
        """The pid of the server that runs now."""
        return self._servers.pids()[self.server.name]

    def address(self) -> str:
        """What its clients need."""
        return self._servers.addresses()[self.server.name]

    @contextmanager
    def running(self) -> Iterator[None]:
        """Start it; end it and the thread afterwards."""
        try:
            self._run(self._servers.start([self.server], choose_privileges()))
            yield
        finally:
            self._run(self._servers.stop(STOP_LIMIT_S))
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(LIMIT_S)
            self._loop.close()
            self._folder.close()


@pytest.fixture(scope="session")
def valkey_thread(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerThread]:
    server = ServerThread(ValkeyServer(), tmp_path_factory.mktemp("valkey") / "pk")
    with server.running():
        yield server


@pytest.fixture
def valkey_url(valkey_thread: ServerThread) -> str:
    """The address of a Valkey for the whole run."""
    return valkey_thread.address()


@pytest.fixture
def valkey_pid(valkey_thread: ServerThread) -> Callable[[], int]:
    """Tells its pid; another one after it was killed."""
    return valkey_thread.pid


class HastyPostgres(PostgresServer):
    """Waits for no disk. Whatever is killed, what it wrote is there; only a machine that goes down would lose it."""

    def command(self, place: ServerPlace) -> Command:
        careful = super().command(place)
        return structs.replace(careful, argv=(*careful.argv, "-cfsync=off"))


_numbers = itertools.count(1)
MakeDatabase = Callable[..., Awaitable[str]]


class Databases:
    """Databases of one server; addresses have the administrator's log-in.

    What plugins of the kernel make in an empty database at their first start is made once, in a template: making it
    takes longer than most tests.
    """

    def __init__(self, server: ServerThread) -> None:
        self.server = server
        self._templates: dict[tuple[str, ...], str] = {}

    async def make(self, *only: str) -> str:
        """The name of a new database: empty, or with the schemas of these plugins and of those that they need."""
        name = f"scratch_{next(_numbers)}"
        template = await self._template(only) if only else "template1"
        await self.administer(f"create database {name} template {template} strategy file_copy")
        return name

    def address(self, name: str) -> str:
        """The address of one of them."""
        return self.server.address().replace("/postgres?", f"/{name}?")

    async def administer(self, sql: str) -> None:
        """Run a statement that is about whole databases."""
        connection = await asyncpg.connect(self.server.address())
        try:
            await connection.execute(sql)
        finally:
            await connection.close()

    async def _template(self, only: tuple[str, ...]) -> str:
        if only not in self._templates:
            name = await self.make()
            await self._fill(migrator_of(self.address(name)), only)
            self._templates[only] = name
        return self._templates[only]

    async def _fill(self, migrator: AsyncpgMigrator, only: tuple[str, ...]) -> None:
        """As `Startup` does it."""
        await migrator.bootstrap(BOOTSTRAP)
        for found in resolve(discover(), only=only).order:
            await migrate(migrator, found.id, found.names.schema, found.folder / "migrations")


@pytest.fixture(scope="session")
def hasty_databases(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Databases]:
    server = ServerThread(HastyPostgres(), tmp_path_factory.mktemp("postgres") / "pk")
    with server.running():
        yield Databases(server)


@pytest.fixture(scope="session")
def careful_databases(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Databases]:
    server = ServerThread(PostgresServer(), tmp_path_factory.mktemp("postgres") / "pk")
    with server.running():
        yield Databases(server)


@pytest.fixture
def databases(request: pytest.FixtureRequest) -> Databases:
    """Those of a PostgreSQL for the whole run; whoever kills it meets one that is set up as in a kernel."""
    kills = "postgres_pid" in request.fixturenames
    made: Databases = request.getfixturevalue("careful_databases" if kills else "hasty_databases")
    return made


@pytest.fixture
def postgres_pid(databases: Databases) -> Callable[[], int]:
    """Tells the pid of the PostgreSQL; another one after it was killed."""
    return databases.server.pid


@pytest.fixture
async def make_database(databases: Databases) -> AsyncIterator[MakeDatabase]:
    """Makes databases and tells their addresses: `make_database()` an empty one, `make_database("eventbus")` one in which
    these plugins of the kernel have started before. They are gone after the test."""
    made: list[str] = []

    async def make(*only: str) -> str:
        made.append(await databases.make(*only))
        return databases.address(made[-1])

    yield make
    for name in made:
        await databases.administer(f"drop database if exists {name} with (force)")


# ---------------------------------------------------------------- a database with one plugin's schema in it

SCHEMA = "x_acme_notes"
NOTES = """-- phase: expand
-- up
create table notes (
  tenant_id uuid not null default pk.tenant_id(),
  id uuid not null,
  body text not null check (body <> 'forbidden'),
  document jsonb,
  version bigint not null default 1,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  primary key (tenant_id, id),
  constraint notes_body_key unique (tenant_id, body));
select pk.protect('notes');
-- down
drop table notes;
"""


@dataclass
class Opened:
    """One database, open, with its administrator's side."""

    dsn: str
    database: AsyncpgDatabase
    migrator: AsyncpgMigrator
    tenant: UUID = field(default_factory=uuid4)

    async def begin(self, tenant: UUID | None = None, *, schema: str = SCHEMA, **given: Any) -> Transaction:
        """Begin in the usual tenant, for at most 20 s."""
        deadline = monotonic() + given.pop("for_s", 20.0)
        return await self.database.begin(schema, tenant or self.tenant, deadline=deadline, **given)

    async def administrator(self, sql: str, *arguments: Any) -> list[Any]:
        """Run a statement as the administrator."""
        connection = await asyncpg.connect(self.dsn)
        try:
            if arguments:
                return list(await connection.fetch(sql, *arguments))
            if sql.lstrip().lower().startswith(("select", "with")):
                return list(await connection.fetch(sql))
            await connection.execute(sql)
            return []
        finally:
            await connection.close()

    async def add_schema(self, schema: str, folder: Path, *files: str) -> None:
        """Migrate a schema with these files, 0001 first."""
        folder.mkdir(parents=True, exist_ok=True)
        for number, text in enumerate(files, 1):
            (folder / f"{number:04d}_part{number}.sql").write_text(text)
        await migrate(self.migrator, schema, schema, folder)


def migrator_of(dsn: str, **given: Any) -> AsyncpgMigrator:
    """A migrator with short waits."""
    limits: dict[str, Any] = {"kernel_version": "test", "lock_timeout_ms": 3_000, "statement_timeout_s": 30, **given}
    return AsyncpgMigrator(dsn, **limits)


@pytest.fixture
async def open_notes(make_database: MakeDatabase, tmp_path: Path) -> AsyncIterator[Callable[..., Awaitable[Opened]]]:
    """Opens databases with a table of notes; the argument is what settings differ."""
    made: list[Opened] = []

    async def make(**settings: Any) -> Opened:
        dsn = await make_database("data")
        migrator = migrator_of(dsn)
        opened = Opened(dsn, await open_database(dsn, migrator, Settings(**settings)), migrator)
        made.append(opened)
        await opened.add_schema(SCHEMA, tmp_path / f"migrations{len(made)}", NOTES)
        return opened

    yield make
    for opened in made:
        await opened.database.close()


@pytest.fixture
async def notes(open_notes: Callable[..., Awaitable[Opened]]) -> Opened:
    """One such database."""
    return await open_notes()


# ------------------------------------------------------------------- kernels of this process over real servers


@pytest.fixture
def kernel_folder(tmp_path: Path) -> Path:
    """A data folder for kernels of this process."""
    folder = tmp_path / "kernel"
    for name in ("", "secrets", "run"):
        (folder / name).mkdir(mode=0o700)
    create_stamps(folder / "run" / "stamps")
    return folder


@pytest.fixture
async def open_kernel(kernel_folder: Path) -> AsyncIterator[Callable[..., Awaitable[Kernel]]]:
    """Starts kernels, as workers would be: `open_kernel(["data", "vault"], {"postgres": dsn})`; StartFailed when one
    does not start. They share the data folder, and the stores if they are given the same."""
    opened: list[Startup] = []

    async def open_one(
        only: list[str], servers: dict[str, str], *, clock: Clock | None = None, **settings: Any
    ) -> Kernel:
        place = Place(kernel_folder, "embedded", len(opened), servers)
        kernel = Kernel(place, FileStamps(kernel_folder / "run" / "stamps"), b"k" * 32, lambda text: None)
        kernel.clock = clock or kernel.clock
        startup = Startup(kernel, only, {"data.pool_size": 4, **settings})
        opened.append(startup)
        await startup.run()
        return kernel

    yield open_one
    for startup in reversed(opened):
        await startup.stop()
