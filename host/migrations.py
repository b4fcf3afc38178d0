"""Reading, planning and running plugins' migrations: numbered SQL files, each run once, in order, never edited."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final, cast

from msgspec import Struct

from plugin_api.errors import Violation
from plugin_api.ports.migrations import AppliedMigration, Migration, MigrationRefused, Migrator, Phase

ALL_PHASES: Final[tuple[Phase, ...]] = ("expand", "contract")
EXPAND_ONLY: Final[tuple[Phase, ...]] = ("expand",)
MIGRATION_BYTES_MAX: Final = 1_048_576
MIGRATIONS_MAX: Final = 1_000

_FILE = re.compile(r"([0-9]{4})_([a-z0-9][a-z0-9_]{0,79})\.sql\Z")
_PHASE = re.compile(r"--[ \t]*phase:[ \t]*(expand|contract)[ \t]*\Z")
_UP = re.compile(r"--[ \t]*up[ \t]*\Z")
_DOWN = re.compile(r"--[ \t]*down[ \t]*\Z")


class MigrationState(Struct, frozen=True):
    """One migration as `pk migrations status` shows it."""

    file: str
    phase: Phase
    state: str
    """`applied`, `pending`, `changed` (edited after it ran), `missing` (ran, but its file is gone), `newer` (of a later version
    that was rolled back)."""
    applied_at: str = ""


def parse(file_name: str, content: bytes) -> Migration:
    """Read one migration: the header `-- phase: expand|contract`, then the parts `-- up` and `-- down`.

    Raises:
        MigrationRefused: it is not written like that; the detail names the file, and what it should have.
    """
    named = _FILE.match(file_name)
    if not named:
        raise _refused(file_name, "name", "a migration is named like 0001_leads.sql: four digits, lower-case words")
    text = _text(file_name, content)
    lines = text.split("\n")
    phase = _phase_of(file_name, lines)
    up_at = _only_line(file_name, lines, _UP, "-- up")
    down_at = _only_line(file_name, lines, _DOWN, "-- down")
    up, down = "\n".join(lines[up_at + 1 : down_at]).strip(), "\n".join(lines[down_at + 1 :]).strip()
    if down_at < up_at or not up:
        raise _refused(file_name, "up", "`-- up` comes first and has statements; `-- down` may be empty: no way back")
    digest = hashlib.sha256(text.encode()).hexdigest()
    return Migration(int(named[1]), named[2], phase, up, down, digest)


def read_folder(folder: Path) -> list[Migration]:
    """Read every `*.sql` of a folder, by number. A folder that does not exist has none.

    Raises:
        MigrationRefused: a file cannot be read as a migration, a number is missing or stands twice.
    """
    if not folder.is_dir():
        return []
    paths = sorted(path for path in folder.iterdir() if path.name.endswith(".sql"))
    if len(paths) > MIGRATIONS_MAX:
        raise _refused(str(folder), "count", f"at most {MIGRATIONS_MAX} migrations, found {len(paths)}")
    found = [parse(path.name, path.read_bytes()) for path in paths]
    for expected, migration in enumerate(found, 1):
        if migration.number != expected:
            detail = f"numbers go up from 0001 without a gap; expected {expected:04d}, found {migration.number:04d}"
            raise _refused(migration.file_name, "number", detail)
    return found


def plan(
    files: Sequence[Migration],
    applied: Sequence[AppliedMigration],
    phases: Sequence[Phase] = ALL_PHASES,
    *,
    may_be_older: bool = False,
) -> list[Migration]:
    """Tell which migrations would run now, in order: those after the last applied one, up to the first whose phase is not
    in `phases`.

    `may_be_older`: these files may be of a version before the one whose migrations ran (a rollback). What that one added
    suits them too; what it took away does not.

    Raises:
        MigrationRefused: what ran and what the files hold differ (a file was edited, renumbered, or is missing), an expand
            waits behind a contract that may not run yet, or a later version's contract has run.
    """
    newer = newer_of(files, applied) if may_be_older else []
    _refuse_contracted(newer)
    breaches = _drift(files, [record for record in applied if record not in newer])
    if breaches:
        text = "; ".join(breach.detail for breach in breaches)
        raise MigrationRefused(f"migrations that have run do not match their files: {text}", violations=breaches)
    done = {record.number for record in applied}
    pending = [migration for migration in files if migration.number not in done]
    ready: list[Migration] = []
    for migration in pending:
        if migration.phase not in phases:
            _refuse_overtaking(migration, pending[len(ready) + 1 :], phases)
            break
        ready.append(migration)
    return ready


def newer_of(files: Sequence[Migration], applied: Sequence[AppliedMigration]) -> list[AppliedMigration]:
    """What ran of versions after the one that these files are of."""
    last = max((migration.number for migration in files), default=0)
    return [record for record in applied if record.number > last]


def _refuse_contracted(newer: Sequence[AppliedMigration]) -> None:
    contract = next((record for record in newer if record.phase == "contract"), None)
    if contract is not None:
        name = f"{contract.number:04d}_{contract.name}.sql"
        detail = (
            f"{name}, a contract of a later version, has run, so no version before that one can serve; "
            "stay with it, or upgrade to a later one"
        )
        raise _refused(name, "contracted", detail)


async def migrate(
    migrator: Migrator,
    plugin_id: str,
    schema: str,
    folder: Path,
    *,
    dry_run: bool = False,
    phases: Sequence[Phase] = ALL_PHASES,
    may_be_older: bool = False,
) -> list[str]:
    """Bring a plugin's schema up to its files; the names of the files that ran now (or would run, for a dry run).

    Each migration is one transaction, verified before it commits; several processes may call this at once and one of them
    runs each. A dry run executes everything that is pending and rolls back.

    Raises:
        MigrationRefused: a file or the plan does not hold, the SQL fails, a table is left unprotected.
        Unavailable: the database is away, or its tables stay locked.
    """
    files = read_folder(folder)
    if not files:
        if not dry_run and schema.startswith("x_"):
            await migrator.prepare(schema)  # its operations run as its role all the same
        return []
    pending = _planned(plugin_id, files, await migrator.applied(schema), phases, may_be_older=may_be_older)
    if dry_run:
        await migrator.rehearse(schema, pending)
        return [migration.file_name for migration in pending]
    await migrator.prepare(schema)
    return [migration.file_name for migration in pending if await migrator.apply(schema, migration)]


async def down(migrator: Migrator, plugin_id: str, schema: str, folder: Path, *, count: int) -> list[str]:
    """Take back the last `count` migrations, newest first; their file names.

    Raises:
        MigrationRefused: one of them has no way back, or the files do not match what ran; nothing is taken back then.
    """
    files = read_folder(folder)
    applied = await migrator.applied(schema)
    _planned(plugin_id, files, applied, ALL_PHASES)
    by_number = {migration.number: migration for migration in files}
    last = [by_number[record.number] for record in sorted(applied, key=lambda record: -record.number)[:count]]
    for migration in last:
        if not migration.down:
            raise _refused(migration.file_name, "down", "its `-- down` is empty, so it cannot be taken back")
    return [migration.file_name for migration in last if await migrator.revert(schema, migration)]


async def status(migrator: Migrator, schema: str, folder: Path, *, may_be_older: bool = False) -> list[MigrationState]:
    """Every migration, of the files and of the database, by number."""
    files = {migration.number: migration for migration in read_folder(folder)}
    applied = {record.number: record for record in await migrator.applied(schema)}
    newer = newer_of(list(files.values()), list(applied.values())) if may_be_older else []
    absent = {record.number: "newer" for record in newer}
    return [
        _state_of(files.get(number), applied.get(number), absent.get(number, "missing"))
        for number in sorted(files.keys() | applied.keys())
    ]


def _planned(
    plugin_id: str,
    files: Sequence[Migration],
    applied: Sequence[AppliedMigration],
    phases: Sequence[Phase],
    *,
    may_be_older: bool = False,
) -> list[Migration]:
    try:
        return plan(files, applied, phases, may_be_older=may_be_older)
    except MigrationRefused as error:
        raise MigrationRefused(f"{plugin_id}: {error.detail}", violations=error.violations) from error


def _state_of(migration: Migration | None, record: AppliedMigration | None, absent: str) -> MigrationState:
    if record is None:
        migration = cast("Migration", migration)
        return MigrationState(migration.file_name, migration.phase, "pending")
    at = record.applied_at.isoformat().replace("+00:00", "Z")
    if migration is None:
        return MigrationState(f"{record.number:04d}_{record.name}.sql", record.phase, absent, at)
    state = "applied" if migration.sha256 == record.sha256 else "changed"
    return MigrationState(migration.file_name, migration.phase, state, at)


def _drift(files: Sequence[Migration], applied: Sequence[AppliedMigration]) -> list[Violation]:
    by_number = {migration.number: migration for migration in files}
    by_hash = {migration.sha256: migration for migration in files}
    breaches: list[Violation] = []
    for record in applied:
        recorded = f"{record.number:04d}_{record.name}.sql"
        migration = by_number.get(record.number)
        if migration is not None and migration.sha256 == record.sha256 and migration.name == record.name:
            continue
        pointer = f"/{recorded}"
        moved = by_hash.get(record.sha256)
        if moved is not None:
            detail = f"{recorded} is now named {moved.file_name}; give it its old name back"
            breaches.append(Violation(pointer, "renumbered", detail))
        elif migration is None or migration.name != record.name:
            detail = f"{recorded} has run (sha256 {record.sha256}) but its file is missing; bring it back as it was"
            breaches.append(Violation(pointer, "missing", detail))
        else:
            detail = (
                f"{recorded} was edited after it ran: recorded sha256 {record.sha256}, the file's is {migration.sha256}; "
                "bring the file back as it was and write the change as a new migration"
            )
            breaches.append(Violation(pointer, "changed", detail))
    return breaches


def _refuse_overtaking(waiting: Migration, later: Sequence[Migration], phases: Sequence[Phase]) -> None:
    overtaking = next((migration for migration in later if migration.phase in phases), None)
    if overtaking is not None:
        detail = (
            f"{overtaking.file_name} comes after {waiting.file_name}, a contract that may only run once no older version "
            "of the plugin serves; let the version in between serve first, or stop the plugin and run all phases"
        )
        raise _refused(overtaking.file_name, "order", detail)


def _text(file_name: str, content: bytes) -> str:
    if len(content) > MIGRATION_BYTES_MAX:
        raise _refused(
            file_name, "size", f"a migration has at most {MIGRATION_BYTES_MAX} bytes, this one {len(content)}"
        )
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise _refused(file_name, "encoding", "a migration is UTF-8 text") from error
    return text.replace("\r\n", "\n")


def _phase_of(file_name: str, lines: Sequence[str]) -> Phase:
    named = _PHASE.match(lines[0].strip())
    if not named:
        raise _refused(file_name, "phase", "its first line is `-- phase: expand` or `-- phase: contract`")
    return cast("Phase", named[1])


def _only_line(file_name: str, lines: Sequence[str], pattern: re.Pattern[str], what: str) -> int:
    found = [index for index, line in enumerate(lines) if pattern.match(line.rstrip())]
    if len(found) != 1:
        raise _refused(file_name, "parts", f"it has exactly one line `{what}`, found {len(found)}")
    return found[0]


def _refused(place: str, code: str, detail: str) -> MigrationRefused:
    return MigrationRefused(f"{place}: {detail}", violations=[Violation(f"/{place}", code, detail)])
