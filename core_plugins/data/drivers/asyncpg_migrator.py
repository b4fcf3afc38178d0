"""The administrator's side of the database: the kernel's own schema, and migrations of the plugins' schemas."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import os
import random
import secrets
import shutil
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import asyncpg
from msgspec import Struct

from core_plugins.data import storage
from core_plugins.data.drivers.asyncpg_errors import is_away
from core_plugins.data.drivers.asyncpg_types import Connection, connect, field_of, state_of
from core_plugins.data.model import ContextKey, check_schema, make_context_key, owner_of
from plugin_api.errors import KernelBug, StoreUnavailable, Unavailable, Violation
from plugin_api.ports.migrations import ROWS_COUNTED_MAX, AppliedMigration, Migration, MigrationRefused

LOCK_ATTEMPTS_MAX: Final = 5
KEYS_KEPT: Final = 2
CONNECT_S_MAX: Final = 10.0
_SCRAM_ITERATIONS: Final = 4096


class Access(Struct, frozen=True):
    """What a worker needs to open transactions: how to log in as `pk_app`, and the key that signs contexts."""

    password: str
    key: ContextKey

    def __repr__(self) -> str:
        return "Access(...)"


class AsyncpgMigrator:
    """The port `Migrator`, with a connection of its own for each call."""

    def __init__(self, dsn: str, *, kernel_version: str, lock_timeout_ms: int, statement_timeout_s: int) -> None:
        self._dsn = dsn
        self._kernel_version = kernel_version
        self._limits = (
            f"set local lock_timeout={lock_timeout_ms};set local statement_timeout={statement_timeout_s * 1000}"
        )

    async def bootstrap(self, folder: Path) -> Access:
        """Make or bring up to date the kernel's own schema, roles and keys from the `*.sql` of `folder`.

        Idempotent, and safe when any number of workers start at once: one does it, the others wait for it.
        """
        async with self._connected() as connection, connection.transaction():
            await connection.execute(storage.LOCK_KERNEL)
            if not await connection.fetchval(storage.HAS_KERNEL):
                await connection.execute(storage.FOUNDATION)
            for path in sorted(folder.glob("*.sql")):
                await self._bootstrap_file(connection, path)
            await connection.execute(storage.GUARD)
            await connection.execute(storage.HARDEN)
            return await _access(connection)

    async def _bootstrap_file(self, connection: Connection, path: Path) -> None:
        content = path.read_text(encoding="utf-8")
        number, _, name = path.stem.partition("_")
        if await connection.fetchval(storage.IS_APPLIED, "pk", int(number)):
            return
        up = content.partition("\n-- up\n")[2].partition("\n-- down\n")[0]
        await connection.execute(up)
        digest = hashlib.sha256(content.encode()).hexdigest()
        await connection.execute(storage.RECORD, "pk", int(number), name, digest, "expand", self._kernel_version)

    async def set_password(self) -> None:
        """Give the log-in `pk_app` the password that the kernel knows, for a cluster that has another one."""
        async with self._connected() as connection, connection.transaction():
            await connection.execute(storage.LOCK_KERNEL)
            await _set_password(connection, await connection.fetchval(storage.FIND_LOGIN))

    async def rotate_key(self) -> None:
        """Add a new context key and drop all but the newest KEYS_KEPT. Workers sign with it once they restart."""
        async with self._connected() as connection, connection.transaction():
            await connection.execute(storage.LOCK_KERNEL)
            newest = await connection.fetchrow(storage.FIND_KEYS)
            await _add_key(connection, int(newest["id"]) + 1 if newest else 1)
            await connection.execute(storage.DROP_OLD_KEYS, KEYS_KEPT)

    async def prepare(self, schema: str) -> None:
        """Make the plugin's role, its owner role and its schema; see the port."""
        check_schema(schema)
        async with self._connected() as connection, connection.transaction():
            await connection.execute(storage.LOCK_KERNEL)
            await _name(connection, schema)
            await connection.execute(storage.PREPARE)

    async def applied(self, schema: str) -> Sequence[AppliedMigration]:
        """What has run, by number; see the port."""
        async with self._connected() as connection:
            rows = await connection.fetch(storage.APPLIED, schema)
        return [AppliedMigration(**dict(row)) for row in rows]

    async def apply(self, schema: str, migration: Migration) -> bool:
        """Run `up` and record it; see the port."""

        async def once(connection: Connection) -> bool:
            if await connection.fetchval(storage.IS_APPLIED, schema, migration.number):
                return False
            await self._run(connection, schema, migration, migration.up)
            await _verify(connection, schema, migration.file_name)
            await self._record(connection, schema, migration)
            return True

        return await self._locked(schema, migration.file_name, once)

    async def rehearse(self, schema: str, migrations: Sequence[Migration]) -> None:
        """Run `up` of all of them and roll back; see the port."""
        check_schema(schema)
        if not migrations:
            return

        async def once(connection: Connection) -> bool:
            await connection.execute(storage.LOCK_KERNEL)
            await connection.execute(storage.PREPARE)
            for migration in migrations:
                await self._run(connection, schema, migration, migration.up)
                await _verify(connection, schema, migration.file_name)
            raise _RollBack

        try:
            await self._locked(schema, migrations[-1].file_name, once)
        except _RollBack:
            return

    async def revert(self, schema: str, migration: Migration) -> bool:
        """Run `down` and forget the record; see the port."""

        async def once(connection: Connection) -> bool:
            if not await connection.fetchval(storage.IS_APPLIED, schema, migration.number):
                return False
            await self._run(connection, schema, migration, migration.down)
            await _verify(connection, schema, migration.file_name)
            await connection.execute(storage.FORGET, schema, migration.number)
            return True

        return await self._locked(schema, migration.file_name, once)

    async def tables(self, schema: str) -> Mapping[str, int]:
        """The tables with their rows; see the port."""
        check_schema(schema)
        async with self._connected() as connection:
            names = [row["name"] for row in await connection.fetch(storage.TABLES, schema)]
            return {name: await _count(connection, schema, name) for name in names}

    async def export(self, schema: str, folder: Path) -> Sequence[str]:
        """Every table as lines of JSON; see the port."""
        check_schema(schema)
        draft = folder.with_name(f".{folder.name}")
        draft.mkdir(mode=0o700, parents=True)
        try:
            async with self._connected() as connection, connection.transaction(isolation="repeatable_read"):
                names = [row["name"] for row in await connection.fetch(storage.TABLES, schema)]
                told = [await _export(connection, schema, name, draft / f"{name}.jsonl") for name in names]
        except BaseException:
            shutil.rmtree(draft, ignore_errors=True)
            raise
        draft.rename(folder)
        return told

    async def purge(self, schema: str) -> None:
        """Destroy the schema, its roles and its records; see the port."""
        check_schema(schema)
        async with self._connected() as connection, connection.transaction():
            await connection.execute(storage.LOCK_KERNEL)
            await _name(connection, schema)
            await connection.execute(storage.PURGE)

    @asynccontextmanager
    async def _connected(self) -> AsyncGenerator[Connection, None]:
        connection = await log_in(self._dsn)
        try:
            yield connection
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
            if is_away(error):
                raise StoreUnavailable("the database went away during a migration; nothing of it stays") from error
            raise
        finally:
            connection.terminate()

    async def _locked(self, schema: str, file_name: str, once: Callable[[Connection], Awaitable[bool]]) -> bool:
        """Run `once` in a transaction under the schema's lock, again when a table's lock could not be had in time."""
        for attempt in range(1, LOCK_ATTEMPTS_MAX + 1):
            try:
                async with self._connected() as connection, connection.transaction():
                    await connection.execute(storage.LOCK_SCHEMA, schema)
                    await connection.execute(self._limits)
                    await _name(connection, schema)
                    return await once(connection)
            except (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError) as error:
                if attempt == LOCK_ATTEMPTS_MAX:
                    text = f"{file_name}: the tables stayed locked by others, {attempt} times; try again when it is quieter"
                    raise Unavailable(text, code="migration_locked_out") from error
                await asyncio.sleep(0.1 * 2**attempt * random.uniform(0.5, 1))  # noqa: S311 - only spreads attempts
        raise AssertionError

    async def _run(self, connection: Connection, schema: str, migration: Migration, sql: str) -> None:
        """Run one part of a migration as the schema's owner, then settle who may use what it made."""
        before = await connection.fetchval("select pg_current_xact_id()::text")
        try:
            await connection.execute(f'set local role "{owner_of(schema)}";set local search_path to "{schema}",pk')
            await connection.execute(sql)
            await connection.execute("reset role;set local search_path to pg_catalog")
        except (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError):
            raise
        except asyncpg.PostgresError as error:
            if is_away(error):
                raise
            raise _failed(migration, sql, error) from error
        if before != await connection.fetchval("select pg_current_xact_id()::text"):
            detail = f"{migration.file_name}: a migration may not commit or roll back; what it did before that stays"
            raise MigrationRefused(detail, violations=[Violation(f"/{migration.file_name}", "transaction", detail)])
        await connection.execute(storage.SETTLE)

    async def _record(self, connection: Connection, schema: str, migration: Migration) -> None:
        await connection.execute(
            storage.RECORD,
            schema,
            migration.number,
            migration.name,
            migration.sha256,
            migration.phase,
            self._kernel_version,
        )


async def log_in(dsn: str, **options: Any) -> Connection:
    """Open a connection as the administrator, within CONNECT_S_MAX; options as in `asyncpg.connect`.

    Raises:
        StoreUnavailable: the database is away.
        KernelBug: it refuses the log-in.
    """
    try:
        return await connect(dsn, timeout=CONNECT_S_MAX, **options)
    except Exception as error:
        if is_away(error) or isinstance(error, TimeoutError):
            raise StoreUnavailable("the database cannot be reached") from error
        raise KernelBug(f"the database refused the administrator's log-in: {type(error).__name__}: {error}") from error


class _RollBack(Exception):
    """Ends a rehearsal."""


async def _count(connection: Connection, schema: str, table: str) -> int:
    statement = storage.COUNT_ROWS.format(table=_quoted(schema, table))
    count: int = await connection.fetchval(statement, ROWS_COUNTED_MAX)
    return count


async def _export(connection: Connection, schema: str, table: str, file: Path) -> str:
    """Rows as JSON, each on its line: `copy` in CSV with marks that no JSON text holds writes it as it is."""
    query = storage.EXPORT.format(table=_quoted(schema, table))
    done: str = await connection.copy_from_query(query, output=str(file), **storage.EXPORT_FORMAT)
    file.chmod(0o600)
    return f"{file.name}: {done.rpartition(' ')[2]} rows"


def _quoted(schema: str, table: str) -> str:
    return ".".join('"{}"'.format(name.replace('"', '""')) for name in (schema, table))


async def _name(connection: Connection, schema: str) -> None:
    """Tell the DO blocks of `storage` which roles they are about; set for the transaction."""
    await connection.execute(
        "select set_config('pk.plugin', $1, true), set_config('pk.keeper', $2, true)", schema, owner_of(schema)
    )


async def _verify(connection: Connection, schema: str, file_name: str) -> None:
    rows = await connection.fetch(storage.FINDINGS, schema, f'"{schema}"', f'"{owner_of(schema)}"')
    breaches = [
        Violation(f"/{row['place']}", row["code"], f"{row['place']} {row['what']}; {row['remedy']}") for row in rows
    ]
    if breaches:
        text = "\n".join(breach.detail for breach in breaches)
        raise MigrationRefused(f"{file_name} leaves the schema {schema} open:\n{text}", violations=breaches)


def _failed(migration: Migration, part: str, error: asyncpg.PostgresError) -> MigrationRefused:
    position = field_of(error, "position")
    line = f", line {part[: int(position)].count(chr(10)) + 1} of the part" if position else ""
    detail = f"{migration.file_name}{line}: {state_of(error)} {error}"
    return MigrationRefused(detail, violations=[Violation(f"/{migration.file_name}", "failed", detail)])


async def _access(connection: Connection) -> Access:
    """The newest key and the password, made now if this is the first start."""
    row = await connection.fetchrow(storage.FIND_KEYS)
    key = ContextKey(row["id"], row["inner_pad"], row["outer_pad"]) if row else await _add_key(connection, 1)
    password = await connection.fetchval(storage.FIND_LOGIN)
    if password is None:
        password = secrets.token_urlsafe(32)
        await connection.execute(storage.SET_LOGIN, password)
        await _set_password(connection, password)
    return Access(password, key)


async def _add_key(connection: Connection, number: int) -> ContextKey:
    key = make_context_key(number)
    await connection.execute(storage.ADD_KEY, key.id, key.inner_pad, key.outer_pad)
    return key


async def _set_password(connection: Connection, password: str) -> None:
    """Only the verifier is sent, so that no log of statements holds the password."""
    await connection.execute("select set_config('pk.password', $1, true)", _scram_verifier(password))
    await connection.execute(storage.SET_PASSWORD)


def _scram_verifier(password: str) -> str:
    """What PostgreSQL keeps of a password (RFC 5803)."""
    salt = os.urandom(16)
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, _SCRAM_ITERATIONS)
    stored = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    server = hmac.digest(salted, b"Server Key", "sha256")
    parts = [base64.b64encode(part).decode() for part in (salt, stored, server)]
    return f"SCRAM-SHA-256${_SCRAM_ITERATIONS}:{parts[0]}${parts[1]}:{parts[2]}"
