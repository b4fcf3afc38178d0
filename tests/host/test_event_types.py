"""Events of a plugin: declared with a Struct each, or refused with what to write; promised to whatever keeps the event log."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec import Struct

from host.kernel import Kernel
from host.lifecycle import ActivationFailed, Lifecycle
from plugin_api import Registrar
from plugin_api.errors import Conflict
from plugin_api.event_schemas import Schema, schema_of
from plugin_api.limits import EVENT_TYPES_PER_PLUGIN_MAX
from plugin_api.manifest import EventsPart, ManifestError
from plugin_api.ports.event_log import EVENT_LOG
from tests.host import registering
from tests.host.conftest import no_migrations

TYPE = "note.touched.v1"


class Touched(Struct, frozen=True):
    by: str


class Loop(Struct, frozen=True):
    within: Loop | None = None


async def activate(kernel: Kernel, folder: Path, register: Any, emits: list[str]) -> Any:
    return await registering.activate(kernel, folder, register, "acme.notes", events=EventsPart(emits=emits))


def twice(registrar: Registrar) -> None:
    registrar.events({TYPE: Touched})
    registrar.events({TYPE: Touched})


MANY = [f"note.touched.v{number}" for number in range(1, EVENT_TYPES_PER_PLUGIN_MAX + 2)]


@pytest.mark.parametrize(
    ("register", "emits", "words"),
    [
        (lambda one: one.events({TYPE: Touched}), [], 'add "note.touched.v1" to "emits" under \\[events\\]'),
        (lambda one: one.events({f"acme.notes.{TYPE}": Touched}), [TYPE], 'add "acme.notes.note.touched.v1" to'),
        (twice, [TYPE], "declared twice"),
        (lambda one: one.events({TYPE: dict[str, int]}), [TYPE], "dict\\[str, int\\], which is no Struct"),
        (lambda one: one.events({TYPE: Touched("me")}), [TYPE], "which is no Struct"),
        (lambda one: one.events({TYPE: Loop}), [TYPE], "the event note.touched.v1: Loop holds Loop"),
        (lambda one: one.events(dict.fromkeys(MANY, Touched)), MANY, "more than 200 types"),
    ],
    ids=["unlisted", "full-type", "twice", "no-struct", "no-class", "no-schema", "too-many"],
)
async def test_what_cannot_be_declared_is_refused_with_the_remedy(
    bare_kernel: Kernel, tmp_path: Path, register: Any, emits: list[str], words: str
) -> None:
    with pytest.raises(ActivationFailed, match=words):
        await activate(bare_kernel, tmp_path, register, emits)


async def test_nothing_is_declared_after_registering(bare_kernel: Kernel, tmp_path: Path) -> None:
    kept: list[Registrar] = []
    await activate(bare_kernel, tmp_path, kept.append, [TYPE])
    with pytest.raises(ManifestError, match="inside pk_register only"):
        kept[0].events({TYPE: Touched})


class Log:
    """Keeps what was promised; refuses everything once it is told to."""

    def __init__(self) -> None:
        self.promised: list[tuple[str, dict[str, Schema]]] = []
        self.refuses = False

    async def declare(self, area: str, schemas: Mapping[str, Schema]) -> None:
        if self.refuses:
            raise Conflict("acme.notes.note.touched.v1 breaks what was promised", code="event_schema_broken")
        self.promised.append((area, dict(schemas)))


async def test_what_is_declared_is_promised_before_it_serves(bare_kernel: Kernel, tmp_path: Path) -> None:
    log = Log()
    found: Any = registering.Found("kernel.eventbus", tmp_path, provides=["eventbus 1.0"])
    lifecycle = Lifecycle(bare_kernel, no_migrations)
    await lifecycle.activate(found, registering.plugin(lambda one: one.service(EVENT_LOG, log)), None)
    first = await activate(bare_kernel, tmp_path, lambda one: one.events({TYPE: Touched}), [TYPE, "note.gone.v1"])
    assert log.promised == [("acme.notes", {TYPE: schema_of(Touched)})]

    log.refuses = True
    other = msgspec.defstruct("Touched", [("by", int)], frozen=True)
    with pytest.raises(ActivationFailed, match="acme.notes failed to join the event log: .* breaks what was promised"):
        await activate(bare_kernel, tmp_path, lambda one: one.events({TYPE: other}), [TYPE])
    assert bare_kernel.table.generations["acme.notes"] is first
    assert first.state == "active"


async def test_one_that_fails_promises_nothing(bare_kernel: Kernel, tmp_path: Path) -> None:
    """Two plugins of one path, which shows last of all."""
    log = Log()
    found: Any = registering.Found("kernel.eventbus", tmp_path, provides=["eventbus 1.0"])
    lifecycle = Lifecycle(bare_kernel, no_migrations)
    await lifecycle.activate(found, registering.plugin(lambda one: one.service(EVENT_LOG, log)), None)

    def collide(generation: object) -> None:
        raise ManifestError("two plugins claim one path")

    bare_kernel.rehearse = collide  # type: ignore[method-assign,assignment]
    with pytest.raises(ActivationFailed, match="claim one path"):
        await activate(bare_kernel, tmp_path, lambda one: one.events({TYPE: Touched}), [TYPE])
    assert log.promised == []
