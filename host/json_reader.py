"""Reading JSON that may be hostile: what no later step could tell any more is refused here.

Duplicate keys (in whatever spelling), NaN, invalid UTF-8 and deep nesting make a text unreadable. NUL, lone surrogates
and numbers that do not stay exact are violations at their place, and are replaced so that the rest can be checked too.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable
from typing import Any, Final, NoReturn

import msgspec

from plugin_api.errors import Unreadable, Violation
from plugin_api.limits import INTEGER_MAX, JSON_DEPTH_MAX, VIOLATIONS_MAX

POINTER_PART_LENGTH_MAX: Final = 256
HUGE: Final = 10**20
"""Stands for every integer that is longer than INTEGER_DIGITS_MAX: converting its digits would cost quadratic time."""
INTEGER_DIGITS_MAX: Final = 20
UNSURE: Final = object()
"""What `read_quickly` answers when `read` must look."""

_DEEP: Final = f"the body is nested deeper than {JSON_DEPTH_MAX} levels; send it flatter"
_NAME_SHOWN_LENGTH_MAX: Final = 60
_decode_quickly: Final = msgspec.json.Decoder().decode


class _DuplicateKey(ValueError):
    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


class _Doubtful(ValueError):
    """A number is out of range: the text is read again, slowly, to say where."""


def read_quickly(body: bytes) -> Any:
    """The object that `body` holds, when a few cheap counts prove that nothing is hidden in it; else UNSURE.

    Without a backslash no key has a second spelling and no NUL is hidden; as many colons as keys means that no key
    stands twice, that nothing is nested and that no text holds a colon. Integers may be out of range.
    """
    if b"\\" in body or body.count(b"[") + body.count(b"{") > JSON_DEPTH_MAX:
        return UNSURE
    try:
        value = _decode_quickly(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return UNSURE
    if type(value) is dict and len(value) == body.count(b":"):
        return value
    return UNSURE


def read(body: bytes) -> tuple[Any, list[Violation]]:
    """The value that `body` holds, cleaned, and what had to be cleaned out of it.

    Raises:
        Unreadable: `malformed_json` or `duplicate_key`.
    """
    text = _text(body)
    check_depth(body)
    try:
        value = _parse(_STRICT, text)
    except _Doubtful:
        value = _parse(_LENIENT, text)
    else:
        if "\\u" not in text:
            return value, []
    found: list[Violation] = []
    return clean(value, "", found), found


def _text(body: bytes) -> str:
    try:
        return body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _malformed(f"byte {error.start} is not UTF-8") from None


def _parse(decoder: json.JSONDecoder, text: str) -> Any:
    try:
        return decoder.decode(text)
    except _DuplicateKey as error:
        shown = ascii(error.name[:_NAME_SHOWN_LENGTH_MAX])
        raise Unreadable(f"the key {shown} stands twice in one object; send it once", code="duplicate_key") from None
    except json.JSONDecodeError as error:
        raise _malformed(f"{error.msg} (character {error.pos})") from None
    except RecursionError:
        raise Unreadable(_DEEP, code="malformed_json") from None


def _malformed(why: str) -> Unreadable:
    return Unreadable(f"the body is no JSON: {why}; send one JSON object in UTF-8", code="malformed_json")


# ------------------------------------------------------------------------------------------------ depth


def check_depth(body: bytes) -> None:
    """Refuse JSON that is nested deeper than JSON_DEPTH_MAX."""
    if body.count(b"[") + body.count(b"{") <= JSON_DEPTH_MAX:
        return
    depth = 0
    for bracket in _brackets(body):
        if bracket in b"[{":
            depth += 1
            if depth > JSON_DEPTH_MAX:
                raise Unreadable(_DEEP, code="malformed_json")
        else:
            depth -= 1


def _brackets(body: bytes) -> bytes:
    """The brackets of a text in order, those inside strings left out."""
    bare = body.replace(b"\\\\", b"").replace(b'\\"', b"") if b"\\" in body else body
    return b"".join(bare.split(b'"')[::2]).translate(None, _NO_BRACKETS)


_NO_BRACKETS: Final = bytes(byte for byte in range(256) if byte not in b"[]{}")


# ---------------------------------------------------------------------------------------------- numbers


def parse_integer(text: str) -> int:
    """The integer of JSON digits; a very long one is HUGE."""
    if len(text) > INTEGER_DIGITS_MAX:
        return -HUGE if text.startswith("-") else HUGE
    return int(text)


def _exact_integer(text: str) -> int:
    value = parse_integer(text)
    if -INTEGER_MAX <= value <= INTEGER_MAX:
        return value
    raise _Doubtful


def _finite_number(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise _Doubtful
    return value


def _unique_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise _DuplicateKey(Counter(name for name, _ in pairs).most_common(1)[0][0])
    return made


def _no_constant(text: str) -> NoReturn:
    raise _malformed(f"{text} is no JSON number")


_STRICT: Final = json.JSONDecoder(
    object_pairs_hook=_unique_object,
    parse_int=_exact_integer,
    parse_float=_finite_number,
    parse_constant=_no_constant,
)
_LENIENT: Final = json.JSONDecoder(
    object_pairs_hook=_unique_object,
    parse_int=parse_integer,
    parse_float=float,
    parse_constant=_no_constant,
)


# --------------------------------------------------------------------------------------------- cleaning


def clean(value: Any, pointer: str, found: list[Violation]) -> Any:
    """A copy of a JSON value without NUL, lone surrogates and inexact numbers; `found` gains a violation for each.

    Raises:
        Unreadable: a lone surrogate in a key, which no pointer could name.
    """
    match value:
        case str():
            return _clean_text(value, pointer, found)
        case dict():
            return {_clean_key(k, pointer, found): clean(v, join(pointer, k), found) for k, v in value.items()}
        case list():
            return [clean(entry, f"{pointer}/{index}", found) for index, entry in enumerate(value)]
        case int() if not -INTEGER_MAX <= value <= INTEGER_MAX:
            note(
                found,
                pointer,
                "bound",
                f"expected an integer from -{INTEGER_MAX} to {INTEGER_MAX}, which stays exact everywhere",
            )
            return 0
        case float() if not math.isfinite(value):
            note(found, pointer, "bound", "expected a number in the range of a double")
            return 0
        case _:
            return value


def _clean_text(text: str, pointer: str, found: list[Violation]) -> str:
    if "\0" in text:
        note(found, pointer, "text", "expected a text without NUL (U+0000)")
        text = text.replace("\0", "\ufffd")
    if not _is_unicode(text):
        note(found, pointer, "text", "expected Unicode text; it holds half of a surrogate pair")
        text = text.encode("utf-8", "replace").decode("utf-8")
    return text


def _clean_key(name: str, pointer: str, found: list[Violation]) -> str:
    if not _is_unicode(name):
        raise _malformed(f"a key in {pointer or 'the body'} holds half of a surrogate pair")
    if "\0" in name:
        note(found, join(pointer, name), "text", "expected a key without NUL (U+0000)")
    return name


def _is_unicode(text: str) -> bool:
    if text.isascii():
        return True
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def note(found: list[Violation], pointer: str, code: str, detail: str) -> None:
    """Add a violation while there is room."""
    if len(found) < VIOLATIONS_MAX:
        found.append(Violation(pointer, code, detail))


def join(pointer: str, name: str) -> str:
    """The JSON Pointer (RFC 6901) of a member; an absurdly long name is cut."""
    if len(name) > POINTER_PART_LENGTH_MAX:
        name = f"{name[:POINTER_PART_LENGTH_MAX]}…"
    return f"{pointer}/{name.replace('~', '~0').replace('/', '~1')}"


def pointers(violations: Iterable[Violation]) -> set[str]:
    """Where violations are."""
    return {violation.pointer for violation in violations}
