"""From registered operations to their gRPC contract.

What has no form of its own in protobuf but has one in JSON is `google.protobuf.Value`. Nothing here needs protobuf itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from enum import Enum
from keyword import iskeyword
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast

from msgspec import NODEFAULT, inspect
from msgspec.structs import replace

from host.wire.lock import Lock
from host.wire.model import (
    EMPTY,
    STRUCT,
    TIMESTAMP,
    VALUE,
    Codec,
    Contract,
    Many,
    WireEnum,
    WireField,
    WireMessage,
    WireMethod,
    WireService,
    camel,
    enum_value_name,
    service_name,
)
from host.wire_schema import SchemaError, component_name, inspected

if TYPE_CHECKING:
    from host.generations import RegisteredOperation

_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_]*\Z")
_RECORDS: Final = (inspect.StructType, inspect.TypedDictType, inspect.DataclassType)
_EMPTIES: Final = (list, dict, set, tuple, frozenset)


class NoForm(ValueError):
    """A type has no form in gRPC; says which and why."""


class _Element(NamedTuple):
    """One value, without its cardinality."""

    type: str
    codec: Codec


_TEXT: Final = _Element("string", "plain")
_BYTES: Final = _Element("bytes", "base64")
_OBJECT: Final = _Element(STRUCT, "object")
_SIMPLE: Final[dict[type[inspect.Type], _Element]] = {
    inspect.StrType: _TEXT,
    inspect.UUIDType: _TEXT,
    inspect.DateType: _TEXT,
    inspect.TimeType: _TEXT,
    inspect.TimeDeltaType: _TEXT,
    inspect.DecimalType: _TEXT,
    inspect.IntType: _Element("int64", "plain"),
    inspect.FloatType: _Element("double", "plain"),
    inspect.BoolType: _Element("bool", "plain"),
    inspect.BytesType: _BYTES,
    inspect.ByteArrayType: _BYTES,
    inspect.MemoryViewType: _BYTES,
    inspect.DictType: _OBJECT,
    inspect.FrozenDictType: _OBJECT,
}


def contract_of(package: str, operations: Sequence[RegisteredOperation], lock: Lock) -> Contract:
    """The contract of one plugin's operations. Names of types follow the lock, so that they stay whatever is added."""
    return _Builder(package, operations, lock).build()


class _Builder:
    def __init__(self, package: str, operations: Sequence[RegisteredOperation], lock: Lock) -> None:
        self._package = package
        self._operations = operations
        self._messages: dict[str, WireMessage] = {}
        self._enums: dict[str, WireEnum] = {}
        self._enum_names: set[str] = set()
        self._names: dict[Any, str] = {}
        self._services = {service_name(one.service) for one in operations}
        self._lock = lock

    def build(self) -> Contract:
        """All of it."""
        self._name_types()
        services: dict[str, list[WireMethod]] = {}
        lacking: dict[str, str] = {}
        for one in self._operations:
            methods = services.setdefault(service_name(one.service), [])
            kept = dict(self._messages)
            try:
                method = self._method(one)
                if any(method.name == other.name for other in methods):
                    raise NoForm(f"{service_name(one.service)} has a method {method.name} already")
                methods.append(method)
            except (NoForm, SchemaError) as error:
                self._messages = kept
                lacking[one.bound.id] = error.detail if isinstance(error, SchemaError) else str(error)
        found = tuple(WireService(name, tuple(methods)) for name, methods in services.items() if methods)
        return Contract(self._package, tuple(self._messages.values()), tuple(self._enums.values()), found, lacking)

    def _method(self, one: RegisteredOperation) -> WireMethod:
        name, operation = one.bound.id.rsplit(".", 1)[1], one.bound.id
        if one.bound.spec.stream:
            raise NoForm("its body or answer is a stream of bytes; use REST")
        if not _NAME.match(name) or not _NAME.match(service_name(one.service)):
            raise NoForm(f"{one.service}.{name} is no name in protobuf; use ASCII letters, digits and underscores")
        request = self._record(inspected(one.request_type))
        if one.answer_type is None:
            return WireMethod(camel(name), operation, request, EMPTY)
        kind = _bare(inspected(one.answer_type))
        if isinstance(kind, _RECORDS):
            return WireMethod(camel(name), operation, request, self._record(kind))
        boxed = f"{service_name(one.service)}{camel(name)}Answer"
        answer = self._box(self._free(boxed), inspected(one.answer_type))
        return WireMethod(camel(name), operation, request, answer, is_boxed=True)

    # ------------------------------------------------------------------------------------------- names

    def _name_types(self) -> None:
        """Give every class its name: that of the lock, else its own, with a number behind it when that is taken."""
        classes = list(_classes(self._operations))
        origins = {_origin(cls): cls for cls in classes}
        locked = {origin: name for name, origin in self._lock.origins().items() if origin in origins}
        taken = {*self._services, *locked.values()}
        for cls in classes:
            name = locked.get(_origin(cls))
            if name is None or name in self._names.values():
                name = _first_free(component_name(cls), taken)
            self._names[cls] = name
            taken.add(name)

    def _free(self, name: str) -> str:
        return _first_free(name, {*self._services, *self._names.values()} - {name})

    # ---------------------------------------------------------------------------------------- messages

    def _record(self, kind: inspect.Type) -> str:
        kind = _bare(kind)
        if not isinstance(kind, _RECORDS) or (isinstance(kind, inspect.StructType) and kind.array_like):
            raise NoForm("a request or an answer that is an array has no names for its fields; use a plain Struct")
        name = self._names[kind.cls]
        if not _NAME.match(name):
            raise NoForm(f"{name} is no name in protobuf; use ASCII letters, digits and underscores")
        if name not in self._messages:
            tag_field = (kind.tag_field or "") if isinstance(kind, inspect.StructType) else ""
            tag = cast("str | int", kind.tag) if isinstance(kind, inspect.StructType) and tag_field else ""
            message = WireMessage(name, (), "record", _origin(kind.cls), tag_field, tag)
            self._messages[name] = message  # a type may contain itself
            fields = tuple(self._field(name, field) for field in kind.fields)
            self._messages[name] = replace(message, fields=fields)
        return name

    def _field(self, owner: str, field: inspect.Field) -> WireField:
        if not _NAME.match(field.name) or iskeyword(field.name):
            raise NoForm(f"{owner}.{field.name} is no name in protobuf; use ASCII letters, digits and underscores")
        kind, is_nullable = _without_null(field.type)
        nested = f"{owner}.{camel(field.name)}"
        nested += "_" if nested.endswith("Entry") else ""  # protobuf's own name of what a map holds
        required = field.required
        if _is_collection(kind):
            if not is_nullable and (required or _is_empty(field)):
                element, many = self._many(kind, nested)
                return WireField(field.name, field.encode_name, *element, many, required=required)
            box = self._box(nested, kind)
            needed, is_null = required and not is_nullable, required and is_nullable
            return WireField(field.name, field.encode_name, box, "message", required=needed, is_null=is_null)
        element = self._element(kind, nested)
        if element.codec != "value" and is_nullable and not required and field.default is not None:
            box = self._box(nested, field.type)
            return WireField(field.name, field.encode_name, box, "message")
        needed, is_null = required and not is_nullable, required and is_nullable
        return WireField(field.name, field.encode_name, *element, presence=not needed, required=needed, is_null=is_null)

    def _box(self, name: str, kind: inspect.Type) -> str:
        """A message around one value that may be null, or one list."""
        while name in self._messages:
            name += "_"
        self._messages[name] = WireMessage(name, (), "box")
        inner, is_nullable = _without_null(kind)
        if _is_collection(inner) and not is_nullable:
            element, many = self._many(inner, f"{name}.Item")
            field = WireField("items", "items", *element, many)
        elif _is_collection(inner):
            box = self._box(f"{name}.Value", inner)
            field = WireField("value", "value", box, "message")
        else:
            element = self._element(inner, f"{name}.Value")
            field = WireField("value", "value", *element, presence=True)
        self._messages[name] = replace(self._messages[name], fields=(field,))
        return name

    def _many(self, kind: inspect.Type, nested: str) -> tuple[_Element, Many]:
        if isinstance(kind, inspect.DictType | inspect.FrozenDictType):
            return self._entry(kind.value_type, nested), "map"
        return self._entry(cast("inspect.CollectionType", kind).item_type, nested), "list"

    def _entry(self, kind: inspect.Type, nested: str) -> _Element:
        """One of many: what protobuf cannot put there as it is goes into a box."""
        inner, is_nullable = _without_null(kind)
        if _is_collection(inner) or (is_nullable and not _is_any(inner)):
            return _Element(self._box(f"{nested}Item", kind), "message")
        return self._element(inner, f"{nested}Item")

    def _element(self, kind: inspect.Type, nested: str) -> _Element:
        simple = _SIMPLE.get(type(kind))
        if simple is not None:
            return simple
        match kind:
            case inspect.DateTimeType(tz=zone):
                return _Element("string", "plain") if zone is False else _Element(TIMESTAMP, "time")
            case inspect.LiteralType(values=values):
                return _of_values(values)
            case inspect.EnumType(cls=cls):
                return self._enum(cls)
            case inspect.UnionType(types=types):
                return self._union(types, nested)
            case _ if isinstance(kind, _RECORDS):
                return _Element(self._record(kind), "message")
            case _:
                return _Element(VALUE, "value")

    def _union(self, types: Iterable[inspect.Type], nested: str) -> _Element:
        members = [bare for one in types if isinstance(bare := _bare(one), inspect.StructType)]
        tags = [str(one.tag) for one in members if one.tag_field is not None]
        if len(members) < 2 or len(members) != len(tuple(types)) or len(tags) != len(members):
            return _Element(VALUE, "value")
        names = [_lower(tag) for tag in tags]
        if len(set(names)) != len(names) or not all(map(_NAME.match, names)):
            return _Element(VALUE, "value")
        while nested in self._messages:
            nested += "_"
        self._messages[nested] = WireMessage(nested, (), "union", tag_field=members[0].tag_field or "")
        fields = tuple(
            WireField(name, tag, self._record(one), "message")
            for name, tag, one in zip(names, tags, members, strict=True)
        )
        self._messages[nested] = replace(self._messages[nested], fields=fields)
        return _Element(nested, "message")

    def _enum(self, cls: type[Enum]) -> _Element:
        values = [member.value for member in cls]
        words = [str(value).upper() for value in values]
        is_wordy = all(isinstance(value, str) and _NAME.match(value) for value in values)
        if not is_wordy or len(set(words)) != len(words) or "UNSPECIFIED" in words:
            return _of_values(values)
        name = self._names[cls]
        if name not in self._enums:
            named = {enum_value_name(name, word) for word in ("unspecified", *values)}
            if named & self._enum_names or not _NAME.match(name):
                return _of_values(values)
            self._enum_names |= named
            self._enums[name] = WireEnum(name, tuple(values), _origin(cls))
        return _Element(name, "enum")


# ------------------------------------------------------------------------------------------------ kinds


def _bare(kind: inspect.Type) -> inspect.Type:
    while isinstance(kind, inspect.Metadata):
        kind = kind.type
    return kind


def _without_null(kind: inspect.Type) -> tuple[inspect.Type, bool]:
    """A type without its null, and whether it had one."""
    kind = _bare(kind)
    if not isinstance(kind, inspect.UnionType):
        return kind, False
    rest = [one for one in kind.types if not isinstance(_bare(one), inspect.NoneType)]
    is_nullable = len(rest) < len(kind.types)
    inner = _bare(rest[0]) if len(rest) == 1 else inspect.UnionType(tuple(rest))
    return inner, is_nullable


def _is_any(kind: inspect.Type) -> bool:
    return isinstance(_bare(kind), inspect.AnyType)


def _is_collection(kind: inspect.Type) -> bool:
    """Whether it is a list or a map to protobuf; `dict[str, Any]` is an object, a tuple of fixed types any JSON."""
    if isinstance(kind, inspect.DictType | inspect.FrozenDictType):
        return not _is_any(kind.value_type)
    return isinstance(kind, inspect.CollectionType) and not isinstance(kind, inspect.TupleType)


def _is_empty(field: inspect.Field) -> bool:
    """Whether the default of a list or map is the empty one."""
    if field.default_factory is not NODEFAULT:
        return field.default_factory in _EMPTIES
    return field.default is not NODEFAULT and isinstance(field.default, _EMPTIES) and not field.default


def _of_values(values: Iterable[Any]) -> _Element:
    listed = list(values)
    if all(isinstance(value, str) for value in listed):
        return _Element("string", "plain")
    if all(isinstance(value, int) and not isinstance(value, bool) for value in listed):
        return _Element("int64", "plain")
    return _Element(VALUE, "value")


def _lower(tag: str) -> str:
    """A tag as the name of a field: `CardPayment` is `card_payment`."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", tag)
    return re.sub(r"[^A-Za-z0-9]+", "_", spaced).lower()


def _origin(cls: Any) -> str:
    module = str(getattr(cls, "__module__", "")).rsplit(".", 1)[-1]
    return f"{module}.{component_name(cls)}"


def _first_free(name: str, taken: set[str]) -> str:
    number, found = 2, name
    while found in taken:
        found, number = f"{name}{number}", number + 1
    return found


def _classes(operations: Iterable[RegisteredOperation]) -> Iterator[Any]:
    """Every class that has a name of its own, once each, in the order in which they are met."""
    seen: set[Any] = set()
    for one in operations:
        if not one.bound.spec.stream:
            for type_ in (one.request_type, one.answer_type):
                if type_ is not None:
                    yield from _classes_in(inspected(type_), seen)


def _classes_in(kind: inspect.Type, seen: set[Any]) -> Iterator[Any]:
    kind = _bare(kind)
    cls = getattr(kind, "cls", None)
    if isinstance(kind, (*_RECORDS, inspect.EnumType)):
        if cls in seen:
            return
        seen.add(cls)
        yield cls
    for inner in _inner(kind):
        yield from _classes_in(inner, seen)


def _inner(kind: inspect.Type) -> Iterable[inspect.Type]:
    match kind:
        case inspect.UnionType(types=types):
            return types
        case inspect.DictType() | inspect.FrozenDictType():
            return (kind.value_type,)
        case inspect.TupleType(item_types=types):
            return types
        case inspect.CollectionType(item_type=item):
            return (item,)
        case _ if isinstance(kind, _RECORDS):
            return [field.type for field in kind.fields]
        case _:
            return ()
