"""Version ranges mean what they say."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.specifiers import SpecifierSet

from plugin_api.version_range import parse_range, parse_version, split_requirement

numbers = st.integers(0, 3).map(str)
versions = st.lists(numbers, min_size=1, max_size=3).map(".".join)
bounds = st.tuples(st.sampled_from([">=", "<=", ">", "<", "!=", "=="]), versions).map("".join)


@given(st.lists(bounds, max_size=4).map(" , ".join), versions)
def test_a_range_allows_what_packaging_allows(text: str, version: str) -> None:
    assert SpecifierSet(text).contains(version) == parse_range(text).allows(version)


@pytest.mark.parametrize(
    "text", ["1", ">=", ">=1.x", "~=1.0", ">=1.0.0.0", ">=01", ">=1,", ",", ">=1;<2", "=>1", ">=1 <2", ">=١"]
)
def test_what_is_no_range_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no"):
        parse_range(text)


def test_a_range_has_bounds_itself() -> None:
    with pytest.raises(ValueError, match="more than"):
        parse_range(",".join([">=1"] * 9))


def test_a_requirement_is_a_name_and_a_range() -> None:
    name, wanted = split_requirement("data >=1,<3")

    assert (name, str(wanted), wanted.allows("2.5"), wanted.allows("3")) == ("data", ">=1,<3", True, False)
    assert split_requirement("eventbus")[1].allows("0")
    assert (wanted.has_upper_bound, wanted.is_pin, parse_range("==1").is_pin) == (True, False, True)


def test_versions_are_up_to_three_numbers() -> None:
    assert parse_version("1.2") == (1, 2, 0)
    for text in ("", "1.", "v1", "1.2.3.4", "1.2-rc1", "-1", "1" * 20):
        with pytest.raises(ValueError, match="no version"):
            parse_version(text)
