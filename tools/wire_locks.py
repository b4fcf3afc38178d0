"""`wire.lock` of the kernel's own plugins and of the host, which have no project that `pk contract lock` could be given."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from event_locks import PromiseBroken

from host.discovery import discover
from host.generations import Generation
from host.kernel import Kernel, Place
from host.own_operations import host_generation
from host.registrar import HostRegistrar
from host.stamps import FileStamps, create_stamps
from host.wire.lock import NAME, Lock, breaks, grown, read_lock
from host.wire.model import Contract
from host.wire.shapes import contract_of

SERVERS: Final = {"postgres": "postgresql://nobody@127.0.0.1:1/none?", "valkey": "redis://127.0.0.1:1"}
"""Nothing is connected to: operations are registered, and no more."""


def wire_locks() -> dict[Path, str]:
    """Every lock with its text.

    Raises:
        PromiseBroken: something has another type than its lock says; nothing is generated over it.
    """
    found: dict[Path, str] = {}
    with generations() as all_of_them:
        for generation in all_of_them:
            contract, lock = contract_and_lock(generation)
            if contract.services:
                found[file_of(generation)] = extended(generation.plugin_id, lock, contract).text()
    return found


def extended(plugin_id: str, lock: Lock, contract: Contract) -> Lock:
    """The lock with everything of a contract. PromiseBroken as `wire_locks`."""
    broken = list(breaks(lock, contract))
    if broken:
        raise PromiseBroken(f"{plugin_id}: {'; '.join(broken)}")
    return grown(lock, contract)


def contract_and_lock(generation: Generation) -> tuple[Contract, Lock]:
    """What gRPC has of a generation, and what its lock has."""
    lock = read_lock(file_of(generation)) or Lock()
    return contract_of(generation.names.grpc_package, generation.operations, lock), lock


def file_of(generation: Generation) -> Path:
    """Where its lock is, or would be."""
    assert generation.folder is not None
    return generation.folder / NAME


@contextmanager
def generations() -> Iterator[list[Generation]]:
    """The host's own operations and those of its plugins, each registered in an empty kernel."""
    with TemporaryDirectory() as place:
        create_stamps(Path(place) / "stamps")
        stamps = FileStamps(Path(place) / "stamps")
        kernel = Kernel(Place(Path(place), "embedded", 0, SERVERS), stamps, secrets.token_bytes(32), lambda text: None)
        found = [host_generation(kernel)]
        for one in discover():
            if one.is_kernel:
                found.append(Generation(one.id, 1, one.manifest, one.names, one.load(), folder=one.folder))
                asyncio.run(_register(kernel, found[-1]))
        yield found
        stamps.close()


async def _register(kernel: Kernel, generation: Generation) -> None:
    kernel.hooks.add(generation.key, generation.plugin)
    registrar = HostRegistrar(kernel, generation, kernel.runtime(generation), None)
    await kernel.hooks.call(generation.key, generation.plugin_id, "pk_register", 10.0, registrar=registrar)
    await kernel.hooks.call(generation.key, generation.plugin_id, "pk_disable", 10.0)
    kernel.hooks.remove(generation.key)
