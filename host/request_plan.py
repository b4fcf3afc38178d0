"""What an operation takes, field by field: where each comes from and what it may be."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, cast

from msgspec import inspect

from host.wire_schema import Schema, SchemaError, Schemas, inspected

Source = Literal["path", "query", "body", "octets"]
OCTETS: Final = "application/octet-stream"


@dataclass(frozen=True)
class Octets:
    """The field of a request that may be sent as the whole body, and how many bytes that may have."""

    field: str
    bytes_max: int


@dataclass(frozen=True)
class RequestField:
    """One field of a request, and where it comes from."""

    field: inspect.Field
    source: Source
    schema: Schema

    @property
    def name(self) -> str:
        """Its name on the wire."""
        return self.field.encode_name


@dataclass(frozen=True)
class RequestPlan:
    """What an operation takes, field by field."""

    type: Any
    kind: inspect.StructType
    fields: tuple[RequestField, ...]
    placeholders: tuple[str, ...]
    definitions: dict[str, Schema]
    schema: Schema

    def of_source(self, source: Source) -> list[RequestField]:
        """The fields that come from there."""
        return [field for field in self.fields if field.source == source]

    @property
    def body_is_required(self) -> bool:
        """Whether a request without a body lacks something."""
        return any(field.field.required for field in self.of_source("body"))


def source_of(field: inspect.Field, placeholders: Iterable[str], *, takes_body: bool) -> Source:
    """Where a field comes from; `Annotated[bool, Meta(extra={"in": "query"})]` from the query, whatever the method.

    `Annotated[bytes | None, Meta(extra={"in": "octets", "bytes_max": 1024})]` is the body itself, where that is sent as
    OCTETS instead of JSON.
    """
    if field.name in placeholders:
        return "path"
    told = _extra(field).get("in")
    if told in ("query", "octets"):
        return cast("Source", told)
    return "body" if takes_body else "query"


def _extra(field: inspect.Field) -> dict[str, Any]:
    kind, found = field.type, dict[str, Any]()
    while isinstance(kind, inspect.Metadata):
        found = {**(kind.extra or {}), **found}
        kind = kind.type
    return found


def octets_of(request_type: Any) -> Octets | None:
    """The field that is the body itself, if the request has one."""
    kind = inspected(request_type)
    for field in kind.fields if isinstance(kind, inspect.StructType) else ():
        extra = _extra(field)
        if extra.get("in") == "octets":
            return Octets(field.name, int(extra["bytes_max"]))
    return None


def request_plan(
    request_type: Any,
    placeholders: Sequence[str],
    *,
    takes_body: bool,
    schemas: Schemas | None = None,
) -> RequestPlan:
    """Take a request type apart."""
    maker = schemas or Schemas("request")
    kind = inspected(request_type)
    name = getattr(request_type, "__name__", str(request_type))
    if not isinstance(kind, inspect.StructType) or kind.array_like:
        raise SchemaError(f"{name} is no plain Struct; a request is one")
    schema = maker.record(kind, name, kind.fields)
    fields = tuple(
        RequestField(
            field,
            source_of(field, placeholders, takes_body=takes_body),
            schema["properties"][field.encode_name],
        )
        for field in kind.fields
    )
    by_name = {field.field.name: field.name for field in fields}
    lacking = [placeholder for placeholder in placeholders if placeholder not in by_name]
    if lacking:
        raise SchemaError(f"{name} has no field {', '.join(lacking)} for the path")
    wire_names = tuple(by_name[placeholder] for placeholder in placeholders)
    return RequestPlan(request_type, kind, fields, wire_names, maker.components, schema)
