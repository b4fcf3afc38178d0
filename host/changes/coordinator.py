"""The parent's part in a change of plugins: prepared, tried, staged on every worker, written down, published, answered.

What is desired is written to the database by one worker. That is the point of no return: before it nothing has changed
and a failure takes back what was staged, after it every worker comes to run it, at the latest when it is started anew.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final, Protocol

import msgspec
from msgspec import Struct

from host.changes.findings import warnings_of
from host.changes.orders import PLUGINS, Blame, Change, Order, Outcome, Reply
from host.changes.plans import Plan, plan_of
from host.changes.quarantine import Quarantines
from host.changes.refusal import accepted
from host.channel import ChannelClosed, ChannelFull, RemoteFailed
from host.observe import PluginLog
from host.store import Package, Store
from host.store.packages import package_folder
from host.trial import trying
from plugin_api.errors import InvalidRequest, KernelBug, KernelError, LimitReached, Unavailable
from plugin_api.ids import uuid7
from plugin_api.ports.desired_state import DesiredPlugin, DesiredPlugins

STEP_LIMIT_S: Final = 120.0
DISPOSE_LIMIT_S: Final = 600.0
COMMIT_LIMIT_S: Final = 30.0
WORKER_LIMIT_S: Final = 20.0
BLAME_LIMIT_S: Final = 5.0
"""For the process of a worker that is lost to end, so that it is known why."""
TRIAL_LIMIT_S: Final = 20.0
LOOK_EVERY_S: Final = 3_600.0
AGAIN_S: Final = 10.0
"""After a removal that could not be finished."""
AGAIN_SOON_S: Final = 0.2
"""After a step that a worker could not do now."""
RETRY_S_MAX: Final = 600.0
WAITING_MAX: Final = 8
"""Changes that wait for the one under way; a further one is refused."""

_log = PluginLog("host")


class Times(Struct, frozen=True):
    """What is done by itself, and after how long."""

    contract_after_s: float = 86_400.0
    """Migrations that no earlier version survives run when a version has served for this long."""
    retry_s: float = 30.0
    """A plugin that could not be brought up is tried again after this, then after twice as long, up to RETRY_S_MAX."""


class Follower(Protocol):
    """A worker, as far as changes go."""

    index: int

    async def ask(self, kind: str, fields: Mapping[str, Any], limit_s: float) -> Mapping[str, Any]:
        """Send a message and wait for the reply."""
        ...

    async def blamed(self) -> Blame | None:
        """Wait until it is gone; whose fault that was, where it is known."""
        ...

    def kill(self) -> None:
        """End it at once; another takes its place."""
        ...


class Preparing(Protocol):
    """Makes packages."""

    async def prepare(self, what: str, progress: Callable[[str], None]) -> tuple[Package, list[str]]:
        """See `Installer.prepare`."""
        ...


class Coordinator:
    """Runs changes one after the other."""

    def __init__(
        self,
        folder: Path,
        serving: Callable[[], Sequence[Follower]],
        preparing: Preparing,
        quarantines: Quarantines,
        times: Times = Times(),  # noqa: B008 - never changed
        overrides: Mapping[str, Any] | None = None,
    ) -> None:
        self._data_dir = folder.parent
        self._overrides = overrides or {}
        self._store = Store(folder)
        self._serving = serving
        self._preparing = preparing
        self._quarantines = quarantines
        self._times = times
        self._pause_s: float | None = None
        """Until what could not be brought up somewhere is tried again; None when there is nothing of that kind."""
        self._turn = asyncio.Lock()
        """Of one change."""
        self._hands = asyncio.Lock()
        """Of whoever changes what workers run: a quarantine need not wait while a package is being prepared."""
        self._desired: DesiredPlugins | None = None
        """What is desired, as far as is known; None when a commit's outcome is not."""
        self._waiting = 0
        self._changed = asyncio.Event()
        self._undone = asyncio.Event()
        """A removal was cut off past the point of no return."""
        self.sequence = 0
        """Of the last change that is known to be written down. A worker that is behind may not serve."""
        self.doing = ""
        """What is being done, for whoever waits."""

    # ------------------------------------------------------------------------------------- what is asked

    async def run(self, change: Change) -> Outcome:
        """Do what an operator wants; when it returns, every worker that serves does so with the change.

        Raises:
            KernelError: it was refused or failed, and everything is as it was; the detail says why and what to do.
        """
        async with self._alone():
            try:
                plan = await plan_of(change, await self._read(), self)
                if plan.is_done or change.dry_run:
                    return plan.outcome
                return await self._carry_out(plan)
            except BaseException as error:
                await self._clear_away()
                _log.warning(
                    "a change of plugins was refused", verb=change.verb, plugin=change.plugin_id, why=str(error)
                )
                raise
            finally:
                self.doing = ""

    @asynccontextmanager
    async def _alone(self) -> AsyncIterator[None]:
        if self._waiting >= WAITING_MAX:
            raise LimitReached(f"{WAITING_MAX} changes of plugins wait already; try again", retry_after_s=5)
        self._waiting += 1
        try:
            async with self._turn:
                yield
        finally:
            self._waiting -= 1

    async def follow(self) -> None:
        """Finish what an earlier kernel left undone; then see to quarantines and to what has its time. Never ends."""
        await asyncio.gather(self._follow_quarantines(), self._follow_time())

    async def _follow_quarantines(self) -> None:
        """Every worker lets go of a plugin when its quarantine begins, and tries it again when it is over."""
        while True:
            self._changed.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(self._next_look_s()):
                    await self._changed.wait()
            await self._quietly(self._spread(), "workers could not be told of a quarantine")

    def _next_look_s(self) -> float | None:
        times = [one for one in (self._quarantines.next_change_s(), self._pause_s) if one is not None]
        return min(times) if times else None

    async def _follow_time(self) -> None:
        """Removals that were cut off are finished; migrations that no earlier version survives run when a version has served
        for long enough."""
        while True:
            self._undone.clear()
            is_done = await self._quietly(self._resume(), "a removal that was cut off could not be finished")
            await self._quietly(self._contract(), "migrations whose time has come could not be run")
            look_s = min(LOOK_EVERY_S, max(self._times.contract_after_s, 1.0)) if is_done else AGAIN_S
            with suppress(TimeoutError):
                async with asyncio.timeout(look_s):
                    await self._undone.wait()

    def wake(self) -> None:
        """A quarantine has begun, or a worker has come that may not know of it."""
        self._changed.set()

    async def _quietly(self, work: Coroutine[Any, Any, None], failing: str) -> bool:
        try:
            await work
        except Exception as error:  # noqa: BLE001 - the next time may go well
            _log.error(
                failing, why=error.detail if isinstance(error, KernelError) else f"{type(error).__name__}: {error}"
            )
            return False
        return True

    async def _resume(self) -> None:
        async with self._alone():
            for plugin in (await self._read()).plugins:
                if plugin.leaving:
                    change = Change(verb="remove", plugin_id=plugin.id, data=plugin.leaving)
                    await self._carry_out(await plan_of(change, await self._read(), self))
            await self._sweep(await self._read())

    async def _contract(self) -> None:
        async with self._alone():
            for plugin in (await self._read()).plugins:
                if plugin.enabled and not plugin.leaving and _age_s(plugin) > self._times.contract_after_s:
                    ran = (
                        await self._order((await self._workers())[0], Order(step="contract", plugin_id=plugin.id))
                    ).ids
                    if ran:
                        _log.info("migrations ran that no earlier version survives", plugin=plugin.id, files=ran)

    async def _spread(self) -> None:
        """One worker after the other, so that a plugin that does it again stops one of them and not all."""
        is_failing = False
        async with self._hands:
            for worker in self._serving():
                try:
                    is_failing |= bool((await self._order(worker, self._converging())).failures)
                except KernelError as error:
                    _log.warning("a worker could not follow a quarantine", worker=worker.index, why=error.detail)
        pause_s = min(2 * self._pause_s, RETRY_S_MAX) if self._pause_s is not None else self._times.retry_s
        self._pause_s = pause_s if is_failing else None

    def _converging(self) -> Order:
        return Order(step="converge", quarantined=self._quarantines.known())

    async def _clear_away(self) -> None:
        """Take away packages that nobody desires; where what is desired is not known now, that is done later."""
        with suppress(KernelError, OSError):
            await self._sweep(self._desired or await self._read())

    async def _sweep(self, desired: DesiredPlugins) -> None:
        keep = {(one.id, one.version, one.digest) for one in desired.plugins if one.digest}
        keep |= {(one.id, one.previous.version, one.previous.digest) for one in desired.plugins if one.previous}
        for removed in await asyncio.to_thread(self._store.sweep, keep):
            _log.info("a package that nobody desires was cleared away", package=removed)

    # ----------------------------------------------------------------------------------------- one change

    async def _carry_out(self, plan: Plan) -> Outcome:
        async with self._hands:
            if plan.stage is not None:
                await self._stage(plan.stage, is_first=plan.is_first)
            self._tell("writing it down")
            await self._write(plan.desired.sequence, plan.put)
            if plan.lifts:
                self._quarantines.lift(plan.lifts)
            self._tell("publishing it on every worker")
            await self._converge(plan)
            outcome = await self._finish_removal(plan) if plan.leaving else plan.outcome
        await self._clear_away()
        _log.info("plugins were changed", verb=outcome.verb, plugin=outcome.plugin_id, version=outcome.version)
        return self._with_quarantine(outcome)

    def _with_quarantine(self, outcome: Outcome) -> Outcome:
        """It did what stops a worker as soon as it served: the change stands, and the plugin does not serve."""
        held = self._quarantines.active(outcome.plugin_id)
        if held is None or outcome.verb in ("disable", "remove"):
            return outcome
        told = f"{held.plugin} is quarantined: {held.reason}; correct it and upgrade, or go back to the version before"
        return msgspec.structs.replace(outcome, warnings=[*outcome.warnings, told])

    async def _stage(self, plugin: DesiredPlugin, *, is_first: bool) -> None:
        """Bring it up on one worker, then on the others; one that cannot takes it back everywhere."""
        self._tell(f"bringing up {plugin.id} {plugin.version}")
        order = Order(step="stage", plugin=plugin)
        first, *others = await self._workers()
        try:
            await self._order(first, order)
            await asyncio.gather(*(self._order(worker, order) for worker in others))
        except BaseException as error:
            why = error.detail if isinstance(error, KernelError) else "it was cut off"
            await self._everywhere(Order(step="discard", failed={plugin.id: f"{plugin.version}: {why}"}))
            if is_first and isinstance(error, KernelError):
                await self._quietly(self._forget(plugin.id), "what a failed plugin made in the database stays there")
            raise

    async def _forget(self, plugin_id: str) -> None:
        """Nothing of it was there before, and an author who corrects it may change its migrations too."""
        await self._order((await self._workers())[0], Order(step="dispose", plugin_id=plugin_id, data="purge"))

    async def _write(
        self, expected: int, put: Sequence[DesiredPlugin] = (), drop: Sequence[str] = ()
    ) -> DesiredPlugins:
        """Write down what is desired. When the worker that does so is lost, the next one is asked whether it was done."""
        order = Order(step="commit", change_id=str(uuid7()), expected=expected, put=list(put), drop=list(drop))
        before, self._desired = self._desired, None
        try:
            return self._learn(_desired(await self._anyone(order, insist=True)))
        except Unavailable as error:
            told = f"it is not known whether the change was written down ({error.detail}); see `pk plugins list`"
            raise Unavailable(told, code="outcome_unknown") from error
        except KernelError:
            self._desired = before
            raise

    def _learn(self, desired: DesiredPlugins) -> DesiredPlugins:
        self._desired, self.sequence = desired, max(self.sequence, desired.sequence)
        return desired

    async def _converge(self, plan: Plan) -> None:
        """Let every worker run what is desired. One that cannot is ended: its successor starts with it.

        What is new begins to serve on one worker first: should it stop that one, the others never meet it.
        """
        first, *others = await self._workers()
        order = msgspec.structs.replace(self._converging(), uninstall=dict(plan.uninstall))
        doing = [self._converge_one(first, order, plan.plugin_id)]
        if plan.stage is not None:
            await doing.pop()
        doing += [self._converge_one(worker, self._converging(), plan.plugin_id) for worker in others]
        await asyncio.gather(*doing)

    async def _converge_one(self, worker: Follower, order: Order, plugin_id: str) -> None:
        try:
            failures = (await self._patiently(worker, order)).failures
        except KernelError as error:
            failures = {plugin_id: error.detail}
        if plugin_id in failures:
            _log.error(
                "a worker could not follow a change and is replaced", worker=worker.index, plugin=plugin_id,
                why=failures[plugin_id],
            )  # fmt: skip
            worker.kill()

    async def _patiently(self, worker: Follower, order: Order) -> Reply:
        """Let this worker carry out what may be repeated: again when it could not do so now, for COMMIT_LIMIT_S.

        A database that is away for a moment is no reason to end a worker, whose successor could not start without it.
        """
        until = time.monotonic() + COMMIT_LIMIT_S
        while True:
            try:
                return await self._order(worker, order)
            except Unavailable as error:
                if error.code == "worker_lost" or time.monotonic() > until:
                    raise
                await asyncio.sleep(AGAIN_SOON_S)

    async def _finish_removal(self, plan: Plan) -> Outcome:
        """Nothing of it runs any more: do with its data what was asked, and forget it."""
        self._tell(f"removing the data of {plan.plugin_id}" if plan.leaving != "keep" else "clearing away")
        order = Order(step="dispose", plugin_id=plan.plugin_id, data=plan.leaving or "keep")
        try:
            removed = (await self._anyone(order, DISPOSE_LIMIT_S, insist=True)).survey
            await self._write(self.sequence, drop=[plan.plugin_id])
        except BaseException:
            self._undone.set()
            raise
        await self._everywhere(self._converging())
        return msgspec.structs.replace(plan.outcome, removed={**plan.outcome.removed, **removed})

    # --------------------------------------------------------------------------------- what plans ask for

    async def prepare(self, what: str) -> tuple[Package, list[str]]:
        """The package of what was asked for, registered once in a throw-away process; warnings about it.

        Raises:
            KernelError: it cannot be made, or does not survive the trial; nothing of it stays.
        """
        self._tell(f"preparing {what}")
        async with trying() as process:  # it loads the host's modules while the package is made
            package, warnings = await self._preparing.prepare(what, self._tell)
            self._tell(f"trying {package.plugin_id} {package.version} in a process of its own")
            trial = await process.of(
                Path(package.folder),
                package.target,
                package.plugin_id,
                TRIAL_LIMIT_S,
                settings=self._settings_of(package.plugin_id),
                data_dir=self._data_dir,
            )
        return package, [*warnings, *warnings_of(package.plugin_id, trial.findings)]

    def _settings_of(self, plugin_id: str) -> dict[str, Any]:
        """What the command line of the kernel sets for it."""
        prefix = f"{plugin_id}."
        return {name.removeprefix(prefix): one for name, one in self._overrides.items() if name.startswith(prefix)}

    async def dependents(self, plugin_id: str) -> list[str]:
        """Active plugins that cannot serve without this one."""
        return (await self._anyone(Order(step="dependents", plugin_id=plugin_id))).ids

    async def survey(self, plugin_id: str) -> dict[str, Any]:
        """What there is of a plugin in the database and the API."""
        return (await self._anyone(Order(step="survey", plugin_id=plugin_id))).survey

    # ---------------------------------------------------------------------------------------- the workers

    def may_serve(self, sequence: int, *, is_failing: bool) -> bool:
        """Whether a worker that runs what this change left is up to date. What fails in it is tried again later."""
        if is_failing and self._pause_s is None:
            self._pause_s = self._times.retry_s
            self.wake()
        self.sequence = max(self.sequence, sequence)
        return sequence >= self.sequence

    async def _read(self) -> DesiredPlugins:
        return self._learn(_desired(await self._anyone(Order(step="read"))))

    async def _workers(self) -> Sequence[Follower]:
        """Those that serve; waits a while for one where none does."""
        until = time.monotonic() + WORKER_LIMIT_S
        while not (serving := self._serving()):
            if time.monotonic() > until:
                raise Unavailable("no worker serves now; try again, and see the kernel's log if it stays so")
            await asyncio.sleep(0.1)
        return serving

    async def _everywhere(self, order: Order) -> None:
        """Give an order to all; one that is lost follows when its successor starts."""
        for done in await asyncio.gather(
            *(self._order(worker, order) for worker in self._serving()), return_exceptions=True
        ):
            if isinstance(done, KernelError):
                _log.warning("a worker could not carry out an order", step=order.step, why=done.detail)

    async def _anyone(self, order: Order, limit_s: float = STEP_LIMIT_S, *, insist: bool = False) -> Reply:
        """Let some worker carry out what may be repeated: when it is lost another one, for COMMIT_LIMIT_S.

        With `insist` also again when it could not do so now: what has begun is to be finished.
        """
        until = time.monotonic() + COMMIT_LIMIT_S
        while True:
            try:
                return await self._order((await self._workers())[0], order, limit_s)
            except Unavailable as error:
                if time.monotonic() > until or not (insist or error.code == "worker_lost"):
                    raise
                await asyncio.sleep(AGAIN_SOON_S)

    async def _order(self, worker: Follower, order: Order, limit_s: float = STEP_LIMIT_S) -> Reply:
        try:
            reply = await worker.ask(PLUGINS, msgspec.to_builtins(order), limit_s)
        except (ChannelClosed, ChannelFull) as error:
            raise _lost(order, await _blamed(worker)) from error
        except TimeoutError as error:
            worker.kill()
            raise _lost(order, None, f" within {limit_s:g} s") from error
        except RemoteFailed as error:
            raise KernelBug(str(error)) from error
        return msgspec.convert(accepted(reply), Reply)

    def _tell(self, doing: str) -> None:
        self.doing = doing


async def _blamed(worker: Follower) -> Blame | None:
    with suppress(TimeoutError):
        async with asyncio.timeout(BLAME_LIMIT_S):
            return await worker.blamed()
    return None


def _is_of(blame: Blame, plugin: DesiredPlugin) -> bool:
    return (blame.plugin, blame.package) == (plugin.id, package_folder(plugin.version, plugin.digest))


def _lost(order: Order, blame: Blame | None, when: str = "") -> KernelError:
    """Why a worker did not answer: the fault of what it was bringing up, of another plugin, or of nobody who is known."""
    plugin = order.plugin
    if plugin is not None and blame is not None and _is_of(blame, plugin):
        told = f"{plugin.id} {plugin.version} could not be brought up: {blame.reason}"
        return InvalidRequest(f"{told}; correct it, everything is as it was", code="plugin_failed")
    meanwhile = f" while it brought up {plugin.id} {plugin.version}" if plugin is not None else ""
    why = f": {blame.plugin} is to blame, {blame.reason}" if blame is not None else ""
    told = f"a worker was lost{meanwhile} (step {order.step}) and did not answer{when}{why}"
    return Unavailable(f"{told}; try again, and see the kernel's log if it stays so", code="worker_lost")


def _age_s(plugin: DesiredPlugin) -> float:
    """How long it has been as it is, by this machine's clock."""
    return time.time() - plugin.changed_at.timestamp() if plugin.changed_at is not None else 0.0


def _desired(reply: Reply) -> DesiredPlugins:
    if reply.desired is None:
        raise KernelBug("a worker did not say what is desired")
    return reply.desired
