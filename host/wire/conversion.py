"""Between protobuf messages and the JSON values that they stand for: one function each way, written once for each message.

`read` makes what REST would have got as a body, `write` takes what REST would have answered. What was not sent is left out,
so that defaults, missing fields and nulls mean the same through both doors.
"""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from google.protobuf import message_factory
from google.protobuf.descriptor_pool import DescriptorPool

from host.wire.lock import Lock
from host.wire.model import EMPTY, STRUCT, TIMESTAMP, VALUE, Contract, WireField, WireMessage

Read = Callable[[Any], Any]
Write = Callable[[Any], Any]

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_INTEGRAL_MAX: Final = 2.0**53


class Converters:
    """The classes and functions of one contract, by the names of its messages."""

    def __init__(self, contract: Contract, lock: Lock, pool: DescriptorPool) -> None:
        self._contract = contract
        self._lock = lock
        self._messages = {one.name: one for one in contract.messages}
        self._numbers = {name: number for number, name in enumerate((*self._messages, EMPTY))}
        self.classes = {name: _class_of(pool, f"{contract.package}.{name}") for name in self._messages}
        self.classes[EMPTY] = _class_of(pool, EMPTY[1:])
        self._known = _WellKnown(pool)
        self._namespace = self._names()
        source = "\n".join(line for one in contract.messages for line in (*self._reader(one), *self._writer(one)))
        # Made of names that are ASCII identifiers, of numbers, and of nothing that anybody sends.
        exec(compile(source, "<messages>", "exec"), self._namespace)  # noqa: S102

    def reader(self, message: str) -> Read:
        """`read(message) -> JSON value` of one message."""
        found: Read = self._namespace[self._function("read", message)]
        return found

    def writer(self, message: str) -> Write:
        """`write(JSON value) -> message` of one message."""
        found: Write = self._namespace[self._function("write", message)]
        return found

    def _function(self, verb: str, message: str) -> str:
        return f"{verb}_{self._numbers[message]}"

    def _converter(self, verb: str, field: WireField) -> str:
        """The name of the function that converts one value of a field; empty when none is needed."""
        match field.codec:
            case "plain":
                return ""
            case "message":
                return self._function(verb, field.type)
            case "enum":
                return f"{verb}_enum_{field.type}"
            case codec:
                return f"{verb}_{codec}"

    def _names(self) -> dict[str, Any]:
        names: dict[str, Any] = {
            "read_time": read_time,
            "write_time": self._known.write_time,
            "read_value": read_value,
            "write_value": self._known.write_value,
            "read_object": read_object,
            "write_object": self._known.write_object,
            "read_base64": read_base64,
            "write_base64": write_base64,
        }
        for name, cls in self.classes.items():
            names[self._function("new", name)] = cls
        for enum in self._contract.enums:
            numbers = {word: number for word, number in self._lock.enums[enum.name].words.items() if word in enum.words}
            names[f"read_enum_{enum.name}"] = _word_of({number: word for word, number in numbers.items()})
            names[f"write_enum_{enum.name}"] = numbers.__getitem__
        return names

    # ------------------------------------------------------------------------------------ reading

    def _reader(self, message: WireMessage) -> list[str]:
        lines = [f"def {self._function('read', message.name)}(m):"]
        if message.shape == "box":
            (field,) = message.fields
            value = self._read(field)
            return [*lines, f" return {value}" if field.many else f" return {value} if {_has(field)} else None"]
        if message.shape == "union":
            for field in message.fields:
                lines.append(f" if {_has(field)}: return {self._read(field)}")
            return [*lines, " return None"]
        lines.append(f" d = {{{message.tag_field!r}: {message.tag!r}}}" if message.tag_field else " d = {}")
        lines += [self._read_line(field) for field in message.fields]
        return [*lines, " return d"]

    def _read_line(self, field: WireField) -> str:
        line = f"d[{field.json_name!r}] = {self._read(field)}"
        if field.is_null:
            return f" {line} if {_has(field)} else None"
        if field.many:
            return f" {line}" if field.required else f" if m.{field.name}: {line}"
        if field.presence or field.type not in _PLAIN_ZEROS:
            # An enum without presence is absent when it is zero, which is nobody's word.
            return f" if m.{field.name}: {line}" if _is_bare_enum(field) else f" if {_has(field)}: {line}"
        return f" {line}"

    def _read(self, field: WireField) -> str:
        value = f"m.{field.name}"
        convert = self._converter("read", field)
        if field.many == "map":
            return f"{{k: {convert}(v) for k, v in {value}.items()}}" if convert else f"dict({value})"
        if field.many:
            return f"[{convert}(v) for v in {value}]" if convert else f"list({value})"
        return f"{convert}({value})" if convert else value

    # ------------------------------------------------------------------------------------ writing

    def _writer(self, message: WireMessage) -> list[str]:
        new = self._function("new", message.name)
        lines = [f"def {self._function('write', message.name)}(d):"]
        if message.shape == "box":
            (field,) = message.fields
            return [*lines, f" return {new}({field.name}={self._write(field, 'd')})"]
        if message.shape == "union":
            lines.append(f" tag = d[{message.tag_field!r}]")
            for field in message.fields:
                lines.append(f" if tag == {self._tag(field)!r}: return {new}({field.name}={self._write(field, 'd')})")
            return [*lines, " raise KeyError(tag)"]
        if not message.fields:
            return [*lines, f" return {new}()"]
        given = [f"{field.name}={self._write(field, f'g({field.json_name!r})')}" for field in message.fields]
        return [*lines, " g = d.get", f" return {new}({', '.join(given)})"]

    def _tag(self, field: WireField) -> str | int:
        return self._messages[field.type].tag

    def _write(self, field: WireField, value: str) -> str:
        convert = self._converter("write", field)
        if not convert:
            return value
        if field.many == "map":
            return f"{{k: {convert}(v) for k, v in ({value} or {{}}).items()}}"
        if field.many:
            return f"[{convert}(v) for v in {value} or ()]"
        if value == "d":
            return f"{convert}(d) if d is not None else None"
        if field.codec == "message" and self._messages[field.type].shape == "box" and not field.required:
            return self._write_box(field, convert)
        if field.codec == "value" and field.required:
            return f"{convert}({value})"
        return f"{convert}(v) if (v := {value}) is not None else None"

    def _write_box(self, field: WireField, convert: str) -> str:
        """A box that stands for null is there; one that stands for nothing is not. A list that is null is not, either."""
        (inner,) = self._messages[field.type].fields
        if inner.many:
            return f"{convert}(v) if (v := g({field.json_name!r})) is not None else None"
        return f"{convert}(g({field.json_name!r})) if {field.json_name!r} in d else None"


_PLAIN_ZEROS: Final = frozenset({"string", "int64", "double", "bool", "bytes"})


def _is_bare_enum(field: WireField) -> bool:
    return field.codec == "enum" and not field.presence


def _has(field: WireField) -> str:
    return f"m.HasField({field.name!r})"


def _class_of(pool: DescriptorPool, name: str) -> Any:
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(name))


def _word_of(words: dict[int, str]) -> Callable[[int], str]:
    """The word of a number; a number that is none of ours is shown as it is, for the check to refuse."""
    get = words.get

    def word_of(number: int) -> str:
        return get(number) or f"number {number}"

    return word_of


# ----------------------------------------------------------------------------------------------- values


def read_base64(value: bytes) -> str:
    """Bytes as JSON has them."""
    return urlsafe_b64encode(value).rstrip(b"=").decode("ascii")


def write_base64(text: str) -> bytes:
    """Bytes out of JSON."""
    return urlsafe_b64decode(text + "=" * (-len(text) % 4))


def read_time(message: Any) -> str:
    """A Timestamp as RFC 3339; one that is none is shown as it is, for the check to refuse. Nanoseconds are cut."""
    seconds, nanos = message.seconds, message.nanos
    try:
        if not 0 <= nanos < 1_000_000_000:
            return f"{nanos} nanoseconds"
        moment = _EPOCH + timedelta(seconds=seconds, microseconds=nanos // 1000)
    except OverflowError:
        return f"{seconds} seconds since 1970"
    return f"{moment.replace(tzinfo=None).isoformat()}Z"


def read_value(message: Any) -> Any:
    """A Value as the JSON that it holds; an empty one is null."""
    kind = message.WhichOneof("kind")
    if kind == "struct_value":
        return read_object(message.struct_value)
    if kind == "list_value":
        return [read_value(one) for one in message.list_value.values]
    if kind == "number_value":
        number = message.number_value
        return int(number) if abs(number) <= _INTEGRAL_MAX and number.is_integer() else number
    return None if kind in (None, "null_value") else getattr(message, kind)


def read_object(message: Any) -> dict[str, Any]:
    """A Struct as the JSON object that it holds."""
    return {name: read_value(one) for name, one in message.fields.items()}


class _WellKnown:
    """Makes messages of the well-known types, of one pool."""

    def __init__(self, pool: DescriptorPool) -> None:
        self._time = _class_of(pool, TIMESTAMP[1:])
        self._value = _class_of(pool, VALUE[1:])
        self._struct = _class_of(pool, STRUCT[1:])
        self._list = _class_of(pool, "google.protobuf.ListValue")

    def write_time(self, text: str) -> Any:
        """A Timestamp out of RFC 3339."""
        passed = datetime.fromisoformat(text) - _EPOCH
        return self._time(seconds=passed.days * 86_400 + passed.seconds, nanos=passed.microseconds * 1_000)

    def write_value(self, value: Any) -> Any:
        """A Value out of any JSON."""
        match value:
            case None:
                return self._value(null_value=0)
            case bool():
                return self._value(bool_value=value)
            case int() | float():
                return self._value(number_value=value)
            case str():
                return self._value(string_value=value)
            case list():
                return self._value(list_value=self._list(values=[self.write_value(one) for one in value]))
            case _:
                return self._value(struct_value=self.write_object(value))

    def write_object(self, value: dict[str, Any]) -> Any:
        """A Struct out of a JSON object."""
        return self._struct(fields={name: self.write_value(one) for name, one in value.items()})
