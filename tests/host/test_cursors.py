"""Cursors are signed and bound to tenant and query."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from host.runtime import CursorSeal
from plugin_api.errors import Unreadable
from plugin_api.ids import uuid7

TENANT, OTHER = uuid7(), uuid7()
SEAL = CursorSeal(b"k" * 32)
CURSOR = SEAL.seal(TENANT, b"users", ["2026-01-01T00:00:00+00:00", "x"])


@given(values=st.lists(st.text(max_size=50), max_size=3))
def test_what_was_sealed_opens_again(values: list[str]) -> None:
    assert SEAL.open(TENANT, b"q", SEAL.seal(TENANT, b"q", values)) == values


@pytest.mark.parametrize(
    "opened",
    [
        (OTHER, b"users", CURSOR),
        (TENANT, b"roles", CURSOR),
        (TENANT, b"users", CURSOR[:-4]),
        (TENANT, b"users", CURSOR + "AAAA"),
        (TENANT, b"users", CURSOR + "="),
        (TENANT, b"users", ""),
        (TENANT, b"users", "\x00"),
        (TENANT, b"users", "ünicode"),
    ],
)
def test_anything_else_is_a_bad_cursor(opened: tuple[object, bytes, str]) -> None:
    tenant, bound, cursor = opened

    with pytest.raises(Unreadable) as caught:
        SEAL.open(tenant, bound, cursor)  # type: ignore[arg-type]

    assert caught.value.code == "bad_cursor"


@given(
    place=st.integers(0, len(CURSOR) - 1),
    letter=st.sampled_from("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_-"),
)
def test_no_changed_letter_passes(place: int, letter: str) -> None:
    changed = CURSOR[:place] + letter + CURSOR[place + 1 :]
    if changed == CURSOR:
        return

    with pytest.raises(Unreadable):
        SEAL.open(TENANT, b"users", changed)


def test_another_kernels_key_opens_nothing() -> None:
    with pytest.raises(Unreadable):
        CursorSeal(b"o" * 32).open(TENANT, b"users", CURSOR)
