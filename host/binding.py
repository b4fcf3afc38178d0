"""From path, query and body to the Struct that an operation takes: whatever its schema accepts, and nothing else."""

from __future__ import annotations

import re
from base64 import urlsafe_b64decode
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final
from urllib.parse import unquote_to_bytes

import msgspec

from host.agreement import is_as_strict
from host.encoding import compile_encoder
from host.formats import FORMATS
from host.json_reader import UNSURE, check_depth, clean, join, parse_integer, pointers, read, read_quickly
from host.request_plan import OCTETS, RequestField, RequestPlan, request_plan
from host.violations import Checker
from host.wire_schema import Schema, SchemaError, mentions
from plugin_api.errors import InvalidRequest, Unreadable, Violation
from plugin_api.limits import VIOLATIONS_MAX
from plugin_api.pages import PageRequest

__all__ = ["Bind", "compile_binding", "compile_encoder"]

Bind = Callable[[Sequence[str], str, bytes | None], Any]
"""(raw placeholder values in the order of the path, raw query, body) -> request."""
Read = Callable[[str], Any]

_TEXTS: Final = ("path", "query")
_NUL: Final = rb"\u0000"
_BAD_ESCAPE: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")
_INTEGER: Final = re.compile(r"-?(?:0|[1-9][0-9]*)\Z")
_NUMBER: Final = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?\Z")
_PLACE: Final = re.compile(r" - at `(?:key in )?\$(.*)`\Z", re.DOTALL)
_PLACE_PART: Final = re.compile(r"\[(\d+|\.\.\.)\]|\.([^.\[\]]+)")


def compile_binding(request_type: Any, *, placeholders: Sequence[str], takes_body: bool) -> Bind:
    """Make the function that reads the requests of one operation out of path, query and body.

    It raises `Unreadable` (400) for what cannot be read, `InvalidRequest` (422) with every violation.

    Raises:
        SchemaError: the type cannot go over the wire.
    """
    return compile_bindings(request_type, placeholders=placeholders, takes_body=takes_body)[0]


def compile_bindings(
    request_type: Any, *, placeholders: Sequence[str], takes_body: bool
) -> tuple[Bind, Callable[[dict[str, Any]], Any]]:
    """`compile_binding`, and the same for a door that has all fields at once, as the JSON values that they are in REST."""
    binding = _Binding(request_plan(request_type, placeholders, takes_body=takes_body))
    return binding.with_body if takes_body else binding.without_body, binding.of_fields


class _Binding:
    """The compiled form of a plan."""

    def __init__(self, plan: RequestPlan) -> None:
        self._plan = plan
        self._checker = _checker(plan)
        self._readers = {field.name: _reader(field, plan) for field in plan.fields if field.source in _TEXTS}
        self._lists = {field.name for field in plan.of_source("query") if _is_list(field.schema, plan.definitions)}
        self._query_names = {field.name for field in plan.of_source("query")}
        self._elsewhere = frozenset(field.name for field in plan.fields if field.source != "body")
        self._octets = {field.name for field in plan.of_source("octets")}
        whole = {"": plan.schema, **plan.definitions}
        # Only integers are bounded by the schema; in what has no type or is any number, the reader must look.
        self._is_typed = not any(_has_open_numbers(schema) for schema in whole.values())
        self._has_bytes = any(mentions(schema, "contentEncoding") for schema in whole.values())
        self._has_cursor = issubclass(plan.type, PageRequest)
        self._read_whole = _whole_reader(plan)

    def without_body(self, values: Sequence[str], query: str, body: bytes | None) -> Any:
        """Bind a request of path and query."""
        found: list[Violation] = []
        fields: dict[str, Any] = {}
        if query:
            self._add_query(query, fields, found)
        if values:
            self._add_path(values, fields, found)
        return self._made(fields, found)

    def with_body(self, values: Sequence[str], query: str, body: bytes | None) -> Any:
        """Bind a request of path, body and what is declared to come from the query."""
        if self._read_whole is not None and body and not query:
            request = self._read_whole(body)
            if request is not UNSURE:
                return request
        found: list[Violation] = []
        fields: Any = read_quickly(body) if body and self._is_typed else UNSURE
        if fields is UNSURE:
            fields, found = self._read_body(body)
        if self._elsewhere or query:
            fields = self._without_foreign(fields, found)
            if query:
                self._add_query(query, fields, found)
            self._add_path(values, fields, found)
        return self._made(fields, found)

    def of_fields(self, fields: dict[str, Any]) -> Any:
        """Bind a request whose fields come all at once. They are looked at as closely as a body would be."""
        found: list[Violation] = []
        try:
            encoded = msgspec.json.encode(fields)
        except (UnicodeEncodeError, OverflowError):  # half of a surrogate pair, an integer of more than 64 bits
            fields = clean(fields, "", found)
            encoded = msgspec.json.encode(fields)
        check_depth(encoded)
        if not self._is_typed or _NUL in encoded:
            fields = clean(fields, "", found)
        return self._made(fields, found)

    def _read_body(self, body: bytes | None) -> tuple[dict[str, Any], list[Violation]]:
        if not body:
            if self._plan.body_is_required:
                raise Unreadable("the body is empty; send one JSON object in UTF-8", code="malformed_json")
            return {}, []
        value, found = read(body)
        if not isinstance(value, dict):
            detail = "expected a JSON object with the fields of the request"
            raise _invalid([Violation("", "type", detail)])
        return value, found

    def _without_foreign(self, fields: dict[str, Any], found: list[Violation]) -> dict[str, Any]:
        for name in self._elsewhere & fields.keys():
            del fields[name]
            where = f"comes from the {'path' if name in self._plan.placeholders else 'query'}"
            said = f"is the whole body, sent as {OCTETS}" if name in self._octets else where
            found.append(Violation(join("", name), "unknown_field", f"{name} {said}; leave it out of the JSON body"))
        return fields

    def _add_path(self, values: Sequence[str], fields: dict[str, Any], found: list[Violation]) -> None:
        for name, raw in zip(self._plan.placeholders, values, strict=True):
            text = _decoded(raw, "the path") if "%" in raw or not raw.isascii() else raw
            if "\0" in text:
                text = clean(text, join("", name), found)
            fields[name] = self._readers[name](text)

    def _add_query(self, query: str, fields: dict[str, Any], found: list[Violation]) -> None:
        for name, text in _query_pairs(query):
            cleaned = clean(text, join("", name), found) if "\0" in text else text
            if name not in self._query_names:
                found.append(self._unknown_in_query(name))
            elif name in self._lists:
                fields.setdefault(name, []).append(self._readers[name](cleaned))
            elif name in fields:
                raise Unreadable(f"{name} stands twice in the query; send it once", code="duplicate_key")
            else:
                fields[name] = self._readers[name](cleaned)

    def _unknown_in_query(self, name: str) -> Violation:
        known = f"; known: {', '.join(sorted(self._query_names))}" if self._query_names else ""
        return Violation(join("", name), "unknown_field", f"the query has no such field{known}")

    def _made(self, fields: dict[str, Any], found: list[Violation]) -> Any:
        if found or not self._checker.is_valid(fields):
            raise self._refusal(fields, found)
        if self._has_bytes:
            fields = with_bytes(self._plan.schema, self._plan.definitions, fields)
        try:
            return msgspec.convert(fields, self._plan.type, str_keys=True)
        except msgspec.ValidationError:
            return self._made_from_whole_numbers(fields)

    def _made_from_whole_numbers(self, fields: dict[str, Any]) -> Any:
        """JSON has one kind of number: 1.0 is an integer to the schema, and must be one to msgspec."""
        try:
            return msgspec.convert(_whole_numbers(fields), self._plan.type, str_keys=True)
        except msgspec.ValidationError as error:
            raise _invalid([self._from_msgspec(str(error))]) from None

    def _refusal(self, fields: dict[str, Any], found: list[Violation]) -> InvalidRequest:
        places = pointers(found)
        listed = [*found, *(v for v in self._checker.violations(fields) if v.pointer not in places)]
        if self._has_cursor and pointers(listed) == {"/cursor"}:
            return Unreadable("the cursor is none of ours; begin again without it", code="bad_cursor")
        return _invalid(listed)

    def _from_msgspec(self, message: str) -> Violation:
        """What only msgspec (or the type's own `__post_init__`) objects to."""
        place = _PLACE.search(message)
        path = [_path_part(part) for part in _PLACE_PART.finditer(place[1])] if place else []
        pointer = ""
        for part in path:
            pointer = join(pointer, str(part))
        said = (
            "expected another value"
            if self._checker.is_secret(path)
            else message[: place.start()]
            if place
            else message
        )
        return Violation(pointer, "invalid", said[:500])


def _whole_reader(plan: RequestPlan) -> Callable[[bytes], Any] | None:
    """Makes `read(body) -> request or UNSURE` in one step, for flat requests whose every field must be in the body and
    that msgspec reads as strictly as the schema does: two fifths of the time that reading, checking and making take.

    As `read_quickly` it leaves every doubt to those who look: without a backslash no key has a second spelling, and where
    every field is there and nothing else, as many colons as fields means that no key stands twice.
    """
    is_whole = plan.fields and all(field.source == "body" and field.field.required for field in plan.fields)
    if not is_whole or not is_as_strict(plan.kind):
        return None
    decode, colons = msgspec.json.Decoder(plan.type).decode, len(plan.fields)

    def read_whole(body: bytes) -> Any:
        if b"\\" in body or body.count(b":") != colons:
            return UNSURE
        try:
            return decode(body)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return UNSURE

    return read_whole


def _path_part(matched: re.Match[str]) -> str | int:
    if matched[2] is not None:
        return matched[2]
    return int(matched[1]) if matched[1].isdigit() else 0


def _invalid(listed: list[Violation]) -> InvalidRequest:
    count = len(listed)
    first = listed[0]
    where = first.pointer or "the body"
    more = f" (and {count - 1} more)" if count > 1 else ""
    return InvalidRequest(f"{where}: {first.detail}{more}", violations=listed[:VIOLATIONS_MAX])


def _checker(plan: RequestPlan) -> Checker:
    try:
        elsewhere = [field.name for field in plan.fields if field.source == "path"]
        return Checker(plan.schema, plan.definitions, FORMATS, hidden=elsewhere)
    except ValueError as error:
        name = getattr(plan.type, "__name__", str(plan.type))
        raise SchemaError(f"{name} has constraints that JSON Schema cannot hold: {error}") from None


# ----------------------------------------------------------------------------------- texts of path and query


def _decoded(raw: str, where: str) -> str:
    if _BAD_ESCAPE.search(raw):
        raise Unreadable(
            f"{where} has a percent sign without two hexadecimal digits; encode it as %25",
            code="malformed_request",
        )
    try:
        return unquote_to_bytes(raw.encode("utf-8", "surrogateescape")).decode("utf-8")
    except UnicodeError:
        raise Unreadable(
            f"{where} is not UTF-8 when decoded; send UTF-8, percent-encoded",
            code="malformed_request",
        ) from None


def _query_pairs(query: str) -> Iterable[tuple[str, str]]:
    is_plain = "%" not in query and "+" not in query and query.isascii()
    for part in query.split("&"):
        if part:
            name, _, text = part.partition("=")
            yield (name, text) if is_plain else (_decoded_form(name), _decoded_form(text))


def _decoded_form(raw: str) -> str:
    return _decoded(raw.replace("+", " "), "the query")


def _reader(field: RequestField, plan: RequestPlan) -> Read:
    """How the text of one field becomes the JSON value that it stands for; what it cannot be stays text."""
    schema = field.schema
    if field.source == "query" and _is_list(schema, plan.definitions):
        schema = next(node for node in _flat(schema, plan.definitions) if node.get("type") == "array")["items"]
    nodes = _flat(schema, plan.definitions)
    kinds = {_kind_of(value) for node in nodes for value in node.get("enum", ())} | {node.get("type") for node in nodes}
    if kinds & {"object", "array"}:
        name = f"{getattr(plan.type, '__name__', '')}.{field.field.name}"
        raise SchemaError(
            f"{name} comes from the {field.source} and is no text, number, boolean or list of such; send it in a body"
        )
    if kinds <= {"string", "null", None}:
        return str
    return lambda text: _read_scalar(text, kinds)


def _read_scalar(text: str, kinds: set[Any]) -> Any:
    if "integer" in kinds and _INTEGER.match(text):
        return parse_integer(text)
    if "number" in kinds and _NUMBER.match(text):
        return float(text) if len(text) < 400 else text
    if "boolean" in kinds and text in ("true", "false"):
        return text == "true"
    return text


def _kind_of(value: Any) -> str | None:
    return {str: "string", bool: "boolean", int: "integer", float: "number"}.get(type(value))


def _flat(schema: Schema, definitions: dict[str, Schema]) -> list[Schema]:
    """The alternatives of a schema, references followed."""
    if "$ref" in schema:
        return _flat(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    if "anyOf" in schema:
        return [node for branch in schema["anyOf"] for node in _flat(branch, definitions)]
    return [schema]


def _is_list(schema: Schema, definitions: dict[str, Schema]) -> bool:
    return any(
        node.get("type") == "array" and isinstance(node.get("items"), dict) for node in _flat(schema, definitions)
    )


# ------------------------------------------------------------------------------------------ JSON and Python


def _has_open_numbers(schema: Any) -> bool:
    """Whether a schema has a place for numbers that it does not bound itself."""
    if isinstance(schema, bool):
        return schema
    if "$ref" in schema or "enum" in schema or "const" in schema:
        return False
    if "anyOf" in schema:
        return any(_has_open_numbers(branch) for branch in schema["anyOf"])
    match schema.get("type"):
        case "object":
            inner = [
                *schema.get("properties", {}).values(),
                schema.get("additionalProperties", True),
            ]
            return any(map(_has_open_numbers, inner))
        case "array":
            return any(map(_has_open_numbers, [*schema.get("prefixItems", ()), schema.get("items", True)]))
        case "number" | None:
            return True
        case _:
            return False


def _whole_numbers(value: Any) -> Any:
    match value:
        case float() if value.is_integer():
            return int(value)
        case dict():
            return {name: _whole_numbers(entry) for name, entry in value.items()}
        case list():
            return [_whole_numbers(entry) for entry in value]
        case _:
            return value


def with_bytes(schema: Any, definitions: dict[str, Schema], value: Any) -> Any:
    """Every base64url text where the schema has one, as the bytes that it stands for."""
    for node in _flat(schema, definitions) if isinstance(schema, dict) else ():
        if isinstance(value, str) and node.get("contentEncoding") == "base64url":
            return urlsafe_b64decode(value + "=" * (-len(value) % 4))
        if isinstance(value, dict) and node.get("type") == "object":
            properties, others = node.get("properties", {}), node.get("additionalProperties", {})
            return {name: with_bytes(properties.get(name, others), definitions, entry) for name, entry in value.items()}
        if isinstance(value, list) and node.get("type") == "array":
            first, rest = node.get("prefixItems", []), node.get("items", {})
            return [
                with_bytes(first[i] if i < len(first) else rest, definitions, entry) for i, entry in enumerate(value)
            ]
    return value
