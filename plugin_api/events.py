"""Facts that plugins tell: CloudEvents 1.0 in our envelope (https://cloudevents.io, structured JSON)."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

from msgspec import Struct, field

from plugin_api.event_schemas import Payload
from plugin_api.ids import uuid7


class Event(Struct, frozen=True):
    """What a plugin hands to `tx.emit`: written with the commit or not at all."""

    type: str
    """`{entity}.{past verb}.v{n}`, relative to the plugin's area."""
    subject: str
    """Id of the entity; also the partition key, so order holds per entity."""
    data: Struct | dict[str, Any]
    """Payload; inside one version it only ever gains fields. An instance of the Struct that `registrar.events` declares for
    the type, or what can be read as one; anything for a type that has none."""
    id: UUID = field(default_factory=uuid7)
    """Consumers tell repetitions apart by it."""


class Origin(Struct, frozen=True):
    """On whose behalf a transaction tells facts; the host says so when it opens one."""

    actor: str = ""
    traceparent: str = ""
    emits: frozenset[str] = frozenset()
    """The types that the plugin's manifest declares under `[events] emits`."""
    payloads: Mapping[str, Payload] = {}
    """What the plugin has declared of their data, by type."""


class EventEnvelope(Struct, frozen=True):
    """What a consumer receives."""

    specversion: str
    id: UUID
    source: str
    """`/plugins/{id}` of the plugin that emitted it."""
    type: str
    """Full type: `{area}.{entity}.{past verb}.v{n}`."""
    subject: str
    time: datetime
    tenantid: UUID
    sequence: str
    """Decimal text, per entity, from 1, without gaps."""
    data: Any
    actor: str = ""
    traceparent: str = ""
    datacontenttype: str = "application/json"
