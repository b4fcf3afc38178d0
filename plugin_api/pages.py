"""Lists in pages that survive inserts and deletes: keyset pagination with signed cursors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from hashlib import blake2b
from typing import Annotated, Any, Generic, TypeVar

import msgspec
from msgspec import Meta, Struct

from plugin_api.call import Call
from plugin_api.errors import Unreadable
from plugin_api.limits import CURSOR_BYTES_MAX, PAGE_ITEMS_DEFAULT, PAGE_ITEMS_MAX
from plugin_api.ports.database import Row

T = TypeVar("T")


class PageRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What every list takes. A subclass adds its filters as fields, and narrows `sort` to a `Literal` of its choices:
    `sort: Literal["created_at", "-created_at"] = "created_at"`."""

    limit: Annotated[int, Meta(ge=1, le=PAGE_ITEMS_MAX)] = PAGE_ITEMS_DEFAULT
    cursor: Annotated[str, Meta(max_length=CURSOR_BYTES_MAX)] | None = None
    sort: str = "created_at"


class Page(Struct, Generic[T], frozen=True):
    """One page; `next_cursor` is None on the last one."""

    items: list[T]
    next_cursor: str | None = None


class Keyset(Struct, frozen=True):
    """Where a page begins and in which order it runs: by one column, then by `id`, which makes the order total."""

    column: str
    descending: bool
    after: tuple[Any, str] | None
    """(value of the column, id) of the last row of the page before; None on the first page."""
    bound: bytes
    """What the next cursor is bound to besides the tenant: the request without `cursor` and `limit`."""

    def clause(self, first_parameter: int, cast: str = "timestamptz") -> tuple[str, str, tuple[Any, ...]]:
        """Return (condition, order, arguments) for the query: `where {condition} order by {order} limit ...`.

        `cast` is the column's SQL type; its arguments are numbered from `first_parameter`.
        """
        direction, sign = ("desc", "<") if self.descending else ("asc", ">")
        order = f"{self.column} {direction}, id {direction}"
        if self.after is None:
            return "true", order, ()
        number = first_parameter
        condition = f"({self.column}, id) {sign} (${number}::text::{cast}, ${number + 1}::text::uuid)"
        return condition, order, self.after

    def page(self, call: Call, rows: Sequence[Row], limit: int, make: Callable[[Row], T]) -> Page[T]:
        """Make a page of at most `limit` items from rows that were read with `limit + 1`."""
        items = [make(row) for row in rows[:limit]]
        if len(rows) <= limit:
            return Page(items, None)
        last = rows[limit - 1]
        return Page(items, call.seal_cursor(self.bound, [_text(last[self.column]), str(last["id"])]))


def keyset(call: Call, request: PageRequest) -> Keyset:
    """Read order and place out of a request.

    Raises:
        Unreadable: `bad_cursor`: the cursor was not made by this kernel for this tenant, list, order and filters.
    """
    column, descending = request.sort.removeprefix("-"), request.sort.startswith("-")
    bound = _bound(request)
    if request.cursor is None:
        return Keyset(column, descending, None, bound)
    values = call.open_cursor(bound, request.cursor)
    if len(values) != 2 or not all(isinstance(value, str) for value in values):
        raise Unreadable("the cursor is not one of this list; begin again without it", code="bad_cursor")
    return Keyset(column, descending, (values[0], values[1]), bound)


def _bound(request: PageRequest) -> bytes:
    query = {k: v for k, v in msgspec.structs.asdict(request).items() if k not in ("cursor", "limit")}
    whole = [type(request).__qualname__, sorted(msgspec.to_builtins(query).items())]
    return blake2b(msgspec.json.encode(whole), digest_size=16).digest()


def _text(value: Any) -> str:
    # Microseconds are kept: PostgreSQL compares them, and a rounded cursor would skip or repeat rows.
    return value.isoformat() if isinstance(value, datetime) else str(value)
