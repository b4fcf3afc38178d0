"""What is sealed is bound to where it belongs; no change of any bit goes unnoticed."""

from __future__ import annotations

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core_plugins.vault.model import (
    HEADER_BYTES,
    NONCE_BYTES,
    SEALED_BYTES_MIN,
    DataKey,
    Keyring,
    WrappedKey,
    envelope,
    from_envelope,
    joined,
    version_of,
)
from plugin_api.errors import InvalidRequest, KernelBug
from plugin_api.ids import uuid7
from plugin_api.settings import Secret

SEALS = 100_000
KEY = DataKey(uuid7(), 7, Secret(b"k" * 32))


@given(st.binary(max_size=300), st.binary(max_size=50), st.data())
def test_every_flipped_bit_is_noticed(plaintext: bytes, bound: bytes, data: st.DataObject) -> None:
    sealed = bytearray(KEY.seal(plaintext, bound))
    bit = data.draw(st.integers(0, len(sealed) * 8 - 1))
    assert KEY.open(bytes(sealed), bound) == plaintext
    sealed[bit // 8] ^= 1 << bit % 8

    with pytest.raises(InvalidRequest, match="was changed"):
        KEY.open(bytes(sealed), bound)


@given(st.binary(max_size=100), st.binary(max_size=40), st.binary(max_size=40))
def test_what_it_is_bound_to_must_be_the_same(plaintext: bytes, bound: bytes, other: bytes) -> None:
    sealed = KEY.seal(plaintext, bound)
    if bound == other:
        return

    with pytest.raises(InvalidRequest):
        KEY.open(sealed, other)


@given(st.lists(st.binary(max_size=8), max_size=6), st.lists(st.binary(max_size=8), max_size=6))
def test_different_parts_never_join_to_the_same(one: list[bytes], other: list[bytes]) -> None:
    assert (joined(*one) == joined(*other)) == (one == other)


@given(st.binary(max_size=100))
def test_bytes_that_were_never_sealed_are_refused(sealed: bytes) -> None:
    for forged in (sealed, b"PKS\x01\x00\x00\x00\x07" + sealed, KEY.seal(b"", b"")[:HEADER_BYTES] + bytes(40) + sealed):
        with pytest.raises(InvalidRequest):
            KEY.open(forged, b"")


def test_no_nonce_comes_twice() -> None:
    nonces = {KEY.seal(b"", b"")[HEADER_BYTES : HEADER_BYTES + NONCE_BYTES] for _ in range(SEALS)}

    assert len(nonces) == SEALS


def test_the_layout_of_a_sealed_value_stays() -> None:
    """Values of this layout are in databases."""
    sealed = KEY.seal(b"four", b"bound")

    assert sealed[:8] == b"PKS\x01\x00\x00\x00\x07"
    assert len(sealed) == SEALED_BYTES_MIN + 4
    assert version_of(sealed) == 7


def test_a_value_of_an_older_kernel_can_be_opened() -> None:
    """Its key is derived, its header authenticated, as they were when it was made."""
    sealed = "504b5301000000070102030405060708090a0b0c1e3972e070d8671f68570774d5096a0e5a17fb03ec067d5669caaf1b"

    assert KEY.open(bytes.fromhex(sealed), b"bound") == b"an old value"


def test_fingerprints_stay_when_a_version_is_added() -> None:
    newer = DataKey(uuid7(), 8, Secret(b"n" * 32))

    assert Keyring([KEY]).fingerprint(b"use", b"value") == Keyring([KEY, newer]).fingerprint(b"use", b"value")
    assert Keyring([KEY, newer]).newest is newer


def test_uses_have_unrelated_keys() -> None:
    derived = {KEY.derive(use) for use in (b"seal", b"fingerprint a", b"fingerprint b", b"fingerprint ")}

    assert len(derived) == 4
    assert b"k" * 32 not in derived


def test_a_wrapped_key_is_of_no_use_in_another_row() -> None:
    tenant, secret = uuid7(), Secret(b"s" * 32)
    stored = WrappedKey(uuid7(), 1, "kek", b"")
    content = envelope(tenant, stored.id, 1, secret)
    rows = [
        (uuid7(), stored),
        (tenant, WrappedKey(uuid7(), 1, "kek", b"")),
        (tenant, WrappedKey(stored.id, 2, "kek", b"")),
    ]

    assert from_envelope(tenant, stored, content).seal(b"", b"")
    for owner, row in rows:
        with pytest.raises(KernelBug, match="not its own"):
            from_envelope(owner, row, content)


def test_keys_never_print() -> None:
    shown = f"{KEY!r} {KEY} {Keyring([KEY])!r} {envelope(UUID(int=0), UUID(int=1), 1, Secret(b'k' * 32))!r}"

    assert "kkkk" not in shown
    assert b"kkkk".hex() not in shown
