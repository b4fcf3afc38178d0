"""Rules about migrations: readable, numbered, and every table behind the tenant wall."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from host.authoring.package import Package, Place, Rule
from host.authoring.sql import Up, read_up
from host.migrations import parse, read_folder
from plugin_api.ports.migrations import Migration, MigrationRefused


def _invalid(package: Package) -> Iterator[Place]:
    faults = [_fault(package, name, text) for name, text in _files(package)]
    if any(faults):
        yield from (fault for fault in faults if fault)
        return
    try:
        read_folder(package.folder / "migrations")
    except MigrationRefused as error:
        yield Place(error.detail, package.shown(package.folder / "migrations"))


def _files(package: Package) -> Iterator[tuple[str, str]]:
    folder = package.folder / "migrations"
    for path, text in package.texts.items():
        if path.parent == folder and path.suffix == ".sql" and isinstance(text, str):
            yield path.name, text


def _fault(package: Package, name: str, text: str) -> Place | None:
    try:
        parse(name, text.encode())
    except MigrationRefused as error:
        return Place(error.detail.removeprefix(f"{name}: "), _shown(package, name))
    return None


def _shown(package: Package, name: str) -> str:
    return package.shown(package.folder / "migrations" / name)


def _sound(package: Package) -> Iterator[tuple[Migration, str, Up]]:
    """Every migration that can be read, with what its `up` does."""
    for name, text in _files(package):
        if _fault(package, name, text) is None:
            yield parse(name, text.encode()), _shown(package, name), read_up(text)


def _unprotected(package: Package) -> Iterator[Place]:
    for _, file, up in _sound(package):
        for table in up.tables:
            if table.name not in up.protected and not up.is_dynamic:
                yield Place(f"the table {table.name} is not protected in this file", file, table.line)


def _key(package: Package) -> Iterator[Place]:
    for _, file, up in _sound(package):
        for table in up.tables:
            if table.first_key is None and not up.is_dynamic:
                yield Place(f"the table {table.name} has no primary key", file, table.line)
            elif table.first_key not in (None, "tenant_id"):
                said = f"the primary key of {table.name} begins with {table.first_key}"
                yield Place(said, file, table.line)


def _contract_first(package: Package) -> Iterator[Place]:
    for migration, file, _ in _sound(package):
        if migration.number == 1 and migration.phase == "contract":
            yield Place("the first migration is a contract", file, 1)


def _destroying(package: Package) -> Iterator[Place]:
    for migration, file, up in _sound(package):
        if migration.phase == "expand":
            yield from (Place(f"an expand says `{what}`", file, line) for what, line in up.destroys)


def _one_way(package: Package) -> Iterator[Place]:
    for migration, file, _ in _sound(package):
        if not migration.down:
            yield Place("its `-- down` is empty", file)


RULES: Final = (
    Rule(
        "migration_invalid",
        "error",
        "A plugin whose migrations cannot be read does not start.",
        "Number them from 0001 without a gap; begin with `-- phase: expand`, then the parts `-- up` and `-- down`.",
        _invalid,
    ),
    Rule(
        "table_unprotected",
        "error",
        "A table without the tenant wall shows every tenant's rows to every tenant; the kernel refuses the migration.",
        "Add `select pk.protect('table');` to the migration that makes it.",
        _unprotected,
    ),
    Rule(
        "primary_key",
        "error",
        "Keys of two tenants must be allowed to be equal, and every lookup goes by tenant; the kernel refuses the migration.",
        "Write `primary key (tenant_id, ...)`.",
        _key,
    ),
    Rule(
        "contract_first",
        "warning",
        "A contract waits until no older version serves; the first migration has none before it.",
        "Write `-- phase: expand`.",
        _contract_first,
    ),
    Rule(
        "expand_destroys",
        "warning",
        "An expand runs while the older version still serves, and that one needs what is taken away.",
        "Add first, and take away in a later migration with `-- phase: contract`.",
        _destroying,
    ),
    Rule(
        "migration_one_way",
        "info",
        "Nobody can take it back with `pk migrate down`.",
        "If there is a way back, write it below `-- down`.",
        _one_way,
    ),
)
