"""Requests are accepted exactly when the published schema says so, and every violation is listed at its place."""

from __future__ import annotations

import enum
import json
from collections.abc import Callable, Iterable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Annotated, Any, Literal
from uuid import UUID

import jsonschema_rs
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET, Meta, Struct, UnsetType

from host.binding import compile_binding
from host.formats import FORMATS
from host.request_plan import request_plan
from host.violations import Checker
from host.wire_schema import SchemaError
from plugin_api.contracts.iam import AcceptInvitation, Check, NewApiKey, NewUser, SignUp, UserPatch
from plugin_api.errors import InvalidRequest, KernelError, Unreadable, Violation
from plugin_api.limits import INTEGER_MAX, VIOLATIONS_MAX

ID = "0190f3c2-7b1e-7cc0-9a55-2f6b3a1d4e5f"


class Color(enum.Enum):
    """A colour."""

    RED = "red"
    BLUE = "blue"


class Circle(Struct, tag="circle", forbid_unknown_fields=True):
    """A round shape."""

    radius: Annotated[float, Meta(gt=0)]


class Square(Struct, tag="square", forbid_unknown_fields=True):
    """A shape with corners."""

    side: Annotated[int, Meta(ge=1, le=10)]
    corner: Color = Color.RED


class Tree(Struct, forbid_unknown_fields=True):
    """A type that contains itself."""

    name: Annotated[str, Meta(min_length=1, max_length=3)]
    children: Annotated[list[Tree], Meta(max_length=2)] = []


class Everything(Struct, kw_only=True, forbid_unknown_fields=True):
    """Every kind of field."""

    id: UUID
    text: str
    code: Annotated[str, Meta(pattern=r"^[A-Z]{3}$")]
    digits: Annotated[str, Meta(pattern=r"^\d+\Z")] = "1"
    count: int = 0
    ratio: float = 0.0
    exact: bool = False
    shape: Circle | Square | None = None
    tree: Tree | None = None
    at: datetime | None = None
    day: date | None = None
    clock: time | None = None
    wait: timedelta | None = None
    price: Decimal | None = None
    key: Annotated[bytes, Meta(min_length=2, max_length=4)] | None = None
    pair: tuple[int, str] | None = None
    names: set[str] | None = None
    words: dict[Annotated[str, Meta(pattern="^[ab]+$")], Annotated[int, Meta(ge=0)]] = {}
    ids: dict[UUID, bool] | None = None
    choice: Literal["a", "b", 3] | None = None
    free: Any = None
    unset: int | UnsetType | None = UNSET
    secret: Annotated[str, Meta(min_length=8, extra_json_schema={"writeOnly": True})] | None = None
    mail: Annotated[str, Meta(extra_json_schema={"format": "email"})] | None = None


class Flat(Struct):
    """A plain Struct that forgot to forbid unknown fields."""

    a: int
    b: str = "x"


def bind(
    type_: Any, body: bytes, placeholders: tuple[str, ...] = (), values: tuple[str, ...] = (), query: str = ""
) -> Any:
    """Bind a body once."""
    return compile_binding(type_, placeholders=placeholders, takes_body=True)(values, query, body)


def refused(call: Callable[[], Any], status: int = 422) -> dict[str, Violation]:
    """The violations of a refusal, by pointer."""
    with pytest.raises(InvalidRequest) as caught:
        call()
    assert (caught.value.status, type(caught.value).__module__) == (status, "plugin_api.errors")
    assert len(caught.value.violations) <= VIOLATIONS_MAX
    for violation in caught.value.violations:
        assert violation.code
        assert violation.detail.isprintable()
    return {violation.pointer: violation for violation in caught.value.violations}


def outcome(call: Callable[[], Any]) -> Any:
    """What a call gives, or the kernel's error that it raises."""
    try:
        return call()
    except KernelError as error:
        return error


def encoded(value: Any) -> bytes:
    return json.dumps(value).encode()


# ------------------------------------------------------------------------------------- agreement with the schema

GOOD: dict[str, Any] = {
    "id": ID,
    "text": "héllo",
    "code": "EUR",
    "digits": "12",
    "count": 3,
    "ratio": 1.5,
    "exact": True,
    "shape": {"type": "square", "side": 2, "corner": "blue"},
    "tree": {"name": "a", "children": [{"name": "b"}]},
    "at": "2026-01-31T09:30:00.5+02:00",
    "day": "2026-01-31",
    "clock": "09:30:00",
    "wait": "PT90S",
    "price": "12.50",
    "key": "AQID",
    "pair": [1, "x"],
    "names": ["a", "b"],
    "words": {"a": 1, "bb": 2},
    "ids": {ID: True},
    "choice": 3,
    "free": {"any": [1, None]},
    "unset": None,
    "secret": "12345678",
    "mail": "ada@example.com",
}
ODD: list[Any] = [
    None, True, False, 0, 1, -1, 1.0, 1.5, 2.0, -0.0, 1e300, INTEGER_MAX, INTEGER_MAX + 1, 10**30, "", "a", "abcd", "EUR\n",
    "EUR", "eur", "١٢", "12\n", "é", "😀😀😀", ID, ID.upper(), ID.replace("-", ""), "{" + ID + "}", f"urn:uuid:{ID}", f" {ID}",
    "2026-01-31T09:30:00Z", "2026-01-31t09:30:00z", "2026-01-31 09:30:00Z", "2026-01-31T09:30:00", "2026-01-31T09:30:60Z",
    "2026-02-30T09:30:00Z", "2026-01-31T09:30:00+0200", "2026-01-31T09:30:00.1234567890Z", "0000-01-01T00:00:00Z", "2026-01-31",
    "2026-13-01", "09:30:00", "09:30:00Z", "24:00:00", "PT90S", "P1Y", "P1D", "-PT1S", "12.50", "1e5", "NaN", "Infinity", "AQ",
    "AQI", "AQIDBA", "AQIDBAU", "AQ==", "__-_", "//+/", "A", [], [1, "x"], [1, "x", 2], ["a", "a"], {}, {"a": 1}, {"c": 1},
    {"a": -1}, {ID: True}, {ID.replace("-", ""): True}, {"type": "circle", "radius": 1}, {"type": "circle", "radius": 0},
    {"type": "square", "side": 1.0}, {"type": "square"}, {"type": "oval"}, {"radius": 1}, {"type": 3}, {"name": "abcd"},
    {"name": "a", "children": [{"name": "b", "children": [{"name": ""}, {"x": 1}]}]}, {"name": "a", "extra": 1}, 3, "b", "c",
    "1234567", "no mail", "ada@example.com",
]  # fmt: skip

VERDICTS: dict[Any, jsonschema_rs.Draft202012Validator] = {}


def verdict(type_: Any, value: Any) -> bool:
    """What the schema says, asked without any of our code that reads or lists."""
    if type_ not in VERDICTS:
        plan = request_plan(type_, (), takes_body=True)
        whole = {**plan.schema, "$defs": plan.definitions}
        VERDICTS[type_] = jsonschema_rs.Draft202012Validator(whole, formats=FORMATS, validate_formats=True)
    return VERDICTS[type_].is_valid(value)


def holds_inexact(value: Any) -> bool:
    """Whether an integer is beyond what stays exact; no schema can say that of a free value or of a number."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return (isinstance(value, int) and abs(value) > INTEGER_MAX) or any(map(holds_inexact, inner))


@pytest.fixture(scope="module")
def everything() -> Any:
    """The compiled binding of the type with every kind of field."""
    return compile_binding(Everything, placeholders=(), takes_body=True)


changes = st.dictionaries(st.sampled_from([*GOOD, "extra", "tex"]), st.sampled_from(ODD), max_size=3)


@given(changes=changes, dropped=st.sets(st.sampled_from([*GOOD]), max_size=len(GOOD) - 3))
def test_the_schema_is_the_law(everything: Any, changes: dict[str, Any], dropped: set[str]) -> None:
    body = {name: value for name, value in GOOD.items() if name not in dropped} | changes
    valid = verdict(Everything, body) and not holds_inexact(body)
    request = outcome(lambda: everything((), "", encoded(body)))
    if isinstance(request, KernelError):
        assert (request.status, valid) == (422, False), request.detail
        assert request.violations
        return

    assert valid
    assert isinstance(request, Everything)
    assert (request.at is None) or request.at.tzinfo is not None


@pytest.mark.parametrize("value", ODD, ids=repr)
@pytest.mark.parametrize("name", [*GOOD])
def test_every_odd_value_gets_one_verdict(everything: Any, name: str, value: Any) -> None:
    body = {**GOOD, name: value}
    if verdict(Everything, body) and not holds_inexact(body):
        everything((), "", encoded(body))
    else:
        found = refused(lambda: everything((), "", encoded(body)))
        assert all(pointer == f"/{name}" or pointer.startswith(f"/{name}/") for pointer in found)


def test_a_good_request_is_whole(everything: Any) -> None:
    request = everything((), "", encoded(GOOD))

    assert (request.id, request.key, request.names) == (UUID(ID), b"\1\2\3", {"a", "b"})
    assert (request.ids, request.pair, request.price) == ({UUID(ID): True}, (1, "x"), Decimal("12.50"))
    assert request.shape == Square(side=2, corner=Color.BLUE)
    assert request.tree == Tree("a", [Tree("b")])


CONTRACTS = [SignUp, NewUser, NewApiKey, Check, AcceptInvitation]
TEXTS = st.sampled_from(
    ["acme", "Acme\n", "", "a@b.example.com", "EUR", "correct horse battery", "iam.user.read", ID, "en", "*"]
)
ANYTHING = TEXTS | st.sampled_from(ODD) | st.lists(TEXTS, max_size=3)


@pytest.mark.parametrize("type_", CONTRACTS, ids=lambda t: t.__name__)
@given(data=st.data())
def test_contracts_get_one_verdict_too(type_: Any, data: st.DataObject) -> None:
    names = [field.encode_name for field in msgspec.structs.fields(type_)]
    body = data.draw(st.fixed_dictionaries({}, optional=dict.fromkeys([*names, "extra"], ANYTHING)))
    valid = verdict(type_, body)
    request = outcome(lambda: bind(type_, encoded(body)))

    assert isinstance(request, type_) == valid
    assert valid or request.status == 422


def test_whole_numbers_are_integers() -> None:
    assert bind(Flat, b'{"a":5.0}') == bind(Flat, b'{"a":5e0}') == Flat(5)
    assert isinstance(bind(Flat, b'{"a":5.0}').a, int)


# ----------------------------------------------------------------------------------------------- violations


def test_all_violations_come_at_once() -> None:
    body = {"slug": 5, "name": 7, "owner_email": [], "owner_password": {"x": 1}, "extra": True, "a/b~c": 2}

    found = refused(lambda: bind(SignUp, encoded(body)))

    assert [*found] == ["/slug", "/name", "/owner_email", "/owner_password", "/extra", "/a~1b~0c"]
    assert found["/slug"].detail == "expected a text, seen 5"
    assert "known: currency" in found["/extra"].detail


def test_missing_fields_are_named() -> None:
    found = refused(lambda: bind(SignUp, b"{}"))

    assert {(p, v.code) for p, v in found.items()} == {
        (f"/{name}", "missing") for name in ("slug", "name", "owner_email", "owner_password")
    }


def test_violations_lie_deep() -> None:
    body = {**GOOD, "tree": {"name": "a", "children": [{"name": "b", "children": [{"name": ""}, {"nme": "x"}]}]}}

    found = refused(lambda: bind(Everything, encoded(body)))

    assert {p: v.code for p, v in found.items()} == {
        "/tree/children/0/children/0/name": "length",
        "/tree/children/0/children/1/name": "missing",
        "/tree/children/0/children/1/nme": "unknown_field",
    }
    assert "did you mean name?" in found["/tree/children/0/children/1/nme"].detail


def test_a_union_is_told_apart_by_its_tag() -> None:
    square = {**GOOD, "shape": {"type": "square", "side": 99}}
    oval = {**GOOD, "shape": {"type": "oval"}}

    assert (
        refused(lambda: bind(Everything, encoded(square)))["/shape/side"].detail
        == "expected an integer from 1 to 10, seen 99"
    )
    assert 'one of "circle", "square"' in refused(lambda: bind(Everything, encoded(oval)))["/shape/type"].detail
    assert refused(lambda: bind(Everything, encoded({**GOOD, "shape": {}})))["/shape/type"].code == "missing"


@pytest.mark.parametrize("seen", ["Zebra7", ["Zebra7"], {"Zebra7": "Zebra7"}, "Zebra" * 80, "Zebra\nZebra7", 5550123])
def test_secrets_are_never_shown(seen: Any) -> None:
    for body in ({"owner_password": seen}, {"owner_password": seen, "slug": 1}, {"unknown": seen}):
        with pytest.raises(InvalidRequest) as caught:
            bind(SignUp, encoded(body))
        told = " ".join([caught.value.detail, *(v.detail for v in caught.value.violations)])
        assert "Zebra" not in told
        assert "5550123" not in told


def test_long_values_are_shortened() -> None:
    found = refused(lambda: bind(Check, encoded({"permission": "x" * 10_000})))

    assert len(found["/permission"].detail) < 200
    assert "(10000 characters)" in found["/permission"].detail


def test_hostile_bodies_are_described_up_to_a_bound() -> None:
    many = refused(lambda: bind(NewApiKey, encoded({"name": "n", "permissions": [1] * 100_000})))
    strange = refused(lambda: bind(NewApiKey, encoded({f"k{n}": 1 for n in range(20_000)})))

    assert many[""].code == strange[""].code == "more"
    assert len(strange) == VIOLATIONS_MAX


def test_refusing_again_and_again_keeps_nothing() -> None:
    plan = request_plan(Everything, (), takes_body=True)
    checker = Checker(plan.schema, plan.definitions, FORMATS)
    sizes = []
    for _ in range(3):
        for name in GOOD:
            for value in ODD:
                checker.violations({**GOOD, name: value})
        sizes.append(len(checker._compiled))

    assert sizes[0] == sizes[2]


def test_a_rule_of_the_type_itself_is_a_violation() -> None:
    with pytest.raises(InvalidRequest) as caught:
        bind(Ordered, b'{"inner":{"low":3,"high":2}}')

    assert caught.value.violations == (Violation("/inner", "invalid", "low is above high"),)


class Between(Struct, forbid_unknown_fields=True):
    """A range."""

    low: int
    high: int

    def __post_init__(self) -> None:
        if self.low > self.high:
            raise ValueError("low is above high")


class Ordered(Struct, forbid_unknown_fields=True):
    """Something with a range."""

    inner: Between


# --------------------------------------------------------------------------------------- unreadable bodies


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b'{"a":1,"a":1}', "duplicate_key"),
        (b'{"a":1,"\\u0061":1}', "duplicate_key"),
        (b'{"a":{"x":1,"x":2}}', "duplicate_key"),
        (b'{"a":[{"x":1,"x":2}]}', "duplicate_key"),
        (b'{"a":1', "malformed_json"),
        (b"{'a':1}", "malformed_json"),
        (b'{"a":1,}', "malformed_json"),
        (b'{"a":1} {}', "malformed_json"),
        (b'{"a":NaN}', "malformed_json"),
        (b'{"a":-Infinity}', "malformed_json"),
        (b'{"a":01}', "malformed_json"),
        (b'{"b":"a\nb"}', "malformed_json"),
        (b'{"b":"\xff"}', "malformed_json"),
        (b'{"b":"\xed\xa0\x80"}', "malformed_json"),
        (b'{"zz":"\xff"}', "malformed_json"),
        (b"", "malformed_json"),
        (b"[" * 10_000, "malformed_json"),
        (b'{"a":' * 10_000 + b"1" + b"}" * 10_000, "malformed_json"),
    ],
)
def test_unreadable_bodies_are_400(body: bytes, code: str) -> None:
    with pytest.raises(Unreadable) as caught:
        bind(Flat, body)

    assert (caught.value.status, caught.value.code) == (400, code)


@pytest.mark.parametrize("body", [b"[]", b'"text"', b"null", b"3", b"true"])
def test_what_is_no_object_is_422(body: bytes) -> None:
    assert refused(lambda: bind(Flat, body))[""].code == "type"


@pytest.mark.parametrize(
    "number", ["9007199254740992", "-9007199254740992", "1" + "0" * 5000, "1e400", "1.5", '"1"', "true"]
)
def test_integers_stay_exact(number: str) -> None:
    assert [*refused(lambda: bind(Flat, f'{{"a":{number}}}'.encode()))] == ["/a"]


@pytest.mark.parametrize("number", ["9007199254740992", "1" + "0" * 5000])
def test_free_values_hold_no_inexact_integers_either(number: str) -> None:
    body = encoded({**GOOD, "free": [0]}).replace(b"[0]", f"[{number}]".encode())

    assert refused(lambda: bind(Everything, body))["/free/0"].code == "bound"


class Free(Struct, forbid_unknown_fields=True):
    """Places whose numbers no schema bounds."""

    any: Any = None
    ratio: float = 0.0


@pytest.mark.parametrize("name", ["any", "ratio"])
def test_flat_free_values_neither(name: str) -> None:
    assert refused(lambda: bind(Free, f'{{"{name}":9007199254740992}}'.encode()))[f"/{name}"].code == "bound"


@pytest.mark.parametrize("text", [r"a\u0000b", r"\u0000", r"\ud800", r"x\udc00y", r"\udc00\ud800"])
def test_hostile_text_is_named_at_its_place(text: str) -> None:
    assert refused(lambda: bind(Flat, f'{{"a":1,"b":"{text}"}}'.encode()))["/b"].code == "text"


def test_a_body_may_be_missing_when_nothing_is_required() -> None:
    assert bind(UserPatch, b"", ("user_id",), (ID,)) == UserPatch(UUID(ID))


def test_unknown_fields_are_refused_whatever_the_struct_says() -> None:
    assert [*refused(lambda: bind(Flat, b'{"a":1,"c":2}'))] == ["/c"]


# ------------------------------------------------------------------------------------- types that cannot be


class Strange(Struct):
    """No JSON form."""

    what: Iterable[int]


class Positional(Struct, array_like=True):
    """An array on the wire."""

    a: int


class Unportable(Struct):
    """A pattern that only Python reads."""

    a: Annotated[str, Meta(pattern="(?i)x")]


class InQuery(Struct):
    """An object in a query."""

    a: Flat


class Ambiguous(Struct):
    """Two types that look the same on the wire."""

    a: datetime | UUID


class Wrapping(Struct):
    """Something impossible, further down."""

    list_of: list[Positional]


@pytest.mark.parametrize("type_", [Strange, Positional, Unportable, Ambiguous, Wrapping])
def test_types_that_cannot_go_over_the_wire_are_refused_by_name(type_: Any) -> None:
    with pytest.raises(SchemaError, match=type_.__name__):
        compile_binding(type_, placeholders=(), takes_body=True)


def test_a_query_holds_no_objects() -> None:
    with pytest.raises(SchemaError, match=r"InQuery\.a"):
        compile_binding(InQuery, placeholders=(), takes_body=False)


def test_a_placeholder_needs_its_field() -> None:
    with pytest.raises(SchemaError, match="no field b"):
        compile_binding(InQuery, placeholders=("b",), takes_body=True)
