"""In-process services: stable proxies that always reach the current generation of a capability."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

from plugin_api.call import Call
from plugin_api.errors import KernelBug, Unavailable
from plugin_api.manifest import Manifest
from plugin_api.services import ServiceKey

if TYPE_CHECKING:
    from host.kernel import Kernel

T = TypeVar("T")


def capability_of(requirement: str) -> str:
    """`data >=1` names the capability `data`."""
    return requirement.split(" ", 1)[0].strip()


HANDLED: Final = frozenset({"eventbus", "jobs"})
"""Third parties may require these and use them through the registrar alone: what is behind knows every tenant."""
HOST_ONLY: Final = frozenset({"migrations", "desired_state", "wakeups"})
"""Capabilities that reach every plugin's tables, or decide what code runs: for the host and the kernel's own plugins."""


def visible_capabilities(manifest: Manifest) -> frozenset[str]:
    """What a plugin may look up: what it requires, comes after, or provides; of others' plugins nothing of HOST_ONLY."""
    named = frozenset(capability_of(entry) for entry in (*manifest.requires, *manifest.after, *manifest.provides))
    return named if manifest.id.startswith("kernel.") else named - HOST_ONLY - HANDLED


class ServiceProxy:
    """Stands for one capability. Methods that are operations go through the pipeline of their current generation; those
    of a port go straight to its implementation."""

    def __init__(self, kernel: Kernel, capability: str) -> None:
        self._kernel = kernel
        self._capability = capability

    def _implementation(self) -> object:
        provided = self._kernel.table.services.get(self._capability)
        if provided is None:
            raise Unavailable(f"nothing provides the capability {self._capability} now; see `pk doctor`")
        return provided.implementation

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        if (self._capability, name) in self._kernel.table.inner:
            method: Any = self._operation(name)
        else:
            method = getattr(self._implementation(), name)
            if not callable(method):
                return method
            method = self._forward(name)
        self.__dict__[name] = method
        return method

    def _operation(self, name: str) -> Callable[[Call, Any], Awaitable[Any]]:
        kernel, key = self._kernel, (self._capability, name)

        def call(call: Call, request: Any) -> Awaitable[Any]:
            inner = kernel.table.inner.get(key)
            if inner is None:
                raise Unavailable(f"nothing provides {key[0]}.{name} now; see `pk doctor`")
            return inner.invoke(call, request)

        return call

    def _forward(self, name: str) -> Callable[..., Any]:
        def forward(*arguments: Any, **named: Any) -> Any:
            return getattr(self._implementation(), name)(*arguments, **named)

        return forward


class PluginServices:
    """The `services` handle of one plugin."""

    def __init__(self, kernel: Kernel, plugin_id: str, manifest: Manifest) -> None:
        self._kernel = kernel
        self._plugin_id = plugin_id
        self._visible = visible_capabilities(manifest)
        self._elsewhere: dict[str, Any] = {}
        """Proxies of what another kernel serves; they know the caller's own types, and go with it."""

    def get(self, key: ServiceKey[T]) -> T:
        """A proxy to whatever provides `key`."""
        if key.name not in self._visible:
            raise KernelBug(
                f"{self._plugin_id} uses the capability {key.name} without listing it in `requires` or `after`"
            )
        local = self._kernel.proxy(key.name)
        remotes = self._kernel.remotes
        if remotes is None or key.name not in remotes:
            return cast("T", local)
        if key.name not in self._elsewhere:
            self._elsewhere[key.name] = remotes.proxy(key, local, lambda: key.name in self._kernel.table.services)
        return cast("T", self._elsewhere[key.name])

    def find(self, key: ServiceKey[T]) -> T | None:
        """The proxy, or None while nothing provides `key`."""
        proxy, remotes = self.get(key), self._kernel.remotes
        is_there = key.name in self._kernel.table.services or (remotes is not None and key.name in remotes)
        return proxy if is_there else None
