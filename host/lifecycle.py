"""A plugin's way into the table and out of it; start-up takes the very way that a live change takes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextvars import Context
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import pluggy

from host.generations import Code, Generation, RegisteredReaction, RegisteredTask
from host.hooks import HookFailed
from host.jobs import job_tasks
from host.kernel import Kernel
from host.registrar import HostRegistrar
from host.runtime import PluginCalls
from host.services import capability_of
from plugin_api.deprecations import DEPRECATIONS, Deprecation, deprecated
from plugin_api.errors import KernelError
from plugin_api.hooks import Health
from plugin_api.limits import DRAIN_DEADLINE_S, ENABLE_DEADLINE_S, HOOK_DEADLINE_S
from plugin_api.manifest import Manifest, ManifestError, names_of
from plugin_api.pipeline import Authorizer, BoundOperation, Identifier, Resolver
from plugin_api.ports.event_log import EVENT_LOG, Reaction
from plugin_api.ports.host_state import PluginState

if TYPE_CHECKING:
    from host.discovery import Found

TASK_PAUSE_S = 1.0
TASK_PAUSE_S_MAX = 60.0


class ActivationFailed(Exception):
    """A plugin could not be made active; nothing of it stays."""

    def __init__(self, plugin_id: str, phase: str, reason: str) -> None:
        super().__init__(f"{plugin_id} failed to {phase}: {reason}")
        self.plugin_id = plugin_id
        self.phase = phase
        self.reason = reason


class MigrationRunner(Protocol):
    """Brings a plugin's schema up to date; the names of what ran."""

    def __call__(self, generation: Generation, found: Found) -> Awaitable[list[str]]: ...


class Lifecycle:
    """Activates and deactivates plugins in one process, one change at a time."""

    def __init__(
        self, kernel: Kernel, migrate: MigrationRunner, announced: Sequence[Deprecation] = DEPRECATIONS
    ) -> None:
        self._kernel = kernel
        self._migrate = migrate
        self._announced = announced

    async def activate(self, found: Found, plugin: object, settings: Any) -> Generation:
        """Stage and publish one plugin, and let its former generation leave.

        Raises:
            ActivationFailed: naming the phase and the reason; the former generation, if any, serves on.
        """
        generation = await self.stage(found, plugin, settings)
        former = self.publish(generation)
        if former is not None:
            await self.retire(former)
        return generation

    async def stage(
        self, found: Found, plugin: object, settings: Any, code: Code | None = None, number: int = 0
    ) -> Generation:
        """Configure, register, migrate, enable one plugin and check its health: ready to be published, serving nothing.

        `code` is what `plugin` was loaded from as generation `number`, when it can be unloaded.

        Raises:
            ActivationFailed: naming the phase and the reason; nothing of it stays.
        """
        generation = self._generation(found.manifest, plugin, code, number)
        generation.folder = found.folder
        try:
            await self._phase(generation, "configure", self._configure(generation, settings))
            await self._phase(generation, "register", self._register(generation, settings))
            applied = await self._phase(generation, "migrate", self._migrate(generation, found))
            await self._hook(generation, "migrate", "pk_migrate", HOOK_DEADLINE_S, applied=applied)
            await self._hook(generation, "enable", "pk_enable", ENABLE_DEADLINE_S)
            await self._check_health(generation)
            await self._phase(generation, "publish", self._rehearse(generation))
            # Last, for what is declared binds later versions: it should not be one that then fails.
            await self._phase(generation, "join the event log", self._join(generation))
        except BaseException as error:
            await self.discard(generation)
            if isinstance(error, ActivationFailed) and found.manifest.id not in self._kernel.table.generations:
                self._kernel.troubles[found.manifest.id] = failed_state(found.manifest, generation.number, str(error))
            raise
        return generation

    def publish(self, generation: Generation) -> Generation | None:
        """Let a staged generation serve, by one swap of the table; the former one, which is to be retired."""
        former = self._kernel.table.generations.get(generation.plugin_id)
        self._kernel.publish(generation)
        self._start_tasks(generation)
        if former is not None:
            former.state = "draining"
        return former

    async def ready(self, generation: Generation) -> None:
        """Tell a published plugin that it serves."""
        await self._hook(generation, "get ready", "pk_ready", ENABLE_DEADLINE_S)

    async def deactivate(self, plugin_id: str, deadline_s: float = DRAIN_DEADLINE_S) -> None:
        """Withdraw, drain, stop. A plugin that does not drain in time is stopped all the same."""
        generation = self._kernel.withdraw(plugin_id)
        if generation is not None:
            await self.retire(generation, deadline_s)

    async def retire(
        self, generation: Generation, deadline_s: float = DRAIN_DEADLINE_S, uninstall: str | None = None
    ) -> None:
        """Drain and stop a generation that is no longer in the table.

        `uninstall` says what becomes of its data, when it leaves for good: `pk_uninstall` is told before `pk_disable`.
        """
        generation.state = "draining"
        generation.end_streams()
        await self._quietly(generation, "pk_drain", deadline_s)
        if not await generation.drained(deadline_s):
            self._kernel.log.warning("calls were cut off", plugin=generation.plugin_id, in_flight=generation.in_flight)
        await self._stop_tasks(generation)
        if uninstall is not None:
            await self._quietly(generation, "pk_uninstall", deadline_s, data=uninstall)
        await self._quietly(generation, "pk_disable", deadline_s)
        self._kernel.forget(generation)
        generation.state = "stopped"

    # ----------------------------------------------------------------------------------- phases

    def _generation(self, manifest: Manifest, plugin: object, code: Code | None, number: int) -> Generation:
        number = number or self._kernel.next_number(manifest.id)
        return Generation(manifest.id, number, manifest, names_of(manifest.id), plugin, code=code)

    async def _configure(self, generation: Generation, settings: Any) -> None:
        self._kernel.hooks.add(generation.key, generation.plugin)
        for entry in deprecated(self._kernel.hooks.names_used(generation.key), self._announced):
            self._kernel.log.warning("a plugin uses what is deprecated", plugin=generation.plugin_id, what=entry.told)
        await self._hook(generation, "configure", "pk_configure", HOOK_DEADLINE_S, settings=settings)

    async def _register(self, generation: Generation, settings: Any) -> None:
        registrar = HostRegistrar(self._kernel, generation, self._kernel.runtime(generation), settings)
        try:
            await self._hook(generation, "register", "pk_register", HOOK_DEADLINE_S, registrar=registrar)
            slots = StagedSlots(self._kernel, generation)
            await self._hook(generation, "register", "pk_pipeline", HOOK_DEADLINE_S, slots=slots)
        finally:
            registrar.close()
        _check_provided(generation)

    async def _check_health(self, generation: Generation) -> None:
        health = await self._hook(generation, "check its health", "pk_health", HOOK_DEADLINE_S)
        if isinstance(health, Health) and not health.ok:
            raise ActivationFailed(generation.plugin_id, "be healthy", health.detail or "it says that it is not well")

    async def _rehearse(self, generation: Generation) -> None:
        """Build the table as it would be: two plugins that claim one path are found before either is touched."""
        self._kernel.rehearse(generation)

    async def _phase(self, generation: Generation, phase: str, work: Awaitable[Any]) -> Any:
        try:
            return await work
        except ActivationFailed:
            raise
        except (KernelError, pluggy.PluginValidationError, ValueError, HookFailed) as error:
            text = error.detail if isinstance(error, KernelError) else str(error)
            raise ActivationFailed(generation.plugin_id, phase, text) from error
        except Exception as error:
            raise ActivationFailed(generation.plugin_id, phase, f"{type(error).__name__}: {error}") from error

    async def _hook(self, generation: Generation, phase: str, hook: str, deadline_s: float, **arguments: Any) -> Any:
        try:
            return await self._kernel.hooks.call(generation.key, generation.plugin_id, hook, deadline_s, **arguments)
        except HookFailed as failure:
            cause = failure.__cause__
            text = cause.detail if isinstance(cause, KernelError) else str(failure)
            raise ActivationFailed(generation.plugin_id, phase, text) from cause

    async def discard(self, generation: Generation) -> None:
        """Undo a generation that was never published."""
        await self._quietly(generation, "pk_disable", HOOK_DEADLINE_S)
        self._kernel.forget(generation)
        generation.state = "failed"

    async def _quietly(self, generation: Generation, hook: str, deadline_s: float, **arguments: Any) -> None:
        try:
            await self._kernel.hooks.call(generation.key, generation.plugin_id, hook, deadline_s, **arguments)
        except HookFailed as failure:
            self._kernel.log.warning("a hook failed while its plugin was leaving", why=str(failure))

    # ------------------------------------------------------------------------------------ tasks

    def _start_tasks(self, generation: Generation) -> None:
        reactions = [
            RegisteredTask(one.consumer, partial(self._react, generation, one)) for one in generation.reactions
        ]
        for task in (*generation.tasks, *reactions, *job_tasks(self._kernel, generation)):
            run = self._supervised(generation, task.name, task.run)
            # Without a context: what it logs is not for whoever asked for the change that started it.
            name = f"{generation.key}:{task.name}"
            generation.running.append(asyncio.create_task(run, name=name, context=Context()))

    async def _join(self, generation: Generation) -> None:
        """Declare what it tells, and let its consumers begin, so that they miss nothing that is told once it serves."""
        event_log = self._kernel.find(EVENT_LOG)
        if event_log is None:
            return
        if generation.payloads:
            schemas = {event_type: one.schema for event_type, one in generation.payloads.items()}
            await event_log.declare(generation.names.area, schemas)
        for one in generation.reactions:
            await event_log.join(one.consumer, [one.event_type])

    async def _react(self, generation: Generation, registered: RegisteredReaction) -> None:
        """Have the event log call a reaction."""
        calls = PluginCalls(self._kernel.runtime(generation))
        reaction = Reaction(
            consumer=registered.consumer,
            member=f"{self._kernel.state.worker}:{generation.number}",
            types=frozenset([registered.event_type]),
            open=calls.continued,
            handle=registered.handle,
        )
        await self._kernel.require(EVENT_LOG).consume(reaction)

    async def _supervised(self, generation: Generation, name: str, run: Callable[[], Awaitable[None]]) -> None:
        """Run a plugin's task; when it raises, again, after a pause that doubles up to a minute."""
        pause = TASK_PAUSE_S
        while True:
            try:
                await run()
            except (Exception, SystemExit, KeyboardInterrupt) as error:
                if _is_cancelled():
                    raise asyncio.CancelledError from error  # it was told to end, and failed while it did
                self._kernel.log.warning(
                    "a task failed", plugin=generation.plugin_id, task=name, why=f"{type(error).__name__}: {error}"
                )
            else:
                return
            await asyncio.sleep(pause)
            pause = min(pause * 2, TASK_PAUSE_S_MAX)

    async def _stop_tasks(self, generation: Generation) -> None:
        for task in generation.running:
            task.cancel()
        await asyncio.gather(*generation.running, return_exceptions=True)
        generation.running.clear()


def _is_cancelled() -> bool:
    """Whether the task that runs was told to end."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def failed_state(manifest: Manifest, number: int, reason: str, state: str = "failed") -> PluginState:
    """A plugin in trouble, as operators see it."""
    return PluginState(
        manifest.id, manifest.version, state, number, reason, 0, tuple(manifest.provides), tuple(manifest.requires)
    )


def _check_provided(generation: Generation) -> None:
    lacking = {capability_of(entry) for entry in generation.manifest.provides} - set(generation.services)
    if lacking:
        raise ManifestError(
            f"{generation.plugin_id}: `provides` names {', '.join(sorted(lacking))}, which nothing registered"
        )


class StagedSlots:
    """What `pk_pipeline` is given: fills the slots of one generation, refuses one that another plugin holds."""

    def __init__(self, kernel: Kernel, generation: Generation) -> None:
        self._kernel = kernel
        self._generation = generation
        self.permissions = RegisteredPermissions(kernel, generation)
        self.load = kernel.load

    def _fill(self, slot: str, value: Any, *, shared: bool = False) -> None:
        for other in self._kernel.table.generations.values():
            if not shared and other.plugin_id != self._generation.plugin_id and getattr(other.slots, slot) is not None:
                raise ManifestError(f"{self._generation.plugin_id}: the slot {slot} is held by {other.plugin_id}")
        setattr(self._generation.slots, slot, value)

    def body_bytes_max(self, most: int) -> None:
        """Bound the bodies that doors read."""
        self._fill("body_bytes_max", most)

    def admit(self, make: Callable[[BoundOperation], Any]) -> None:
        """Fill `admit`."""
        self._fill("admit", make)

    def identify(self, identifier: Identifier) -> None:
        """Fill `identify`."""
        self._fill("identify", identifier)

    def authorize(self, authorizer: Authorizer) -> None:
        """Fill `authorize`."""
        self._fill("authorize", authorizer)

    def resolve(self, resolver: Resolver) -> None:
        """Fill `resolve`."""
        self._fill("resolve", resolver)

    def entitle(self, make: Callable[[BoundOperation], Any]) -> None:
        """Fill `entitle`."""
        self._fill("entitle", make)

    def limit(self, make: Callable[[BoundOperation], Any]) -> None:
        """Fill `limit`."""
        self._fill("limit", make)

    def guard(self, make: Callable[[BoundOperation], Any]) -> None:
        """Fill `guard`."""
        self._fill("guard", make)

    def idempotency(self, make: Callable[[BoundOperation], Any]) -> None:
        """Fill `idempotency`."""
        self._fill("idempotency", make)

    def record(self, make: Callable[[BoundOperation], Any]) -> None:
        """Fill `record`; several plugins may."""
        self._fill("record", make, shared=True)


class RegisteredPermissions:
    """The permission registry as the `authorize` slot reads it: what is active now, and its own plugin's."""

    def __init__(self, kernel: Kernel, generation: Generation) -> None:
        self._kernel = kernel
        self._generation = generation

    def names(self) -> dict[str, str]:
        """Full name -> description."""
        return {**self._generation.permissions(), **self._kernel.table.permissions}


def stop_order(generations: Sequence[Generation]) -> list[str]:
    """Plugins in the order in which they stop: the reverse of their start."""
    return [generation.plugin_id for generation in reversed(generations)]
