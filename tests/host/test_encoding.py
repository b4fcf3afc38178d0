"""Answers go out as promised: UTC with Z, exact integers, base64url, and only what the operation declares."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET, Struct, UnsetType

from host.binding import compile_encoder
from plugin_api.errors import KernelBug
from plugin_api.limits import INTEGER_MAX
from plugin_api.pages import Page

NOW = datetime(2026, 1, 31, 9, 30, tzinfo=UTC)


class Inner(Struct):
    """Part of an answer."""

    count: int
    at: datetime | None = None
    inner: Inner | None = None


class Answer(Struct, kw_only=True):
    """An answer with every kind of field."""

    id: UUID = UUID(int=5)
    text: str = ""
    count: int = 0
    maybe: int | None = None
    at: datetime = NOW
    times: list[datetime] = []
    counts: dict[str, int] = {}
    inner: list[Inner] = []
    ratio: float = 0.0
    unset: datetime | UnsetType = UNSET


class Loose(Struct):
    """An answer that may hold anything."""

    any: Any = None
    data: bytes = b""
    either: int | datetime = 0


def encode(answer: Any, type_: Any = None) -> Any:
    """What a client reads."""
    return json.loads(compile_encoder(type_ or type(answer))(answer))


def test_the_plain_case_is_msgspecs_own_encoding() -> None:
    answer = Answer(text="é😀", inner=[Inner(1, NOW, Inner(2))], counts={"a": INTEGER_MAX})

    assert compile_encoder(Answer)(answer) == msgspec.json.encode(answer)


@pytest.mark.parametrize(
    "zone", [timezone(timedelta(hours=2)), timezone(timedelta(0)), ZoneInfo("Europe/Berlin"), ZoneInfo("UTC")]
)
def test_times_are_utc_with_z(zone: Any) -> None:
    local = NOW.astimezone(zone)

    shown = encode(Answer(at=local, times=[local], inner=[Inner(1, local)], unset=local))

    assert shown["at"] == shown["times"][0] == shown["inner"][0]["at"] == shown["unset"] == "2026-01-31T09:30:00Z"
    assert encode(Loose([local, {"a": local}], either=local)) == {
        "any": ["2026-01-31T09:30:00Z", {"a": "2026-01-31T09:30:00Z"}],
        "data": "",
        "either": "2026-01-31T09:30:00Z",
    }


def test_bytes_are_base64url() -> None:
    assert encode(Loose({"k": b"\xff\xfe"}, b"\xfb\xef\xff")) == {"any": {"k": "__4"}, "data": "--__", "either": 0}


naive = NOW.replace(tzinfo=None)
BUGS = [
    Answer(count=INTEGER_MAX + 1),
    Answer(maybe=-INTEGER_MAX - 1),
    Answer(counts={"a": 2**60}),
    Answer(inner=[Inner(1), Inner(1, None, Inner(2**53))]),
    Answer(at=naive),
    Answer(times=[NOW, naive]),
    Answer(inner=[Inner(1, naive)]),
    Answer(unset=naive),
    Answer(ratio=float("nan")),
    Answer(ratio=float("inf")),
    Answer(text="\ud800"),
    Loose(any=[2**53]),
    Loose(any=[{"a": "\udfff"}]),
    Loose(any={naive}),
    Loose(any=object()),
    Loose(any=float("nan")),
]


@pytest.mark.parametrize("answer", BUGS, ids=lambda a: repr(a).split(" at 0x")[0][:60])
def test_what_the_wire_cannot_say_is_a_bug(answer: Any) -> None:
    with pytest.raises(KernelBug):
        encode(answer)


def test_a_wrong_answer_is_a_bug() -> None:
    wrong: Any = Answer(count=1)
    for answer, declared in (
        (Inner(1), Answer),
        (None, Answer),
        ({"count": 1}, Inner),
        (Inner(1), None),
        ([], Page[Inner]),
    ):
        with pytest.raises(KernelBug):
            compile_encoder(declared)(answer)
    wrong.count = "many"
    with pytest.raises(KernelBug):
        encode(wrong)


def test_pages_and_unions_are_answers() -> None:
    assert encode(Page([Inner(1)], "x"), Page[Inner]) == {
        "items": [{"count": 1, "at": None, "inner": None}],
        "next_cursor": "x",
    }
    assert encode(Inner(1), Inner | None)["count"] == 1
    assert compile_encoder(None)(None) == b""


@given(
    st.integers(-(2**70), 2**70),
    st.datetimes(timezones=st.timezones() | st.just(UTC)),
    st.floats(),
    st.binary(max_size=9),
)
def test_what_comes_out_is_what_went_in(count: int, at: datetime, ratio: float, data: bytes) -> None:
    exact = -INTEGER_MAX <= count <= INTEGER_MAX and abs(ratio) not in (float("inf"),) and ratio == ratio  # noqa: PLR0124
    try:
        answer, loose = Answer(count=count, at=at, ratio=ratio), Loose([count, at, ratio, data], data, count)
        shown, other = encode(answer), encode(loose)
    except KernelBug:
        assert not exact or not 1 < at.year < 9999
        return

    assert exact
    assert (shown["count"], shown["ratio"]) == (count, ratio)
    assert shown["at"].endswith("Z")
    # In UTC: two zones never compare equal at an hour that a change of clocks leaves out.
    assert datetime.fromisoformat(shown["at"]) == at.astimezone(UTC)
    assert shown["at"] == other["any"][1]
