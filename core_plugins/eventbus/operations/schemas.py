"""What plugins promise of the data of their events, and who may see it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from core_plugins.eventbus.model import topic_of
from core_plugins.eventbus.operations.parts import Parts
from core_plugins.eventbus.storage import event_types as storage
from core_plugins.eventbus.storage.event_types import EventType
from plugin_api import Call, operation
from plugin_api.errors import Conflict, Unreadable
from plugin_api.event_schemas import Difference, Schema, compare, merge, next_version
from plugin_api.limits import EVENT_SCHEMA_BYTES_MAX, EVENT_TYPES_PER_PLUGIN_MAX
from plugin_api.pages import Page


class TypeQuery(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which types."""

    area: Annotated[str, Meta(min_length=1, max_length=100, description="Of one plugin: `iam`, `acme.crm`.")] | None = (
        None
    )
    limit: Annotated[int, Meta(ge=1, le=200)] = 50
    cursor: Annotated[str, Meta(max_length=2_048)] | None = None


class DeclaredType(Struct, frozen=True):
    """A type of event, and what its data holds."""

    type: str
    """In full."""
    topic: str
    source: str
    """The plugin that tells it."""
    schema: dict[str, Any]
    """JSON Schema 2020-12 of its data. What is `required` is in every event of the type, of whatever version of the plugin;
    other fields came later, or are left out at times. Further ones may come: ignore what you do not know."""
    promised_at: datetime
    """When it was declared first."""
    gained_at: datetime | None
    """When it last gained a field."""


class SchemaOperations:
    """Declaring, and looking at what was declared."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def declare(self, area: str, schemas: Mapping[str, Schema]) -> None:
        """Promise what events hold; see the port."""
        async with self._parts.tx("declare events") as tx:
            known = await storage.lock_types(tx, area)
            grown = grow(area, known, schemas)
            for event_type, (promised, now_known) in grown.items():
                await storage.keep_type(tx, event_type, area, promised, now_known)

    async def forget_types(self, area: str) -> int:
        """Forget what an area promised; how many types."""
        async with self._parts.tx("forget types of events") as tx:
            return await storage.forget_types(tx, area)

    @operation("GET /types", permission="type.read", operator=True)
    async def list_types(self, call: Call, request: TypeQuery) -> Page[DeclaredType]:
        """List the types of events that plugins have declared, by name, with what their data holds."""
        bound = f"event-types {request.area}".encode()
        after = _after(call.open_cursor(bound, request.cursor)) if request.cursor is not None else None
        async with self._parts.tx("list types of events") as tx:
            found = await storage.list_types(tx, request.area, after, request.limit + 1)
        items = [_shown(one) for one in found[: request.limit]]
        more = len(found) > request.limit
        return Page(items, call.seal_cursor(bound, [items[-1].type]) if more else None)


def grow(area: str, known: Mapping[str, EventType], schemas: Mapping[str, Schema]) -> dict[str, tuple[Schema, Schema]]:
    """What is to be written down: full type -> (promised, known). Pure.

    Raises:
        Conflict: see `EventLog.declare`.
    """
    grown: dict[str, tuple[Schema, Schema]] = {}
    for relative, schema in sorted(schemas.items()):
        event_type = f"{area}.{relative}"
        found = known.get(event_type)
        if found is None:
            grown[event_type] = schema, schema
            continue
        _require_kept(relative, found, schema)
        now_known = merge(found.known, schema)
        if now_known != found.known:
            grown[event_type] = found.promised, now_known
    _require_room(area, known.keys() | grown.keys(), grown)
    return grown


def _require_kept(relative: str, found: EventType, schema: Schema) -> None:
    breaks: list[Difference] = [one for one in compare(found.promised, schema) if one.kind == "gone"]
    breaks += [one for one in compare(found.known, schema) if one.kind in ("changed", "loosened")]
    if not breaks:
        return
    told = "; ".join(str(one) for one in breaks[:5])
    more = f" (and {len(breaks) - 5} more)" if len(breaks) > 5 else ""
    raise Conflict(
        f"{found.type} breaks what was promised of its data on {found.promised_at:%Y-%m-%d}: {told}{more}. Keep each field as "
        f"it was, or tell {next_version(relative)} beside {relative}",
        code="event_schema_broken",
    )


def _require_room(area: str, types: set[str], grown: Mapping[str, tuple[Schema, Schema]]) -> None:
    if len(types) > EVENT_TYPES_PER_PLUGIN_MAX:
        raise Conflict(
            f"{area} has declared {len(types)} types of events over time, and at most {EVENT_TYPES_PER_PLUGIN_MAX} are kept; "
            "let fields be gained by those that there are",
            code="event_schema_too_large",
        )
    for event_type, (_, known) in grown.items():
        size = len(msgspec.json.encode(known))
        if size > EVENT_SCHEMA_BYTES_MAX:
            raise Conflict(
                f"the schema of {event_type} has {size} bytes with all that it gained over time, and at most "
                f"{EVENT_SCHEMA_BYTES_MAX} are kept; tell a new version of the type",
                code="event_schema_too_large",
            )


def _shown(one: EventType) -> DeclaredType:
    source = f"/plugins/{one.area}" if "." in one.area else f"/plugins/kernel.{one.area}"
    return DeclaredType(one.type, topic_of(one.type), source, one.known, one.promised_at, one.gained_at)


def _after(values: list[object]) -> str:
    if len(values) != 1 or not isinstance(values[0], str):
        raise Unreadable("the cursor is of another list; begin again without it", code="bad_cursor")
    return values[0]
