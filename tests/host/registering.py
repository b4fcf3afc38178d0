"""Plugins that do nothing but register: what tests of the registrar activate."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from host.generations import Generation
from host.kernel import Kernel
from host.lifecycle import Lifecycle
from plugin_api import Registrar, hookimpl
from plugin_api.manifest import Manifest
from tests.host.conftest import no_migrations


class Found:
    """What discovery would give."""

    def __init__(self, plugin_id: str, folder: Path, **more: Any) -> None:
        self.manifest = Manifest(id=plugin_id, version="1.0.0", api=">=1.0,<2", summary="x", **more)
        self.folder = folder


def plugin(register: Callable[[Registrar], Any]) -> Any:
    """A plugin whose `pk_register` is this."""

    class Plugin:
        @hookimpl
        def pk_register(self, registrar: Registrar) -> None:
            register(registrar)

    return Plugin()


async def activate(
    kernel: Kernel, folder: Path, register: Callable[[Registrar], Any], plugin_id: str = "acme.crm", **manifest: Any
) -> Generation:
    """Activate such a plugin with a manifest that says so much."""
    found: Any = Found(plugin_id, folder, **manifest)
    return await Lifecycle(kernel, no_migrations).activate(found, plugin(register), None)
