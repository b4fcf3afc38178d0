"""A worker's part in a change of plugins: it does what the parent orders, step by step."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

import msgspec

from host.changes.orders import Order, Reply
from host.changes.refusal import refused
from host.data_removal import dispose, survey
from plugin_api.errors import KernelBug, Unavailable

if TYPE_CHECKING:
    from host.kernel import Kernel
    from host.roster import Roster
    from plugin_api.ports.desired_state import DesiredPlugin


class Follower:
    """Carries out orders on the roster of this process."""

    def __init__(self, kernel: Kernel, roster: Roster) -> None:
        self._kernel = kernel
        self._roster = roster

    async def carry_out(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Do one step; its reply, or a refusal. Never raises."""
        try:
            order = msgspec.convert(fields, Order)
            reply = await _STEPS[order.step](self, order)
        except Exception as error:  # noqa: BLE001 - whatever a step raises, the parent is to know it
            if not isinstance(error, Unavailable):
                self._kernel.log.warning("a step of a change was refused", why=str(error))
            return refused(error)
        made: dict[str, Any] = msgspec.to_builtins(reply)
        return made

    async def _read(self, _: Order) -> Reply:
        return Reply(desired=await self._roster.read())

    async def _stage(self, order: Order) -> Reply:
        await self._roster.stage(_plugin(order))
        return Reply()

    async def _discard(self, order: Order) -> Reply:
        await self._roster.discard()
        self._kernel.last_errors.update(order.failed)
        return Reply()

    async def _commit(self, order: Order) -> Reply:
        return Reply(desired=await self._roster.commit(order.change_id, order.expected, order.put, order.drop))

    async def _converge(self, order: Order) -> Reply:
        if order.quarantined is not None:
            self._roster.quarantines = order.quarantined
        failures = await self._roster.converge(order.uninstall)
        return Reply(desired=self._roster.desired, failures=failures)

    async def _dependents(self, order: Order) -> Reply:
        return Reply(ids=self._roster.dependents(order.plugin_id))

    async def _survey(self, order: Order) -> Reply:
        told = await survey(self._kernel, order.plugin_id)
        of_environment = self._roster.of_environment(order.plugin_id)
        return Reply(survey={**told, "environment": of_environment} if of_environment is not None else told)

    async def _contract(self, order: Order) -> Reply:
        return Reply(ids=await self._roster.contract(order.plugin_id))

    async def _dispose(self, order: Order) -> Reply:
        return Reply(survey=await dispose(self._kernel, order.plugin_id, order.data))


def _plugin(order: Order) -> DesiredPlugin:
    if order.plugin is None:
        raise KernelBug(f"the order {order.step} names no plugin")
    return order.plugin


_STEPS: Final[Mapping[str, Callable[[Follower, Order], Awaitable[Reply]]]] = {
    "read": Follower._read,  # noqa: SLF001 - its own
    "stage": Follower._stage,  # noqa: SLF001
    "discard": Follower._discard,  # noqa: SLF001
    "commit": Follower._commit,  # noqa: SLF001
    "converge": Follower._converge,  # noqa: SLF001
    "dependents": Follower._dependents,  # noqa: SLF001
    "survey": Follower._survey,  # noqa: SLF001
    "contract": Follower._contract,  # noqa: SLF001
    "dispose": Follower._dispose,  # noqa: SLF001
}
