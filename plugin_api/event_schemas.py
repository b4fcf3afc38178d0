"""What the data of an event holds, and the one rule for its change: inside a version of a type data only gains fields.

A schema here is JSON Schema 2020-12 of the data as it is written, in one form: references are put in their place, titles,
descriptions, examples and defaults are left out, and what has no order is sorted. Two schemas that promise readers the same
are equal. Everything in this file is pure.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

import msgspec
from msgspec import Struct, UnsetType

from plugin_api.limits import EVENT_SCHEMA_BYTES_MAX

Schema = dict[str, Any]

_TEXTS: Final = frozenset({"title", "description", "examples", "default", "deprecated", "$comment"})
"""Say nothing about what is written."""
_WITHIN: Final = ("items", "additionalProperties")
_SEVERAL: Final = ("anyOf", "prefixItems")
_NODES_MAX: Final = 5_000
_GIST_CHARACTERS_MAX: Final = 160


class SchemaError(ValueError):
    """A Struct cannot be the data of an event; the text says why and what to write instead."""


class Difference(Struct, frozen=True):
    """One thing in which a schema is not what it was."""

    kind: Literal["gone", "changed", "loosened", "gained"]
    """`loosened`: the field is there, but not always any more."""
    pointer: str
    """The field: `/lead/name`; `*` stands for every item of an array or value of a map, nothing for the data as a whole."""
    before: Any = None
    after: Any = None

    def __str__(self) -> str:
        place = self.pointer or "the data as a whole"
        if self.kind == "gone":
            return f"it drops {place}, which was {gist(self.before)}"
        if self.kind == "changed":
            return f"it changes {place} from {gist(self.before)} to {gist(self.after)}"
        if self.kind == "loosened":
            return f"it leaves {place} out at times, which was always there"
        return f"it gains {place}: {gist(self.after)}"


@dataclass(frozen=True, slots=True)
class Payload:
    """The declared data of one type of event."""

    struct: type[Struct]
    schema: Schema
    read: Callable[[bytes], Any]
    """Read JSON as a consumer would that knows the Struct; msgspec.ValidationError names what does not fit."""

    @classmethod
    def of(cls, struct: type[Struct]) -> Payload:
        """The payload that a Struct declares. SchemaError when it can be none."""
        return cls(struct, schema_of(struct), msgspec.json.Decoder(struct).decode)


def schema_of(struct: type[Struct]) -> Schema:
    """The schema of a Struct's JSON. `required` are the fields that are always written, those with a default included.

    Raises:
        SchemaError: it is written as an array, holds itself, or a type that JSON Schema cannot tell, or the schema is longer
            than EVENT_SCHEMA_BYTES_MAX.
    """
    if struct.__struct_config__.array_like:
        raise SchemaError(f"{struct.__name__} is written as an array, to which no field can be added; drop array_like")
    name, components = _components(struct)
    schema = _Form(struct.__name__, components).of({"$ref": name}, ())
    size = len(msgspec.json.encode(schema))
    if size > EVENT_SCHEMA_BYTES_MAX:
        raise SchemaError(
            f"the schema of {struct.__name__} has {size} bytes, and at most {EVENT_SCHEMA_BYTES_MAX} are allowed; tell less"
        )
    return schema


def compare(before: Schema, after: Schema) -> list[Difference]:
    """Every difference, by field. Anything but a `gained` breaks the promise to readers.

    A type is equal or changed, whether it became narrower or wider: readers match on words of an enum and on members of a
    union, so another one of them is a change too.
    """
    return sorted(_differences(before, after, ""), key=lambda one: one.pointer)


def broken(before: Schema, after: Schema) -> list[Difference]:
    """The differences that break the promise to readers."""
    return [one for one in compare(before, after) if one.kind != "gained"]


def merge(known: Schema, new: Schema) -> Schema:
    """A schema of which `known` and `new` are both told truly: the fields of both; required what both always write.

    Neither changes a field of the other.
    """
    merged = dict(known)
    if "properties" in known:
        ours, theirs = known["properties"], new["properties"]
        both = {name: merge(ours[name], theirs[name]) for name in ours.keys() & theirs.keys()}
        merged["properties"] = {**ours, **theirs, **both}
        merged["required"] = [name for name in known["required"] if name in new["required"]]
    for key in _WITHIN:
        if isinstance(known.get(key), dict):
            merged[key] = merge(known[key], new[key])
    for key in _SEVERAL:
        if key in known:
            merged[key] = [merge(one, other) for one, other in zip(known[key], new[key], strict=True)]
    return merged


def unknown_fields(schema: Schema, data: Any, pointer: str = "") -> Iterator[str]:
    """Pointers of the fields of some JSON that its schema does not have. Whatever else does not fit is passed over."""
    if isinstance(data, dict):
        for name, value in data.items():
            within = _within(schema, data, str(name))
            if within is None:
                yield f"{pointer}/{name}"
            else:
                yield from unknown_fields(within, value, f"{pointer}/{name}")
    elif isinstance(data, list):
        items = _member(schema, data).get("items")
        for number, value in enumerate(data if isinstance(items, dict) else ()):
            yield from unknown_fields(items or {}, value, f"{pointer}/{number}")


def gist(schema: Any) -> str:
    """A schema in a few words, for a message."""
    text = msgspec.json.encode(schema).decode()
    return text if len(text) <= _GIST_CHARACTERS_MAX else f"{text[:_GIST_CHARACTERS_MAX]}…"


def next_version(event_type: str) -> str:
    """`note.touched.v2` for `note.touched.v1`."""
    name, _, number = event_type.rpartition(".v")
    return f"{name}.v{int(number) + 1}"


# ----------------------------------------------------------------------------------------------- one form


class _Form:
    """Puts references in their place, and leaves out what promises nothing."""

    def __init__(self, name: str, components: Mapping[str, Schema]) -> None:
        self._name = name
        self._components = components
        self._nodes = itertools.count(1)

    def of(self, schema: Schema, above: tuple[str, ...]) -> Schema:
        """One schema; `above` are the references that led to it."""
        if next(self._nodes) > _NODES_MAX:
            raise SchemaError(f"{self._name} has more than {_NODES_MAX} fields, those of its parts counted; tell less")
        if "$ref" in schema:
            name = schema["$ref"]
            if name in above:
                raise SchemaError(f"{self._name} holds {name}, which holds itself; tell its parts by their ids")
            return self.of(self._components[name], (*above, name))
        found = {key: value for key, value in schema.items() if key not in _TEXTS}
        if "properties" in found:
            found["properties"] = {name: self.of(one, above) for name, one in found["properties"].items()}
            found["required"] = sorted(found.get("required", ()))
            found.pop("additionalProperties", None)  # fields may come, whatever the Struct takes as a request
        for key in _WITHIN:
            if isinstance(found.get(key), dict):
                found[key] = self.of(found[key], above)
        for key in _SEVERAL:
            if key in found:
                found[key] = [self.of(one, above) for one in found[key]]
        return _sorted_union(found) if "anyOf" in found else found


def _sorted_union(schema: Schema) -> Schema:
    """`A | B` and `B | A` are one."""
    discriminator = schema.get("discriminator")
    if isinstance(discriminator, dict):
        schema["discriminator"] = {"propertyName": discriminator["propertyName"]}
    schema["anyOf"] = sorted(schema["anyOf"], key=lambda one: _kind(schema, one))
    return schema


def _kind(union: Schema, member: Schema) -> bytes:
    """What tells the members of a union apart; fields that are gained leave it as it is."""
    tag = member.get("properties", {}).get(_tag_field(union), {}).get("enum")
    return msgspec.json.encode([member.get("type"), member.get("enum"), tag])


def _tag_field(union: Schema) -> str:
    return str(union.get("discriminator", {}).get("propertyName", ""))


def _structs(info: Any, seen: dict[Any, None]) -> Iterator[Any]:
    """Every Struct in what msgspec knows of a type, each once, the outermost first."""
    if isinstance(info, msgspec.inspect.StructType):
        if info.cls in seen:
            return
        seen[info.cls] = None
        yield info.cls
    if isinstance(info, (msgspec.inspect.Type, msgspec.inspect.Field)):
        for name in info.__struct_fields__:
            yield from _structs(getattr(info, name), seen)
    elif isinstance(info, tuple):
        for one in info:
            yield from _structs(one, seen)


def _components(struct: type[Struct]) -> tuple[str, dict[str, Schema]]:
    """What msgspec tells of a Struct and all that is in it, by name, and the name of the Struct itself."""
    try:
        structs = list(_structs(msgspec.inspect.type_info(struct), {}))
        refs, components = msgspec.json.schema_components(structs, ref_template="{name}")
    except TypeError as error:
        raise SchemaError(f"{struct.__name__} cannot be told as JSON Schema: {error}".replace("\n", " ")) from error
    except KeyError as error:
        raise SchemaError(f"{struct.__name__} holds two classes of one name, {error}; rename one") from error
    names = [str(ref["$ref"]) for ref in refs]
    for one, name in zip(structs, names, strict=True):
        if "properties" in components[name]:
            components[name]["required"] = _always_written(one, components[name].get("required", ()))
    return names[0], components


def _always_written(struct: Any, needed: Iterable[str]) -> list[str]:
    """The fields of a Struct that are in every JSON of it; `needed` are those that reading one needs, its tag among them."""
    omits_defaults = getattr(struct, "__origin__", struct).__struct_config__.omit_defaults
    fields = msgspec.structs.fields(struct)
    unset = {field.encode_name for field in fields if _may_be_unset(field.type)}
    written = set() if omits_defaults else {field.encode_name for field in fields}
    return sorted(({*needed} | written) - unset)


def _may_be_unset(kind: Any) -> bool:
    return kind is UnsetType or any(_may_be_unset(one) for one in get_args(kind))


# ------------------------------------------------------------------------------------------------ compare


def _differences(before: Schema, after: Schema, pointer: str) -> Iterator[Difference]:
    if _shape(before) != _shape(after):
        yield Difference("changed", pointer, before, after)
        return
    if "properties" in before:
        yield from _of_fields(before, after, pointer)
    for key in _WITHIN:
        if isinstance(before.get(key), dict):
            yield from _differences(before[key], after[key], f"{pointer}/*")
    for one, other in zip(before.get("anyOf", ()), after.get("anyOf", ()), strict=True):
        yield from _differences(one, other, pointer)
    for number, (one, other) in enumerate(
        zip(before.get("prefixItems", ()), after.get("prefixItems", ()), strict=True)
    ):
        yield from _differences(one, other, f"{pointer}/{number}")


def _shape(schema: Schema) -> Schema:
    """What must be equal before anything within is looked at."""
    shape = {key: value for key, value in schema.items() if key != "required"}
    if "properties" in shape:
        shape["properties"] = True
    for key in _WITHIN:
        if isinstance(shape.get(key), dict):
            shape[key] = True
    if "anyOf" in shape:
        shape["anyOf"] = [_kind(schema, one) for one in shape["anyOf"]]
    if "prefixItems" in shape:
        shape["prefixItems"] = len(shape["prefixItems"])
    return shape


def _of_fields(before: Schema, after: Schema, pointer: str) -> Iterator[Difference]:
    had, has = before["properties"], after["properties"]
    for name, schema in had.items():
        if name not in has:
            yield Difference("gone", f"{pointer}/{name}", schema)
            continue
        yield from _differences(schema, has[name], f"{pointer}/{name}")
        if name in before["required"] and name not in after["required"]:
            yield Difference("loosened", f"{pointer}/{name}")
    for name in has.keys() - had.keys():
        yield Difference("gained", f"{pointer}/{name}", None, has[name])


def _member(schema: Schema, data: Any) -> Schema:
    """The member of a union that some JSON is of; the schema itself when it is none."""
    wanted, tag = "object" if isinstance(data, dict) else "array", _tag_field(schema)
    for one in schema.get("anyOf", ()):
        words = one.get("properties", {}).get(tag, {}).get("enum")
        if one.get("type") == wanted and (not words or data.get(tag) in words):
            return dict(one)
    return schema


def _within(schema: Schema, data: Mapping[str, Any], name: str) -> Schema | None:
    """The schema of one value of an object; None when the object has no such field."""
    found = _member(schema, data)
    if "properties" in found:
        within: Schema | None = found["properties"].get(name)
        return within
    values = found.get("additionalProperties")
    return values if isinstance(values, dict) else {}
