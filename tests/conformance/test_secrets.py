"""The promises of the port `Secrets`, over every driver of the key-encryption key."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

import pytest

from core_plugins.vault import model
from host.kernel import Kernel
from plugin_api.errors import InvalidRequest, KernelBug, NotFound
from plugin_api.ids import uuid7
from plugin_api.ports.secrets import SECRETS, Secrets, SecretsProvider
from tests.conftest import MakeDatabase


@pytest.fixture
async def provider(open_kernel: Callable[..., Awaitable[Kernel]], make_database: MakeDatabase) -> SecretsProvider:
    kernel = await open_kernel(["data", "vault"], {"postgres": await make_database("data", "vault")})
    provided: Any = kernel.table.services[SECRETS.name].implementation
    return provided  # type: ignore[no-any-return]


@pytest.fixture
def secrets(provider: SecretsProvider) -> Secrets:
    return provider.part("acme.crm")


@pytest.fixture
def tenant() -> UUID:
    return uuid7()


async def refused(work: Awaitable[object]) -> bool:
    """Whether it is refused as every value is that cannot be opened."""
    with pytest.raises(InvalidRequest) as caught:
        await work
    return caught.value.code == "sealed_value_invalid"


async def test_what_is_sealed_can_be_opened(secrets: Secrets, tenant: UUID) -> None:
    for plaintext in (b"", b"\x00", b"card number 4242", b"x" * 1_000_000):
        sealed = await secrets.seal(tenant, "card", plaintext, context=b"row 7")

        assert await secrets.open(tenant, "card", sealed, context=b"row 7") == plaintext
        assert plaintext not in sealed or plaintext in (b"", b"\x00")


async def test_sealing_twice_gives_different_values(secrets: Secrets, tenant: UUID) -> None:
    assert await secrets.seal(tenant, "card", b"same") != await secrets.seal(tenant, "card", b"same")


async def test_a_sealed_value_is_bound_to_where_it_belongs(
    provider: SecretsProvider, secrets: Secrets, tenant: UUID
) -> None:
    other = uuid7()
    await secrets.seal(other, "card", b"makes the other tenant's key")
    sealed = await secrets.seal(tenant, "card", b"4242", context=b"row 7")

    assert await refused(secrets.open(other, "card", sealed, context=b"row 7"))
    assert await refused(provider.part("acme.shop").open(tenant, "card", sealed, context=b"row 7"))
    assert await refused(secrets.open(tenant, "iban", sealed, context=b"row 7"))
    assert await refused(secrets.open(tenant, "card", sealed, context=b"row 8"))
    assert await refused(secrets.open(tenant, "card", sealed))
    assert await secrets.open(tenant, "card", sealed, context=b"row 7") == b"4242"


async def test_purpose_and_context_cannot_be_shifted(secrets: Secrets, tenant: UUID) -> None:
    sealed = await secrets.seal(tenant, "ab", b"value", context=b"c")

    assert await refused(secrets.open(tenant, "a", sealed, context=b"bc"))
    assert await refused(secrets.open(tenant, "abc", sealed, context=b""))


async def test_a_tenant_without_keys_opens_nothing(secrets: Secrets, tenant: UUID) -> None:
    sealed = await secrets.seal(tenant, "card", b"4242")

    assert await refused(secrets.open(uuid7(), "card", sealed))


async def test_whatever_is_changed_is_refused(secrets: Secrets, tenant: UUID) -> None:
    sealed = await secrets.seal(tenant, "card", b"4242")
    for place in range(len(sealed)):
        changed = bytearray(sealed)
        changed[place] ^= 1 << (place % 8)
        assert await refused(secrets.open(tenant, "card", bytes(changed)))
    for cut in (b"", sealed[:10], sealed[:-1], sealed + b"\x00", sealed[1:]):
        assert await refused(secrets.open(tenant, "card", cut))


async def test_fingerprints_are_equal_for_equal_values_of_one_tenant_and_purpose_only(
    provider: SecretsProvider, secrets: Secrets, tenant: UUID
) -> None:
    told = await secrets.fingerprint(tenant, "email", b"a@b.example")
    others = [
        await secrets.fingerprint(tenant, "email", b"c@d.example"),
        await secrets.fingerprint(tenant, "phone", b"a@b.example"),
        await secrets.fingerprint(uuid7(), "email", b"a@b.example"),
        await provider.part("acme.shop").fingerprint(tenant, "email", b"a@b.example"),
    ]

    assert len(told) == 32
    assert told == await secrets.fingerprint(tenant, "email", b"a@b.example")
    assert told not in others


# ---------------------------------------------------------------------------------------------- named secrets


async def test_named_secrets_have_versions(secrets: Secrets, tenant: UUID) -> None:
    assert await secrets.put(tenant, "smtp/password", b"first") == 1
    assert await secrets.put(tenant, "smtp/password", b"second") == 2

    assert await secrets.get(tenant, "smtp/password") == b"second"
    assert await secrets.get(tenant, "smtp/password", version=1) == b"first"
    with pytest.raises(NotFound):
        await secrets.get(tenant, "smtp/password", version=3)


async def test_racing_puts_get_versions_of_their_own(secrets: Secrets, tenant: UUID) -> None:
    versions = await asyncio.gather(*(secrets.put(tenant, "token", b"%d" % n) for n in range(20)))

    assert sorted(versions) == list(range(1, 21))
    assert [await secrets.get(tenant, "token", version=v) for v in versions] == [b"%d" % n for n in range(20)]


async def test_named_secrets_of_others_are_not_found(provider: SecretsProvider, secrets: Secrets, tenant: UUID) -> None:
    await secrets.put(tenant, "token", b"mine")

    with pytest.raises(NotFound):
        await secrets.get(uuid7(), "token")
    with pytest.raises(NotFound):
        await provider.part("acme.shop").get(tenant, "token")
    assert await provider.part("acme.shop").names(tenant) == []


async def test_names_are_listed_sorted_by_prefix(secrets: Secrets, tenant: UUID) -> None:
    for name in ("smtp/user", "smtp/password", "Zoo", "s3", "a_b", "axb"):
        await secrets.put(tenant, name, b"x")
        await secrets.put(tenant, name, b"y")

    assert await secrets.names(tenant) == ["Zoo", "a_b", "axb", "s3", "smtp/password", "smtp/user"]
    assert await secrets.names(tenant, prefix="smtp/") == ["smtp/password", "smtp/user"]
    assert await secrets.names(tenant, prefix="a_") == ["a_b"]
    assert await secrets.names(uuid7()) == []


async def test_a_deleted_secret_is_gone_with_all_versions(secrets: Secrets, tenant: UUID) -> None:
    await secrets.put(tenant, "token", b"first")
    await secrets.put(tenant, "token", b"second")
    await secrets.delete(tenant, "token")
    await secrets.delete(tenant, "token")

    with pytest.raises(NotFound):
        await secrets.get(tenant, "token")
    assert await secrets.put(tenant, "token", b"again") == 1


async def test_the_oldest_versions_go(secrets: Secrets, tenant: UUID, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model, "SECRET_VERSIONS_MAX", 3)
    for n in range(5):
        await secrets.put(tenant, "token", b"%d" % n)

    with pytest.raises(NotFound):
        await secrets.get(tenant, "token", version=2)
    assert await secrets.get(tenant, "token", version=3) == b"2"


# ----------------------------------------------------------------------------------------------------- bounds


BAD: list[tuple[type[Exception], Callable[[Secrets, UUID], Awaitable[Any]]]] = [
    (KernelBug, lambda secrets, tenant: secrets.seal(tenant, "", b"x")),
    (KernelBug, lambda secrets, tenant: secrets.seal(tenant, "p" * 101, b"x")),
    (KernelBug, lambda secrets, tenant: secrets.seal(tenant, "line\nbreak", b"x")),
    (KernelBug, lambda secrets, tenant: secrets.seal(tenant, "p", b"x" * (model.PLAINTEXT_BYTES_MAX + 1))),
    (KernelBug, lambda secrets, tenant: secrets.seal(tenant, "p", b"x", context=b"c" * 4_097)),
    (KernelBug, lambda secrets, tenant: secrets.fingerprint(tenant, "p", b"x" * (model.PLAINTEXT_BYTES_MAX + 1))),
    (KernelBug, lambda secrets, tenant: secrets.put(tenant, "name", b"x" * (model.SECRET_BYTES_MAX + 1))),
    (InvalidRequest, lambda secrets, tenant: secrets.put(tenant, "", b"x")),
    (InvalidRequest, lambda secrets, tenant: secrets.put(tenant, "/absolute", b"x")),
    (InvalidRequest, lambda secrets, tenant: secrets.put(tenant, "n" * 201, b"x")),
    (InvalidRequest, lambda secrets, tenant: secrets.get(tenant, "a b")),
]


async def test_what_is_out_of_bounds_is_refused(secrets: Secrets, tenant: UUID) -> None:
    for number, (error, work) in enumerate(BAD):
        try:
            await work(secrets, tenant)
        except error:
            continue
        pytest.fail(f"case {number} was not refused")


def test_a_part_belongs_to_a_plugin(provider: SecretsProvider) -> None:
    for plugin_id in ("", "acme", "Acme.Crm", "acme.crm\n", "a." + "b" * 60):
        with pytest.raises(KernelBug):
            provider.part(plugin_id)
