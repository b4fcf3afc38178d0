"""Patterns mean the same in Python and in what we publish."""

from __future__ import annotations

import re

import jsonschema_rs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from host.ecma_pattern import NotPortable, ecma_pattern

PATTERNS = [
    r"^[a-z][a-z0-9-]{1,38}[a-z0-9]\Z",
    r"\A[^\x00-\x1f\x7f]+\Z",
    r"^(\*|[a-z]+(\.[a-z]+){2,}|[a-z]+(\.[a-z]+)*\.\*)\Z",
    r"^a.c\Z",
    r"^[]\-a]+\Z",
    r"^[^]a]+\Z",
    r"^(?P<word>[ab]+)-\1\Z",
    r"^(?:a{,2}|b{2,}|c{3})\Z",
    r"^{}\@\_\'[\@\'[]+\Z",
    r"^a(?=b)|(?<=b)a|(?!c)b|(?<!a)c",
    r"a|b$",
    r"^\t\n\Z",
    r"^[\d]{2}\D\Z",
]


@pytest.mark.parametrize("pattern", PATTERNS)
@given(text=st.text(alphabet="abc.-*@_'{}[]]09\n\t\r\x00", max_size=8))
def test_both_match_the_same(pattern: str, text: str) -> None:
    validator = jsonschema_rs.Draft202012Validator({"pattern": ecma_pattern(pattern)})
    python = pattern if not pattern.endswith("$") else pattern[:-1] + r"\Z"

    assert (re.search(python, text) is not None) == validator.is_valid(text)


def test_a_dollar_means_the_end_alone() -> None:
    assert not jsonschema_rs.Draft202012Validator({"pattern": ecma_pattern("^[A-Z]{3}$")}).is_valid("EUR\n")


@pytest.mark.parametrize(
    "pattern",
    ["(?i)a", "(?i:a)", "(?>a)", "a*+", "a{2}+", r"\N{DIGIT ONE}", "(a)?(?(1)b|c)", "(?#note)", "(?P<a>b)(?P=a)"],
)
def test_what_only_python_can_say_is_refused(pattern: str) -> None:
    with pytest.raises(NotPortable):
        ecma_pattern(pattern)
