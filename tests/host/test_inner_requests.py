"""A request of another plugin of this process is refused as one that comes through a door, with the same violations."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated, Any
from uuid import UUID

import pytest
from msgspec import UNSET, Meta, Struct, UnsetType

from host.inner_requests import compile_revalidate
from plugin_api.errors import KernelError
from plugin_api.limits import INTEGER_MAX
from tests.host.wire.conftest import operation

ID = UUID("0190f3c2-7b1e-7cc0-9a55-2f6b3a1d4e5f")


class Line(Struct, frozen=True, forbid_unknown_fields=True):
    text: str
    count: int = 1
    share: float | None = None


class Order(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: Annotated[str, Meta(max_length=40)] = "an order"
    lines: list[Line] = []
    words: dict[str, str] = {}
    free: dict[str, Any] = {}
    number: int | UnsetType = UNSET
    mark: int | str | None = None
    weight: float = 1.0
    picture: bytes = b""
    at: datetime | None = None
    of: UUID | None = None


ODD: dict[str, tuple[Order, dict[str, str]]] = {
    "NUL": (Order(name="a\0b"), {"/name": "text"}),
    "NUL further down": (Order(lines=[Line("x"), Line("\0")]), {"/lines/1/text": "text"}),
    "NUL in a key": (Order(words={"a\0": "b"}), {"/words/a\0": "text"}),
    "NUL in what is free": (Order(free={"a": ["\0"]}), {"/free/a/0": "text"}),
    "NUL and too long": (Order(name="\0" + "x" * 50, number=2**53), {"/name": "text", "/number": "bound"}),
    "half a surrogate pair": (Order(name="\ud800"), {"/name": "text"}),
    "one beyond": (Order(number=INTEGER_MAX + 1), {"/number": "bound"}),
    "one below": (Order(number=-INTEGER_MAX - 1), {"/number": "bound"}),
    "beyond 64 bits": (Order(number=2**70), {"/number": "bound"}),
    "beyond, further down": (Order(lines=[Line("x", 2**53)]), {"/lines/0/count": "bound"}),
    "beyond in what is free": (Order(free={"a": [1, 2**53]}), {"/free/a/1": "bound"}),
    "infinite": (Order(weight=math.inf), {"/weight": "bound"}),
    "infinite where null may be": (Order(lines=[Line("x", share=math.nan)]), {"/lines/0/share": "bound"}),
    "too long": (Order(name="x" * 41), {"/name": "length"}),
}  # fmt: skip
GOOD = {
    "nothing": Order(),
    "everything": Order(
        name="a \\u0000 b", lines=[Line("é", 2, 0.5)], words={"é": "\\u0000"}, number=3, mark="m", weight=2.5,
        picture=b"\0\xff\xfe", at=datetime(2026, 1, 2, tzinfo=UTC), of=ID,
    ),
    "the last exact ones": Order(number=INTEGER_MAX, mark=-INTEGER_MAX, lines=[Line("x", INTEGER_MAX)]),
    "what is free": Order(free={"a": [1, {"b": None}], "n": INTEGER_MAX}),
}  # fmt: skip


@pytest.fixture
def revalidate() -> Callable[[Any], Any]:
    return compile_revalidate(operation(Order, None))


@pytest.mark.parametrize("name", ODD)
def test_what_doors_refuse_is_refused(revalidate: Callable[[Any], Any], name: str) -> None:
    request, expected = ODD[name]
    with pytest.raises(KernelError) as caught:
        revalidate(request)

    assert (422, "invalid_request") == (caught.value.status, caught.value.code)
    assert expected == {one.pointer: one.code for one in caught.value.violations}


@pytest.mark.parametrize("name", GOOD)
def test_the_rest_is_taken_as_it_is(revalidate: Callable[[Any], Any], name: str) -> None:
    assert GOOD[name] == revalidate(GOOD[name])


def test_another_plugins_own_type_is_taken_for_ours(revalidate: Callable[[Any], Any]) -> None:
    class TheirOrder(Struct):
        name: str

    assert Order(name="n") == revalidate(TheirOrder("n"))


@pytest.mark.parametrize("request_", [None, 1, "text", [1]], ids=repr)
def test_what_is_no_request_is_refused(revalidate: Callable[[Any], Any], request_: Any) -> None:
    with pytest.raises(KernelError) as caught:
        revalidate(request_)

    assert {"": "type"} == {one.pointer: one.code for one in caught.value.violations}


def test_what_msgspec_decides_alone_is_not_bound_as_well() -> None:
    class Plain(Struct, frozen=True, forbid_unknown_fields=True):
        text: Annotated[str, Meta(min_length=1)]
        number: int

    registered = operation(Plain, None)
    looked_at: list[Any] = []
    registered.bind_fields = looked_at.append
    revalidate = compile_revalidate(registered)

    assert Plain("x", 1) == revalidate(Plain("x", 1))
    assert [] == looked_at
    revalidate(Plain("x", 2**53))
    assert [{"text": "x", "number": 2**53}] == looked_at
