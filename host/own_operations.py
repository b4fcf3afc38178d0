"""The host's own area `/api/v1/plugins`: what operators see of plugins. It passes the same pipeline as everything else."""

from __future__ import annotations

from typing import Final, Literal

from msgspec import Struct

from host.generations import Generation
from host.kernel import Kernel
from host.registrar import HostRegistrar
from plugin_api import API_VERSION
from plugin_api.call import Call
from plugin_api.errors import NotFound
from plugin_api.manifest import Manifest, Names
from plugin_api.operation import operation
from plugin_api.pages import Page, PageRequest
from plugin_api.ports.host_state import PluginState

HOST_ID: Final = "kernel.host"
HOST_NAMES: Final = Names("plugin", "/api/v1/plugins", "", "pk.plugin.v1")


class PluginList(PageRequest, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Plugins of this kernel."""

    sort: Literal["id", "-id"] = "id"
    state: str | None = None


class PluginRef(Struct, frozen=True, forbid_unknown_fields=True):
    """Which plugin."""

    plugin_id: str


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
        for state in self._kernel.state.plugins():
            if state.id in (request.plugin_id, f"kernel.{request.plugin_id}"):
                return state
        raise NotFound("there is no such plugin here; `GET /api/v1/plugins` lists them")


def host_generation(kernel: Kernel) -> Generation:
    """The host's own operations as a generation, so that they are compiled, documented and checked like any other."""
    manifest = Manifest(
        id=HOST_ID,
        version=f"{API_VERSION}.0",
        api=">=1.0,<2",
        summary="The host itself",
        permissions={"read": "See the kernel's plugins"},
    )
    generation = Generation(HOST_ID, 1, manifest, HOST_NAMES, plugin=None)
    registrar = HostRegistrar(kernel, generation, kernel.runtime(generation), settings=None)
    registrar.operations(PluginOperations(kernel))
    registrar.close()
    return generation
