"""The child servers that kernel plugins declare."""

from __future__ import annotations

from host.discovery import Found, PluginLoadError, discover
from host.hooks import HookTable
from plugin_api.servers import ChildServer, StartRefused


def declared_servers() -> list[ChildServer]:
    """Ask each kernel plugin whose manifest names servers; no other plugin is imported.

    Raises:
        StartRefused: one of them cannot be imported, or declares something else than its manifest says.
    """
    return [
        server
        for found in discover()
        if found.is_kernel and found.problem is None and found.manifest.servers
        for server in _ask(found, found.manifest.servers)
    ]


def _ask(found: Found, names: list[str]) -> list[ChildServer]:
    hooks = HookTable()
    try:
        hooks.add(found.id, found.load())
        declare = hooks.find(found.id, "pk_servers")
        servers: list[ChildServer] = declare() if declare is not None else []
    except PluginLoadError as error:
        raise StartRefused(str(error)) from error
    declared = sorted(server.name for server in servers)
    if declared != sorted(names):
        raise StartRefused(
            f"{found.id} declares the servers {declared} and its manifest {sorted(names)}; reinstall the kernel"
        )
    return servers
