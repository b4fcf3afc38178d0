"""Every violation of a value against its schema, each at its place, in words: what was expected and what was seen.

jsonschema-rs decides what holds. It is asked part by part, from the top down, and only parts that do not hold are
looked into, so that a hostile megabyte costs no more than its first VIOLATIONS_MAX faults.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from difflib import get_close_matches
from itertools import islice
from typing import Any, Final

import jsonschema_rs
import msgspec

from host.json_reader import HUGE, join
from host.wire_schema import Schema
from plugin_api.errors import Violation
from plugin_api.limits import INTEGER_MAX, VIOLATIONS_MAX

SEEN_LENGTH_MAX: Final = 60
CHOICES_SHOWN_MAX: Final = 20
NAMES_COMPARED_MAX: Final = 200
NAME_LENGTH_MAX: Final = 64
_REFERENCE: Final = "#/$defs/"
_NOUNS: Final = {
    "string": "a text",
    "integer": "an integer",
    "number": "a number",
    "boolean": "true or false",
    "null": "null",
    "array": "a list",
    "object": "an object",
}
_FORMATS: Final = {
    "uuid": 'a UUID like "0190f3c2-7b1e-7cc0-9a55-2f6b3a1d4e5f"',
    "date-time": 'a time with its offset like "2026-01-31T09:30:00Z"',
    "date-time-local": 'a time without offset like "2026-01-31T09:30:00"',
    "date": 'a date like "2026-01-31"',
    "time": 'a time of day with its offset like "09:30:00Z"',
    "time-local": 'a time of day like "09:30:00"',
    "duration": 'a duration like "PT90S"',
    "decimal": 'a decimal number as text like "12.50"',
}
_CODES: Final = {
    "type": "type",
    "enum": "choice",
    "const": "choice",
    "pattern": "pattern",
    "format": "format",
    "minLength": "length",
    "maxLength": "length",
    "minItems": "length",
    "maxItems": "length",
    "minProperties": "length",
    "maxProperties": "length",
    "uniqueItems": "duplicate_item",
    "minimum": "bound",
    "maximum": "bound",
    "exclusiveMinimum": "bound",
    "exclusiveMaximum": "bound",
    "multipleOf": "bound",
}


class Checker:
    """One compiled schema; `formats` are its own checks of formats, by name."""

    def __init__(
        self,
        schema: Schema,
        definitions: Mapping[str, Schema],
        formats: Mapping[str, Callable[[str], bool]],
        hidden: Collection[str] = (),
    ) -> None:
        """`hidden` are fields of the root that are never suggested, because they do not come from the body."""
        self.schema = schema
        self._hidden = frozenset(hidden)
        self._definitions = dict(definitions)
        self._formats = dict(formats)
        self._compiled: dict[tuple[str, int], tuple[object, jsonschema_rs.Draft202012Validator]] = {}
        self.is_valid: Callable[[Any], bool] = self._validator("", schema).is_valid

    def violations(self, value: Any) -> list[Violation]:
        """Everything wrong with the value, up to VIOLATIONS_MAX; when there is more, the last one says so."""
        found = list(islice(self._inside(self.schema, value, "", secret=False), VIOLATIONS_MAX + 1))
        if len(found) > VIOLATIONS_MAX:
            more = Violation("", "more", f"more than {VIOLATIONS_MAX} violations; the rest is not listed")
            return [*found[: VIOLATIONS_MAX - 1], more]
        return found

    def is_secret(self, path: list[str | int]) -> bool:
        """Whether what lies at `path` is under a `writeOnly` part of the schema."""
        node = self.schema
        for part in path:
            node = self._resolved(node)
            if node.get("writeOnly"):
                return True
            node = _child(node, part)
        return bool(self._resolved(node).get("writeOnly"))

    def _validator(self, keyword: str, part: Any) -> jsonschema_rs.Draft202012Validator:
        """The validator of a whole schema (no keyword), or of one keyword of a schema and its value.

        `part` is an object of our schema itself, never a copy: one validator is kept for each, and no more.
        """
        key = (keyword, id(part))
        known = self._compiled.get(key)
        if known is None:
            whole = {**({keyword: part} if keyword else part), "$defs": self._definitions}
            validator = jsonschema_rs.Draft202012Validator(whole, formats=self._formats, validate_formats=True)
            # The part is kept beside its validator: an id is only unique among the living.
            known = self._compiled[key] = (part, validator)
        return known[1]

    def _resolved(self, schema: Schema) -> Schema:
        """The schema behind references; what stands beside a reference is kept."""
        while "$ref" in schema:
            rest = {name: value for name, value in schema.items() if name != "$ref"}
            schema = {**self._definitions[schema["$ref"].removeprefix(_REFERENCE)], **rest}
        return schema

    def _holds(self, schema: Schema | bool, value: Any) -> bool:
        return schema if isinstance(schema, bool) else self._validator("", schema).is_valid(value)

    def _breaks(self, node: Schema, keyword: str, value: Any) -> bool:
        return keyword in node and not self._validator(keyword, node[keyword]).is_valid(value)

    # ------------------------------------------------------------------------------------ going down

    def _inside(self, schema: Schema, value: Any, pointer: str, *, secret: bool) -> Iterator[Violation]:
        if self._holds(schema, value):
            return
        node = self._resolved(schema)
        secret = secret or bool(node.get("writeOnly"))
        found = False
        for violation in self._of_node(node, value, pointer, secret=secret):
            found = True
            yield violation
        if not found:
            yield Violation(pointer, "invalid", _told(self._expected(node), value, secret=secret))

    def _of_node(self, node: Schema, value: Any, pointer: str, *, secret: bool) -> Iterator[Violation]:
        if "anyOf" in node:
            yield from self._of_union(node, value, pointer, secret=secret)
        elif not _has_type(node, value):
            yield Violation(pointer, "type", _told(self._expected(node), value, secret=secret))
        elif isinstance(value, dict):
            yield from self._of_object(node, value, pointer, secret=secret)
        elif isinstance(value, list):
            yield from self._of_array(node, value, pointer, secret=secret)
        else:
            yield from self._of_leaf(node, value, pointer, secret=secret)

    def _of_union(self, node: Schema, value: Any, pointer: str, *, secret: bool) -> Iterator[Violation]:
        branches = [branch for branch in node["anyOf"] if self._may_be(branch, value)]
        if len(branches) > 1 and isinstance(value, dict) and "discriminator" in node:
            yield from self._of_tagged(node, branches, value, pointer, secret=secret)
        elif len(branches) == 1:
            yield from self._inside(branches[0], value, pointer, secret=secret)
        else:
            code = "choice" if branches else "type"
            yield Violation(pointer, code, _told(self._expected(node), value, secret=secret))

    def _of_tagged(
        self,
        node: Schema,
        branches: list[Schema],
        value: dict[str, Any],
        pointer: str,
        *,
        secret: bool,
    ) -> Iterator[Violation]:
        tag_field = node["discriminator"]["propertyName"]
        tags = {self._resolved(branch)["properties"].get(tag_field, {}).get("const"): branch for branch in branches}
        shown = ", ".join(_shown(tag) for tag in sorted(tags, key=str))
        tag = value.get(tag_field)
        if tag_field not in value:
            yield Violation(
                join(pointer, tag_field),
                "missing",
                f"expected one of {shown}; the field is missing",
            )
        elif isinstance(tag, str | int) and tag in tags:
            yield from self._inside(tags[tag], value, pointer, secret=secret)
        else:
            yield Violation(join(pointer, tag_field), "choice", _told(f"one of {shown}", tag, secret=secret))

    def _may_be(self, branch: Schema, value: Any) -> bool:
        node = self._resolved(branch)
        if "anyOf" in node:
            return any(self._may_be(inner, value) for inner in node["anyOf"])
        return _has_type(node, value)

    def _of_object(self, node: Schema, value: dict[str, Any], pointer: str, *, secret: bool) -> Iterator[Violation]:
        properties: dict[str, Schema] = node.get("properties", {})
        for name in node.get("required", ()):
            if name not in value:
                yield self._missing(properties.get(name, {}), join(pointer, name))
        names: Schema = node.get("propertyNames", {})
        others = node.get("additionalProperties", True)
        for name, entry in value.items():
            if name in properties:
                yield from self._inside(properties[name], entry, join(pointer, name), secret=secret)
            elif others is False:
                yield _unknown(
                    name,
                    properties.keys() - (self._hidden if not pointer else frozenset()),
                    pointer,
                )
            else:
                if names and not self._holds(names, name):
                    said = f"expected a key that is {self._expected({'type': 'string', **names}, 'propertyNames')}"
                    yield Violation(join(pointer, name), "key", said)
                if isinstance(others, dict):
                    yield from self._inside(others, entry, join(pointer, name), secret=secret)
        yield from _of_size(node, len(value), pointer, "Properties", "members")

    def _missing(self, schema: Schema, pointer: str) -> Violation:
        return Violation(
            pointer,
            "missing",
            f"expected {self._expected(self._resolved(schema))}; the field is missing",
        )

    def _of_array(self, node: Schema, value: list[Any], pointer: str, *, secret: bool) -> Iterator[Violation]:
        yield from _of_size(node, len(value), pointer, "Items", "entries")
        first: list[Schema] = node.get("prefixItems", [])
        rest = node.get("items", True)
        for index, entry in enumerate(value):
            schema = first[index] if index < len(first) else rest
            if isinstance(schema, dict):
                yield from self._inside(schema, entry, f"{pointer}/{index}", secret=secret)
        if self._breaks(node, "uniqueItems", value):
            yield Violation(pointer, "duplicate_item", "expected entries that differ; some are equal")

    def _of_leaf(self, node: Schema, value: Any, pointer: str, *, secret: bool) -> Iterator[Violation]:
        for name in node:
            # An empty text breaks its pattern too, but that is no news.
            if name in _CODES and not (name == "pattern" and value == "") and self._breaks(node, name, value):
                yield Violation(pointer, _CODES[name], _told(self._expected(node, name), value, secret=secret))

    # ---------------------------------------------------------------------------------------- words

    def _expected(self, schema: Schema, keyword: str = "") -> str:
        node = self._resolved(schema)
        if "anyOf" in node:
            return " or ".join(dict.fromkeys(self._expected(branch) for branch in node["anyOf"]))
        if "enum" in node or "const" in node:
            return _choices(node.get("enum", [node.get("const")]))
        if "contentEncoding" not in node and keyword in ("pattern", "propertyNames") and "pattern" in node:
            return _sentence(node["description"]) if "description" in node else f"a text that matches {node['pattern']}"
        if "contentEncoding" in node:
            return f"base64url text without padding{_range(node, 'Length', ' of {} characters')}"
        if "format" in node and node["format"] in _FORMATS:
            return _FORMATS[node["format"]]
        return _of_kind(node)


def _of_kind(node: Schema) -> str:
    kind = node.get("type")
    if not isinstance(kind, str):
        return "another value"
    if kind in ("integer", "number"):
        return f"{_NOUNS[kind]}{_number_range(node)}"
    sizes = {
        "string": ("Length", " of {} characters"),
        "array": ("Items", " of {} entries"),
        "object": ("Properties", " of {} members"),
    }
    return f"{_NOUNS[kind]}{_range(node, *sizes[kind])}" if kind in sizes else _NOUNS[kind]


def _range(node: Schema, what: str, form: str) -> str:
    least, most = node.get(f"min{what}"), node.get(f"max{what}")
    if least is not None and most is not None:
        return form.format(least if least == most else f"{least} to {most}")
    if most is not None:
        return form.format(f"at most {most}")
    return form.format(f"at least {least}") if least is not None else ""


def _number_range(node: Schema) -> str:
    parts = []
    least, most = node.get("minimum"), node.get("maximum")
    if (least, most) == (-INTEGER_MAX, INTEGER_MAX):
        return ""
    if least is not None and most is not None:
        parts.append(f"from {least} to {most}")
    else:
        parts += [f"of at least {least}"] if least is not None and least != -INTEGER_MAX else []
        parts += [f"of at most {most}"] if most is not None else []
    parts += [f"above {node['exclusiveMinimum']}"] if "exclusiveMinimum" in node else []
    parts += [f"below {node['exclusiveMaximum']}"] if "exclusiveMaximum" in node else []
    parts += [f"that is a multiple of {node['multipleOf']}"] if "multipleOf" in node else []
    return f" {' and '.join(parts)}" if parts else ""


def _of_size(node: Schema, count: int, pointer: str, what: str, unit: str) -> Iterator[Violation]:
    least, most = node.get(f"min{what}", 0), node.get(f"max{what}", count)
    if not least <= count <= most:
        yield Violation(pointer, "length", f"expected{_range(node, what, ' {} ' + unit)}, seen {count}")


def _unknown(name: str, known: Collection[str], pointer: str) -> Violation:
    names = sorted(known)[:NAMES_COMPARED_MAX]
    near = get_close_matches(name[:NAME_LENGTH_MAX], names, n=1)
    hint = f"; did you mean {near[0]}?" if near else f"; known: {', '.join(names)}" if names else ""
    return Violation(join(pointer, name), "unknown_field", f"there is no such field{hint}")


def _sentence(text: str) -> str:
    """A description as the end of a sentence."""
    flat = " ".join(text.split()).rstrip(".")
    return flat[:1].lower() + flat[1:] if flat[1:2].islower() or flat[1:2] == " " else flat


def _choices(values: list[Any]) -> str:
    shown = [_shown(value) for value in values[:CHOICES_SHOWN_MAX]]
    more = f", and {len(values) - CHOICES_SHOWN_MAX} more" if len(values) > CHOICES_SHOWN_MAX else ""
    return shown[0] if len(shown) == 1 else f"one of {', '.join(shown)}{more}"


def _told(expected: str, value: Any, *, secret: bool) -> str:
    return f"expected {expected}" if secret else f"expected {expected}, seen {_shown(value)}"


def _shown(value: Any) -> str:
    match value:
        case dict():
            return "an object" if value else "an empty object"
        case list():
            return f"a list of {len(value)}" if value else "an empty list"
        case int() if abs(value) >= HUGE:
            return "an integer of more digits"
        case str() if len(value) > SEEN_LENGTH_MAX:
            return f'{_encoded(value[: SEEN_LENGTH_MAX - 1])[:-1]}…" ({len(value)} characters)'
        case _:
            return _encoded(value)


def _encoded(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _has_type(node: Schema, value: Any) -> bool:
    kind = node.get("type")
    match kind:
        case "string":
            return isinstance(value, str)
        case "integer":
            return (isinstance(value, int) and not isinstance(value, bool)) or (
                isinstance(value, float) and value.is_integer()
            )
        case "number":
            return isinstance(value, int | float) and not isinstance(value, bool)
        case "boolean":
            return isinstance(value, bool)
        case "null":
            return value is None
        case "array":
            return isinstance(value, list)
        case "object":
            return isinstance(value, dict)
        case _:
            return True


def _child(node: Schema, part: str | int) -> Schema:
    """The schema of a member or an entry, as far as it can be told without looking at the value."""
    if "anyOf" in node:
        branches = [_child(branch, part) for branch in node["anyOf"]]
        return next((branch for branch in branches if branch), {})
    if isinstance(part, int):
        first = node.get("prefixItems", [])
        found = first[part] if part < len(first) else node.get("items", {})
    else:
        found = node.get("properties", {}).get(part, node.get("additionalProperties", {}))
    return found if isinstance(found, dict) else {}
