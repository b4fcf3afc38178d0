"""A message stands for the JSON that REST has, whatever its type: what goes in comes out, and what is missing stays missing."""

from __future__ import annotations

import enum
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Annotated, Any, Generic, Literal, NewType, TypeVar
from uuid import UUID

import msgspec
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from msgspec import UNSET, Meta, Struct, UnsetType

from plugin_api.limits import INTEGER_MAX
from tests.host.wire.conftest import operation, served

T = TypeVar("T")
Shelf = NewType("Shelf", str)
WHOLE = st.integers(-INTEGER_MAX, INTEGER_MAX)
TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)
MOMENT = st.datetimes(timezones=st.just(UTC))
NUMBER = st.floats(allow_nan=False, allow_infinity=False)


class Colour(enum.Enum):
    DEEP_RED = "deep_red"
    GREEN = "green"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 7


class Odd(enum.Enum):
    SPACED = "two words"


class Circle(Struct, tag="circle", frozen=True, forbid_unknown_fields=True):
    radius: Annotated[int, Meta(ge=-INTEGER_MAX, le=INTEGER_MAX)]


class Label(Struct, tag="label", frozen=True, forbid_unknown_fields=True):
    text: str
    colour: Colour = Colour.GREEN


class Tree(Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    children: list[Tree] = []


class Pair(Struct, Generic[T], frozen=True, forbid_unknown_fields=True):
    first: T
    second: T | None = None


class Renamed(Struct, rename="camel", frozen=True, forbid_unknown_fields=True):
    long_name: str


class Everything(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    text: str
    shelf: Shelf
    whole: int
    ratio: float
    yes: bool
    blob: bytes
    at: datetime
    day: date
    clock: Annotated[time, Meta(tz=False)]
    lasts: timedelta
    price: Decimal
    id: UUID
    colour: Colour
    level: Level
    odd: Odd
    word: Literal["a", "b"]
    digit: Literal[1, 2]
    words: list[str]
    colours: list[Colour]
    times: list[datetime]
    blobs: list[bytes]
    unique: set[int]
    several: tuple[str, ...]
    fixed: tuple[int, str]
    counts: dict[str, int]
    by_id: dict[UUID, Circle]
    by_colour: dict[str, Colour]
    grid: list[list[int]]
    groups: dict[str, list[str]]
    holes: list[int | None]
    inner: Label
    shape: Circle | Label
    shapes: list[Circle | Label]
    named: dict[str, Circle | Label]
    either: int | str
    anything: Any
    object: dict[str, Any]
    tree: Tree
    pair: Pair[str]
    pairs: Pair[Circle]
    renamed: Renamed
    nothing: str | None
    no_list: list[str] | None
    note: str | None = None
    maybe: int | None = None
    when: datetime | None = None
    other: Circle | Label | None = None
    more: list[str] = []
    map: dict[str, int] = {}
    copies: int = 1
    is_on: bool = True
    tint: Colour = Colour.GREEN
    five: int | None = 5
    start: list[str] = msgspec.field(default_factory=lambda: ["x"])
    patch: str | UnsetType | None = UNSET
    roles: list[str] | UnsetType = UNSET
    level_or: Level | UnsetType | None = UNSET


JSON = st.recursive(
    st.none() | st.booleans() | WHOLE | TEXT | NUMBER, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)  # fmt: skip
CIRCLE = st.builds(Circle, radius=WHOLE)
LABEL = st.builds(Label, text=TEXT)
TREE: st.SearchStrategy[Tree] = st.recursive(
    st.builds(Tree, name=TEXT),
    lambda inner: st.builds(Tree, name=TEXT, children=st.lists(inner, max_size=2)),
    max_leaves=4,
)
MANY = st.lists(TEXT, max_size=3)
EVERYTHING = st.builds(
    Everything,
    text=TEXT, shelf=TEXT, whole=WHOLE, ratio=NUMBER, yes=st.booleans(), blob=st.binary(max_size=9), at=MOMENT,
    day=st.dates(), clock=st.times(), lasts=st.timedeltas(timedelta(-9999), timedelta(9999)),
    price=st.decimals(allow_nan=False, allow_infinity=False), id=st.uuids(), colour=st.sampled_from(Colour), level=st.sampled_from(Level),
    odd=st.just(Odd.SPACED), word=st.sampled_from("ab"), digit=st.sampled_from([1, 2]), words=MANY,
    colours=st.lists(st.sampled_from(Colour), max_size=2), times=st.lists(MOMENT, max_size=2), blobs=st.lists(st.binary(max_size=4), max_size=2),
    unique=st.sets(WHOLE, max_size=3), several=MANY.map(tuple), fixed=st.tuples(WHOLE, TEXT), counts=st.dictionaries(TEXT, WHOLE, max_size=2),
    by_id=st.dictionaries(st.uuids(), CIRCLE, max_size=2), by_colour=st.dictionaries(TEXT, st.sampled_from(Colour), max_size=2),
    grid=st.lists(st.lists(WHOLE, max_size=2), max_size=2), groups=st.dictionaries(TEXT, MANY, max_size=2),
    holes=st.lists(st.none() | WHOLE, max_size=3), inner=LABEL, shape=CIRCLE | LABEL, shapes=st.lists(CIRCLE | LABEL, max_size=2),
    named=st.dictionaries(TEXT, CIRCLE | LABEL, max_size=2), either=WHOLE | TEXT, anything=JSON, object=st.dictionaries(TEXT, JSON, max_size=2),
    tree=TREE, pair=st.builds(Pair, first=TEXT, second=st.none() | TEXT), pairs=st.builds(Pair, first=CIRCLE), renamed=st.builds(Renamed, TEXT),
    nothing=st.none() | TEXT, no_list=st.none() | MANY, note=st.none() | TEXT, maybe=st.none() | WHOLE, when=st.none() | MOMENT,
    other=st.none() | CIRCLE | LABEL, more=MANY, map=st.dictionaries(TEXT, WHOLE, max_size=2), copies=WHOLE, is_on=st.booleans(),
    tint=st.sampled_from(Colour), five=st.none() | WHOLE, start=MANY, patch=st.just(UNSET) | st.none() | TEXT, roles=st.just(UNSET) | MANY,
    level_or=st.just(UNSET) | st.none() | st.sampled_from(Level),
)  # fmt: skip

ECHO = operation(Everything, Everything)
METHOD = served(ECHO).methods["/pk.x.acme_crm.v1.Echo/Echo"]


def through(value: Any) -> Any:
    """As an answer into bytes, and as a request out of them."""
    message = METHOD.write(msgspec.json.decode(ECHO.encode(value)))
    return ECHO.bind_fields(METHOD.read(METHOD.parse(message.SerializeToString())))


@settings(
    max_examples=60, deadline=None, phases=[Phase.explicit, Phase.generate], suppress_health_check=list(HealthCheck)
)
@given(EVERYTHING)
def test_whatever_goes_in_comes_out(value: Everything) -> None:
    assert value == through(value)


def test_everything_has_a_form() -> None:
    assert {} == served(ECHO).contract.lacking
