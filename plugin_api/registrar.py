"""What a plugin registers, and the handles it works with. Everything here is owned by one generation and undone by the
host when that generation stops."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, Protocol, TypeVar
from uuid import UUID

from msgspec import Struct

from plugin_api.call import Call
from plugin_api.clock import Clock
from plugin_api.pipeline import Tenant
from plugin_api.ports.blob_store import BlobStore
from plugin_api.ports.cache import Cache
from plugin_api.ports.host_state import HostState
from plugin_api.ports.job_queue import Jobs, RunningJob
from plugin_api.ports.secrets import Secrets
from plugin_api.ports.stamps import Stamps
from plugin_api.services import ServiceKey, Services

T = TypeVar("T")


class Logger(Protocol):
    """Structured log lines: a message and fields. A `Secret` among the fields prints masked."""

    def debug(self, message: str, **fields: Any) -> None:
        """Detail for the plugin's author."""
        ...

    def info(self, message: str, **fields: Any) -> None:
        """Something that an operator may want to know."""
        ...

    def warning(self, message: str, **fields: Any) -> None:
        """Something that an operator should look at; it works all the same."""
        ...

    def error(self, message: str, **fields: Any) -> None:
        """Something that failed; within `except` the traceback is added."""
        ...


class Counter(Protocol):
    """A number that only grows."""

    def add(self, by: float = 1, /, **labels: str) -> None:
        """Add to the series with these labels (at most 200 series of one counter; more go to `other`)."""
        ...


class Calls(Protocol):
    """Opens calls that no request began: background work."""

    def open(
        self, tenant_id: UUID | None, reason: str, *, deadline_s: float = 30.0
    ) -> AbstractAsyncContextManager[Call]:
        """A call of the plugin itself. Its transaction commits at the end of the block and rolls back on an error.

        `tenant_id=None` is for kernel plugins; `call.enter` and `call.system_tx` work as in a public operation.
        """
        ...


class TenantHooks(Protocol):
    """Tells every plugin about a tenant; for the plugin that owns tenants."""

    async def created(self, tenant: Tenant) -> None:
        """Call `pk_tenant_created` everywhere. Raises the first failure after all were called; repeat until it does not."""
        ...

    async def suspended(self, tenant: Tenant) -> None:
        """Call `pk_tenant_suspended` everywhere, likewise."""
        ...

    async def exported(self, tenant: Tenant, folder: Path) -> None:
        """Call `pk_tenant_exported` everywhere, likewise."""
        ...

    async def erased(self, tenant: Tenant) -> None:
        """Call `pk_tenant_erased` everywhere, likewise."""
        ...


class Registrar(Protocol):
    """Given to `pk_register`. The handles (`services` ... `log`) may be kept; the methods work only inside the hook."""

    plugin_id: str
    area: str
    """`money` for `kernel.money`, `acme.crm` for `acme.crm`: prefix of permissions, settings, cache and blobs."""
    services: Services
    settings: Any
    """The instance of the plugin's `Settings` Struct, or None when it has no settings.py."""
    blobs: BlobStore
    cache: Cache
    secrets: Secrets
    clock: Clock
    stamps: Stamps
    calls: Calls
    jobs: Jobs
    """The plugin's own jobs; needs `jobs` in the manifest's `requires`."""
    tenant_hooks: TenantHooks
    host_state: HostState
    log: Logger
    data_folder: Path
    """The kernel's data folder; a plugin writes only into what its README names."""

    def operations(self, owner: object) -> None:
        """Register every method of `owner` that is marked `@operation`, and `owner` itself as the plugin's service.

        Raises:
            ManifestError: a permission that the manifest does not list, a path that is not the plugin's, a request or
                answer type that is no Struct, a placeholder without its field.
        """
        ...

    def reactions(self, owner: object) -> None:
        """Register every method marked `@on` or `@job`."""
        ...

    def events(self, types: Mapping[str, type[Struct]]) -> None:
        """Declare the data of events that the plugin tells: `{"note.touched.v1": NoteTouched}`, types as in the manifest.

        `tx.emit` then takes nothing else for these types, and from the first version that serves on, their data only gains
        fields: a version that drops or changes one is refused (`event_schema_broken`), and so is one whose `events.lock`
        says otherwise. See docs/how-to/tell-and-hear.md.

        Raises:
            ManifestError: a type that is not in `emits`, or is declared twice; what is no Struct, or one whose JSON is an
                array, holds itself or cannot be told as JSON Schema; more than EVENT_TYPES_PER_PLUGIN_MAX.
        """
        ...

    def worker(
        self,
        queue: str,
        handle: Callable[[Call, RunningJob], Awaitable[None]],
        *,
        prefetch: int = 10,
        limit_s: float = 30.0,
    ) -> None:
        """Do the jobs of one of the plugin's queues, `prefetch` at once in each process, from publish until drain.

        `handle` is called in the job's tenant, at least once; what it writes in the call's transaction has its effect once. It
        may take `limit_s` seconds. When it raises, the job is tried again: see `plugin_api.ports.job_queue`.

        Raises:
            ManifestError: `jobs` is not in the manifest's `requires`, the queue's name is none, the queue has a worker.
        """
        ...

    def service(self, key: ServiceKey[T], implementation: T) -> None:
        """Provide a capability that is not (only) operations: a port. The manifest lists it in `provides`."""
        ...

    def task(self, name: str, run: Callable[[], Awaitable[None]]) -> None:
        """Run a background coroutine from publish until drain; restarted with back-off when it raises."""
        ...

    def counter(self, name: str, description: str, labels: Sequence[str] = ()) -> Counter:
        """Make a metric `pk_{area}_{name}_total`. Never label by tenant."""
        ...

    def gauge(
        self, name: str, description: str, labels: Sequence[str], read: Callable[[], Mapping[tuple[str, ...], float]]
    ) -> None:
        """Show a metric `pk_{area}_{name}` for as long as the plugin runs; name its unit in it, like `backlog_seconds`.

        `read` is called at every scrape and gives the numbers of now, each under the values of the labels in their order
        (`()` without labels); the first 200 are shown. It does no I/O and does not wait: let a task keep the numbers. When
        it raises, the log says so and nothing is shown. What several processes show under one label is summed, so a number
        about all of them is shown by one alone.

        Raises:
            ManifestError: a label is `tenant` or `tenant_id`, or the name ends in `_total`.
        """
        ...

    def announce(self, text: str) -> None:
        """Print lines on the terminal of whoever started the kernel, in no log: a generated password, once."""
        ...
