"""Where migrations are run: the port behind the host's migration runner (`host/migrations.py`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Final, Literal, Protocol

from msgspec import Struct

from plugin_api.errors import InvalidRequest
from plugin_api.services import ServiceKey

ROWS_COUNTED_MAX: Final = 1_000_000
Phase = Literal["expand", "contract"]


class MigrationRefused(InvalidRequest):
    """A migration, or the schema that it leaves, breaks a rule. Nothing of it stays; `violations` lists every breach, each
    pointer naming a table, column, constraint, view or function."""

    default_code = "migration_refused"


class Migration(Struct, frozen=True):
    """One file `NNNN_name.sql`, read and checked."""

    number: int
    """From 1, without gaps."""
    name: str
    phase: Phase
    """`expand` suits the version before as well as the one after; `contract` only the one after."""
    up: str
    down: str
    """Empty when the way back is impossible."""
    sha256: str
    """Of the whole file, hexadecimal; line ends count as LF."""

    @property
    def file_name(self) -> str:
        """`0001_notes.sql`."""
        return f"{self.number:04d}_{self.name}.sql"


class AppliedMigration(Struct, frozen=True):
    """What the database remembers of a migration that has run."""

    number: int
    name: str
    sha256: str
    phase: Phase
    applied_at: datetime
    kernel_version: str


class Migrator(Protocol):
    """Runs migrations in a plugin's schema, as the schema's owner.

    Raises, all of them:
        MigrationRefused: the SQL failed, or what it leaves breaks the tenant wall; nothing of it stays.
        StoreUnavailable: the database is away.
        Unavailable: a lock could not be had, several times; others keep the tables busy.
    """

    async def prepare(self, schema: str) -> None:
        """Make the plugin's role, its owner role and its schema. Idempotent; safe from several processes at once."""
        ...

    async def applied(self, schema: str) -> Sequence[AppliedMigration]:
        """What has run, by number. Empty for a schema that does not exist."""
        ...

    async def apply(self, schema: str, migration: Migration) -> bool:
        """Run `up` and record it, in one transaction under the schema's lock; False when another process has just done so."""
        ...

    async def rehearse(self, schema: str, migrations: Sequence[Migration]) -> None:
        """Run `up` of all of them in one transaction that is rolled back; prepares the schema in it if need be."""
        ...

    async def revert(self, schema: str, migration: Migration) -> bool:
        """Run `down` and forget the record, likewise; False when it is not recorded any more."""
        ...

    async def tables(self, schema: str) -> Mapping[str, int]:
        """The tables of a schema with how many rows each has, exact up to ROWS_COUNTED_MAX and no more than that."""
        ...

    async def export(self, schema: str, folder: Path) -> Sequence[str]:
        """Write every table, all tenants', as `{table}.jsonl` (one JSON object a line) into a new 0700 folder; the names of
        the files, with a line count each, as of one moment. An export that fails leaves no folder."""
        ...

    async def purge(self, schema: str) -> None:
        """Destroy the schema, its roles and its records. An absent schema is no error."""
        ...


MIGRATOR: ServiceKey[Migrator] = ServiceKey("migrations")
