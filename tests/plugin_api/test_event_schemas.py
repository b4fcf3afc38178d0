"""The schemas of events: what promises readers the same is equal, and every difference has its name."""

from __future__ import annotations

import enum
from copy import deepcopy
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, Generic, Literal, TypeVar
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema_rs import Draft202012Validator
from msgspec import UNSET, Meta, Struct, UnsetType, field

from plugin_api.event_schemas import (
    Payload,
    SchemaError,
    broken,
    compare,
    merge,
    next_version,
    schema_of,
    unknown_fields,
)

T = TypeVar("T")


class Pair(Struct, Generic[T]):
    x: T
    y: int = 3


class Red(Struct, tag=True):
    a: int


class Blue(Struct, tag=True):
    b: int


class Colour(enum.Enum):
    RED = "red"


class Person(Struct, rename="camel", forbid_unknown_fields=True):
    """Somebody."""

    first_name: Annotated[str, Meta(min_length=2, description="Of two.", examples=["Al"])]
    age: int | UnsetType = UNSET
    title: Literal["b", "a"] | None = None


@dataclass
class Place:
    street: str


class Whole(Struct):
    person: Person | None
    either: Red | Blue
    people: list[Person]
    by_name: dict[str, Person]
    both: tuple[int, str]
    colour: Colour
    pair: Pair[int]
    at: Annotated[datetime, Meta(tz=True)]
    sum: Decimal
    whatever: Any
    id: UUID
    place: Place
    numbers: list[int] = field(default_factory=lambda: [1])
    amount: int | float = 1


def test_a_schema_tells_what_is_written() -> None:
    schema = schema_of(Whole)
    person = schema["properties"]["people"]["items"]

    assert sorted(schema["properties"]) == schema["required"], "what has a default is always written too"
    assert (sorted(person["properties"]), person["required"]) == (["age", "firstName", "title"], ["firstName", "title"])
    assert person["properties"]["firstName"] == {"type": "string", "minLength": 2}
    assert (
        person == schema["properties"]["by_name"]["additionalProperties"] == schema["properties"]["person"]["anyOf"][1]
    )
    assert schema["properties"]["pair"]["required"] == ["x", "y"]
    assert "additionalProperties" not in person, "others may come"
    assert "$ref" not in str(schema)


def test_what_is_written_holds_under_the_schema() -> None:
    person = Person("Ada")
    whole = Whole(
        person, Red(1), [person], {"a": Person("Bob", 3, "a")}, (1, "b"), Colour.RED, Pair(1),
        datetime.fromisoformat("2026-01-01T00:00:00+00:00"), Decimal("1.10"), [None], UUID(int=1), Place("x"),
    )  # fmt: skip
    raw = msgspec.json.encode(whole)

    assert Draft202012Validator(schema_of(Whole)).is_valid(msgspec.json.decode(raw))
    assert list(unknown_fields(schema_of(Whole), msgspec.json.decode(raw))) == []
    assert Payload.of(Whole).read(raw).person == person


class Renamed(Struct, rename={"street": "road"}):
    """Another name, other words; the same JSON."""

    b: Annotated[int, Meta(description="A number.")]
    road: str = "none"
    a: str | None = None


class Original(Struct):
    a: str | None
    b: int
    road: str


def test_what_promises_the_same_is_equal() -> None:
    assert schema_of(Renamed) == schema_of(Original)

    class Turned(Struct):
        one: Blue | Red | None

    class Straight(Struct):
        one: Red | Blue | None

    assert schema_of(Turned) == schema_of(Straight)


class Omits(Struct, omit_defaults=True):
    a: int
    b: int = 1


def test_what_is_left_out_at_times_is_not_required() -> None:
    assert schema_of(Omits)["required"] == ["a"]


class Loop(Struct):
    within: Loop | None = None


class Custom(Struct):
    held: range


def _small() -> type[Struct]:
    return msgspec.defstruct("Small", [("a", int)])


Twins = msgspec.defstruct("Twins", [("one", _small()), ("other", _small())])


class Row(Struct, array_like=True):
    a: int


class Doubled(Struct):
    """Each level holds the one below twice: 2^14 of the last."""

    a: int


for level in range(14):
    Doubled = msgspec.defstruct(f"Doubled{level}", [("left", Doubled), ("right", Doubled)])  # type: ignore[misc,assignment]
Wide = msgspec.defstruct("Wide", [(f"field_{number:04}", str) for number in range(600)])


@pytest.mark.parametrize(
    ("struct", "words"),
    [
        (Loop, "holds itself; tell its parts by their ids"),
        (Custom, "cannot be told as JSON Schema: .*range"),
        (Row, "drop array_like"),
        (Twins, "two classes of one name"),
        (Doubled, "more than 5000 fields"),
        (Wide, "at most 16384 are allowed"),
    ],
    ids=["loop", "custom", "array", "twins", "doubled", "wide"],
)
def test_what_cannot_be_told_is_refused_with_the_remedy(struct: type[Struct], words: str) -> None:
    with pytest.raises(SchemaError, match=words):
        schema_of(struct)


# ------------------------------------------------------------------------------------------------ the rule


def changed(annotation: Any, other: Any) -> list[str]:
    before, after = (schema_of(msgspec.defstruct("X", [("f", one)])) for one in (annotation, other))
    return [f"{one.kind} {one.pointer}" for one in compare(before, after)]


class Small(Struct):
    a: int


class Larger(Struct):
    a: int
    b: str = ""


class TaggedSmall(Struct, tag="t"):
    a: int


class TaggedLarger(Struct, tag="t"):
    a: int
    b: str = ""


@pytest.mark.parametrize(
    ("before", "after", "found"),
    [
        (int, int, []),
        (int, str, ["changed /f"]),
        (int, int | None, ["changed /f"]),
        (int | None, int, ["changed /f"]),
        (int, Annotated[int, Meta(ge=0)], ["changed /f"]),
        (Annotated[int, Meta(ge=0)], Annotated[int, Meta(ge=1)], ["changed /f"]),
        (Literal["a"], Literal["a", "b"], ["changed /f"]),
        (Literal["a", "b"], Literal["a"], ["changed /f"]),
        (list[int], list[str], ["changed /f/*"]),
        (dict[str, int], dict[str, str], ["changed /f/*"]),
        (dict[str, int], Small, ["changed /f"]),
        (Any, str, ["changed /f"]),
        (Small, Larger, ["gained /f/b"]),
        (Larger, Small, ["gone /f/b"]),
        (list[Larger], list[Small], ["gone /f/*/b"]),
        (dict[str, Small], dict[str, Larger], ["gained /f/*/b"]),
        (Larger | None, Small | None, ["gone /f/b"]),
        (TaggedSmall | Blue, TaggedLarger | Blue, ["gained /f/b"]),
        (TaggedLarger | Blue, Blue | TaggedSmall, ["gone /f/b"]),
        (Red | Blue, Red | Blue | TaggedSmall, ["changed /f"]),
        (Red | Blue, Red, ["changed /f"]),
        (tuple[int, Larger], tuple[int, Small], ["gone /f/1/b"]),
        (tuple[int, str], tuple[int, str, str], ["changed /f"]),
        (int, int | UnsetType, ["loosened /f"]),
        (int | UnsetType, int, []),
    ],
    ids=lambda one: None if isinstance(one, list) else str(one).replace("<class ", "").replace(">", ""),
)
def test_a_field_is_kept_or_its_difference_told(before: Any, after: Any, found: list[str]) -> None:
    assert changed(before, after) == found


def test_differences_are_told_in_words() -> None:
    before, after = schema_of(Larger), schema_of(msgspec.defstruct("X", [("a", str), ("c", int)]))

    assert [str(one) for one in compare(before, after)] == [
        'it changes /a from {"type":"integer"} to {"type":"string"}',
        'it drops /b, which was {"type":"string"}',
        'it gains /c: {"type":"integer"}',
    ]
    assert "it leaves /f out at times" in str(broken(*(_of_f(one) for one in (int, int | UnsetType)))[0])
    assert next_version("note.touched.v9") == "note.touched.v10"


def _of_f(annotation: Any) -> dict[str, Any]:
    return schema_of(msgspec.defstruct("X", [("f", annotation)]))


@pytest.mark.parametrize(
    ("data", "found"),
    [
        ({"people": [{"firstName": "Ada", "x": 1}], "y": 1}, ["/people/0/x", "/y"]),
        ({"either": {"type": "Red", "a": 1, "b": 2}}, ["/either/b"]),
        ({"either": {"type": "Blue", "b": 2}, "person": None}, []),
        ({"by_name": {"anybody": {"z": 1}}, "whatever": {"any": [{"thing": 1}]}}, ["/by_name/anybody/z"]),
        ({"pair": 3, "place": {"street": "x", "town": "y"}}, ["/place/town"]),
    ],
    ids=["list", "tagged", "other-tag", "map", "misfit"],
)
def test_fields_that_a_schema_lacks_are_found(data: Any, found: list[str]) -> None:
    assert sorted(unknown_fields(schema_of(Whole), data)) == found


names = st.sampled_from(["a", "b", "title", "items", "é"])
leaves = st.sampled_from(
    [{"type": "string"}, {"type": "integer", "minimum": 1}, {"enum": ["x", "y"]}, {}, {"type": "null"}]
)


@st.composite
def objects(draw: st.DrawFn, within: st.SearchStrategy[dict[str, Any]]) -> dict[str, Any]:
    properties = draw(st.dictionaries(names, within, max_size=3))
    required = draw(st.sets(st.sampled_from(sorted(properties)))) if properties else set()
    return {"type": "object", "properties": properties, "required": sorted(required)}


schemas = st.recursive(
    leaves,
    lambda within: st.one_of(
        objects(within),
        within.map(lambda one: {"type": "array", "items": one}),
        within.map(lambda one: {"type": "object", "additionalProperties": one}),
        objects(within).map(lambda one: {"anyOf": [{"type": "null"}, one]}),
    ),
    max_leaves=8,
)
whole_objects = objects(schemas)


def parts(schema: dict[str, Any]) -> list[dict[str, Any]]:
    """The objects with fields in a schema."""
    within = [*schema.get("properties", {}).values(), *schema.get("anyOf", ())]
    within += [schema[key] for key in ("items", "additionalProperties") if key in schema]
    found = [schema] if "properties" in schema else []
    return found + [one for part in within for one in parts(part)]


@given(whole_objects)
def test_nothing_differs_from_itself(schema: dict[str, Any]) -> None:
    assert compare(schema, schema) == []
    assert merge(schema, schema) == schema


@given(whole_objects, st.data(), leaves)
def test_a_gained_field_is_all_that_is_found_and_its_way_back_a_loss(
    schema: dict[str, Any], data: st.DataObject, leaf: dict[str, Any]
) -> None:
    grown = deepcopy(schema)
    part = data.draw(st.sampled_from(parts(grown)))
    part["properties"]["new"], part["required"] = leaf, [*part["required"], "new"]

    assert [one.kind for one in compare(schema, grown)] == ["gained"]
    assert [one.kind for one in compare(grown, schema)] == ["gone"]
    known = merge(schema, grown)
    assert broken(schema, known) == [], "known has all of the first"
    assert [one.kind for one in compare(grown, known)] in ([], ["loosened"]), "and all of the second"
    assert merge(known, schema) == merge(known, grown) == known


@given(whole_objects, st.data())
def test_any_other_change_is_found(schema: dict[str, Any], data: st.DataObject) -> None:
    other = deepcopy(schema)
    part = data.draw(st.sampled_from([one for one in parts(other) if one["properties"]] or [{}]))
    if not part:
        return
    name = data.draw(st.sampled_from(sorted(part["properties"])))
    how = data.draw(st.sampled_from(["drop", "retype", "narrow"]))
    if how == "drop":
        del part["properties"][name]
    elif how == "retype":
        part["properties"][name] = {"type": "boolean"}
    else:
        part["properties"][name] = {**part["properties"][name], "x-narrow": True}

    assert len(broken(schema, other)) == 1
