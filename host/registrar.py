"""The registrar given to `pk_register`: it writes what a plugin registers into that plugin's generation."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from host.binding import compile_bindings
from host.deprecation import notices_of
from host.encoding import compile_encoder
from host.event_types import register_events
from host.generations import (
    Generation,
    RegisteredOperation,
    RegisteredReaction,
    RegisteredTask,
    absolute_path,
    full_permission,
)
from host.jobs import PluginJobs, register_schedule, register_worker
from host.observe import CounterFamily, PluginLog, Read
from host.request_plan import octets_of
from host.runtime import GenerationRuntime, PluginCalls
from host.services import PluginServices, capability_of
from host.stored_answers import compile_decoder
from plugin_api.call import Call
from plugin_api.limits import OPERATIONS_PER_PLUGIN_MAX, TASKS_PER_PLUGIN_MAX
from plugin_api.manifest import ManifestError
from plugin_api.operation import JOB_ATTRIBUTE, OPERATION_ATTRIBUTE, REACTION_ATTRIBUTE, OperationSpec
from plugin_api.pipeline import AnswerForm, BoundOperation
from plugin_api.ports.event_log import EVENT_LOG
from plugin_api.ports.job_queue import RunningJob
from plugin_api.services import ServiceKey
from plugin_api.streams import Stream

if TYPE_CHECKING:
    from host.kernel import Kernel

T = TypeVar("T")


class HostRegistrar:
    """One generation's registrar; `close()` ends the time in which things can be registered."""

    def __init__(self, kernel: Kernel, generation: Generation, runtime: GenerationRuntime, settings: Any) -> None:
        self._kernel = kernel
        self._generation = generation
        self._open = True
        self.plugin_id = generation.plugin_id
        self.area = generation.names.area
        self.settings = settings
        self.services = PluginServices(kernel, generation.plugin_id, generation.manifest)
        self.calls = PluginCalls(runtime)
        self.jobs = PluginJobs(kernel, generation)
        self.clock = kernel.clock
        self.stamps = kernel.stamps
        self.tenant_hooks = kernel.tenant_hooks
        self.host_state = kernel.state
        self.log = PluginLog(generation.plugin_id)
        self.data_folder: Path = kernel.data_folder
        self.blobs = kernel.part("files", generation.names.area)
        self.cache = kernel.part("cache", generation.names.area)
        self.secrets = kernel.part("vault", generation.plugin_id)

    def close(self) -> None:
        """Refuse whatever is registered from now on."""
        self._open = False

    def _check(self) -> None:
        if not self._open:
            raise ManifestError(f"{self.plugin_id}: things are registered inside pk_register only")

    def operations(self, owner: object) -> None:
        """Register the methods of `owner` that are marked `@operation`, and `owner` as the plugin's service."""
        self._check()
        found = list(_marked(owner, OPERATION_ATTRIBUTE))
        if not found:
            raise ManifestError(f"{self.plugin_id}: {type(owner).__name__} has no method marked @operation")
        for name, method, spec in found:
            self._generation.operations.append(self._registered(name, method, spec))
        if len(self._generation.operations) > OPERATIONS_PER_PLUGIN_MAX:
            raise ManifestError(f"{self.plugin_id}: more than {OPERATIONS_PER_PLUGIN_MAX} operations")
        for provided in self._generation.manifest.provides:
            self._generation.services.setdefault(capability_of(provided), owner)

    def _registered(self, name: str, method: Callable[..., Any], spec: OperationSpec) -> RegisteredOperation:
        if not spec.recorded and not self.plugin_id.startswith("kernel."):
            raise ManifestError(
                f"{self.plugin_id}: operation {name} says recorded=False, which only kernel plugins may; leave it out"
            )
        request_type, answer_type = self._types(name, method, spec)
        area = self._generation.names.area
        if spec.permission and spec.permission not in self._generation.manifest.permissions:
            raise ManifestError(
                f"{self.plugin_id}: operation {name} needs the permission {spec.permission!r}, which the manifest does not "
                f'list; add "{spec.permission}" under [permissions]'
            )
        permission = full_permission(area, spec.permission, operator=spec.operator) if spec.permission else None
        encode = compile_encoder(answer_type)
        answer = None if spec.stream else AnswerForm(encode, compile_decoder(answer_type))
        path = self._path(name, spec)
        bound = BoundOperation(f"{area}.{name}", self.plugin_id, area, spec, spec.method, path, permission, answer)
        takes_body = spec.method not in ("GET", "DELETE") and not spec.stream
        bind, bind_fields = compile_bindings(request_type, placeholders=spec.placeholders, takes_body=takes_body)
        return RegisteredOperation(
            bound,
            method,
            request_type,
            answer_type,
            inspect.getdoc(method) or "",
            bind,
            encode,
            octets_of(request_type),
            bind_fields,
            type(getattr(method, "__self__", None)).__name__,
            notices_of(spec),
        )

    def _path(self, name: str, spec: OperationSpec) -> str:
        path = absolute_path(self._generation.names, spec)
        if spec.path.startswith(("/api/", "/.well-known/")) and not self.plugin_id.startswith("kernel."):
            raise ManifestError(
                f"{self.plugin_id}: operation {name} has the absolute path {spec.path}, which only kernel plugins may "
                f"register; write it relative, it becomes {self._generation.names.rest_prefix}/..."
            )
        return path

    def _types(self, name: str, method: Callable[..., Any], spec: OperationSpec) -> tuple[type, Any]:
        where = f"{self.plugin_id}: operation {name}"
        if not inspect.iscoroutinefunction(method):
            raise ManifestError(f"{where} is no `async def`")
        try:
            hints = typing.get_type_hints(method, include_extras=True)
        except NameError as error:
            raise ManifestError(f"{where}: {error}; its types must be names of its module") from error
        parameters = list(inspect.signature(method).parameters.values())
        if len(parameters) != 2:
            raise ManifestError(f"{where} takes (self, call: Call, request: SomeStruct)")
        request_type = hints.get(parameters[1].name)
        if not (isinstance(request_type, type) and issubclass(request_type, msgspec.Struct)):
            raise ManifestError(f"{where}: `request` is annotated with {request_type!r}, which is no Struct")
        lacking = set(spec.placeholders) - set(request_type.__struct_fields__)
        if lacking:
            raise ManifestError(
                f"{where}: {request_type.__name__} has no field {', '.join(sorted(lacking))} for the path"
            )
        if "return" not in hints:
            raise ManifestError(f"{where}: say what it answers: `-> SomeStruct` or `-> None`")
        answer_type = hints["return"]
        if answer_type is Stream and not spec.stream:
            raise ManifestError(f"{where} answers a Stream; declare it with @operation(..., stream=True)")
        return request_type, None if answer_type is type(None) else answer_type

    def reactions(self, owner: object) -> None:
        """Register the methods of `owner` that are marked `@on` or `@job`."""
        self._check()
        jobs, found = list(_marked(owner, JOB_ATTRIBUTE)), list(_marked(owner, REACTION_ATTRIBUTE))
        if not found and not jobs:
            raise ManifestError(f"{self.plugin_id}: {type(owner).__name__} has no method marked @on or @job")
        for name, method, spec in jobs:
            register_schedule(self._generation, name, method, spec)
        for name, method, spec in found:
            self._generation.reactions.append(self._reaction(name, method, spec.event_type))

    def _reaction(self, name: str, method: Callable[..., Any], event_type: str) -> RegisteredReaction:
        manifest, where = self._generation.manifest, f"{self.plugin_id}: the reaction {name}"
        if event_type not in manifest.events.consumes:
            raise ManifestError(f'{where} is to {event_type}; add it to "consumes" under [events] in the manifest')
        if EVENT_LOG.name not in {capability_of(entry) for entry in manifest.requires}:
            raise ManifestError(f'{where} needs the event log; add "{EVENT_LOG.name}" to requires in the manifest')
        if not inspect.iscoroutinefunction(method):
            raise ManifestError(f"{where} is no `async def`")
        if len(inspect.signature(method).parameters) != 2:
            raise ManifestError(f"{where} takes (self, call: Call, event: EventEnvelope)")
        return RegisteredReaction(f"{self.area}.{name}", event_type, method)

    def events(self, types: Mapping[str, type[msgspec.Struct]]) -> None:
        """Declare the data of events that the plugin tells."""
        self._check()
        register_events(self._generation, types)

    def worker(
        self,
        queue: str,
        handle: Callable[[Call, RunningJob], Awaitable[None]],
        *,
        prefetch: int = 10,
        limit_s: float = 30.0,
    ) -> None:
        """Do the jobs of one of the plugin's queues from publish until drain."""
        self._check()
        register_worker(self._generation, queue, handle, prefetch, limit_s)

    def service(self, key: ServiceKey[T], implementation: T) -> None:
        """Provide a capability that is a port."""
        self._check()
        if key.name not in {capability_of(entry) for entry in self._generation.manifest.provides}:
            raise ManifestError(f"{self.plugin_id}: {key.name} is not in the manifest's `provides`; add it there")
        self._generation.services[key.name] = implementation

    def task(self, name: str, run: Callable[[], Awaitable[None]]) -> None:
        """Run a background coroutine from publish until drain."""
        self._check()
        if len(self._generation.tasks) >= TASKS_PER_PLUGIN_MAX:
            raise ManifestError(f"{self.plugin_id}: more than {TASKS_PER_PLUGIN_MAX} tasks")
        self._generation.tasks.append(RegisteredTask(name, run))

    def counter(self, name: str, description: str, labels: Sequence[str] = ()) -> CounterFamily:
        """Make a metric `pk_{area}_{name}_total`."""
        full = f"{self._metric(name, labels)}_total"
        return self._kernel.metrics.counter(full, description, labels, self._generation.key)

    def gauge(self, name: str, description: str, labels: Sequence[str], read: Read) -> None:
        """Show a metric `pk_{area}_{name}`, read when asked."""
        full = self._metric(name, labels)
        if name.endswith("_total"):
            raise ManifestError(
                f"{self.plugin_id}: the gauge {name} ends in _total, which counters do; name it otherwise"
            )
        self._kernel.metrics.gauge(full, description, labels, read, self._generation.key)

    def _metric(self, name: str, labels: Sequence[str]) -> str:
        self._check()
        if "tenant" in labels or "tenant_id" in labels:
            raise ManifestError(f"{self.plugin_id}: the metric {name} is labelled by tenant; tenants are never a label")
        return f"pk_{self.area.replace('.', '_')}_{name}"

    def announce(self, text: str) -> None:
        """Print lines on the terminal of whoever started the kernel."""
        self._kernel.announce(text)


def _marked(owner: object, attribute: str) -> list[tuple[str, Callable[..., Any], Any]]:
    found: list[tuple[str, Callable[..., Any], Any]] = []
    for name, function in inspect.getmembers(type(owner), inspect.isfunction):
        spec = getattr(function, attribute, None)
        if spec is not None:
            found.append((name, getattr(owner, name), spec))
    return found
