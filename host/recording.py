"""The slot `record`: what was done is written in its transaction, what was refused after its end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from host.observe import PluginLog
from plugin_api.call import Call
from plugin_api.errors import NotAllowed
from plugin_api.limits import RECORD_REFUSED_S
from plugin_api.pipeline import BoundOperation, Recorder

if TYPE_CHECKING:
    from host.generations import Table

Run = Callable[[Call, Any], Awaitable[Any]]
Refused = Callable[[Call, Mapping[str, str], NotAllowed], Awaitable[None]]


def recorders_of(bound: BoundOperation, table: Table) -> list[Recorder]:
    """Everybody who records the calls of an operation; nobody when it changes nothing."""
    if not bound.spec.is_recorded:
        return []
    return [recorder for make in table.recorders if (recorder := make(bound)) is not None]


def with_done(run: Run, recorders: Sequence[Recorder]) -> Run:
    """Run, then have everybody write down what was done."""
    if not recorders:
        return run

    async def recorded(call: Call, request: Any) -> Any:
        answer = await run(call, request)
        for recorder in recorders:
            await recorder.done(call, request, answer)
        return answer

    return recorded


def compile_refused(bound: BoundOperation, recorders: Sequence[Recorder]) -> Refused | None:
    """Make the function that has everybody write down a refusal. It raises nothing: the caller gets the refusal itself."""
    if not recorders:
        return None
    log = PluginLog(bound.plugin_id)

    async def refused(call: Call, parameters: Mapping[str, str], error: NotAllowed) -> None:
        if not call.has_tenant:
            return
        try:
            async with asyncio.timeout(RECORD_REFUSED_S):
                for recorder in recorders:
                    await recorder.refused(call, parameters, error)
        except (Exception, SystemExit, KeyboardInterrupt) as failure:  # noqa: BLE001 - logged; the refusal stands
            why = f"{type(failure).__name__}: {failure}"
            log.error("a refusal was not recorded", operation=bound.id, request_id=call.request_id, why=why)

    return refused
