"""The kernel of one process: its current table, and what plugins' handles reach through it."""

from __future__ import annotations

import time
import traceback
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from msgspec.structs import replace

from host.changes.orders import Change, Outcome
from host.description import Description, summary_of
from host.generations import Generation, Table
from host.hooks import HookFailed, HookTable
from host.observe import Metrics, PluginLog, sink
from host.pipeline import Load
from host.runtime import CursorSeal, GenerationRuntime
from host.services import ServiceProxy
from host.table import build_table, empty_table
from host.tracing import Tracing
from plugin_api.call import Identity
from plugin_api.clock import Clock, SystemClock
from plugin_api.errors import KernelBug, KernelError, NotAuthenticated, Unavailable
from plugin_api.limits import BODY_BYTES_MAX, DEADLINE_S, HOOK_DEADLINE_S
from plugin_api.pipeline import Credentials, Tenant
from plugin_api.ports.host_state import PluginState
from plugin_api.ports.stamps import Stamps

if TYPE_CHECKING:
    from host.incoming import Incoming
    from host.remote.remotes import Remotes
    from host.rpc_call import RpcCall
    from plugin_api.services import ServiceKey

T = TypeVar("T")


@dataclass(frozen=True)
class Place:
    """Where and as what this process runs."""

    data_folder: Path
    profile: str
    worker: int
    servers: Mapping[str, str]


class Kernel:
    """Everything that is active in this process; `table` is replaced whole, never changed."""

    def __init__(self, place: Place, stamps: Stamps, cursor_key: bytes, announce: Callable[[str], None]) -> None:
        self.data_folder = place.data_folder
        self.stamps = stamps
        self.cursors = CursorSeal(cursor_key)
        self.clock: Clock = SystemClock()
        self.metrics = Metrics()
        self.hooks = HookTable()
        self.table: Table = empty_table()
        self.troubles: dict[str, PluginState] = {}
        """Plugins that are known and not active, with why."""
        self.state = KernelState(self, place)
        self.tenant_hooks = KernelTenantHooks(self)
        self.announce = announce
        self.change: Callable[[Change], Awaitable[Outcome]] = _no_change
        """Asks the parent for a change of plugins."""
        self.last_errors: dict[str, str] = {}
        """What went wrong last with a plugin that serves all the same, by its id."""
        self.leaks: dict[str, list[str]] = {}
        """What the last stopped generation of a plugin left behind, by its id."""
        self.previous: dict[str, str] = {}
        """The version that a rollback of a plugin returns to, by its id."""
        self.remotes: Remotes | None = None
        """Capabilities that other kernels serve for this one; None when settings name none."""
        self.tracing: Tracing | None = None
        """None when no spans are made; read when an operation is compiled."""
        self.is_ready = False
        self.deadline_s = DEADLINE_S
        self.load = Load()
        self.description = Description(self)
        self.log = PluginLog("host")
        self._proxies: dict[str, ServiceProxy] = {}
        self._runtimes: dict[str, GenerationRuntime] = {}
        self._numbers: dict[str, int] = {}

    @property
    def body_bytes_max(self) -> int:
        """Bytes of a body that doors read at most."""
        return self.table.slots.body_bytes_max or BODY_BYTES_MAX

    # ------------------------------------------------------------------------------------- table

    def publish(self, generation: Generation) -> None:
        """Make a staged generation active, in place of the plugin's former one, by one swap of the table."""
        active = {**self.table.generations, generation.plugin_id: generation}
        self._swap(list(active.values()))
        generation.state, generation.since = "active", time.monotonic()
        self.troubles.pop(generation.plugin_id, None)

    def withdraw(self, plugin_id: str) -> Generation | None:
        """Take a plugin out of the table; its calls in flight go on."""
        generation = self.table.generations.get(plugin_id)
        if generation is not None:
            self._swap([g for g in self.table.generations.values() if g is not generation])
            generation.state = "draining"
        return generation

    def rehearse(self, generation: Generation) -> None:
        """Build the table as it would be with a staged generation, and put it nowhere.

        Raises:
            RouteConflict: it claims a method and path of another plugin.
        """
        active = {**self.table.generations, generation.plugin_id: generation}
        build_table(self, list(active.values()), self.table.version)

    def _swap(self, generations: list[Generation]) -> None:
        self.table = build_table(self, generations, self.table.version + 1)

    def next_number(self, plugin_id: str) -> int:
        """The number of a plugin's next generation in this process, from 1."""
        number = self._numbers[plugin_id] = self._numbers.get(plugin_id, 0) + 1
        return number

    def runtime(self, generation: Generation) -> GenerationRuntime:
        """What stands behind the calls of a generation; one for each."""
        runtime = self._runtimes.get(generation.key)
        if runtime is None:
            runtime = self._runtimes[generation.key] = GenerationRuntime(self, generation)
        return runtime

    def forget(self, generation: Generation) -> None:
        """Undo everything of a generation that has stopped."""
        self.hooks.remove(generation.key)
        self.metrics.drop(generation.key)
        self._runtimes.pop(generation.key, None)

    # --------------------------------------------------------------------------------- services

    def proxy(self, capability: str) -> ServiceProxy:
        """The stable proxy of a capability."""
        return self._proxies.setdefault(capability, ServiceProxy(self, capability))

    def find(self, key: ServiceKey[T]) -> T | None:
        """Whatever provides a capability now, for the host's own use; None when nothing does."""
        provided = self.table.services.get(key.name)
        return cast("T", provided.implementation) if provided is not None else None

    def require(self, key: ServiceKey[T]) -> T:
        """`find`, but Unavailable when nothing provides it."""
        implementation = self.find(key)
        if implementation is None:
            raise Unavailable(f"nothing provides the capability {key.name} now; see `pk doctor`")
        return implementation

    def part(self, capability: str, prefix: str) -> Any:
        """One plugin's part of a store (blobs, cache, vault), found anew when its provider changes."""
        return StorePart(self, capability, prefix)

    async def require_identity(self, credentials: Credentials) -> Identity:
        """The caller's identity. NotAuthenticated when there is none."""
        identifier = self.table.slots.identify
        identity = await identifier.identify(credentials) if identifier else None
        if identity is None:
            raise NotAuthenticated(
                "credentials are missing; send Authorization: Bearer with an access token or an API key"
            )
        return identity

    # -------------------------------------------------------------------------------------- log

    def log_bug(self, incoming: Incoming | RpcCall, bug: KernelBug) -> None:
        """Write down a bug with everything that its answer hides."""
        cause = bug.__cause__ or bug
        compiled = incoming.compiled
        sink.line(
            "error",
            "kernel bug",
            {
                "request_id": incoming.request_id,
                "plugin": compiled.registered.bound.plugin_id if compiled else "host",
                "exception": "".join(traceback.format_exception(cause))[-8000:],
            },
        )


async def _no_change(_: Change) -> Outcome:
    raise Unavailable("plugins are changed by the parent of a running kernel, and here is none")


class StorePart:
    """A plugin's part of a store that another plugin provides."""

    def __init__(self, kernel: Kernel, capability: str, prefix: str) -> None:
        self._kernel = kernel
        self._capability = capability
        self._prefix = prefix
        self._provider: object = None
        self._part: Any = None

    def __getattr__(self, name: str) -> Any:
        provided = self._kernel.table.services.get(self._capability)
        if provided is None:
            raise Unavailable(f"nothing provides the capability {self._capability} now; see `pk doctor`")
        if provided.implementation is not self._provider:
            provider: Any = provided.implementation
            self._provider, self._part = provider, provider.part(self._prefix)
        return getattr(self._part, name)


class KernelState:
    """The `host_state` port."""

    def __init__(self, kernel: Kernel, place: Place) -> None:
        self._kernel = kernel
        self.profile = place.profile
        self.worker = place.worker
        self.servers = dict(place.servers)

    def plugins(self) -> list[PluginState]:
        """Every known plugin: the active ones in start order, then those in trouble."""
        serving = self._kernel.table.generations
        others = [state for state in self._kernel.troubles.values() if state.id not in serving]
        return [self._with_remarks(state) for state in (*map(describe, serving.values()), *others)]

    def _with_remarks(self, state: PluginState) -> PluginState:
        kernel = self._kernel
        return replace(
            state,
            last_error=kernel.last_errors.get(state.id, ""),
            leaks=tuple(kernel.leaks.get(state.id, ())),
            previous=kernel.previous.get(state.id, ""),
        )

    def permissions(self) -> dict[str, str]:
        """Every registered permission."""
        return dict(self._kernel.table.permissions)

    def openapi(self) -> dict[str, Any]:
        """The OpenAPI document of the current table."""
        return self._kernel.description.document()


def describe(generation: Generation) -> PluginState:
    """A generation as operators see it."""
    manifest = generation.manifest
    return PluginState(
        generation.plugin_id,
        manifest.version,
        generation.state,
        generation.number,
        generation.reason,
        int(time.monotonic() - generation.since),
        tuple(manifest.provides),
        tuple(manifest.requires),
        summary_of(manifest),
    )


class KernelTenantHooks:
    """The `tenant_hooks` handle: every active plugin is told, each under its own deadline."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel

    async def _tell(self, hook: str, **arguments: Any) -> None:
        failures: list[HookFailed] = []
        for generation in self._kernel.table.generations.values():
            try:
                await self._kernel.hooks.call(generation.key, generation.plugin_id, hook, HOOK_DEADLINE_S, **arguments)
            except HookFailed as failure:
                self._kernel.log.error("a tenant hook failed", hook=hook, plugin=generation.plugin_id, why=str(failure))
                failures.append(failure)
        if failures:
            raise _as_unavailable(failures[0])

    async def created(self, tenant: Tenant) -> None:
        """Call `pk_tenant_created` everywhere."""
        await self._tell("pk_tenant_created", tenant=tenant)

    async def suspended(self, tenant: Tenant) -> None:
        """Call `pk_tenant_suspended` everywhere."""
        await self._tell("pk_tenant_suspended", tenant=tenant)

    async def exported(self, tenant: Tenant, folder: Path) -> None:
        """Call `pk_tenant_exported` everywhere."""
        await self._tell("pk_tenant_exported", tenant=tenant, folder=folder)

    async def erased(self, tenant: Tenant) -> None:
        """Call `pk_tenant_erased` everywhere."""
        await self._tell("pk_tenant_erased", tenant=tenant)


def _as_unavailable(failure: HookFailed) -> KernelError:
    error = Unavailable(f"a plugin could not take part: {failure.plugin_id} in {failure.hook}; it is tried again")
    error.__cause__ = failure
    return error
