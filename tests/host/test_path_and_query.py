"""Path and query fill a request as exactly as a body does: text is read as the JSON value that it stands for."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Annotated, Any, Literal
from urllib.parse import quote
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET, Meta, Struct

from host.binding import compile_binding
from plugin_api.contracts.iam import UserList, UserPatch
from plugin_api.errors import InvalidRequest, Unreadable, Violation
from plugin_api.limits import VIOLATIONS_MAX
from plugin_api.pages import PageRequest

ID = "0190f3c2-7b1e-7cc0-9a55-2f6b3a1d4e5f"


class Flat(Struct):
    """A plain Struct."""

    a: int


def bind(
    type_: Any, body: bytes, placeholders: tuple[str, ...] = (), values: tuple[str, ...] = (), query: str = ""
) -> Any:
    """Bind a body once."""
    return compile_binding(type_, placeholders=placeholders, takes_body=True)(values, query, body)


def bind_query(type_: Any, query: str, placeholders: tuple[str, ...] = (), values: tuple[str, ...] = ()) -> Any:
    """Bind a query once."""
    return compile_binding(type_, placeholders=placeholders, takes_body=False)(values, query, None)


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


def encoded(value: Any) -> bytes:
    return json.dumps(value).encode()


class Ask(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that a query can say."""

    shelf: str
    owner: UUID | None = None
    n: Annotated[int, Meta(ge=0, le=10)] = 1
    ratio: float | None = None
    deep: bool = False
    tags: Annotated[list[Annotated[str, Meta(max_length=3)]], Meta(max_length=2)] = []
    numbers: list[int] | None = None
    since: datetime | None = None
    word: Literal["a", "b"] | None = None
    text: str | None = None
    either: int | str | None = None


def ask(query: str, shelf: str = "x") -> Any:
    return bind_query(Ask, query, ("shelf",), (shelf,))


def test_path_and_query_fill_one_request() -> None:
    query = f"owner={ID}&n=3&ratio=1e2&deep=true&tags=a&tags=b&since=2026-01-31T09:30:00%2B02:00&word=b&text=a+b%26c&numbers=7"

    request = ask(query, "top%20shelf%2F%C3%A9")

    assert (request.shelf, request.owner, request.n, request.ratio) == ("top shelf/é", UUID(ID), 3, 100.0)
    assert (request.deep, request.tags, request.word, request.text) == (True, ["a", "b"], "b", "a b&c")
    assert (request.numbers, request.since.utcoffset()) == ([7], timedelta(hours=2))
    assert ask("") == ask("&&") == Ask(shelf="x")
    assert (ask("either=7").either, ask("either=7x").either, ask("text=").text) == (7, "7x", "")


@pytest.mark.parametrize(
    ("query", "pointers"),
    [
        ("n=x", ["/n"]),
        ("n=1.0", ["/n"]),
        ("n=+1", ["/n"]),
        ("n=%201", ["/n"]),
        ("n=01", ["/n"]),
        ("n=1_0", ["/n"]),
        ("n=", ["/n"]),
        ("n=11", ["/n"]),
        ("n=9007199254740993", ["/n"]),
        (f"n={'9' * 6000}", ["/n"]),
        ("deep=1", ["/deep"]),
        ("deep=TRUE", ["/deep"]),
        ("ratio=NaN", ["/ratio"]),
        ("ratio=1e999", ["/ratio"]),
        ("owner=x", ["/owner"]),
        (f"owner={ID.replace('-', '')}", ["/owner"]),
        ("owner=null", ["/owner"]),
        ("since=2026-01-31T09:30:00", ["/since"]),
        ("tags=abcd&tags=b", ["/tags/0"]),
        ("tags=a&tags=b&tags=c", ["/tags"]),
        ("numbers=1&numbers=x", ["/numbers/1"]),
        ("text=%00", ["/text"]),
        ("tags=%00", ["/tags"]),
        ("x=1&word=c&y%2Fz=2", ["/x", "/y~1z", "/word"]),
        ("shelf=other", ["/shelf"]),
        ("=1", ["/"]),
    ],
)
def test_wrong_queries_are_422(query: str, pointers: list[str]) -> None:
    assert [*refused(lambda: ask(query))] == pointers


@pytest.mark.parametrize("query", ["text=%zz", "text=%", "text=%ff", "%ff=1", "text=%ed%a0%80", "text=\udcff"])
def test_undecodable_queries_are_400(query: str) -> None:
    refused(lambda: ask(query), status=400)


@pytest.mark.parametrize("value", ["%ff", "%zz", "%F0%9F"])
def test_undecodable_paths_are_400(value: str) -> None:
    refused(lambda: ask("", value), status=400)


def test_a_path_value_is_checked_like_a_field() -> None:
    for value in ("0", "not-a-uuid", "..%2f..%2fetc", quote("' OR 1=1 --"), "a" * 3000, "%F0%9F%92%A9", "%00"):
        assert [*refused(lambda value=value: bind(UserPatch, b"{}", ("user_id",), (value,)))] == ["/user_id"]


def test_one_field_twice_in_the_query_is_400() -> None:
    with pytest.raises(Unreadable) as caught:
        ask("n=1&n=1")

    assert caught.value.code == "duplicate_key"


@given(st.text(max_size=20))
def test_any_text_comes_through_the_query_unharmed(text: str) -> None:
    clean = text.encode("utf-8", "replace").decode().replace("\0", "")

    assert ask(f"text={quote(clean, safe='')}").text == clean


@pytest.mark.parametrize("cursor", ["%00", "a" * 3000, "x%00y"])
def test_a_cursor_that_is_none_is_400(cursor: str) -> None:
    with pytest.raises(Unreadable) as caught:
        bind_query(UserList, f"limit=2&cursor={cursor}")

    assert caught.value.code == "bad_cursor"


def test_a_bad_cursor_among_other_faults_is_one_of_them() -> None:
    assert {*refused(lambda: bind_query(UserList, "limit=0&cursor=%00"))} == {"/limit", "/cursor"}


@pytest.mark.parametrize("limit", ["0", "-1", "1.5", "abc", "9" * 30, "1e2", "201", "%00"])
def test_limits_of_lists_hold(limit: str) -> None:
    assert [*refused(lambda: bind_query(PageRequest, f"limit={limit}"))] == ["/limit"]


def test_the_path_wins_and_is_no_field_of_the_body() -> None:
    path = (("user_id",), (ID,))

    assert bind(UserPatch, b'{"name":"Nina"}', *path).name == "Nina"
    for name in ("user_id", "id"):
        assert (
            refused(lambda name=name: bind(UserPatch, encoded({name: ID}), *path))[f"/{name}"].code == "unknown_field"
        )
    assert "user_id" not in refused(lambda: bind(UserPatch, b'{"id":1}', *path))["/id"].detail


def test_null_and_absent_differ() -> None:
    request = bind(UserPatch, b'{"password":null}', ("user_id",), (ID,))

    assert (request.password, request.name) == (None, UNSET)
    assert [*refused(lambda: bind(UserPatch, b'{"name":null}', ("user_id",), (ID,)))] == ["/name"]


class Disable(Struct, forbid_unknown_fields=True):
    """An action with a word in its query."""

    plugin_id: str
    reason: str = ""
    cascade: Annotated[bool, Meta(extra={"in": "query"})] = False


def test_a_field_can_be_declared_to_come_from_the_query() -> None:
    path = (("plugin_id",), ("acme.crm",))

    assert bind(Disable, b'{"reason":"x"}', *path, "cascade=true") == Disable("acme.crm", "x", True)
    assert bind(Disable, b"", *path) == Disable("acme.crm")
    assert [*refused(lambda: bind(Disable, b'{"cascade":true}', *path))] == ["/cascade"]
    assert [*refused(lambda: bind(Disable, b"{}", *path, "reason=x"))] == ["/reason"]


def test_a_body_operation_takes_no_other_query() -> None:
    assert [*refused(lambda: bind(Flat, b'{"a":1}', query="a=1"))] == ["/a"]


class Renamed(Struct, rename="camel", forbid_unknown_fields=True):
    """A type whose wire names differ."""

    shelf_id: int
    long_name: str = "x"


def test_wire_names_are_used() -> None:
    assert bind(Renamed, b'{"longName":"y"}', ("shelf_id",), ("3",)) == Renamed(3, "y")
    assert {*refused(lambda: bind(Renamed, b'{"long_name":"y"}', ("shelf_id",), ("x",)))} == {"/long_name", "/shelfId"}
