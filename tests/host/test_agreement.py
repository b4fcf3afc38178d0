"""Where the schema is not asked, it would not have objected."""

from __future__ import annotations

import enum
import json
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Meta, Struct

from host import binding
from host.agreement import is_as_strict
from host.binding import compile_binding
from host.formats import FORMATS
from host.request_plan import request_plan
from host.violations import Checker
from plugin_api.errors import KernelError


class Color(enum.Enum):
    """A colour; anything else is red."""

    RED = "red"

    @classmethod
    def _missing_(cls, value: object) -> Color:
        return cls.RED


class Open(Struct):
    """Takes what it does not know."""

    name: str = ""


class Leaf(Struct, forbid_unknown_fields=True):
    """Flat, and every field must be there."""

    title: Annotated[str, Meta(min_length=1, max_length=3)]
    code: Annotated[str, Meta(pattern=r"^[A-Z]{1,2}\Z")]
    count: Annotated[int, Meta(gt=0, le=5)]
    kind: Literal["a", "b", 3]
    flag: bool | None


class Lists(Struct, forbid_unknown_fields=True):
    """Of what agrees."""

    names: Annotated[list[Annotated[str, Meta(max_length=2)]], Meta(max_length=2)]
    pair: tuple[bool | None, ...]


class Twig(Struct, forbid_unknown_fields=True):
    """Contains another record."""

    leaf: Leaf


def one(type_: Any) -> type[Struct]:
    return msgspec.defstruct("One", [("value", type_)], forbid_unknown_fields=True)


def plan_of(type_: Any) -> Any:
    return request_plan(type_, (), takes_body=True)


@pytest.mark.parametrize("type_", [Leaf, Lists])
def test_these_need_no_second_look(type_: type[Struct]) -> None:
    assert is_as_strict(plan_of(type_).kind)


@pytest.mark.parametrize(
    ("type_", "taken"),
    [
        (UUID, '"0190f3c27b1e7cc09a552f6b3a1d4e5f"'),
        (datetime, '"2026-01-31 09:30:00"'),
        (set[bool], "[true, true]"),
        (int, str(2**60)),
        (Annotated[int, Meta(ge=0)], str(2**60)),
        (Annotated[int, Meta(ge=0, le=2**62)], str(2**60)),
        (Annotated[str, Meta(pattern=r"^[A-Z]$")], '"A\\n"'),
        (Annotated[str, Meta(pattern=r"^\d\Z")], '"\\u0663"'),
        (Annotated[str, Meta(extra_json_schema={"enum": ["yes"]})], '"no"'),
        (Open, '{"other": 1}'),
        (Color, '"blue"'),
        (Decimal, "1.5"),
    ],
)
def test_of_these_msgspec_takes_more(type_: Any, taken: str) -> None:
    plan = plan_of(one(type_))
    body = f'{{"value":{taken}}}'
    msgspec.json.decode(body, type=plan.type)
    assert not Checker(plan.schema, plan.definitions, FORMATS).is_valid(json.loads(body))
    assert not is_as_strict(plan.kind)


@pytest.mark.parametrize("type_", [Open, Twig])
def test_a_record_that_is_open_or_holds_another_is_looked_at(type_: type[Struct]) -> None:
    assert not is_as_strict(plan_of(type_).kind)


values = st.recursive(
    st.one_of(
        st.sampled_from(["a", "A", "AB\n", "abcd", "é", "b", "\U0001f600", "x:y", "", "\x7f"]),
        st.sampled_from([0, 1, 3, 5, 6, 1.0, 2**63, -1, True, False, None, 1e400, -0.0]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(["names", "pair", "x"]), inner, max_size=2)
    ),
    max_leaves=4,
)
NAMES = ["title", "code", "count", "kind", "flag", "names", "pair", "other"]
VALID = {"title": "ab", "code": "A", "count": 2, "kind": "a", "flag": None}
LISTS = {"names": ["a", "AB"], "pair": [True, None]}


def text(pairs: list[tuple[str, Any]], *, ascii_only: bool) -> bytes:
    inside = ",".join(f'"{name}":{json.dumps(value, ensure_ascii=ascii_only)}' for name, value in pairs)
    return f"{{{inside}}}".encode("utf-8", "surrogatepass")


bodies = st.builds(
    lambda base, more, drop, ascii_only: text(
        [(n, v) for n, v in base.items() if n != drop] + more, ascii_only=ascii_only
    ),
    st.sampled_from([VALID, LISTS, {}]),
    st.lists(st.tuples(st.sampled_from(NAMES), values), max_size=3),
    st.sampled_from([None, *NAMES]),
    st.booleans(),
)


@pytest.mark.parametrize("type_", [Leaf, Lists])
@given(body=bodies)
def test_what_msgspec_takes_of_these_the_schema_takes_too(type_: type[Struct], body: bytes) -> None:
    plan = plan_of(type_)
    try:
        msgspec.json.decode(body, type=type_)
        value = json.loads(body)
    except (msgspec.MsgspecError, ValueError):
        return
    assert Checker(plan.schema, plan.definitions, FORMATS).is_valid(value), body


def outcome(bind: binding.Bind, body: bytes) -> Any:
    try:
        return bind((), "", body)
    except KernelError as error:
        return (error.code, error.detail)


@pytest.mark.parametrize("type_", [Leaf, Lists])
@given(body=bodies)
def test_the_short_way_ends_where_the_long_one_does(type_: type[Struct], body: bytes) -> None:
    short = compile_binding(type_, placeholders=(), takes_body=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(binding, "is_as_strict", lambda kind: False)
        long = compile_binding(type_, placeholders=(), takes_body=True)
    assert outcome(short, body) == outcome(long, body)


def test_a_key_that_stands_twice_is_seen_on_the_short_way_too() -> None:
    bind = compile_binding(Leaf, placeholders=(), takes_body=True)
    assert outcome(bind, text(list(VALID.items()), ascii_only=True)) == Leaf(**VALID)
    twice = text([*VALID.items(), ("count", 3)], ascii_only=True)
    assert outcome(bind, twice)[0] == "duplicate_key"
    in_place_of_another = text([*[*VALID.items()][1:], ("count", 3)], ascii_only=True)
    assert outcome(bind, in_place_of_another)[0] == "duplicate_key"
