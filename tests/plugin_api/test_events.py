"""Events: each has an id of its own, and the envelope is CloudEvents in structured JSON."""

from __future__ import annotations

import msgspec

from plugin_api import Event
from plugin_api.clock import SystemClock
from plugin_api.events import EventEnvelope
from plugin_api.ids import uuid7


def test_events_ascend_by_id() -> None:
    made = [Event("lead.created.v1", "lead-1", {"n": n}) for n in range(100)]

    assert len({event.id for event in made}) == 100
    assert [event.id for event in made] == sorted(event.id for event in made)


def test_an_envelope_survives_json() -> None:
    envelope = EventEnvelope(
        "1.0",
        uuid7(),
        "/plugins/acme.crm",
        "acme.crm.lead.created.v1",
        "lead-1",
        SystemClock().now(),
        uuid7(),
        "1",
        {"n": 1},
    )
    document = msgspec.json.decode(raw := msgspec.json.encode(envelope))

    assert msgspec.json.decode(raw, type=EventEnvelope) == envelope
    assert {"specversion", "id", "source", "type", "subject", "time", "tenantid", "sequence", "data"} <= set(document)
    assert document["time"].endswith("Z")
    assert document["datacontenttype"] == "application/json"
