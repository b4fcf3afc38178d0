"""From the Struct that an operation answers to the bytes of its JSON."""

from __future__ import annotations

import math
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any, Final, get_args, get_origin

import msgspec
from msgspec import inspect

from host.wire_schema import inspected
from plugin_api.errors import KernelBug
from plugin_api.limits import INTEGER_MAX
from plugin_api.streams import Stream

Encode = Callable[[Any], bytes]
Test = Callable[[Any], bool]


def compile_encoder(answer_type: Any) -> Encode:
    """Make `encode(answer) -> bytes`: snake_case JSON, UTC times with `Z`, base64url bytes, exact integers.

    msgspec encodes; a test that is compiled once for each type tells first whether it would encode as promised. What
    the test doubts is walked through and put right, or refused.

    The function raises KernelBug when the answer is of another type, or holds what the wire cannot say.

    Raises:
        SchemaError: the type cannot go over the wire.
    """
    if answer_type is None or answer_type is type(None):
        return _encode_nothing
    if answer_type is Stream:
        return _encode_stream
    classes = _classes(answer_type)
    is_plain = ValueTests().compile(inspected(answer_type))
    encode = msgspec.json.Encoder().encode

    def checked(answer: Any) -> bytes:
        if classes and type(answer) not in classes:
            raise KernelBug(f"the operation answered a {type(answer).__name__} and declares {answer_type!r}")
        try:
            return encode(answer if is_plain(answer) else _wire_value(answer))
        except UnicodeEncodeError:
            raise KernelBug("the answer holds text that is not Unicode") from None
        except (AttributeError, TypeError, ValueError, RecursionError) as error:
            raise KernelBug(f"the answer is not what its type says: {error}") from error

    return checked


def _encode_nothing(answer: Any) -> bytes:
    if answer is not None:
        raise KernelBug(f"the operation declares no answer and gave a {type(answer).__name__}")
    return b""


def _encode_stream(answer: Any) -> bytes:
    raise KernelBug(f"the operation declares a Stream and gave a {type(answer).__name__}")


def _classes(answer_type: Any) -> tuple[type, ...]:
    """The classes that an answer may have; empty when that cannot be told."""
    origin = get_origin(answer_type)
    if isinstance(answer_type, type) and origin is None:
        return (answer_type,) if issubclass(answer_type, msgspec.Struct) else ()
    if isinstance(origin, type) and issubclass(origin, msgspec.Struct):
        return (origin,)
    inner = [_classes(argument) for argument in get_args(answer_type)]
    return tuple(cls for classes in inner for cls in classes) if inner and all(inner) else ()


# ----------------------------------------------------------------------------------------------- the test

ALWAYS: Final = "True"
NEVER: Final = "False"
_PLAIN: Final = (
    inspect.NoneType,
    inspect.BoolType,
    inspect.StrType,
    inspect.UUIDType,
    inspect.DateType,
    inspect.TimeType,
    inspect.TimeDeltaType,
    inspect.DecimalType,
    inspect.EnumType,
    inspect.LiteralType,
)


class ValueTests:
    """Writes one Python expression for each type: a page of 50 entities costs 3 us this way, 30 us with closures."""

    def __init__(self) -> None:
        self._names: dict[str, Any] = {
            "UTC": UTC,
            "UNSET": msgspec.UNSET,
            "isfinite": math.isfinite,
        }
        self._structs: dict[Any, str] = {}

    def compile(self, kind: inspect.Type) -> Test:
        """The test of a type."""
        return self._function(self.condition(kind, "value"))

    def _function(self, condition: str) -> Test:
        # Made of field names, which are identifiers, and of nothing that anybody sends.
        test: Test = eval(f"lambda value: {condition}", self._names)  # noqa: S307
        return test

    def condition(self, kind: inspect.Type, value: str) -> str:
        """What must hold for the expression `value`, as an expression."""
        while isinstance(kind, inspect.Metadata):
            kind = kind.type
        match kind:
            case inspect.IntType():
                return f"{-INTEGER_MAX} <= {value} <= {INTEGER_MAX}"
            case inspect.FloatType():
                return f"isfinite({value})"
            case inspect.DateTimeType():
                return f"{value}.tzinfo is UTC"
            case inspect.StructType():
                name = self._struct(kind)
                return ALWAYS if name == ALWAYS else f"{name}({value})"
            case inspect.UnionType(types=types):
                return self.union(types, value)
            case (
                inspect.DictType(key_type=key, value_type=inner)
                | inspect.FrozenDictType(key_type=key, value_type=inner)
            ):
                return self._each(inner, f"{value}.values()") if isinstance(key, inspect.StrType) else NEVER
            case inspect.CollectionType(item_type=item):
                return self._each(item, value)
            case _:
                return ALWAYS if isinstance(kind, _PLAIN) else NEVER

    def union(self, types: Iterable[inspect.Type], value: str) -> str:
        """The same where it is one of several types."""
        conditions = [self.condition(kind, value) for kind in types if not isinstance(kind, inspect.NoneType)]
        if all(condition == ALWAYS for condition in conditions):
            return ALWAYS
        return f"({value} is None or {conditions[0]})" if len(conditions) == 1 else NEVER

    def _each(self, kind: inspect.Type, values: str) -> str:
        condition = self.condition(kind, "entry")
        if condition in (ALWAYS, NEVER):
            return condition if condition == ALWAYS else f"not {values}"
        name = condition.removesuffix("(entry)")
        if name in self._names:
            return f"False not in map({name}, {values})"
        return f"all([{condition} for entry in {values}])"

    def _struct(self, kind: inspect.StructType) -> str:
        if kind.cls not in self._structs:
            name = self._structs[kind.cls] = f"struct_{len(self._structs)}"
            self._names[name] = None  # the type may contain itself
            tests = [test for field in kind.fields if (test := self._field(field)) != ALWAYS]
            if not tests:
                self._structs[kind.cls] = ALWAYS
            self._names[name] = self._function(" and ".join(tests) or ALWAYS)
        return self._structs[kind.cls]

    def _field(self, field: inspect.Field) -> str:
        value = f"value.{field.name}"
        condition = self.condition(field.type, value)
        if condition == ALWAYS or field.required:
            return condition
        return f"({value} is UNSET or {condition})"


# --------------------------------------------------------------------------------------------- the walk


def _wire_value(answer: Any) -> Any:
    plain = msgspec.to_builtins(answer, builtin_types=(datetime, bytes, bytearray, memoryview), str_keys=True)
    return _checked_value(plain, "")


def _checked_value(value: Any, where: str) -> Any:
    match value:
        case dict():
            return {name: _checked_value(entry, f"{where}.{name}") for name, entry in value.items()}
        case list() | tuple():
            return [_checked_value(entry, f"{where}[{index}]") for index, entry in enumerate(value)]
        case datetime():
            return _utc(value, where)
        case bytes() | bytearray() | memoryview():
            return urlsafe_b64encode(bytes(value)).rstrip(b"=").decode("ascii")
        case int() if not -INTEGER_MAX <= value <= INTEGER_MAX:
            raise KernelBug(f"the answer's {where.lstrip('.')} is an integer beyond 2^53-1")
        case float() if not math.isfinite(value):
            raise KernelBug(f"the answer's {where.lstrip('.')} is no finite number")
        case str() if not value.isascii():
            return _unicode(value, where)
        case _:
            return value


def _utc(value: datetime, where: str) -> datetime:
    if value.utcoffset() is None:
        raise KernelBug(f"the answer's {where.lstrip('.')} is a time without a time zone")
    return value.astimezone(UTC)


def _unicode(value: str, where: str) -> str:
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise KernelBug(f"the answer's {where.lstrip('.')} is not Unicode") from None
    return value
