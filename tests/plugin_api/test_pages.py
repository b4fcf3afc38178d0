"""Pages: whatever is inserted or deleted meanwhile, every row that stays is seen once."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, Literal
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugin_api.errors import Unreadable
from plugin_api.ids import uuid7
from plugin_api.pages import Page, PageRequest, keyset

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)


class ListLeads(PageRequest, frozen=True, kw_only=True):
    """A list with a filter and two orders."""

    status: str | None = None
    sort: Literal["created_at", "-created_at"] = "created_at"


class Lead(dict[str, Any]):
    """A row."""

    def keys(self) -> Iterator[str]:  # type: ignore[override]
        return iter(super().keys())


class CursorCall:
    """Just enough of a `Call`: cursors are readable lists, bound as the host binds them."""

    def seal_cursor(self, bound: bytes, values: list[Any]) -> str:
        return msgspec.json.encode([bound.hex(), values]).decode()

    def open_cursor(self, bound: bytes, cursor: str) -> list[Any]:
        found, values = msgspec.json.decode(cursor)
        if found != bound.hex():
            raise Unreadable("not of this list", code="bad_cursor")
        return list(values)


CALL: Any = CursorCall()


def read(rows: list[Lead], request: ListLeads) -> Page[UUID]:
    """What the query of a plugin would give."""
    place = keyset(CALL, request)
    _, order, after = place.clause(1)
    assert order == f"created_at {'desc' if place.descending else 'asc'}, id {'desc' if place.descending else 'asc'}"
    key = sorted(rows, key=lambda row: (row["created_at"], row["id"]), reverse=place.descending)
    if after:
        edge = (datetime.fromisoformat(after[0]), UUID(after[1]))
        key = [
            row
            for row in key
            if ((row["created_at"], row["id"]) < edge if place.descending else (row["created_at"], row["id"]) > edge)
        ]
    return place.page(CALL, key[: request.limit + 1], request.limit, lambda row: row["id"])


def lead(offset_us: int) -> Lead:
    return Lead(id=uuid7(), created_at=BEGIN + timedelta(microseconds=offset_us))


@given(
    st.lists(st.integers(0, 5), max_size=20),
    st.integers(1, 5),
    st.booleans(),
    st.lists(st.tuples(st.integers(0, 19), st.integers(0, 5)), max_size=8),
)
def test_rows_that_stay_are_seen_once(
    offsets: list[int], limit: int, descending: bool, changes: list[tuple[int, int]]
) -> None:
    """Many rows share a time, down to the microsecond; before each page one row goes and one comes."""
    rows = [lead(offset) for offset in offsets]
    begun_with = [row["id"] for row in rows]
    request = ListLeads(limit=limit, sort="-created_at" if descending else "created_at")
    seen, cursor = list[UUID](), None
    while True:
        if changes:
            place, offset = changes.pop()
            rows = [row for number, row in enumerate(rows) if number != place] + [lead(offset)]
        page = read(rows, msgspec.structs.replace(request, cursor=cursor))
        seen += page.items
        cursor = page.next_cursor
        if cursor is None:
            break

    stayed = {row["id"] for row in rows} & set(begun_with)
    assert len(seen) == len(set(seen))
    assert stayed <= set(seen)


def test_the_last_page_has_no_cursor() -> None:
    rows = [lead(n) for n in range(4)]

    assert read(rows, ListLeads(limit=4)).next_cursor is None
    assert read(rows, ListLeads(limit=3)).next_cursor is not None
    assert read([], ListLeads()).next_cursor is None


def test_the_next_page_may_have_another_length() -> None:
    rows = [lead(n) for n in range(6)]
    first = read(rows, ListLeads(limit=2))
    rest = read(rows, ListLeads(limit=10, cursor=first.next_cursor))

    assert first.items + rest.items == [row["id"] for row in rows]


@pytest.mark.parametrize("changed", [{"status": "open"}, {"sort": "-created_at"}])
def test_a_cursor_belongs_to_one_query(changed: dict[str, Any]) -> None:
    cursor = read([lead(n) for n in range(4)], ListLeads(limit=2)).next_cursor

    with pytest.raises(Unreadable):
        keyset(CALL, ListLeads(cursor=cursor, **changed))


def test_a_cursor_belongs_to_one_list() -> None:
    class ListDeals(PageRequest, frozen=True, kw_only=True):
        status: str | None = None

    cursor = read([lead(n) for n in range(4)], ListLeads(limit=2)).next_cursor
    with pytest.raises(Unreadable):
        keyset(CALL, ListDeals(cursor=cursor))


@pytest.mark.parametrize("values", [[], ["a"], ["a", "b", "c"], [1, 2], ["a", None]])
def test_a_cursor_with_other_values_is_refused(values: list[Any]) -> None:
    bound = keyset(CALL, ListLeads()).bound

    with pytest.raises(Unreadable) as caught:
        keyset(CALL, ListLeads(cursor=CALL.seal_cursor(bound, values)))
    assert caught.value.code == "bad_cursor"


def test_clauses_are_numbered_from_where_the_query_is() -> None:
    cursor = read([lead(n) for n in range(4)], ListLeads(limit=2)).next_cursor
    condition, _, arguments = keyset(CALL, ListLeads(cursor=cursor)).clause(3, "bigint")

    assert condition == "(created_at, id) > ($3::text::bigint, $4::text::uuid)"
    assert len(arguments) == 2
