"""Keys over their life: made once, kept for a while, rotated, wrapped anew, destroyed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from core_plugins.vault import operations
from core_plugins.vault.drivers.kek_file import RETIRE_AFTER_S, KekFile
from core_plugins.vault.operations import VaultOperations
from host.kernel import Kernel
from host.startup import StartFailed
from plugin_api.errors import Gone, InvalidRequest, KernelBug, StoreUnavailable
from plugin_api.ids import uuid7
from plugin_api.pipeline import Tenant
from plugin_api.ports.secrets import SECRETS
from plugin_api.testing import FakeClock
from tests.conftest import MakeDatabase

OpenVault = Callable[[], Awaitable[VaultOperations]]


@pytest.fixture
async def dsn(make_database: MakeDatabase) -> str:
    return await make_database("data", "vault")


@pytest.fixture
def open_vault(open_kernel: Callable[..., Awaitable[Kernel]], dsn: str, fake_clock: FakeClock) -> OpenVault:
    """Opens vaults as workers of one kernel have them."""

    async def open_one() -> VaultOperations:
        kernel = await open_kernel(["data", "vault"], {"postgres": dsn}, clock=fake_clock)
        provided: Any = kernel.table.services[SECRETS.name].implementation
        assert isinstance(provided, VaultOperations)
        return provided

    return open_one


@pytest.fixture
def kek_path(kernel_folder: Path) -> Path:
    return kernel_folder / "secrets" / "kek"


@pytest.fixture
def tenant() -> UUID:
    return uuid7()


async def rows(dsn: str, sql: str) -> list[asyncpg.Record]:
    connection = await asyncpg.connect(dsn)
    try:
        return await connection.fetch(sql)
    finally:
        await connection.close()


# -------------------------------------------------------------------------------------------------- the first key


async def test_workers_that_race_for_the_first_key_agree(open_vault: OpenVault, dsn: str) -> None:
    vaults = [await open_vault() for _ in range(3)]
    tenants = [uuid7() for _ in range(10)]

    async def seal(vault: VaultOperations, tenant: UUID) -> bytes:
        return await vault.part("acme.crm").seal(tenant, "p", b"value")

    sealed = await asyncio.gather(*(seal(vault, tenant) for tenant in tenants for vault in vaults for _ in range(3)))
    await asyncio.gather(
        *(
            vault.part("acme.crm").open(tenant, "p", value)
            for tenant, values in zip(tenants, zip(*[iter(sealed)] * 9, strict=True), strict=True)
            for value in values
            for vault in vaults
        )
    )
    assert len(await rows(dsn, "select from vault.data_keys")) == len(tenants)


async def test_many_callers_cost_one_reading(
    open_vault: OpenVault, tenant: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    vault, reads = await open_vault(), list[int]()
    sealed = await vault.part("acme.crm").seal(tenant, "p", b"value")
    vault.keys.forget(tenant)
    find = operations.storage.find_data_keys

    async def counted(tx: Any) -> Any:
        reads.append(1)
        return await find(tx)

    monkeypatch.setattr(operations.storage, "find_data_keys", counted)
    opened = await asyncio.gather(*(vault.part("acme.crm").open(tenant, "p", sealed) for _ in range(50)))

    assert set(opened) == {b"value"}
    assert len(reads) == 1


async def test_a_cancelled_caller_takes_the_reading_from_nobody(open_vault: OpenVault, tenant: UUID) -> None:
    vault = await open_vault()
    sealed = await vault.part("acme.crm").seal(tenant, "p", b"value")
    vault.keys.forget(tenant)
    calls = [asyncio.ensure_future(vault.part("acme.crm").open(tenant, "p", sealed)) for _ in range(3)]
    await asyncio.sleep(0)
    calls[0].cancel()

    assert await asyncio.gather(*calls[1:]) == [b"value", b"value"]


async def test_a_new_tenant_has_a_key_before_its_first_request(open_kernel: Any, dsn: str, tenant: UUID) -> None:
    kernel = await open_kernel(["data", "vault"], {"postgres": dsn})
    for _ in range(2):
        await kernel.tenant_hooks.created(Tenant(tenant, "acme", "Acme"))

    found = await rows(dsn, "select tenant_id, version, length(wrapped) as size from vault.data_keys")
    assert [tuple(row) for row in found] == [(tenant, 1, 80)]


# ------------------------------------------------------------------------------------------------------ start


async def test_a_foreign_kek_is_told_at_the_start_with_its_id(
    open_vault: OpenVault, kek_path: Path, tenant: UUID
) -> None:
    vault = await open_vault()
    sealed = await vault.part("acme.crm").seal(tenant, "p", b"value")
    needed = vault.keys.keks.current_id
    aside = kek_path.rename(kek_path.with_name("aside"))
    with pytest.raises(StartFailed, match="cannot be read"):
        await open_vault()

    foreign = KekFile(kek_path, FakeClock())
    await foreign.open(create=True)  # so no new key was made where an old one was needed
    assert foreign.current_id != needed
    with pytest.raises(StartFailed, match=f"lacks the key-encryption key {needed}, which wraps 1 data keys"):
        await open_vault()

    aside.replace(kek_path)
    assert await (await open_vault()).part("acme.crm").open(tenant, "p", sealed) == b"value"


# ----------------------------------------------------------------------------------------------------- memory


async def test_keys_are_forgotten_after_a_while(open_vault: OpenVault, fake_clock: FakeClock, tenant: UUID) -> None:
    vault = await open_vault()
    keyring = await vault.keys.get(tenant)

    assert await vault.keys.get(tenant) is keyring
    fake_clock.advance(301)
    assert await vault.keys.get(tenant) is not keyring


async def test_memory_is_bounded(open_kernel: Any, dsn: str) -> None:
    kernel = await open_kernel(["data", "vault"], {"postgres": dsn}, **{"vault.data_keys_cached_max": 2})
    vault: VaultOperations = kernel.table.services[SECRETS.name].implementation
    for _ in range(5):
        await vault.keys.get(uuid7())

    assert len(vault.keys._entries) == 2


async def test_without_the_database_only_unknown_keys_are_unavailable(open_kernel: Any, dsn: str, tenant: UUID) -> None:
    kernel = await open_kernel(["data", "vault"], {"postgres": dsn})
    vault: VaultOperations = kernel.table.services[SECRETS.name].implementation
    part = vault.part("acme.crm")
    sealed = await part.seal(tenant, "p", b"value")
    data: Any = kernel.table.services["data"].implementation
    await data.stop()

    assert await part.open(tenant, "p", sealed) == b"value"
    with pytest.raises(StoreUnavailable):
        await part.seal(uuid7(), "p", b"value")


# --------------------------------------------------------------------------------------------------- rotation


async def test_a_new_version_seals_and_old_values_open_everywhere(
    open_vault: OpenVault, fake_clock: FakeClock, tenant: UUID
) -> None:
    vault, other = await open_vault(), await open_vault()
    old = await vault.part("acme.crm").seal(tenant, "p", b"old")
    told = await vault.part("acme.crm").fingerprint(tenant, "email", b"a@b.example")
    assert await other.part("acme.crm").open(tenant, "p", old) == b"old"
    assert await vault.keys.add_version(tenant) == 2
    new = await vault.part("acme.crm").seal(tenant, "p", b"new")

    assert (old[7], new[7]) == (1, 2)
    assert [await other.part("acme.crm").open(tenant, "p", value) for value in (old, new)] == [b"old", b"new"]
    assert await other.part("acme.crm").fingerprint(tenant, "email", b"a@b.example") == told
    await asyncio.gather(*(vault.keys.add_version(tenant) for _ in range(3)))
    assert (await vault.keys.get(tenant)).newest.version >= 3


async def test_a_forged_version_does_not_cost_a_reading_each_time(
    open_vault: OpenVault, fake_clock: FakeClock, tenant: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    vault = await open_vault()
    part, reads = vault.part("acme.crm"), list[int]()
    forged = bytearray(await part.seal(tenant, "p", b"value"))
    forged[7] = 9
    find = operations.storage.find_data_keys

    async def counted(tx: Any) -> Any:
        reads.append(1)
        return await find(tx)

    monkeypatch.setattr(operations.storage, "find_data_keys", counted)
    for _ in range(10):
        fake_clock.advance(0.2)
        with pytest.raises(InvalidRequest):
            await part.open(tenant, "p", bytes(forged))

    assert 1 <= len(reads) <= 2


async def test_rotating_the_kek_wraps_every_data_key_anew_and_touches_no_value(
    open_vault: OpenVault, dsn: str, fake_clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operations, "REWRAP_BATCH", 2)
    vault, other = await open_vault(), await open_vault()
    tenants = [uuid7() for _ in range(5)]
    sealed = {tenant: await vault.part("acme.crm").seal(tenant, "p", tenant.bytes) for tenant in tenants}
    await vault.keys.add_version(tenants[0])
    first = vault.keys.keks.current_id
    before = await rows(dsn, "select id, wrapped from vault.data_keys order by id")
    fake_clock.advance(100)
    second = await vault.rotate_kek()
    after = await rows(dsn, "select id, wrapped from vault.data_keys order by id")

    assert {row["kek_id"] for row in await rows(dsn, "select kek_id from vault.data_keys")} == {second}
    assert [row["id"] for row in before] == [row["id"] for row in after]
    assert not {row["wrapped"] for row in before} & {row["wrapped"] for row in after}
    fake_clock.advance(RETIRE_AFTER_S)
    assert await vault.retire_keks() == [first]
    third = await open_vault()
    for tenant in tenants:
        for one in (vault, other, third):
            assert await one.part("acme.crm").open(tenant, "p", sealed[tenant]) == tenant.bytes


async def test_an_interrupted_rotation_is_repeated(open_vault: OpenVault, dsn: str, tenant: UUID) -> None:
    vault = await open_vault()
    sealed = await vault.part("acme.crm").seal(tenant, "p", b"value")
    await vault.keys.keks.rotate()

    again = await open_vault()
    assert await again.part("acme.crm").open(tenant, "p", sealed) == b"value"
    assert await again.rewrap_all() == 1
    assert await again.rewrap_all() == 0


async def test_health_reminds_of_a_rotation(open_vault: OpenVault, fake_clock: FakeClock) -> None:
    vault = await open_vault()

    assert vault.reminder() == ""
    fake_clock.advance(90 * 86_400)
    assert "90 days old; rotate it every 90 days" in vault.reminder()
    await vault.rotate_kek()
    assert vault.reminder() == ""


# ----------------------------------------------------------------------------------------------- crypto-shredding


async def test_an_erased_tenant_can_be_read_by_nobody_any_more(
    open_kernel: Any, open_vault: OpenVault, dsn: str, tenant: UUID
) -> None:
    kernel = await open_kernel(["data", "vault"], {"postgres": dsn})
    vault: VaultOperations = kernel.table.services[SECRETS.name].implementation
    other = await open_vault()
    sealed = await vault.part("acme.crm").seal(tenant, "p", b"value")
    await vault.part("acme.crm").put(tenant, "token", b"value")
    assert await other.part("acme.crm").open(tenant, "p", sealed) == b"value"
    for _ in range(2):
        await kernel.tenant_hooks.erased(Tenant(tenant, "acme", "Acme"))

    for one in (vault, other):
        with pytest.raises(InvalidRequest):
            await one.part("acme.crm").open(tenant, "p", sealed)
        with pytest.raises(Gone):
            await one.part("acme.crm").seal(tenant, "p", b"value")
        with pytest.raises(Gone):
            await one.part("acme.crm").put(tenant, "token", b"value")
    assert await rows(dsn, "select from vault.data_keys") == []
    assert await rows(dsn, "select from vault.secrets") == []


async def test_an_erasure_and_a_first_use_that_meet_leave_no_key(open_vault: OpenVault, dsn: str) -> None:
    vault, other = await open_vault(), await open_vault()
    tenants = [uuid7() for _ in range(20)]
    await asyncio.gather(
        *(vault.keys.destroy(tenant) for tenant in tenants),
        *(other.part("acme.crm").seal(tenant, "p", b"value") for tenant in tenants),
        return_exceptions=True,
    )

    assert await rows(dsn, "select from vault.data_keys") == []


# ------------------------------------------------------------------------------------------------ what is stored


async def test_nothing_readable_is_stored(open_vault: OpenVault, dsn: str, tenant: UUID) -> None:
    vault = await open_vault()
    await vault.part("acme.crm").put(tenant, "token", b"a-very-secret-value")
    key = (await vault.keys.get(tenant)).newest._secret.reveal()
    found = await rows(dsn, "select wrapped from vault.data_keys union all select sealed from vault.secrets")
    stored = b"".join(value for (value,) in found)

    assert b"a-very-secret" not in stored
    assert key not in stored


async def test_a_key_that_was_moved_to_another_tenant_is_noticed(open_vault: OpenVault, dsn: str, tenant: UUID) -> None:
    vault, thief = await open_vault(), uuid7()
    await vault.keys.get(tenant)
    await vault.keys.get(thief)
    await rows(
        dsn,
        f"update vault.data_keys set wrapped = (select wrapped from vault.data_keys where tenant_id = '{tenant}')"
        f" where tenant_id = '{thief}'",
    )
    vault.keys.forget(thief)

    with pytest.raises(KernelBug, match="a row that is not its own"):
        await vault.part("acme.crm").seal(thief, "p", b"value")
