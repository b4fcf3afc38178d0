"""Reading hostile JSON: the quick way is never wrong, and the careful way agrees with a plain oracle."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from host.json_reader import UNSURE, join, read, read_quickly
from plugin_api.errors import Unreadable, Violation
from plugin_api.limits import INTEGER_MAX, JSON_DEPTH_MAX


class Refused(ValueError):
    """The oracle refuses a text."""


def oracle(body: bytes) -> Any:
    """What a text means, by the standard library alone; Refused for what must not be accepted anywhere."""

    def pairs(found: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({name for name, _ in found}) != len(found):
            raise Refused("duplicate")
        return dict(found)

    def constant(text: str) -> Any:
        raise Refused(text)

    try:
        value = json.loads(body.decode("utf-8"), object_pairs_hook=pairs, parse_constant=constant)
        _check(value, 1)
    except (ValueError, RecursionError) as error:
        raise Refused(str(error)) from error
    return value


def _check(value: Any, depth: int) -> None:
    match value:
        case dict():
            for name, entry in value.items():
                _check(name, depth)
                _check(entry, depth + 1)
        case list():
            for entry in value:
                _check(entry, depth + 1)
        case str() if "\0" in value or any(0xD800 <= ord(c) <= 0xDFFF for c in value):
            raise Refused("text")
        case int() if abs(value) > INTEGER_MAX:
            raise Refused("integer")
        case float() if math.isinf(value):
            raise Refused("number")
        case _:
            pass
    if isinstance(value, dict | list) and depth > JSON_DEPTH_MAX:
        raise Refused("depth")


LETTERS = st.sampled_from(["a", "b", ":", '"', "\\", "\0", "\ud800", "\udc00", "é", "😀", "{", "[", "\n", "u0061"])
WORDS = st.lists(LETTERS, max_size=4).map("".join)
NUMBERS = st.sampled_from(
    ["0", "-0", "1", "9007199254740991", "9007199254740992", "-9007199254740992", "1" * 400, "1.0"]
)
LITERALS = NUMBERS | st.sampled_from(["1e400", "-1e5", "0.1", "true", "false", "null", "NaN", "Infinity", "01", "+1"])


@st.composite
def spelled(draw: st.DrawFn, words: st.SearchStrategy[str] = WORDS) -> str:
    """A JSON string in one of its spellings."""
    word = draw(words)
    return json.dumps(word, ensure_ascii=draw(st.booleans()) or any(0xD800 <= ord(c) <= 0xDFFF for c in word))


def _object(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    names = spelled(st.sampled_from(["a", "b", "é", "a:"])) | st.just('"\\u0061"')
    members = st.tuples(names, inner).map(lambda pair: f"{pair[0]} : {pair[1]}")
    return st.lists(members, max_size=4).map(lambda found: "{" + ",".join(found) + "}")


VALUES = st.recursive(
    LITERALS | spelled(),
    lambda inner: _object(inner) | st.lists(inner, max_size=3).map(lambda found: f"[{', '.join(found)}]"),
    max_leaves=8,
)


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    """JSON text, now and then damaged."""
    whole = draw(_object(VALUES) | VALUES).encode("utf-8", "surrogatepass")
    if draw(st.integers(0, 3)) == 0 and whole:
        at = draw(st.integers(0, len(whole) - 1))
        whole = (
            whole[:at] + draw(st.sampled_from([b"", b"\xff", b'"', b"}", b",", b" ", b"\0", b"\\"])) + whole[at + 1 :]
        )
    return (
        draw(st.sampled_from([b"", b" ", b"\n\t\r", b"\xef\xbb\xbf", b"\x0c"]))
        + whole
        + draw(st.sampled_from([b"", b" ", b"x"]))
    )


def accepted(body: bytes) -> Any:
    """The oracle's value, or UNSURE when it refuses."""
    try:
        return oracle(body)
    except Refused:
        return UNSURE


def has_large_integer(value: Any) -> bool:
    """Whether a value holds an integer that its schema must refuse; `read_quickly` leaves that to the schema."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return (isinstance(value, int) and abs(value) > INTEGER_MAX) or any(map(has_large_integer, inner))


@given(bodies())
@example(b'{"a":1,"a":1}')
@example(b'{"a":"\\u0000"}')
@example(b'{"\\u0000":1}')
@example(b'{"a":{},"a":{}}')
@example(b'{"a":"b:","a":"b"}')
@example(b'{"a":["b"],"c":[]}')
def test_what_is_read_quickly_is_what_the_oracle_reads(body: bytes) -> None:
    value = read_quickly(body)

    if value is not UNSURE and not has_large_integer(value):
        assert accepted(body) == value


@given(bodies())
def test_reading_carefully_agrees_with_the_oracle(body: bytes) -> None:
    expected = accepted(body)
    try:
        value, found = read(body)
    except Unreadable:
        assert expected is UNSURE
        return

    assert (expected is UNSURE) == bool(found)
    if not found:
        assert expected == value
        assert repr(expected) == repr(value)


@given(st.integers(1, JSON_DEPTH_MAX + 3), st.booleans())
def test_nesting_is_bounded_exactly(depth: int, in_object: bool) -> None:
    body = (b'{"a":' * depth + b"1" + b"}" * depth) if in_object else b"[" * depth + b"]" * depth

    if depth <= JSON_DEPTH_MAX:
        assert read(body)[1] == []
    else:
        with pytest.raises(Unreadable, match="nested deeper"):
            read(body)


def test_brackets_in_texts_are_no_nesting() -> None:
    text = "[" * 200 + '\\"' + "{" * 200 + "\\\\"

    assert read(f'{{"a": "{text}"}}'.encode())[1] == []


@pytest.mark.parametrize("deep", [b"[" * 100_000, b"[" * 100_000 + b"]" * 100_000, b'{"a":' * 100_000, b'["' * 500_000])
def test_absurd_nesting_is_refused(deep: bytes) -> None:
    with pytest.raises(Unreadable):
        read(deep)


def test_what_is_wrong_has_its_place() -> None:
    value, found = read(b'{"a":[1,"x\\u0000y"],"b/c":{"d~e":"\\ud800"},"f":1e999,"g":-9007199254740992}')

    assert [v.pointer for v in found] == ["/a/1", "/b~1c/d~0e", "/f", "/g"]
    assert {v.code for v in found} == {"text", "bound"}
    assert json.dumps(value, ensure_ascii=False).encode("utf-8")


def test_a_key_with_nul_is_a_violation_and_one_with_half_a_pair_unreadable() -> None:
    assert read(b'{"a\\u0000":1}')[1] == [Violation("/a\0", "text", "expected a key without NUL (U+0000)")]
    with pytest.raises(Unreadable):
        read(b'{"\\udfff":1}')


def test_long_names_are_cut_in_pointers() -> None:
    assert len(join("", "n" * 100_000)) < 300
    assert join("/a", "b/c~d") == "/a/b~1c~0d"
