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

from host.changes.findings import warnings_of
from host.changes.orders import PLUGINS, Change, Order, Outcome, Reply
from host.changes.plans import Plan, plan_of
from host.changes.quarantine import Quarantines
from host.changes.refusal import accepted
from host.channel import ChannelClosed, ChannelFull, RemoteFailed
from host.observe import PluginLog
from host.store import Package, Store
from host.trial import trying
from plugin_api.errors import (
    KernelBug,
    KernelError,
    LimitReached,
    Unavailable,
)
from plugin_api.ids import uuid7
from plugin_api.ports.desired_state import DesiredPlugin, DesiredPlugins

STEP_LIMIT_S: Final = 120.0
DISPOSE_LIMIT_S: Final = 600.0
COMMIT_LIMIT_S: Final = 30.0
WORKER_LIMIT_S: Final = 20.0
TRIAL_LIMIT_S: Final = 20.0
LOOK_EVERY_S: Final = 3_600.0
WAITING_MAX: Final = 8
"""Changes that wait for the one under way; a further one is refused."""

_log = PluginLog("host")


class Follower(Protocol):
    """A worker, as far as changes go."""

    index: int

    async def ask(self, kind: str, fields: Mapping[str, Any], limit_s: float) -> Mapping[str, Any]:
        """Send a message and wait for the reply."""
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
        contract_after_s: float = 86_400.0,
    ) -> None:
        self._store = Store(folder)
        self._serving = serving
        self._preparing = preparing
        self._quarantines = quarantines
        self._contract_after_s = contract_after_s
        self._turn = asyncio.Lock()
        self._waiting = 0
        self._changed = asyncio.Event()
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
        """Finish what an earlier kernel left undone; then see to what has its time. Never ends.

        Plugins come back when their quarantine is over; migrations that no earlier version survives run when a version has
        served long enough.
        """
        await self._quietly(self._resume(), "what an earlier kernel left undone could not be finished")
        while True:
            await self._quietly(self._contract(), "migrations whose time has come could not be run")
            self._changed.clear()
            ends = self._quarantines.next_end_s()
            look_s = min(LOOK_EVERY_S, max(self._contract_after_s, 1.0))
            with suppress(TimeoutError):
                async with asyncio.timeout(look_s if ends is None else min(ends, look_s)):
                    await self._changed.wait()
                    continue
            if ends is not None:
                await self._quietly(self._release(), "plugins could not be let out of their quarantine")

    def wake(self) -> None:
        """A quarantine has begun."""
        self._changed.set()

    async def _quietly(self, work: Coroutine[Any, Any, None], failing: str) -> None:
        try:
            await work
        except KernelError as error:
            _log.error(failing, why=error.detail)

    async def _resume(self) -> None:
        async with self._alone():
            desired = await self._read()
            for plugin in desired.plugins:
                if plugin.leaving:
                    change = Change(verb="remove", plugin_id=plugin.id, data=plugin.leaving)
                    await self._carry_out(await plan_of(change, desired, self))
            await self._sweep(await self._read())

    async def _contract(self) -> None:
        async with self._alone():
            for plugin in (await self._read()).plugins:
                if plugin.enabled and not plugin.leaving and _age_s(plugin) > self._contract_after_s:
                    ran = (
                        await self._order((await self._workers())[0], Order(step="contract", plugin_id=plugin.id))
                    ).ids
                    if ran:
                        _log.info("migrations ran that no earlier version survives", plugin=plugin.id, files=ran)

    async def _release(self) -> None:
        async with self._alone():
            await self._everywhere(Order(step="converge", quarantined=self._quarantines.active()))

    async def _clear_away(self) -> None:
        """Take back the package of a change that failed; what cannot be told now is cleared away later."""
        with suppress(KernelError):
            await self._sweep(await self._read())

    async def _sweep(self, desired: DesiredPlugins) -> None:
        keep = {(one.id, one.version, one.digest) for one in desired.plugins if one.digest}
        keep |= {(one.id, one.previous.version, one.previous.digest) for one in desired.plugins if one.previous}
        for removed in await asyncio.to_thread(self._store.sweep, keep):
            _log.info("a package that nobody desires was cleared away", package=removed)

    # ----------------------------------------------------------------------------------------- one change

    async def _carry_out(self, plan: Plan) -> Outcome:
        if plan.stage is not None:
            await self._stage(plan.stage)
        self._tell("writing it down")
        await self._write(plan.desired.sequence, plan.put, plan.drop)
        if plan.lifts:
            self._quarantines.lift(plan.lifts)
        self._tell("publishing it on every worker")
        await self._converge(plan)
        outcome = plan.outcome
        if plan.leaving:
            outcome = await self._finish_removal(plan)
        await self._sweep(await self._read())
        _log.info("plugins were changed", verb=outcome.verb, plugin=outcome.plugin_id, version=outcome.version)
        return outcome

    async def _stage(self, plugin: DesiredPlugin) -> None:
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
            raise

    async def _write(self, expected: int, put: Sequence[DesiredPlugin], drop: Sequence[str]) -> DesiredPlugins:
        """Write down what is desired. When the worker that does so is lost, the next one is asked whether it was done."""
        order = Order(step="commit", change_id=str(uuid7()), expected=expected, put=list(put), drop=list(drop))
        until = time.monotonic() + COMMIT_LIMIT_S
        while True:
            try:
                desired = _desired(await self._order((await self._workers())[0], order))
            except Unavailable as error:
                if time.monotonic() > until:
                    told = (
                        f"it is not known whether the change was written down ({error.detail}); see `pk plugins list`"
                    )
                    raise Unavailable(told, code="outcome_unknown") from error
                await asyncio.sleep(0.2)
            else:
                self.sequence = desired.sequence
                return desired

    async def _converge(self, plan: Plan) -> None:
        """Let every worker run what is desired. One that cannot is ended: its successor starts with it."""
        workers = await self._workers()
        first = Order(step="converge", uninstall=dict(plan.uninstall), quarantined=self._quarantines.active())
        others = msgspec.structs.replace(first, uninstall={})
        await asyncio.gather(
            self._converge_one(workers[0], first, plan.plugin_id),
            *(self._converge_one(worker, others, plan.plugin_id) for worker in workers[1:]),
        )

    async def _converge_one(self, worker: Follower, order: Order, plugin_id: str) -> None:
        try:
            failures = (await self._order(worker, order)).failures
        except KernelError as error:
            failures = {plugin_id: error.detail}
        if plugin_id in failures:
            _log.error(
                "a worker could not follow a change and is replaced", worker=worker.index, plugin=plugin_id,
                why=failures[plugin_id],
            )  # fmt: skip
            worker.kill()

    async def _finish_removal(self, plan: Plan) -> Outcome:
        """Nothing of it runs any more: do with its data what was asked, and forget it."""
        self._tell(f"removing the data of {plan.plugin_id}" if plan.leaving != "keep" else "clearing away")
        worker = (await self._workers())[0]
        order = Order(step="dispose", plugin_id=plan.plugin_id, data=plan.leaving or "keep")
        removed = (await self._order(worker, order, DISPOSE_LIMIT_S)).survey
        await self._write(self.sequence, (), [plan.plugin_id])
        await self._everywhere(Order(step="converge", quarantined=self._quarantines.active()))
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
            trial = await process.of(Path(package.folder), package.target, package.plugin_id, TRIAL_LIMIT_S)
        return package, [*warnings, *warnings_of(package.plugin_id, trial.findings)]

    async def dependents(self, plugin_id: str) -> list[str]:
        """Active plugins that cannot serve without this one."""
        worker = (await self._workers())[0]
        return (await self._order(worker, Order(step="dependents", plugin_id=plugin_id))).ids

    async def survey(self, plugin_id: str) -> dict[str, Any]:
        """What there is of a plugin in the database and the API."""
        worker = (await self._workers())[0]
        return (await self._order(worker, Order(step="survey", plugin_id=plugin_id))).survey

    # ---------------------------------------------------------------------------------------- the workers

    def may_serve(self, sequence: int) -> bool:
        """Whether a worker that runs what this change left is up to date."""
        self.sequence = max(self.sequence, sequence)
        return sequence >= self.sequence

    async def _read(self) -> DesiredPlugins:
        desired = _desired(await self._order((await self._workers())[0], Order(step="read")))
        self.sequence = max(self.sequence, desired.sequence)
        return desired

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

    async def _order(self, worker: Follower, order: Order, limit_s: float = STEP_LIMIT_S) -> Reply:
        try:
            reply = await worker.ask(PLUGINS, msgspec.to_builtins(order), limit_s)
        except (ChannelClosed, ChannelFull) as error:
            raise Unavailable(_lost(order), code="worker_lost") from error
        except TimeoutError as error:
            worker.kill()
            raise Unavailable(f"{_lost(order)} within {limit_s:g} s", code="worker_lost") from error
        except RemoteFailed as error:
            raise KernelBug(str(error)) from error
        return msgspec.convert(accepted(reply), Reply)

    def _tell(self, doing: str) -> None:
        self.doing = doing


def _lost(order: Order) -> str:
    culprit = f" while it brought up {order.plugin.id}" if order.plugin is not None else ""
    return f"a worker was lost{culprit} (step {order.step}) and did not answer"


def _age_s(plugin: DesiredPlugin) -> float:
    """How long it has been as it is, by this machine's clock."""
    return time.time() - plugin.changed_at.timestamp() if plugin.changed_at is not None else 0.0


def _desired(reply: Reply) -> DesiredPlugins:
    if reply.desired is None:
        raise KernelBug("a worker did not say what is desired")
    return reply.desired
