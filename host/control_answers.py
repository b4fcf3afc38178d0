"""What a worker answers to the command line: plugins, settings, the API's description, migrations, the demo, its health."""

from __future__ import annotations

import platform
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Final, Protocol, TypeVar

import msgspec
from msgspec import Meta, Struct

from host import problems
from host.checks import Check
from host.control_operations import Wanted, find_tenant, run_operation
from host.hooks import HookFailed
from host.migrations import down, migrate, plan, read_folder, status
from host.remote.remotes import remote_checks
from host.version import kernel_version
from plugin_api.errors import InvalidRequest, KernelBug, KernelError, NotFound, Unavailable
from plugin_api.ids import uuid7
from plugin_api.pipeline import Tenant
from plugin_api.ports.host_state import PluginState
from plugin_api.ports.migrations import MIGRATOR, Migration, MigrationRefused, Migrator

if TYPE_CHECKING:
    from host.discovery import Found
    from host.kernel import Kernel
    from host.settings import LoadedSettings

DEMO_SLUG: Final = "demo"
DEMO_DEADLINE_S: Final = 30.0
REVERTS_MAX: Final = 1_000
T = TypeVar("T")
Document = dict[str, Any]


class Answering(Protocol):
    """What the answers are made from."""

    @property
    def kernel(self) -> Kernel:
        """The kernel of this process."""
        ...

    @property
    def found(self) -> Sequence[Found]:
        """Every plugin that was discovered."""
        ...

    @property
    def settings(self) -> LoadedSettings | None:
        """The settings of this process."""
        ...

    async def health(self) -> Mapping[str, Any]:
        """How every active plugin is: `{plugins: {id: {ok, detail}}}`."""
        ...


class Question(Struct, frozen=True):
    """What the command line asks, as the parent hands it over."""

    method: str
    path: str
    query: dict[str, str] = {}
    body: Any = None


async def answer(source: Answering, fields: Mapping[str, Any]) -> Document:
    """Answer one question: `{status, body}`; a refusal's body is a problem document."""
    question = msgspec.convert(fields, Question)
    page = _PAGES.get((question.method, question.path), _unknown)
    try:
        return {"status": 200, "body": msgspec.to_builtins(await page(source, question))}
    except KernelError as error:
        return _refusal(source, question, error)
    except Exception as error:  # noqa: BLE001 - a bug in one answer ends neither the worker nor its channel
        bug = KernelBug(str(error))
        bug.__cause__ = error
        return _refusal(source, question, bug)


def _refusal(source: Answering, question: Question, error: KernelError) -> Document:
    request_id = str(uuid7())
    if isinstance(error, KernelBug):
        source.kernel.log.error("a bug in an answer to the command line", path=question.path, request_id=request_id)
    return {"status": error.status, "body": problems.document(error, question.path, request_id)}


async def _unknown(_: Answering, question: Question) -> Document:
    told = f"this kernel does not answer {question.method} {question.path}"
    raise NotFound(f"{told}; is it of another version than `pk`?")


def _read(body: Any, kind: type[T]) -> T:
    try:
        return msgspec.convert({} if body is None else body, kind)
    except msgspec.ValidationError as error:
        raise InvalidRequest(f"the command line asked for something that this kernel does not know: {error}") from None


# ------------------------------------------------------------------------------------- plugins, settings, API


async def _plugins(source: Answering, _: Question) -> Document:
    return {"items": source.kernel.state.plugins()}


async def _settings(source: Answering, _: Question) -> Document:
    settings = source.settings
    if settings is None:
        raise Unavailable("the kernel is starting; try again")
    return {"items": settings.entries(), "problems": [problem.text for problem in settings.problems]}


async def _openapi(source: Answering, _: Question) -> Document:
    return source.kernel.state.openapi()


# ------------------------------------------------------------------------------------------------- migrations


class MigrateUp(Struct, frozen=True, forbid_unknown_fields=True):
    """Run what is pending."""

    plugin: str | None = None
    dry_run: bool = False


class MigrateDown(Struct, frozen=True, forbid_unknown_fields=True):
    """Take back the last ones of one plugin."""

    plugin: str
    count: Annotated[int, Meta(ge=1, le=REVERTS_MAX)] = 1
    dry_run: bool = False


class Migrated(Struct, frozen=True):
    """What a command did to one plugin's schema."""

    plugin: str
    schema: str
    files: list[str]
    problem: str | None = None


async def _migrations(source: Answering, question: Question) -> Document:
    migrator = source.kernel.require(MIGRATOR)
    found = [
        {
            "plugin": one.id,
            "schema": one.names.schema,
            "migrations": await status(
                migrator, one.names.schema, one.folder / "migrations", may_be_older=not one.is_kernel
            ),
        }
        for one in _migrated(source, question.query.get("plugin"))
    ]
    return {"items": found}


async def _up(source: Answering, question: Question) -> Document:
    asked, migrator = _read(question.body, MigrateUp), source.kernel.require(MIGRATOR)

    async def run(one: Found) -> list[str]:
        folder = one.folder / "migrations"
        older = not one.is_kernel
        return await migrate(migrator, one.id, one.names.schema, folder, dry_run=asked.dry_run, may_be_older=older)

    done = [await _attempt(one, run) for one in _migrated(source, asked.plugin)]
    return {"items": done, "dry_run": asked.dry_run}


async def _down(source: Answering, question: Question) -> Document:
    asked, migrator = _read(question.body, MigrateDown), source.kernel.require(MIGRATOR)

    async def run(one: Found) -> list[str]:
        if asked.dry_run:
            return [migration.file_name for migration in await _would_revert(migrator, one, asked.count)]
        return await down(migrator, one.id, one.names.schema, one.folder / "migrations", count=asked.count)

    done = [await _attempt(one, run) for one in _migrated(source, asked.plugin)]
    return {"items": done, "dry_run": asked.dry_run}


async def _attempt(one: Found, run: Callable[[Found], Awaitable[list[str]]]) -> Migrated:
    """One plugin's migrations that are refused do not keep the others from theirs."""
    try:
        return Migrated(one.id, one.names.schema, await run(one))
    except MigrationRefused as error:
        return Migrated(one.id, one.names.schema, [], error.detail)


async def _would_revert(migrator: Migrator, one: Found, count: int) -> list[Migration]:
    files = read_folder(one.folder / "migrations")
    applied = await migrator.applied(one.names.schema)
    plan(files, applied)
    by_number = {migration.number: migration for migration in files}
    last = [by_number[record.number] for record in sorted(applied, key=lambda record: -record.number)[:count]]
    for migration in last:
        if not migration.down:
            raise MigrationRefused(f"{migration.file_name}: its `-- down` is empty, so it cannot be taken back")
    return last


def _migrated(source: Answering, name: str | None) -> list[Found]:
    """The plugins with migrations, or the one named `money` or `kernel.money`."""
    having = [one for one in source.found if one.problem is None and (one.folder / "migrations").is_dir()]
    if name is None:
        return having
    chosen = [one for one in having if one.id in (name, f"kernel.{name}")]
    if not chosen:
        known = ", ".join(one.id.removeprefix("kernel.") for one in having) or "none"
        raise NotFound(f"there is no plugin {name} with migrations here; known: {known}", code="unknown_plugin")
    return chosen


# ------------------------------------------------------------------------------------------------------- demo


async def _demo(source: Answering, _: Question) -> Document:
    tenant = await _demo_tenant(source.kernel)
    items = [one for one in [await _demo_of(source.kernel, plugin_id, tenant) for plugin_id in _active(source)] if one]
    return {"tenant": {"id": str(tenant.id), "slug": tenant.slug, "name": tenant.name}, "items": items}


def _active(source: Answering) -> list[str]:
    return list(source.kernel.table.generations)


async def _demo_tenant(kernel: Kernel) -> Tenant:
    tenant = await find_tenant(kernel, DEMO_SLUG)
    if tenant is None:
        raise NotFound(
            "there is no tenant demo here; start the kernel without --no-demo, which makes it", code="no_demo_tenant"
        )
    return tenant


async def _demo_of(kernel: Kernel, plugin_id: str, tenant: Tenant) -> Document | None:
    """What one plugin made; None when it has no part in the demo."""
    generation = kernel.table.generations.get(plugin_id)
    if generation is None or kernel.hooks.find(generation.key, "pk_demo") is None:
        return None
    try:
        made = await kernel.hooks.call(generation.key, plugin_id, "pk_demo", DEMO_DEADLINE_S, tenant=tenant)
    except HookFailed as failure:
        kernel.log.error("a plugin could not fill its part of the demo", plugin=plugin_id, why=str(failure))
        return {"plugin": plugin_id, "made": [], "problem": _why(failure)}
    return {"plugin": plugin_id, "made": [str(line) for line in made or ()], "problem": None}


def _why(failure: HookFailed) -> str:
    cause = failure.__cause__
    is_told = isinstance(cause, KernelError) and not isinstance(cause, KernelBug)
    return cause.detail if is_told else str(failure)  # type: ignore[union-attr]  # a KernelError


# ------------------------------------------------------------------------------------------ operators' operations


async def _operation(source: Answering, question: Question) -> Any:
    return await run_operation(source.kernel, _read(question.body, Wanted))


# ----------------------------------------------------------------------------------------------------- doctor


async def _doctor(source: Answering, _: Question) -> Document:
    health = (await source.health()).get("plugins", {})
    states = source.kernel.state.plugins()
    checks = [_plugin_check(state, health.get(state.id)) for state in states]
    checks += _settings_checks(source.settings)
    checks += remote_checks(source.kernel)
    return {
        "ok": not any(check.status == "fail" for check in checks),
        "version": kernel_version(),
        "python": platform.python_version(),
        "profile": source.kernel.state.profile,
        "plugins": states,
        "checks": checks,
    }


def _plugin_check(state: PluginState, health: Mapping[str, Any] | None) -> Check:
    name = f"plugin {state.id}"
    seen = f"{state.state}, version {state.version}, generation {state.generation}"
    if state.state in ("active", "half_open"):
        if health is None or health.get("ok", True):
            return Check(name, "ok", f"{seen}, {state.reason}" if state.state == "half_open" else seen)
        return Check(name, "fail", f"{seen}, not well: {health.get('detail')}", "see the kernel's log")
    if state.state == "stopped":
        return Check(name, "ok", state.reason or "stopped")
    is_bad = state.state in ("failed", "blocked", "quarantined")
    reason, _, remedy = state.reason.rpartition("; ")
    told = f"{state.state}: {reason or remedy or 'no reason known'}"
    return Check(name, "fail" if is_bad else "warn", told, remedy if reason else "see the kernel's log")


def _settings_checks(settings: LoadedSettings | None) -> Iterator[Check]:
    if settings is None:
        return
    for problem in settings.problems:
        told, _, remedy = problem.text.rpartition("; ")
        yield Check("settings", "fail", told or remedy, remedy if told else "")
    for path in settings.open_files:
        yield Check("settings", "warn", f"{path} holds a secret and other accounts can read it", f"chmod 600 {path}")
    if not settings.problems:
        entries = settings.entries()
        changed = sum(entry.source != "default" for entry in entries)
        yield Check(
            "settings",
            "ok",
            f"{len(entries)} settings, {changed} of them not at their default; `pk settings` lists them",
        )


_PAGES: Final[Mapping[tuple[str, str], Callable[[Answering, Question], Awaitable[Any]]]] = {
    ("GET", "/doctor"): _doctor,
    ("GET", "/plugins"): _plugins,
    ("GET", "/settings"): _settings,
    ("GET", "/openapi"): _openapi,
    ("GET", "/migrations"): _migrations,
    ("POST", "/migrations/up"): _up,
    ("POST", "/migrations/down"): _down,
    ("POST", "/demo"): _demo,
    ("POST", "/operation"): _operation,
}
