"""What a plugin declares of the events that it tells."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from msgspec import Struct

from plugin_api.event_schemas import Payload, SchemaError
from plugin_api.limits import EVENT_TYPES_PER_PLUGIN_MAX
from plugin_api.manifest import ManifestError

if TYPE_CHECKING:
    from host.generations import Generation


def register_events(generation: Generation, types: Mapping[str, type[Struct]]) -> None:
    """Note the data of some types, relative to the plugin's area.

    Raises:
        ManifestError: see `plugin_api.registrar.Registrar.events`.
    """
    for event_type, struct in types.items():
        generation.payloads[event_type] = _payload(generation, event_type, struct)
    if len(generation.payloads) > EVENT_TYPES_PER_PLUGIN_MAX:
        raise ManifestError(f"{generation.plugin_id}: more than {EVENT_TYPES_PER_PLUGIN_MAX} types of events")


def _payload(generation: Generation, event_type: str, struct: type[Struct]) -> Payload:
    where = f"{generation.plugin_id}: the event {event_type}"
    if event_type not in generation.manifest.events.emits:
        raise ManifestError(f'{where} is declared and not listed; add "{event_type}" to "emits" under [events]')
    if event_type in generation.payloads:
        raise ManifestError(f"{where} is declared twice; give each type one Struct")
    if not (isinstance(struct, type) and issubclass(struct, Struct)):
        raise ManifestError(f"{where} is declared with {struct!r}, which is no Struct; write a class of its data")
    try:
        return Payload.of(struct)
    except SchemaError as error:
        raise ManifestError(f"{where}: {error}") from error
