"""JSON Schema 2020-12 of the Structs that go over the wire: one dialect for checking requests and for the document.

It says more than msgspec's own: integers stay exact, time is RFC 3339 with an offset, bytes are base64url, requests are
closed, and patterns are ECMA-262. What it accepts is accepted and what it refuses is refused: it is the law.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any, Final, Literal, cast

import msgspec
from msgspec import NODEFAULT, inspect

from host.docstrings import FieldNotes, documentation
from host.ecma_pattern import NotPortable, ecma_pattern
from plugin_api.limits import INTEGER_MAX
from plugin_api.manifest import ManifestError

Schema = dict[str, Any]
Direction = Literal["request", "answer"]
Namer = Callable[[Any], str]

BASE64URL: Final = "^(?:[A-Za-z0-9_-]{4})*(?:[A-Za-z0-9_-]{2,3})?$"
INTEGER_TEXT: Final = "^-?(?:0|[1-9][0-9]*)$"
_RECORDS: Final = (inspect.StructType, inspect.TypedDictType, inspect.DataclassType)
_UNNAMED: Final = re.compile(r"[^A-Za-z0-9]+")
_JSON_NAMES: Final = {
    str: "string",
    bool: "boolean",
    int: "integer",
    float: "number",
    type(None): "null",
}


class SchemaError(ManifestError):
    """A type cannot go over the wire; the text names it and the field."""


def component_name(cls: Any) -> str:
    """The plain name of a type: `UserView`, `UserViewPage` for `Page[UserView]`."""
    arguments = getattr(cls, "__args__", ())
    origin = getattr(cls, "__origin__", cls)
    return "".join([*map(_argument_name, arguments), _UNNAMED.sub("", origin.__name__)])


def _argument_name(argument: Any) -> str:
    name = component_name(argument) if hasattr(argument, "__name__") else repr(argument)
    return _UNNAMED.sub("", name[:1].upper() + name[1:])


def inspected(type_: Any) -> inspect.Type:
    """What msgspec makes of a type. SchemaError when it cannot make anything of it."""
    try:
        return inspect.type_info(type_)
    except (TypeError, NameError) as error:
        raise SchemaError(f"{_shown_type(type_)} cannot go over the wire: {error}") from error


class Schemas:
    """Makes schemas of types in one direction; what has a name is collected in `components` and referred to."""

    def __init__(
        self,
        direction: Direction,
        prefix: str = "#/$defs/",
        namer: Namer = component_name,
        notes: FieldNotes | None = None,
    ) -> None:
        self.components: dict[str, Schema] = {}
        self._direction = direction
        self._prefix = prefix
        self._namer = namer
        self._notes = notes
        self._named: dict[str, Any] = {}

    def of(self, type_: Any) -> Schema:
        """The schema of a type. SchemaError when it cannot go over the wire."""
        return self.of_kind(inspected(type_), _shown_type(type_))

    def of_kind(self, kind: inspect.Type, where: str) -> Schema:
        """The same for a type that msgspec has inspected; `where` names it in errors."""
        extra: Schema = {}
        while isinstance(kind, inspect.Metadata):
            extra = {**(kind.extra_json_schema or {}), **extra}
            kind = kind.type
        return {**self._plain(kind, where), **extra}

    def record(
        self,
        kind: inspect.Type,
        where: str,
        fields: Iterable[inspect.Field],
        closed: bool | None = None,
    ) -> Schema:
        """The object schema of these fields of a Struct."""
        descriptions = self._notes.of(getattr(kind, "cls", None)) if self._notes else {}
        properties: dict[str, Schema] = {}
        required: list[str] = []
        if isinstance(kind, inspect.StructType) and kind.tag_field is not None:
            properties[kind.tag_field] = {"const": kind.tag}
            required.append(kind.tag_field)
        for field in fields:
            properties[field.encode_name] = self._field(
                field, f"{where}.{field.name}", descriptions.get(field.name, "")
            )
            if self._is_required(kind, field):
                required.append(field.encode_name)
        schema: Schema = {"type": "object", "properties": properties}
        if required:
            schema["required"] = required
        if self._direction == "request" if closed is None else closed:
            schema["additionalProperties"] = False
        return schema

    # ------------------------------------------------------------------------------------- plain types

    def _plain(self, kind: inspect.Type, where: str) -> Schema:
        fixed = _fixed(kind)
        if fixed is not None:
            return fixed
        match kind:
            case inspect.StrType():
                return _text(kind, where)
            case inspect.LiteralType(values=values):
                return _choice(values)
            case inspect.UnionType(types=types):
                return self._union(types, where)
            case inspect.EnumType(cls=cls):
                return self._named_schema(cls, lambda: {**self.described(cls), **_choice([e.value for e in cls])})
            case _:
                return self._container(kind, where)

    def _container(self, kind: inspect.Type, where: str) -> Schema:
        match kind:
            case inspect.DictType() | inspect.FrozenDictType():
                return self._map(kind, where)
            case inspect.TupleType(item_types=types):
                items = [self.of_kind(entry, f"{where}[{index}]") for index, entry in enumerate(types)]
                count = len(items)
                return {
                    "type": "array",
                    "prefixItems": items,
                    "items": False,
                    "minItems": count,
                    "maxItems": count,
                }
            case inspect.CollectionType():
                return self._array(kind, where)
            case inspect.StructType(array_like=True) | inspect.NamedTupleType():
                raise SchemaError(
                    f"{where} goes over the wire as an array; use a plain Struct, whose fields have names"
                )
            case _ if isinstance(kind, _RECORDS):
                return self._named_schema(
                    kind.cls,
                    lambda: {**self.described(kind.cls), **self.record(kind, where, kind.fields)},
                )
            case _:
                raise SchemaError(
                    f"{where} has the type {_shown_kind(kind)}, which has no JSON form; use what JSON can say"
                )

    def _array(self, kind: inspect.CollectionType, where: str) -> Schema:
        schema: Schema = {"type": "array", "items": self.of_kind(kind.item_type, f"{where}[]")}
        schema |= _bounds({"minItems": kind.min_length, "maxItems": kind.max_length})
        if isinstance(kind, inspect.SetType | inspect.FrozenSetType):
            schema["uniqueItems"] = True
        return schema

    def _map(self, kind: inspect.DictType | inspect.FrozenDictType, where: str) -> Schema:
        names = self.of_kind(kind.key_type, f"{where} (keys)")
        schema: Schema = {
            "type": "object",
            "additionalProperties": self.of_kind(kind.value_type, f"{where}{{}}"),
        }
        schema |= _bounds({"minProperties": kind.min_length, "maxProperties": kind.max_length})
        if names.get("type") == "integer":
            names = {"pattern": INTEGER_TEXT}
        elif names.get("type") not in ("string", None) or "anyOf" in names:
            raise SchemaError(f"{where} has keys that are no texts; JSON has no others")
        names.pop("type", None)
        return {**schema, "propertyNames": names} if names else schema

    def _union(self, types: Iterable[inspect.Type], where: str) -> Schema:
        kinds = sorted(types, key=lambda kind: isinstance(_bare(kind), inspect.NoneType))
        options = [self.of_kind(kind, where) for kind in kinds]
        if len(options) == 1:
            return options[0]
        schema: Schema = {"anyOf": options}
        structs = [bare for kind in kinds if isinstance(bare := _bare(kind), inspect.StructType)]
        tagged = [struct for struct in structs if struct.tag_field is not None]
        if len(tagged) > 1:
            mapping = {str(struct.tag): f"{self._prefix}{self._namer(struct.cls)}" for struct in tagged}
            schema["discriminator"] = {"propertyName": tagged[0].tag_field, "mapping": mapping}
        return schema

    def _field(self, field: inspect.Field, where: str, description: str) -> Schema:
        schema = self.of_kind(field.type, where)
        if description and "description" not in schema:
            schema = {"description": description, **schema}
        if self._direction == "request":
            default = _default(field)
            if default is not NODEFAULT:
                schema = {**schema, "default": default}
        return schema

    def _is_required(self, kind: inspect.Type, field: inspect.Field) -> bool:
        if field.required:
            return True
        if self._direction == "request" or not isinstance(kind, inspect.StructType):
            return False
        has_default = field.default is not NODEFAULT or field.default_factory is not NODEFAULT
        cls = getattr(kind.cls, "__origin__", kind.cls)
        return has_default and not cls.__struct_config__.omit_defaults

    def _named_schema(self, cls: Any, make: Callable[[], Schema]) -> Schema:
        name = self._namer(cls)
        if name in self._named and self._named[name] != cls:
            name = self._free_name(name, cls)
        if name not in self._named:
            self._named[name] = cls
            self.components[name] = {}  # a type may contain itself
            self.components[name] = make()
        return {"$ref": f"{self._prefix}{name}"}

    def described(self, cls: Any) -> Schema:
        """The description of a class, from its docstring."""
        text = documentation(cls) if self._notes else ""
        return {"description": text} if text else {}

    def _free_name(self, name: str, cls: Any) -> str:
        number = 2
        while self._named.get(f"{name}{number}", cls) != cls:
            number += 1
        return f"{name}{number}"


# --------------------------------------------------------------------------------------------- leaves


_FORMATS: Final[dict[type[inspect.Type], str]] = {
    inspect.UUIDType: "uuid",
    inspect.DateType: "date",
    inspect.TimeDeltaType: "duration",
    inspect.DecimalType: "decimal",
}
_SIMPLE: Final[dict[type[inspect.Type], Schema]] = {
    inspect.AnyType: {},
    inspect.NoneType: {"type": "null"},
    inspect.BoolType: {"type": "boolean"},
}


def _fixed(kind: inspect.Type) -> Schema | None:
    """The schema of a type that holds no other and has no text of its own."""
    if type(kind) in _SIMPLE:
        return dict(_SIMPLE[type(kind)])
    match kind:
        case inspect.IntType():
            return _integer(kind)
        case inspect.FloatType():
            return {"type": "number", **_number_bounds(kind)}
        case inspect.BytesType() | inspect.ByteArrayType() | inspect.MemoryViewType():
            return _bytes(kind)
        case inspect.DateTimeType(tz=zone):
            return {"type": "string", "format": "date-time-local" if zone is False else "date-time"}
        case inspect.TimeType(tz=zone):
            return {"type": "string", "format": "time" if zone else "time-local"}
        case _:
            named = _FORMATS.get(type(kind))
            return {"type": "string", "format": named} if named is not None else None


def _integer(kind: inspect.IntType) -> Schema:
    schema: Schema = {"type": "integer", **_number_bounds(kind)}
    if kind.gt is None:
        schema["minimum"] = -INTEGER_MAX if kind.ge is None else max(kind.ge, -INTEGER_MAX)
    if kind.lt is None:
        schema["maximum"] = INTEGER_MAX if kind.le is None else min(kind.le, INTEGER_MAX)
    return schema


def _number_bounds(kind: inspect.IntType | inspect.FloatType) -> Schema:
    return _bounds(
        {
            "minimum": kind.ge,
            "exclusiveMinimum": kind.gt,
            "maximum": kind.le,
            "exclusiveMaximum": kind.lt,
            "multipleOf": kind.multiple_of,
        }
    )


def _bounds(named: Schema) -> Schema:
    return {name: value for name, value in named.items() if value is not None}


def _text(kind: inspect.StrType, where: str) -> Schema:
    schema: Schema = {
        "type": "string",
        **_bounds({"minLength": kind.min_length, "maxLength": kind.max_length}),
    }
    if kind.pattern is not None:
        try:
            schema["pattern"] = ecma_pattern(kind.pattern)
        except NotPortable as error:
            said = f"{where} has the pattern {kind.pattern!r}, and {error} means nothing outside Python"
            raise SchemaError(f"{said}; write it as ECMA-262 can read it") from None
    return schema


def _bytes(kind: inspect.BytesType | inspect.ByteArrayType | inspect.MemoryViewType) -> Schema:
    lengths = {"minLength": kind.min_length, "maxLength": kind.max_length}
    in_characters = {name: -(-4 * count // 3) for name, count in lengths.items() if count is not None}
    return {"type": "string", "contentEncoding": "base64url", "pattern": BASE64URL, **in_characters}


def _choice(values: Iterable[Any]) -> Schema:
    listed = list(values)
    kinds = {_JSON_NAMES.get(type(value)) for value in listed}
    named = kinds.pop() if len(kinds) == 1 else None
    return {"type": named, "enum": listed} if named is not None else {"enum": listed}


def _default(field: inspect.Field) -> Any:
    value = field.default
    if value is NODEFAULT and field.default_factory in (list, dict, set):
        value = field.default_factory()
    if value is NODEFAULT or value is msgspec.UNSET:
        return NODEFAULT
    try:
        return msgspec.json.decode(msgspec.json.encode(value))
    except (TypeError, ValueError, msgspec.MsgspecError):
        return NODEFAULT


def _bare(kind: inspect.Type) -> inspect.Type:
    while isinstance(kind, inspect.Metadata):
        kind = kind.type
    return kind


def _shown_type(type_: Any) -> str:
    return type_.__name__ if isinstance(type_, type) else str(type_)


def _shown_kind(kind: inspect.Type) -> str:
    return _shown_type(getattr(kind, "cls", type(kind)))


def named_fields(kind: inspect.Type) -> dict[str, inspect.Field]:
    """The fields of a Struct by their Python names."""
    return {field.name: field for field in cast("inspect.StructType", _bare(kind)).fields}


def mentions(schema: Any, keyword: str) -> bool:
    """Whether a keyword stands anywhere in a schema."""
    if isinstance(schema, dict):
        return keyword in schema or any(mentions(value, keyword) for value in schema.values())
    return isinstance(schema, list) and any(mentions(entry, keyword) for entry in schema)
