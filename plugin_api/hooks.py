"""The moments of a plugin's life, in order: the kernel's table of contents.

A plugin implements those it needs with `@hookimpl` and names only the arguments it uses; arguments are only ever added.
Hooks marked async may be `async def` or plain. Every call has a deadline (`plugin_api.limits`), and a hook that raises
or hangs stops its own plugin only.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import pluggy
from msgspec import Struct

from plugin_api.pipeline import PipelineSlots, Tenant
from plugin_api.registrar import Registrar
from plugin_api.servers import ChildServer

PROJECT: Final = "platform_kernel"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


class Health(Struct, frozen=True):
    """How a plugin is."""

    ok: bool
    detail: str = ""
    """For operators; never a secret."""


@hookspec
def pk_servers() -> list[ChildServer]:  # type: ignore[empty-body]
    """Declare child servers; kernel plugins only, called in the parent before any worker runs, embedded profile only."""


@hookspec
def pk_configure(settings: Any) -> None:
    """Refuse settings that contradict each other: raise `errors.InvalidRequest` with what to change."""


@hookspec
def pk_register(registrar: Registrar) -> None:
    """Register operations, services, tasks, metrics; create the plugin's objects. No I/O here."""


@hookspec
def pk_pipeline(slots: PipelineSlots) -> None:
    """Fill slots of the pipeline."""


@hookspec
async def pk_migrate(applied: list[str]) -> None:
    """Async. The plugin's SQL migrations have run (`applied` lists those that ran just now); fill in what SQL cannot."""


@hookspec
async def pk_enable() -> None:
    """Async. Open connections, warm up. The plugin serves nothing yet; those it requires do."""


@hookspec
async def pk_ready() -> None:
    """Async. The plugin has been published in this process and serves."""


@hookspec
async def pk_health() -> Health:  # type: ignore[empty-body]
    """Async. Tell how the plugin is; asked before it is published and by `/readyz` (cached)."""


@hookspec
async def pk_drain() -> None:
    """Async. No new calls come; finish what is under way."""


@hookspec
async def pk_disable() -> None:
    """Async. Close everything. The host has undone what was registered."""


@hookspec
async def pk_uninstall(data: str) -> None:
    """Async. The plugin leaves for good; `data` is `keep`, `export` or `purge`. Its schema is the host's business."""


@hookspec
async def pk_tenant_created(tenant: Tenant) -> None:
    """Async. A tenant exists (committed). Told at least once: be idempotent."""


@hookspec
async def pk_tenant_suspended(tenant: Tenant) -> None:
    """Async. A tenant may not act until further notice. Told at least once."""


@hookspec
async def pk_tenant_exported(tenant: Tenant, folder: Path) -> None:
    """Async. Write what belongs to the tenant into `folder`, one file per kind. Told at least once."""


@hookspec
async def pk_tenant_erased(tenant: Tenant) -> None:
    """Async. Destroy what belongs to the tenant. Told at least once."""


@hookspec
async def pk_find_tenant(slug: str) -> Tenant | None:
    """Async. Tell which tenant has this slug, None when there is none; for the plugin that owns tenants alone."""


@hookspec
async def pk_demo(tenant: Tenant) -> list[str]:  # type: ignore[empty-body]
    """Async. Fill the tenant `demo` with examples of what the plugin does (`pk demo`).

    Told any number of times: be idempotent. Return what was made now, a line each: `user ada@demo.localhost`; never a
    secret.
    """
