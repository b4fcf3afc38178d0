"""The schemas that an OpenAPI document shares, under names that stay the same when a plugin comes or goes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final, Literal

from msgspec import inspect

from host.docstrings import FieldNotes
from host.request_plan import RequestPlan, request_plan
from host.wire_schema import Schema, Schemas, component_name, inspected

PREFIX: Final = "#/components/schemas/"
RESERVED: Final = frozenset({"Problem", "Violation"})
INPUT: Final = "Input"
_OWN: Final = ("plugin_api.", "host.", "core_plugins.", "marketplace.")


class Names:
    """Gives every class a name of its own: the plain one, or with its area before it when another class has that."""

    def __init__(self) -> None:
        self._owners: dict[str, Any] = dict.fromkeys(RESERVED, None)
        self._names: dict[Any, str] = {}
        self.area = ""
        """The area whose operation is being described."""

    def of(self, cls: Any) -> str:
        """The name of a class; the first caller with a plain name keeps it."""
        if cls not in self._names:
            self._names[cls] = self.claim(component_name(cls), cls)
        return self._names[cls]

    def claim(self, wanted: str, owner: Any) -> str:
        """Reserve a name for something, or the nearest free one."""
        own = getattr(owner, "__module__", "").startswith(_OWN)
        prefix = "".join(part.capitalize() for part in self.area.replace("_", ".").split("."))
        candidates = [wanted] if own else [wanted, f"{prefix}{wanted}"]
        name = next((name for name in candidates if name not in self._owners), None)
        number = 2
        while name is None:
            numbered = f"{prefix}{wanted}{number}"
            name = None if numbered in self._owners else numbered
            number += 1
        self._owners[name] = owner
        return name


class Components:
    """Collects the schemas of requests and answers, which differ: only answers always carry fields with a default."""

    def __init__(self) -> None:
        self.names = Names()
        notes = FieldNotes()
        self._requests = Schemas("request", PREFIX, self.names.of, notes)
        self._answers = Schemas("answer", PREFIX, self.names.of, notes)
        self._bodies: dict[tuple[Any, tuple[str, ...]], str] = {}

    def answer(self, answer_type: Any) -> Schema:
        """The schema of an answer."""
        return self._answers.of(answer_type)

    def plan(self, request_type: Any, placeholders: tuple[str, ...], *, takes_body: bool) -> RequestPlan:
        """A request, field by field."""
        return request_plan(request_type, placeholders, takes_body=takes_body, schemas=self._requests)

    def body(self, plan: RequestPlan) -> Schema | None:
        """A reference to the schema of what a request's body holds, or None when it holds nothing."""
        fields = [field.field for field in plan.of_source("body")]
        if not fields:
            return None
        key = (plan.type, tuple(field.name for field in fields))
        if key not in self._bodies:
            is_whole = len(fields) == len(plan.fields)
            same = [name for (cls, _), name in self._bodies.items() if cls == plan.type]
            # A body without the path's fields may have the plain name, unless it is wanted for another shape.
            name = self.names.of(plan.type) if is_whole or not same else self.names.claim(f"{same[0]}Body", plan.type)
            schema = self._requests.record(plan.kind, name, fields)
            self._requests.components[name] = {**self._requests.described(plan.type), **schema}
            self._bodies[key] = name
        return {"$ref": f"{PREFIX}{self._bodies[key]}"}

    def input_names(self) -> set[str]:
        """Names whose request form differs from the answer's, or refers to one that does."""
        requests, answers = self._requests.components, self._answers.components
        differing = {name for name in requests.keys() & answers.keys() if requests[name] != answers[name]}
        while True:
            more = {
                name
                for name in requests.keys() & answers.keys() - differing
                if differing & set(references(requests[name]))
            }
            if not more:
                return differing
            differing |= more

    def schemas(self, renamed: set[str]) -> dict[str, Schema]:
        """All schemas by name, in the order of their names."""
        found = dict(self._answers.components)
        for name, schema in self._requests.components.items():
            found[f"{name}{INPUT}" if name in renamed else name] = rename(schema, renamed)
        return dict(sorted(found.items()))


def references(node: Any) -> Iterator[str]:
    """The names of all shared schemas that a schema refers to."""
    if isinstance(node, dict):
        for key, value in node.items():
            if key == "$ref" and isinstance(value, str):
                yield value.removeprefix(PREFIX)
            elif key == "mapping" and isinstance(value, dict):
                yield from (text.removeprefix(PREFIX) for text in value.values() if isinstance(text, str))
            else:
                yield from references(value)
    elif isinstance(node, list):
        for entry in node:
            yield from references(entry)


def rename(node: Any, renamed: set[str]) -> Any:
    """A schema that refers to the request forms of the renamed ones."""
    if isinstance(node, dict):
        return {
            key: _renamed(value, renamed) if key == "$ref" else rename(value, renamed)
            for key, value in node.items()
            if key != "mapping"
        } | (
            {"mapping": {tag: _renamed(text, renamed) for tag, text in node["mapping"].items()}}
            if isinstance(node.get("mapping"), dict) and "propertyName" in node
            else {}
        )
    if isinstance(node, list):
        return [rename(entry, renamed) for entry in node]
    return node


def _renamed(reference: Any, renamed: set[str]) -> Any:
    if isinstance(reference, str) and reference.removeprefix(PREFIX) in renamed:
        return f"{reference}{INPUT}"
    return reference


def is_entity(answer_type: Any) -> bool:
    """Whether an answer is one Struct with `id` and a whole number `version`, which make its `ETag` and `Location`."""
    kind = inspected(answer_type)
    while isinstance(kind, inspect.Metadata):
        kind = kind.type
    if not isinstance(kind, inspect.StructType):
        return False
    types = {field.name: field.type for field in kind.fields}
    return "id" in types and isinstance(types.get("version"), inspect.IntType)


Part = Literal["path", "query"]


def parameter(name: str, place: Part, schema: Schema, *, required: bool) -> Schema:
    """A parameter; text can say no null, so that alternative is left out."""
    shown = _without_null(schema)
    description = shown.pop("description", None)
    deprecated = shown.pop("deprecated", None)
    made: Schema = {"name": name, "in": place, "required": required or place == "path"}
    made |= {"description": description} if description else {}
    made |= {"deprecated": True} if deprecated else {}
    return {**made, "schema": shown}


def _without_null(schema: Schema) -> Schema:
    shown = dict(schema)
    if "anyOf" in shown:
        options: Iterable[Schema] = shown.pop("anyOf")
        left = [option for option in options if option.get("type") != "null"]
        shown = {**left[0], **shown} if len(left) == 1 else {"anyOf": left, **shown}
    if shown.get("default", "") is None:
        del shown["default"]
    return shown
