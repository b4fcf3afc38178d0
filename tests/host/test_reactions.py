"""Reactions of a plugin: declared, or refused with what to write; handed to whatever keeps the event log."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from host.kernel import Kernel
from host.lifecycle import ActivationFailed, Lifecycle
from plugin_api import Call, Registrar, job, on
from plugin_api.errors import KernelBug
from plugin_api.events import EventEnvelope
from plugin_api.manifest import EventsPart
from plugin_api.ports.event_log import EVENT_LOG, Reaction
from plugin_api.testing.waiting import until
from tests.host.conftest import no_migrations
from tests.host.registering import activate

CLOSED = "acme.crm.deal.closed.v1"


class Reactions:
    @on(CLOSED)
    async def add_up(self, call: Call, event: EventEnvelope) -> None:
        """Take it."""


class NotAsync:
    @on(CLOSED)
    def add_up(self, call: Call, event: EventEnvelope) -> None:
        """Cannot be awaited."""


class TakesMore:
    @on(CLOSED)
    async def add_up(self, call: Call, event: EventEnvelope, more: int) -> None:
        """Wants what nobody gives."""


class Scheduled:
    @job("0 * * * *")
    async def tick(self, call: Call) -> None:
        """Would have no tenant."""


class Plain:
    """Nothing is marked."""


@pytest.mark.parametrize(
    ("owner", "manifest", "words"),
    [
        (Reactions(), {"requires": ["eventbus"]}, '"consumes" under \\[events\\]'),
        (Reactions(), {"events": EventsPart(consumes=[CLOSED])}, 'add "eventbus" to requires'),
        (NotAsync(), {"requires": ["eventbus"], "events": EventsPart(consumes=[CLOSED])}, "no `async def`"),
        (TakesMore(), {"requires": ["eventbus"], "events": EventsPart(consumes=[CLOSED])}, "takes \\(self, call: Call"),
        (Scheduled(), {"requires": ["jobs"]}, "per_tenant=True"),
        (Plain(), {"requires": ["eventbus"]}, "no method marked @on"),
    ],
    ids=["undeclared", "not-required", "not-async", "takes-more", "scheduled", "nothing-marked"],
)
async def test_what_cannot_react_is_refused_with_the_remedy(
    bare_kernel: Kernel, tmp_path: Path, owner: object, manifest: dict[str, Any], words: str
) -> None:
    with pytest.raises(ActivationFailed, match=words):
        await activate(bare_kernel, tmp_path, lambda registrar: registrar.reactions(owner), **manifest)


class Log:
    """Keeps what it was asked to hand out."""

    def __init__(self) -> None:
        self.reading: list[Reaction] = []
        self.joined: list[str] = []

    async def join(self, consumer: str, types: list[str]) -> None:
        assert types == [CLOSED]
        self.joined.append(consumer)

    async def consume(self, reaction: Reaction) -> None:
        self.reading.append(reaction)
        try:
            await asyncio.Event().wait()
        finally:
            self.reading.remove(reaction)

    def broadcast(self, types: object, hear: object) -> None:
        raise AssertionError("nobody listens here")


async def test_a_published_reaction_is_read_for_until_its_plugin_stops(bare_kernel: Kernel, tmp_path: Path) -> None:
    log, made = Log(), Reactions()
    provides = {"provides": ["eventbus 1.0"]}
    await activate(bare_kernel, tmp_path, lambda one: one.service(EVENT_LOG, log), "kernel.eventbus", **provides)
    wanted = {"requires": ["eventbus"], "events": EventsPart(consumes=[CLOSED])}
    generation = await activate(bare_kernel, tmp_path, lambda one: one.reactions(made), **wanted)

    assert log.joined == ["acme.crm.add_up"], "it begins before it serves"
    (reaction,) = await until(lambda: log.reading, "it is read for")
    assert (reaction.consumer, reaction.types) == ("acme.crm.add_up", frozenset([CLOSED]))
    assert reaction.handle == made.add_up
    assert reaction.member == f"0:{generation.number}"

    await Lifecycle(bare_kernel, no_migrations).deactivate("acme.crm")
    assert not log.reading


async def test_a_third_party_reaches_the_log_through_its_registrar_alone(bare_kernel: Kernel, tmp_path: Path) -> None:
    """What is behind the capability hands out events of every tenant."""

    def look(registrar: Registrar) -> None:
        with pytest.raises(KernelBug, match="eventbus"):
            registrar.services.get(EVENT_LOG)

    await activate(bare_kernel, tmp_path, look, requires=["eventbus"])
