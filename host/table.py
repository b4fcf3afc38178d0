"""Building the one table from the active generations: the only place where a change of plugins becomes visible."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from host.dispatch import Dispatch
from host.generations import (
    Generation,
    RegisteredOperation,
    SlotFillers,
    Table,
    merged_permissions,
    merged_services,
    merged_slots,
)
from host.pipeline import Checks, CompiledOperation, InnerOperation, compile_inner, compile_invoke, compile_still_allows
from host.services import capability_of
from host.wire.model import method_path

if TYPE_CHECKING:
    from host.kernel import Kernel


def empty_table() -> Table:
    """A table in which nothing is active: every request finds nothing, every check denies."""
    return Table(0, {}, {}, {}, SlotFillers(), (), (), {}, Dispatch(()))


def build_table(kernel: Kernel, generations: Sequence[Generation], version: int) -> Table:
    """Compile everything that is active into a new table.

    Raises:
        RouteConflict: two operations claim one method and path.
    """
    draft = _draft(kernel, generations, version)
    checks = Checks(draft)
    operations = [
        _compile(kernel, registered, generation, draft, checks)
        for generation in generations
        for registered in generation.operations
    ]
    return Table(
        draft.version,
        draft.generations,
        draft.services,
        draft.permissions,
        draft.slots,
        draft.recorders,
        tuple(operations),
        _inner(kernel, generations, draft),
        Dispatch((o.registered.bound.method, o.registered.bound.path, o) for o in operations),
        _methods(operations),
        checks,
    )


def _methods(operations: Iterable[CompiledOperation]) -> dict[str, CompiledOperation]:
    """By their paths in gRPC; of two that would have the same, the first."""
    found: dict[str, CompiledOperation] = {}
    for one in operations:
        name = one.registered.bound.id.rsplit(".", 1)[1]
        found.setdefault(method_path(one.generation.names.grpc_package, one.registered.service, name), one)
    return found


def _draft(kernel: Kernel, generations: Sequence[Generation], version: int) -> Table:
    return Table(
        version,
        {generation.plugin_id: generation for generation in generations},
        merged_services(generations),
        merged_permissions(generations),
        _slots(kernel, generations),
        tuple(record for g in generations if (record := g.slots.record) is not None),
        (),
        {},
        Dispatch(()),
    )


def _slots(kernel: Kernel, generations: Sequence[Generation]) -> SlotFillers:
    """The slots; whoever calls is asked of another kernel where nothing here can tell."""
    slots = merged_slots(generations)
    elsewhere = kernel.remotes.identities if kernel.remotes is not None else None
    if slots.identify is None and slots.authorize is None and elsewhere is not None:
        slots.identify = slots.authorize = slots.resolve = elsewhere
    return slots


def _compile(
    kernel: Kernel, registered: RegisteredOperation, generation: Generation, draft: Table, checks: Checks
) -> CompiledOperation:
    return CompiledOperation(
        registered,
        generation,
        compile_invoke(registered, draft, kernel.runtime(generation), checks, kernel.deadline_s, kernel.load),
        compile_still_allows(registered, draft, checks),
    )


def _inner(kernel: Kernel, generations: Iterable[Generation], draft: Table) -> dict[tuple[str, str], InnerOperation]:
    found: dict[tuple[str, str], InnerOperation] = {}
    for generation in generations:
        capabilities = [capability_of(provided) for provided in generation.manifest.provides]
        for registered in generation.operations:
            inner = compile_inner(registered, draft, kernel.runtime(generation), kernel.tracing)
            name = registered.bound.id.rsplit(".", 1)[1]
            found.update({(capability, name): inner for capability in capabilities})
    return found
