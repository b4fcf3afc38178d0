"""A consumer in this process: it holds its share of the partitions and handles what comes in each, in order.

Partitions go on side by side; within one, an event is done before the next begins. What holds it all together is the
database: the epoch of a partition's lease is checked in the very transaction of an event's effect, so that whoever lost the
partition can neither do nor note anything more, and the inbox takes an event once.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Final

from core_plugins.eventbus import storage
from core_plugins.eventbus.model import RETRY_PAUSES_S, Entity, Logged, Partition, fair_share, partitions_of, topic_of
from core_plugins.eventbus.operations.handling import Fenced, Handler
from core_plugins.eventbus.operations.parts import LOG, REPLAY, Parts, first_of
from core_plugins.eventbus.storage import Held, Letter, Turn
from plugin_api.errors import KernelError
from plugin_api.ports.database import Tx
from plugin_api.ports.event_log import Reaction

BATCH: Final = 50
"""Events of one partition that are read at once."""
ATTEMPTS: Final = 1 + len(RETRY_PAUSES_S)
AGAIN_S: Final = 0.5
LEAVE_S: Final = 5.0


@dataclass
class Holding:
    """A partition that is held."""

    partition: Partition
    epoch: int
    parked: set[Entity]
    is_suspect: bool
    """Its former holder vanished: the first event may be why."""
    busy: asyncio.Task[None] | None = None

    @property
    def is_idle(self) -> bool:
        """Whether nothing of it is being handled."""
        return self.busy is None or self.busy.done()


class Consumer:
    """One reaction, as far as this process reads for it."""

    def __init__(self, parts: Parts, reaction: Reaction) -> None:
        self._parts = parts
        self._reaction = reaction
        self._handler = Handler(parts, reaction)
        self._name = reaction.consumer
        self._partitions = partitions_of(topic_of(one) for one in reaction.types)
        self._leases = dict(zip(storage.leases(self._name, self._partitions), self._partitions, strict=True))
        self._held: dict[Partition, Holding] = {}
        self._keep_at = 0.0
        self._is_joined = False
        self._finished = asyncio.Event()
        """Some partition has become idle."""

    async def run(self) -> None:
        """Read until it is cancelled; then let go of what is held."""
        bells = [self._parts.wakeups.bell(name) for name in (LOG, REPLAY)]
        try:
            while True:
                try:
                    await self.step()
                except KernelError as error:
                    self._parts.log.warning(
                        "events are not read; it is tried again", consumer=self._name, why=error.detail
                    )
                    await asyncio.sleep(AGAIN_S)
                # Until the log has grown, a letter is to be tried again, a partition is done, or it is time to look.
                await first_of(*(bell.wait(self._parts.settings.poll_s) for bell in bells), self._finished.wait())
                self._finished.clear()
        finally:
            for bell in bells:
                bell.close()
            await self.leave()

    async def step(self) -> None:
        """Hold on to partitions when it is time, and begin what is new in those that are idle."""
        await self._keep()
        idle = [one.partition for one in self._held.values() if one.is_idle]
        if not idle:
            return
        async with self._parts.tx("read events") as tx:
            letters = await storage.replayable(tx, self._name, self._with_parked(idle), BATCH)
            turns = await storage.poll(tx, self._name, self._reaction.types, idle, BATCH)
        for partition in {one.event.partition for one in letters}:
            self._begin(partition, partial(self._replay, [one for one in letters if one.event.partition == partition]))
        for turn in turns:
            if self._held[turn.partition].is_idle:
                self._begin(turn.partition, partial(self._handle, turn))

    def _with_parked(self, partitions: Sequence[Partition]) -> list[Partition]:
        return [one for one in partitions if self._held[one].parked]

    def _begin(self, partition: Partition, work: Callable[[], Awaitable[None]]) -> None:
        holding = self._held[partition]
        holding.busy = asyncio.create_task(self._guarded(holding, work), name=f"{self._name}/{partition.number}")

    async def _guarded(self, holding: Holding, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except Fenced:
            if self._held.get(holding.partition) is holding:
                del self._held[holding.partition]
        except Exception as error:  # noqa: BLE001 - the partition is read again, whatever it was
            why = error.detail if isinstance(error, KernelError) else f"{type(error).__name__}: {error}"
            self._parts.log.warning("events wait; it is tried again", consumer=self._name, why=why)
            await asyncio.sleep(AGAIN_S)
        finally:
            self._finished.set()

    def look_soon(self) -> None:
        """Share partitions out with the next step, whenever that was done last."""
        self._keep_at = 0.0

    # ----------------------------------------------------------------------------------------- partitions

    async def _keep(self) -> None:
        """Hold on to what is held; take what is free, or let go of what is too much, so that all have their share."""
        now = time.monotonic()
        if now < self._keep_at:
            return
        lease_s = self._parts.settings.lease_s
        async with self._parts.tx("share out partitions") as tx:
            if not self._is_joined:
                await storage.join_group(tx, self._name, {one.topic for one in self._partitions})
                self._is_joined = True
            members = await storage.attend(tx, self._name, self._reaction.member, lease_s)
            pairs = [(name, self._held[one].epoch) for name, one in self._leases.items() if one in self._held]
            kept = await storage.renew_leases(tx, pairs, lease_s) if pairs else set[str]()
            self._drop([self._leases[name] for name, _ in pairs if name not in kept])
            share = fair_share(len(self._partitions), members)
            surplus = [one for one in self._held.values() if one.is_idle][: max(0, len(self._held) - share)]
            await self._release(tx, surplus)
            wanted = [name for name, one in self._leases.items() if one not in self._held]
            taken: list[Held] = []
            if wanted and len(self._held) < share:
                most = share - len(self._held)
                taken = await storage.take_leases(tx, wanted, self._reaction.member, lease_s, most)
            mine = [self._leases[one.name] for one in taken]
            parked = await storage.parked(tx, self._name, mine) if mine else {}
        for one in taken:
            partition = self._leases[one.name]
            self._held[partition] = Holding(partition, one.epoch, parked[partition], not one.released)
        self._keep_at = now + (lease_s / 3 if len(self._held) >= share else min(1.0, lease_s / 3))

    def _drop(self, lost: Sequence[Partition]) -> None:
        """Another has them: what is under way is cut off, and could not be committed anyway."""
        for partition in lost:
            holding = self._held.pop(partition)
            if holding.busy is not None:
                holding.busy.cancel()

    async def _release(self, tx: Tx, holdings: Sequence[Holding]) -> None:
        pairs = [(storage.leases(self._name, [one.partition])[0], one.epoch) for one in holdings]
        for one in holdings:
            self._held.pop(one.partition, None)
        if pairs:
            await storage.release_leases(tx, pairs)

    async def leave(self) -> None:
        """Cut off what is under way, and let others have the partitions."""
        await self.vanish()
        with suppress(KernelError, TimeoutError):
            async with asyncio.timeout(LEAVE_S):
                async with self._parts.tx("leave the readers") as tx:
                    await self._release(tx, list(self._held.values()))
                    await storage.leave(tx, self._name, self._reaction.member)

    async def vanish(self) -> None:
        """Cut off what is under way and let go of nothing, as the end of the process does."""
        busy = [one.busy for one in self._held.values() if one.busy is not None]
        for task in busy:
            task.cancel()
        await asyncio.gather(*busy, return_exceptions=True)

    # -------------------------------------------------------------------------------------------- events

    async def _handle(self, turn: Turn) -> None:
        """Handle what is next in a partition, in order, and note how far it has come."""
        holding = self._held[turn.partition]
        for event in turn.events:
            await self._handle_one(holding, event)
        done = turn.events[-1].offset + 1 if len(turn.events) == BATCH else turn.head
        async with self._parts.tx("note progress") as tx:
            if not await storage.commit(tx, self._name, turn.partition, holding.epoch, done):
                raise Fenced

    async def _handle_one(self, holding: Holding, event: Logged) -> None:
        if event.entity in holding.parked:
            await self._park(holding, event, f"it waits behind an event of {event.envelope.subject} that failed", 0)
            return
        failure, attempts = None, 0
        if holding.is_suspect:
            is_done, failure = await self._handler.examine(event, holding.epoch)
            if is_done:
                return
        if failure is None:
            failure, attempts = await self._handler.attempt(event, holding.epoch), ATTEMPTS
        holding.is_suspect = False
        if failure is not None:
            self._parts.log.error(
                "an event could not be handled and is parked", consumer=self._name, event=event.envelope.id,
                type=event.envelope.type, why=failure,
            )  # fmt: skip
            await self._park(holding, event, failure, attempts)

    async def _park(self, holding: Holding, event: Logged, reason: str, attempts: int) -> None:
        async with self._parts.tx("park an event") as tx:
            if not await storage.park(tx, self._name, event, holding.epoch, reason, attempts):
                raise Fenced
        self._parts.counts.parked.add(consumer=self._name)
        holding.parked.add(event.entity)

    async def _replay(self, letters: Sequence[Letter]) -> None:
        """Try letters of one partition again, in order; what fails stays, and with it the rest of its entity."""
        holding = self._held[letters[0].event.partition]
        failed: set[Entity] = set()
        for letter in letters:
            if letter.event.entity in failed:
                continue
            failure = await self._handler.attempt(letter.event, holding.epoch)
            async with self._parts.tx("deliver a letter") as tx:
                if failure is not None:
                    failed.add(letter.event.entity)
                    await storage.keep(tx, letter, failure, ATTEMPTS)
                elif await storage.deliver(tx, letter, holding.epoch):
                    holding.parked.discard(letter.event.entity)
