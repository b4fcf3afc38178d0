"""What a transaction tells, checked when it is told and kept until the commit writes it down."""

from __future__ import annotations

from typing import Any, Final

import msgspec
from msgspec import Struct

from plugin_api.errors import KernelBug, PayloadTooLarge
from plugin_api.event_schemas import Payload, unknown_fields
from plugin_api.events import Event, Origin
from plugin_api.limits import EVENT_BYTES_MAX, EVENT_SUBJECT_BYTES_MAX, EVENTS_PER_TRANSACTION_MAX

_encoder: Final = msgspec.json.Encoder(decimal_format="string")


class Told:
    """The events of one transaction, in order."""

    __slots__ = ("_ids", "_origin", "_payloads", "_subjects", "_types")

    def __init__(self, origin: Origin) -> None:
        self._origin = origin
        self._ids: list[Any] = []
        self._types: list[str] = []
        self._subjects: list[str] = []
        self._payloads: list[str] = []

    def add(self, event: Event) -> None:
        """Keep one event.

        Raises:
            KernelBug, PayloadTooLarge: see `Tx.emit`.
        """
        if len(self._ids) >= EVENTS_PER_TRANSACTION_MAX:
            raise KernelBug(f"a transaction emits at most {EVENTS_PER_TRANSACTION_MAX} events")
        if event.type not in self._origin.emits:
            raise KernelBug(f'the manifest does not declare the event {event.type}; add it to "emits" under [events]')
        subject, payload = _subject(event), _payload(event, self._origin.payloads.get(event.type))
        self._subjects.append(subject)
        self._payloads.append(payload)
        self._types.append(event.type)
        self._ids.append(event.id)

    def arguments(self) -> tuple[list[Any], list[str], list[str], list[str], str, str]:
        """Those of `pk.emit`."""
        origin = self._origin
        return self._ids, self._types, self._subjects, self._payloads, origin.actor, origin.traceparent

    def only(self) -> tuple[Any, str, str, str, str, str] | None:
        """Those of `pk.emit_one`; None when there are several events."""
        if len(self._ids) > 1:
            return None
        origin = self._origin
        return self._ids[0], self._types[0], self._subjects[0], self._payloads[0], origin.actor, origin.traceparent


def _subject(event: Event) -> str:
    size = len(event.subject.encode("utf-8", "surrogatepass"))
    if not 0 < size <= EVENT_SUBJECT_BYTES_MAX or not event.subject.isprintable():
        raise KernelBug(
            f"the subject of {event.type} has {size} bytes, or something that cannot be printed; it is the id of the entity, "
            f"1 to {EVENT_SUBJECT_BYTES_MAX} bytes"
        )
    return event.subject


def _payload(event: Event, declared: Payload | None) -> str:
    encoded = _encoded(event, event.data) if declared is None else _as_declared(event, declared)
    if len(encoded) > EVENT_BYTES_MAX:
        raise PayloadTooLarge(
            f"the data of {event.type} has {len(encoded)} bytes, and at most {EVENT_BYTES_MAX} are allowed; put what is "
            "large into a blob and tell its key",
            code="event_too_large",
        )
    return encoded.decode()


def _encoded(event: Event, data: Any) -> bytes:
    try:
        return _encoder.encode(data)
    except (TypeError, ValueError) as error:
        raise KernelBug(f"the data of {event.type} is no JSON: {error}") from error


def _as_declared(event: Event, declared: Payload) -> bytes:
    """The JSON of data that fits what was declared, types and bounds of `Meta` included.

    A Struct's constructor checks neither, so what is about to be written is read back, as a consumer would.
    """
    name = declared.struct.__name__
    is_one = type(event.data) is declared.struct
    if isinstance(event.data, Struct) and not is_one:
        seen = type(event.data).__name__
        raise KernelBug(f"the data of {event.type} is a {seen}, and {name} is declared; tell exactly that")
    encoded = _encoded(event, event.data)
    try:
        read = declared.read(encoded)
    except msgspec.ValidationError as error:
        raise KernelBug(f"the data of {event.type} does not fit {name}: {error}") from error
    if is_one:
        return encoded
    unknown = sorted(unknown_fields(declared.schema, msgspec.json.decode(encoded)))
    if unknown:
        raise KernelBug(
            f"the data of {event.type} has {', '.join(unknown[:10])}, which {name} has not; add the field to {name}"
        )
    return _encoded(event, read)
