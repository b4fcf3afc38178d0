"""`events.lock` of the kernel's own plugins, which have no project that `pk contract lock` could be given."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from host.discovery import Found, discover
from host.event_lock import NAME, breaks, lock_text, read_lock
from host.generations import Generation
from host.kernel import Kernel, Place
from host.registrar import HostRegistrar
from host.stamps import FileStamps, create_stamps
from plugin_api.event_schemas import Schema

ROOT: Final = Path(__file__).parents[1]


class PromiseBroken(Exception):
    """The code of a plugin of ours tells its events otherwise than it has promised."""


def event_locks() -> dict[Path, str]:
    """Every lock with its text.

    Raises:
        PromiseBroken: a field has gone, or is another; nothing is generated over it.
    """
    return {
        found.folder / NAME: grown(found.id, read_lock(found.folder) or {}, declared(found), emitted(found))
        for found in telling()
    }


def telling() -> list[Found]:
    """The kernel's plugins whose manifests list events that they tell."""
    return [found for found in discover() if found.is_kernel and emitted(found)]


def grown(plugin_id: str, locked: Mapping[str, Schema], now: Mapping[str, Schema], types: list[str]) -> str:
    """The text of a lock with what is declared now. PromiseBroken as `event_locks`."""
    broken = list(breaks(locked, now, types))
    if broken:
        raise PromiseBroken(f"{plugin_id}: {'; '.join(broken)}")
    return lock_text({**locked, **now})


def emitted(found: Found) -> list[str]:
    """The types that a plugin's manifest lists."""
    return list(found.manifest.events.emits)


def declared(found: Found) -> dict[str, Schema]:
    """What a plugin declares of its events, when it is registered in an empty kernel."""
    with TemporaryDirectory() as place:
        create_stamps(Path(place) / "stamps")
        stamps = FileStamps(Path(place) / "stamps")
        kernel = Kernel(Place(Path(place), "embedded", 0, {}), stamps, secrets.token_bytes(32), lambda text: None)
        generation = Generation(found.id, 1, found.manifest, found.names, found.load())
        asyncio.run(_register(kernel, generation))
        stamps.close()
    return {event_type: one.schema for event_type, one in generation.payloads.items()}


async def _register(kernel: Kernel, generation: Generation) -> None:
    kernel.hooks.add(generation.key, generation.plugin)
    registrar = HostRegistrar(kernel, generation, kernel.runtime(generation), None)
    await kernel.hooks.call(generation.key, generation.plugin_id, "pk_register", 10.0, registrar=registrar)
    await kernel.hooks.call(generation.key, generation.plugin_id, "pk_disable", 10.0)
    kernel.hooks.remove(generation.key)
