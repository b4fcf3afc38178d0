"""The host's own area `/api/v1/plugins`: what operators see and change of plugins. It passes the same pipeline as
everything else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from msgspec import Meta, Struct

from host.changes.orders import Change, Data
from host.generations import Generation
from host.kernel import Kernel
from host.registrar import HostRegistrar
from host.uploads import keep_upload
from plugin_api import API_VERSION
from plugin_api.call import Call
from plugin_api.errors import InvalidRequest, NotFound
from plugin_api.manifest import Manifest, Names
from plugin_api.operation import operation
from plugin_api.pages import Page, PageRequest
from plugin_api.ports.host_state import PluginState

HOST_ID: Final = "kernel.host"
HOST_NAMES: Final = Names("plugin", "/api/v1/plugins", "", "pk.plugin.v1")
WHEEL_BYTES_MAX: Final = 64 * 1_048_576
CHANGE_DEADLINE_S: Final = 900.0
PERMISSIONS: Final = {
    "read": "See the kernel's plugins",
    "install": "Install plugins",
    "upgrade": "Upgrade plugins",
    "rollback": "Roll plugins back to the version before",
    "enable": "Enable plugins",
    "disable": "Disable plugins",
    "remove": "Remove plugins, with their data if told so",
}

Wheel = Annotated[bytes | None, Meta(extra={"in": "octets", "bytes_max": WHEEL_BYTES_MAX})]
Cascade = Annotated[bool, Meta(extra={"in": "query"})]
RequirementText = Annotated[str, Meta(min_length=1, max_length=2_000)]


class PluginList(PageRequest, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Plugins of this kernel."""

    sort: Literal["id", "-id"] = "id"
    state: str | None = None


class PluginRef(Struct, frozen=True, forbid_unknown_fields=True):
    """Which plugin."""

    plugin_id: str


class InstallPlugin(Struct, frozen=True, forbid_unknown_fields=True):
    """What to install: a requirement, or a wheel as the body."""

    requirement: RequirementText | None = None
    wheel: Wheel = None


class UpgradePlugin(Struct, frozen=True, forbid_unknown_fields=True):
    """What to upgrade to: a requirement, a wheel as the body, or the newest version that there is."""

    plugin_id: str
    requirement: RequirementText | None = None
    wheel: Wheel = None


class DisablePlugin(Struct, frozen=True, forbid_unknown_fields=True):
    """Which plugin, and whether those that need it are disabled too."""

    plugin_id: str
    cascade: Cascade = False


class RemovePlugin(Struct, frozen=True, forbid_unknown_fields=True):
    """Which plugin, and what becomes of its data."""

    plugin_id: str
    data: Data = "keep"
    cascade: bool = False
    dry_run: bool = False


class Removed(Struct, frozen=True):
    """What went, or would go in a dry run."""

    id: str
    data: str
    disabled: list[str]
    """Plugins that needed it and were disabled with it."""
    removed: dict[str, Any]
    """The package, schema, tables with about how many rows each, routes and permissions."""


class PluginOperations:
    """What operators may ask of the host."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel

    @operation("GET /", permission="read", operator=True)
    async def list_plugins(self, call: Call, request: PluginList) -> Page[PluginState]:
        """List the kernel's plugins with their state, version, generation and, when something is wrong, the reason."""
        known = sorted(self._kernel.state.plugins(), key=lambda p: p.id, reverse=request.sort.startswith("-"))
        wanted = [p for p in known if request.state in (None, p.state)]
        bound = f"plugins {request.sort} {request.state}".encode()
        if request.cursor is not None:
            after = call.open_cursor(bound, request.cursor)[0]
            wanted = [p for p in wanted if (p.id < after if request.sort.startswith("-") else p.id > after)]
        page = wanted[: request.limit]
        is_last = len(wanted) <= request.limit
        return Page(page, None if is_last else call.seal_cursor(bound, [page[-1].id]))

    @operation("GET /{plugin_id}", permission="read", operator=True)
    async def get_plugin(self, call: Call, request: PluginRef) -> PluginState:
        """Show one plugin. `money` is taken for `kernel.money`."""
        return self._state_of(request.plugin_id)

    def _state_of(self, plugin_id: str) -> PluginState:
        for state in self._kernel.state.plugins():
            if state.id in (plugin_id, f"kernel.{plugin_id}"):
                return state
        raise NotFound("there is no such plugin here; `GET /api/v1/plugins` lists them")

    @operation(
        "POST /", permission="install", operator=True, status=201, deadline_s=CHANGE_DEADLINE_S, idempotency="none"
    )
    async def install_plugin(self, call: Call, request: InstallPlugin) -> PluginState:
        """Install a plugin into the running kernel. Answers when every worker serves it.

        The body is `{"requirement": "acme-crm>=1.2"}`, or a wheel as `application/octet-stream`.
        """
        if (request.requirement is None) == (request.wheel is None):
            raise InvalidRequest("send either a requirement, or a wheel as application/octet-stream")
        async with self._asked_for(request.requirement, request.wheel) as what:
            outcome = await self._kernel.change(Change(verb="install", what=what))
        call.add_response_header("Location", f"{HOST_NAMES.rest_prefix}/{outcome.plugin_id}")
        return self._state_of(outcome.plugin_id)

    @operation(
        "POST /{plugin_id}/upgrade",
        permission="upgrade",
        operator=True,
        deadline_s=CHANGE_DEADLINE_S,
        idempotency="none",
    )
    async def upgrade_plugin(self, call: Call, request: UpgradePlugin) -> PluginState:
        """Replace a plugin by another version of it. Calls under way end with the version that they began with.

        The body is as for an installation; without one the newest version is taken that there is.
        """
        if request.requirement is not None and request.wheel is not None:
            raise InvalidRequest("send a requirement, or a wheel as application/octet-stream, not both")
        async with self._asked_for(request.requirement, request.wheel) as what:
            return await self._changed(Change(verb="upgrade", plugin_id=request.plugin_id, what=what))

    @operation(
        "POST /{plugin_id}/rollback",
        permission="rollback",
        operator=True,
        deadline_s=CHANGE_DEADLINE_S,
        idempotency="none",
    )
    async def rollback_plugin(self, call: Call, request: PluginRef) -> PluginState:
        """Return to the version that served before. Its data stays as it is: no migration is taken back."""
        return await self._changed(Change(verb="rollback", plugin_id=request.plugin_id))

    @operation(
        "POST /{plugin_id}/enable", permission="enable", operator=True, deadline_s=CHANGE_DEADLINE_S, idempotency="none"
    )
    async def enable_plugin(self, call: Call, request: PluginRef) -> PluginState:
        """Let a disabled or quarantined plugin serve again."""
        return await self._changed(Change(verb="enable", plugin_id=request.plugin_id))

    @operation(
        "POST /{plugin_id}/disable",
        permission="disable",
        operator=True,
        deadline_s=CHANGE_DEADLINE_S,
        idempotency="none",
    )
    async def disable_plugin(self, call: Call, request: DisablePlugin) -> PluginState:
        """Take a plugin away, with its data kept. Refused while others need it, unless `cascade` disables them too."""
        return await self._changed(Change(verb="disable", plugin_id=request.plugin_id, cascade=request.cascade))

    @operation(
        "DELETE /{plugin_id}", permission="remove", operator=True, deadline_s=CHANGE_DEADLINE_S, idempotency="none"
    )
    async def remove_plugin(self, call: Call, request: RemovePlugin) -> Removed:
        """Remove a plugin. Its data is kept (and found again by a later installation), exported and then destroyed, or
        destroyed.
        """
        change = Change(
            verb="remove",
            plugin_id=request.plugin_id,
            data=request.data,
            cascade=request.cascade,
            dry_run=request.dry_run,
        )
        outcome = await self._kernel.change(change)
        return Removed(outcome.plugin_id, request.data, outcome.disabled, outcome.removed)

    async def _changed(self, change: Change) -> PluginState:
        outcome = await self._kernel.change(change)
        return self._state_of(outcome.plugin_id)

    @asynccontextmanager
    async def _asked_for(self, requirement: str | None, wheel: bytes | None) -> AsyncIterator[str]:
        """What the parent is told: a requirement as it is, a wheel as the path of a file that is gone afterwards."""
        if wheel is None:
            yield _requirement(requirement or "")
            return
        file = await asyncio.to_thread(keep_upload, self._kernel.data_folder, wheel)
        try:
            yield str(file)
        finally:
            file.unlink(missing_ok=True)


def _requirement(text: str) -> str:
    """A requirement, and no path: what lies on the kernel's machine is for those who are on it."""
    if any(mark in text for mark in ("/", "\\")):
        raise InvalidRequest(
            f"{text[:100]!r} is a path or an address; send the wheel itself as application/octet-stream"
        )
    return text


def host_generation(kernel: Kernel) -> Generation:
    """The host's own operations as a generation, so that they are compiled, documented and checked like any other."""
    manifest = Manifest(
        id=HOST_ID,
        version=f"{API_VERSION}.0",
        api=">=1.0,<2",
        summary="The host itself",
        permissions=PERMISSIONS,
    )
    generation = Generation(HOST_ID, 1, manifest, HOST_NAMES, plugin=None, folder=Path(__file__).parent)
    registrar = HostRegistrar(kernel, generation, kernel.runtime(generation), settings=None)
    registrar.operations(PluginOperations(kernel))
    registrar.close()
    return generation
