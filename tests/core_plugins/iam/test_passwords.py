"""Which passwords are taken, and how they are hashed."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from core_plugins.iam.drivers.argon2_hasher import Argon2Hasher
from core_plugins.iam.model.passwords import find_weakness, normalized, weakness
from plugin_api.errors import LimitReached

ACCOUNT = ("ada.lovelace@analytical.example.com", "analytical", "Analytical Engines Ltd")


@pytest.fixture
def hasher() -> Iterator[Argon2Hasher]:
    made = Argon2Hasher(memory_kib=7_168, passes=1, threads=2, queue_max=2)
    yield made
    made.close()


@pytest.mark.parametrize(
    "password",
    [
        "password1234",
        "PassWord12345!",
        "qwertyuiop123",
        "iloveyou1234",
        "Summer-2026!",
        "P@ssw0rd-1234",
        "aaaaaaaaaaaa",
        "abcabcabcabcabc",
        "passwordpassword",
        "correcthorsebatterystaple",
        "ada.lovelace@analytical.example.com",
        "AdaLovelace1815",
        "analytical-2026!",
        "analyticalanalytical",
        "ecalevol.ada",
        "ＰＡＳＳＷＯＲＤ1234",
    ],
)
def test_common_and_derived_passwords_are_weak(password: str) -> None:
    assert find_weakness(password, *ACCOUNT) is not None


@pytest.mark.parametrize(
    "password",
    [
        "Horse-YIbzR7yEyNnaKDsJcQ8t",
        "drip anvil moss quartet",
        "Ein Hut, ein Stock, ein Regenschirm",
        "ada likes 9 engines",
        "🐎🔋📎✅🐴🐎🔋📎✅🐴🐎🔋",
    ],
)
def test_other_passwords_are_taken(password: str) -> None:
    assert find_weakness(password, *ACCOUNT) is None


@pytest.mark.parametrize("password", ["tenant1tenant1", "tenant-2026!!", "tenant1-tenant1", "1tnanet-2026"])
def test_words_that_end_in_digits_count_with_and_without_them(password: str) -> None:
    assert find_weakness(password, "x@y.example.com", "tenant1") is not None


def test_short_words_of_an_account_forbid_nothing() -> None:
    assert find_weakness("de-bo-de-bo-x9", "bo@de.example.com", "de") is None


def test_a_refusal_never_holds_the_password() -> None:
    (violation,) = weakness("/owner_password", "password1234", *ACCOUNT)

    assert "/owner_password" == violation.pointer
    assert "1234" not in violation.detail
    assert "weak_password" == violation.code


def test_one_password_typed_on_two_systems_is_one() -> None:
    assert normalized("caf\u00e9-caf\u00e9-caf\u00e9") == normalized("cafe\u0301-cafe\u0301-cafe\u0301")


async def test_a_hash_fits_its_password_alone(hasher: Argon2Hasher) -> None:
    stored = await hasher.hash("drip anvil moss quartet")

    assert stored.startswith("$argon2id$v=19$m=7168,t=1,p=1$")
    assert await hasher.verify(stored, "drip anvil moss quartet")
    assert not await hasher.verify(stored, "drip anvil moss quartez")
    assert not await hasher.verify(stored, "")


async def test_two_hashes_of_one_password_differ(hasher: Argon2Hasher) -> None:
    assert await hasher.hash("drip anvil moss quartet") != await hasher.hash("drip anvil moss quartet")


async def test_nothing_fits_nobody(hasher: Argon2Hasher) -> None:
    assert not await hasher.verify(None, "drip anvil moss quartet")
    assert not await hasher.verify("no hash at all", "drip anvil moss quartet")


async def test_a_lone_surrogate_is_hashed_like_any_text(hasher: Argon2Hasher) -> None:
    assert await hasher.verify(await hasher.hash("\ud800" * 12), "\ud800" * 12)


async def test_hashes_with_other_parameters_are_outdated(hasher: Argon2Hasher) -> None:
    stored = await hasher.hash("drip anvil moss quartet")
    stronger = Argon2Hasher(memory_kib=7_168, passes=2, threads=1, queue_max=0)

    assert not hasher.is_outdated(stored)
    assert stronger.is_outdated(stored)
    assert stronger.is_outdated("no hash at all")
    assert await stronger.verify(stored, "drip anvil moss quartet")
    stronger.close()


async def test_the_queue_is_bounded_and_empties(hasher: Argon2Hasher) -> None:
    outcomes = await asyncio.gather(
        *(hasher.hash("drip anvil moss quartet") for _ in range(12)), return_exceptions=True
    )

    refused = [one for one in outcomes if isinstance(one, LimitReached)]
    assert 8 == len(refused)
    assert 1 == refused[0].retry_after_s
    assert await hasher.hash("drip anvil moss quartet")


async def test_a_caller_who_goes_away_keeps_no_place(hasher: Argon2Hasher) -> None:
    for _ in range(10):
        task = asyncio.ensure_future(hasher.hash("drip anvil moss quartet"))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await hasher.hash("drip anvil moss quartet")

    assert await hasher.hash("drip anvil moss quartet")


async def test_nobody_is_compared_with_a_hash_of_the_same_cost(hasher: Argon2Hasher) -> None:
    stored = await hasher.hash("drip anvil moss quartet")
    await hasher.verify(None, "drip anvil moss quartet")

    decoy = hasher._decoy
    assert decoy is not None
    assert stored.rsplit("$", 2)[0] == decoy.rsplit("$", 2)[0]
    assert [len(part) for part in stored.split("$")] == [len(part) for part in decoy.split("$")]
