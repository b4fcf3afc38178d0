"""Topics, partitions, and who reads which: pure."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Final
from uuid import UUID

from msgspec import Struct

from plugin_api.errors import InvalidRequest
from plugin_api.events import EventEnvelope
from plugin_api.ports.database import Row

PARTITIONS: Final = 12
DOMAINS: Final = ("auth", "money", "module", "data", "files", "audit", "billing")
RETRY_PAUSES_S: Final = (0.1, 0.2, 0.4)
"""Before each further attempt to handle an event; then it is parked."""
_DOMAIN_OF_AREA: Final = {"iam": "auth"} | {domain: domain for domain in DOMAINS if domain not in ("auth", "module")}


def topic_of(event_type: str) -> str:
    """The topic of a full type: `money.transfer.posted.v1` is told in `platform.money.events`."""
    area = event_type.rsplit(".", 3)[0]
    return f"platform.{_DOMAIN_OF_AREA.get(area, 'module')}.events"


def dead_letter_topic(topic: str) -> str:
    """Where the events of a topic go that a consumer cannot handle: `platform.{domain}.dlq`."""
    return f"{topic.removesuffix('.events')}.dlq"


class Partition(Struct, frozen=True, order=True):
    """One partition of a topic."""

    topic: str
    number: int


def partitions_of(topics: Iterable[str]) -> list[Partition]:
    """All partitions of these topics, in order."""
    return [Partition(topic, number) for topic in sorted(set(topics)) for number in range(PARTITIONS)]


def lease_of(consumer: str, partition: Partition) -> str:
    """The name of the lease that a consumer's reader holds; the same as the database's function `lease_of` makes."""
    return f"eventbus:{consumer}/{partition.topic}/{partition.number}"


def fair_share(partitions: int, members: int) -> int:
    """How many partitions one of so many members may hold."""
    return math.ceil(partitions / max(members, 1))


class Entity(Struct, frozen=True):
    """What events are ordered by."""

    tenant_id: UUID
    source: str
    subject: str


class Logged(Struct, frozen=True):
    """An event of the log, or a dead letter, with its place."""

    partition: Partition
    offset: int
    tenant_id: UUID
    envelope: EventEnvelope

    @property
    def entity(self) -> Entity:
        """Whose event it is."""
        return Entity(self.tenant_id, self.envelope.source, self.envelope.subject)


def logged(row: Row) -> Logged:
    """Read a row of the log."""
    partition = Partition(row["topic"], row["partition"])
    return Logged(partition, row["offset"], row["tenant_id"], envelope(row, row["id"]))


def envelope(row: Row, event_id: UUID) -> EventEnvelope:
    """The CloudEvent of a row."""
    return EventEnvelope(
        specversion="1.0",
        id=event_id,
        source=row["source"],
        type=row["type"],
        subject=row["subject"],
        time=row["time"],
        tenantid=row["tenant_id"],
        sequence=str(row["sequence"]),
        data=row["data"],
        actor=row["actor"],
        traceparent=row["traceparent"],
    )


def read_position(text: str) -> int:
    """The position of a stream's `Last-Event-ID`.

    Raises:
        InvalidRequest: it is no id that a stream has sent.
    """
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise InvalidRequest(
            f"Last-Event-ID is {text[:40]!r}, which no stream has sent; send the id of the last event that was received, or "
            "none",
            code="bad_event_id",
        )
    return int(text)
