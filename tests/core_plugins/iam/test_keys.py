"""The ring of signing keys: which key signs, which are believed, which are published."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from core_plugins.iam.model.tokens import (
    ACCESS_TOKEN_S,
    KeyRing,
    Signer,
    SigningKey,
    load_signer,
    make_private_key,
    withdrawal_of,
)

NOW = datetime(2026, 7, 1, tzinfo=UTC)


def make(signs_from: datetime, withdrawn_at: datetime | None = None) -> tuple[SigningKey, Signer]:
    kid, point, private = make_private_key()
    return SigningKey(kid, point, signs_from, withdrawn_at), load_signer(kid, private)


def ring_of(*made: tuple[SigningKey, Signer]) -> KeyRing:
    return KeyRing([key for key, _ in made], {key.kid: signer for key, signer in made})


def test_a_key_is_published_before_it_signs_and_after_it_has_signed() -> None:
    change = NOW + timedelta(hours=1)
    old, new = make(NOW - timedelta(days=30), withdrawal_of(change)), make(change)
    ring = ring_of(old, new)

    def seen(now: datetime) -> tuple[str, set[str]]:
        signer = ring.signer(now)
        return signer.kid if signer else "", {key.kid for key in ring.published(now)}

    both = {old[0].kid, new[0].kid}
    assert (old[0].kid, both) == seen(NOW)
    assert (old[0].kid, both) == seen(change - timedelta(microseconds=1))
    assert (new[0].kid, both) == seen(change)
    assert (new[0].kid, both) == seen(change + timedelta(seconds=ACCESS_TOKEN_S))
    assert (new[0].kid, {new[0].kid}) == seen(withdrawal_of(change))


def test_no_key_signs_what_will_not_be_believed_to_its_end() -> None:
    change = NOW + timedelta(hours=1)
    ring = ring_of(make(NOW - timedelta(days=30), withdrawal_of(change)))  # what follows it has lost its private part

    assert ring.signer(change + timedelta(seconds=60)) is not None
    assert ring.signer(change + timedelta(seconds=61)) is None


def test_a_withdrawn_or_unknown_key_verifies_nothing() -> None:
    key, signer = make(NOW - timedelta(days=60), NOW)
    ring = ring_of((key, signer))

    assert ring.verifier(key.kid, NOW - timedelta(seconds=1)) is not None
    assert ring.verifier(key.kid, NOW) is None
    assert ring.verifier("unknown", NOW) is None


def test_nothing_signs_without_a_private_part() -> None:
    key, _ = make(NOW - timedelta(days=1))

    assert KeyRing([key], {}).signer(NOW) is None
    assert KeyRing([], {}).signer(NOW) is None


def test_a_published_key_has_no_private_part_and_is_the_one_that_signs() -> None:
    key, signer = make(NOW)
    (published,) = ring_of((key, signer)).published(NOW)
    numbers = signer.private_key.public_key().public_numbers()

    assert ("EC", "P-256", "sig", "ES256") == (published.kty, published.crv, published.use, published.alg)
    assert not hasattr(published, "d")
    assert key.public_key().public_numbers() == numbers


def test_key_ids_are_short_and_differ() -> None:
    kids = {make_private_key()[0] for _ in range(20)}

    assert 20 == len(kids)
    assert all(24 == len(kid) for kid in kids)
