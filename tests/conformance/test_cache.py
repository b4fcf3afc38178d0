"""The promises of the port `Cache`, over every driver."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any
from uuid import UUID

import pytest

from core_plugins.cache import model
from core_plugins.cache.drivers.valkey_store import ValkeyStore
from core_plugins.cache.operations import CacheOperations
from plugin_api.errors import KernelBug, StoreUnavailable
from plugin_api.ids import uuid7
from plugin_api.ports.cache import Cache
from plugin_api.testing import until

LIMIT_S = 2.0
"""What a call may take: enough for a busy machine, where it is a quarter of a second by default."""
ANSWER_S_MAX = LIMIT_S * 1.6
"""The same as seen from outside."""


def ignore(message: str, **fields: object) -> None:
    """Nobody reads these warnings."""


@pytest.fixture
async def provider(valkey_url: str) -> AsyncIterator[CacheOperations]:
    operations = CacheOperations(ValkeyStore(valkey_url, size=8, timeout_s=LIMIT_S, warn=ignore))
    await operations.start(10.0)
    yield operations
    await operations.stop()


@pytest.fixture
def cache(provider: CacheOperations) -> Cache:
    return provider.part("acme.crm")


@pytest.fixture
def tenant() -> UUID:
    return uuid7()


async def test_what_is_set_is_got(cache: Cache, tenant: UUID) -> None:
    await cache.set(tenant, "key", b"\x00 any bytes \xff", ttl_s=60)

    assert await cache.get(tenant, "key") == b"\x00 any bytes \xff"
    assert await cache.get(tenant, "other") is None


async def test_set_replaces_value_and_time_to_live(cache: Cache, tenant: UUID) -> None:
    await cache.set(tenant, "key", b"first", ttl_s=0.001)
    await cache.set(tenant, "key", b"second", ttl_s=60)
    await asyncio.sleep(0)

    assert await cache.get(tenant, "key") == b"second"


async def test_an_entry_ends(cache: Cache, tenant: UUID) -> None:
    await cache.set(tenant, "key", b"value", ttl_s=0.05)

    await until(lambda: _is_absent(cache, tenant, "key"), "the entry has ended")


async def _is_absent(cache: Cache, tenant: UUID, key: str) -> bool:
    return await cache.get(tenant, key) is None


async def test_add_keeps_the_first(cache: Cache, tenant: UUID) -> None:
    kept = await asyncio.gather(*(cache.add(tenant, "key", b"%d" % n, ttl_s=60) for n in range(20)))

    assert sum(kept) == 1
    assert await cache.get(tenant, "key") == b"%d" % kept.index(True)


async def test_delete_counts_what_there_was(cache: Cache, tenant: UUID) -> None:
    await cache.set(tenant, "one", b"1", ttl_s=60)
    await cache.set(tenant, "two", b"2", ttl_s=60)

    assert await cache.delete(tenant, "one", "two", "three") == 2
    assert await cache.delete(tenant) == 0
    assert await cache.get(tenant, "one") is None


async def test_increments_add_up_and_end(cache: Cache, tenant: UUID) -> None:
    values = await asyncio.gather(*(cache.increment(tenant, "count", 2, ttl_s=60) for _ in range(50)))

    assert sorted(values) == list(range(2, 102, 2))
    assert await cache.increment(tenant, "count", -100, ttl_s=60) == 0
    assert await cache.increment(tenant, "brief", ttl_s=0.05) == 1
    await until(lambda: _is_absent(cache, tenant, "brief"), "the counter has ended")


async def test_a_later_increment_does_not_prolong_a_counter(cache: Cache, tenant: UUID) -> None:
    await cache.increment(tenant, "count", ttl_s=0.2)
    await cache.increment(tenant, "count", ttl_s=3_600)

    await until(lambda: _is_absent(cache, tenant, "count"), "the counter has ended")


async def test_a_script_runs_over_keys_of_the_part(cache: Cache, tenant: UUID) -> None:
    source = "redis.call('SET', KEYS[1], ARGV[1]); return {redis.call('GET', KEYS[1]), ARGV[2], tonumber(ARGV[3])}"
    told = await cache.script(source, tenant, ["key"], [b"\xff", "text", 7])

    assert told == [b"\xff", b"text", 7]
    assert await cache.get(tenant, "key") == b"\xff"


# ------------------------------------------------------------------------------------------------- walls


async def test_tenants_and_parts_do_not_meet(provider: CacheOperations, cache: Cache, tenant: UUID) -> None:
    other, money = uuid7(), provider.part("money")
    await cache.set(tenant, "key", b"mine", ttl_s=60)

    assert await cache.get(other, "key") is None
    assert await cache.get(None, "key") is None
    assert await money.get(tenant, "key") is None
    assert await money.delete(tenant, "key") == 0
    assert await cache.get(tenant, "key") == b"mine"


@pytest.mark.parametrize("command", ["'GET', '{}'", "'SET', '{}', 'x'", "'UNLINK', '{}'"])
async def test_a_script_does_not_reach_another_part(provider: CacheOperations, tenant: UUID, command: str) -> None:
    """The key is not among KEYS, so only the server can refuse it."""
    await provider.part("money").set(tenant, "key", b"theirs", ttl_s=60)
    theirs = model.stored_key("money", tenant, "key").decode()

    with pytest.raises(KernelBug):
        await provider.part("acme.crm").script(f"return redis.call({command.format(theirs)})", tenant, [])
    assert await provider.part("money").get(tenant, "key") == b"theirs"


@pytest.mark.parametrize(
    "command",
    ["'FLUSHALL'", "'KEYS', '*'", "'SCAN', '0'", "'CONFIG', 'GET', '*'", "'ACL', 'LIST'", "'RANDOMKEY'", "'DBSIZE'"],
)
async def test_a_script_can_neither_list_nor_empty_the_store(cache: Cache, tenant: UUID, command: str) -> None:
    with pytest.raises(KernelBug):
        await cache.script(f"return redis.call({command})", tenant, [])


# ------------------------------------------------------------------------------------------------ bounds


BAD: list[Callable[[Cache, UUID], Awaitable[Any]]] = [
    lambda cache, tenant: cache.get(tenant, ""),
    lambda cache, tenant: cache.get(tenant, "k" * 201),
    lambda cache, tenant: cache.get(tenant, "line\nbreak"),
    lambda cache, tenant: cache.get(tenant, "nul\x00"),
    lambda cache, tenant: cache.set(tenant, "key", b"x" * (model.VALUE_BYTES_MAX + 1), ttl_s=1),
    lambda cache, tenant: cache.set(tenant, "key", b"x", ttl_s=0),
    lambda cache, tenant: cache.set(tenant, "key", b"x", ttl_s=float("nan")),
    lambda cache, tenant: cache.add(tenant, "key", b"x", ttl_s=2_592_001),
    lambda cache, tenant: cache.increment(tenant, "key", 2**60, ttl_s=1),
    lambda cache, tenant: cache.delete(tenant, *(str(n) for n in range(1_001))),
    lambda cache, tenant: cache.script("", tenant, []),
    lambda cache, tenant: cache.script("return 1", tenant, [], [b"x" * (model.ARGUMENTS_BYTES_MAX + 1)]),
]


@pytest.mark.parametrize("number", range(len(BAD)))
async def test_what_is_out_of_bounds_is_refused(cache: Cache, tenant: UUID, number: int) -> None:
    with pytest.raises(KernelBug):
        await BAD[number](cache, tenant)


async def test_the_largest_value_fits(cache: Cache, tenant: UUID) -> None:
    await cache.set(tenant, "k" * 200, b"x" * model.VALUE_BYTES_MAX, ttl_s=1)

    assert await cache.get(tenant, "k" * 200) == b"x" * model.VALUE_BYTES_MAX


# ----------------------------------------------------------------------------------------------- outages


async def test_a_killed_server_fails_calls_fast_and_comes_back(
    cache: Cache, tenant: UUID, valkey_pid: Callable[[], int]
) -> None:
    await asyncio.gather(*(cache.set(tenant, f"key{n}", b"x", ttl_s=60) for n in range(8)))
    os.kill(valkey_pid(), signal.SIGKILL)
    longest = 0.0
    end = time.monotonic() + 10
    while True:
        begun = time.monotonic()
        try:
            value = await cache.get(tenant, "key1")
        except StoreUnavailable:
            longest = max(longest, time.monotonic() - begun)
            assert time.monotonic() < end, "it did not come back"
            await asyncio.sleep(0.005)
        else:
            break

    assert value is None, "it came back empty"
    assert longest < ANSWER_S_MAX
    assert await cache.increment(tenant, "count", ttl_s=60) == 1, "scripts are sent again to a server that forgot them"


async def test_a_restart_in_a_quiet_hour_fails_no_call(
    provider: CacheOperations, cache: Cache, tenant: UUID, valkey_pid: Callable[[], int], valkey_url: str
) -> None:
    await asyncio.gather(*(cache.set(tenant, f"key{n}", b"x", ttl_s=60) for n in range(8)))
    os.kill(before := valkey_pid(), signal.SIGKILL)
    other = CacheOperations(ValkeyStore(valkey_url, size=1, timeout_s=LIMIT_S, warn=ignore))
    await until(lambda: _is_replaced(other, valkey_pid, before), "the server was restarted")
    await other.stop()

    assert await asyncio.gather(*(cache.get(tenant, f"key{n}") for n in range(8))) == [None] * 8


async def _is_replaced(other: CacheOperations, pid: Callable[[], int], before: int) -> bool:
    if pid() == before:
        return False
    try:
        await other.ping()
    except StoreUnavailable:
        return False
    return True


async def test_a_hanging_server_fails_calls_within_the_bound(
    provider: CacheOperations, cache: Cache, tenant: UUID, valkey_pid: Callable[[], int]
) -> None:
    """No pile of waiting calls: after the first silence the others fail at once."""
    await cache.set(tenant, "key", b"x", ttl_s=60)
    os.kill(valkey_pid(), signal.SIGSTOP)
    try:
        begun = time.monotonic()
        results = await asyncio.gather(*(cache.get(tenant, "key") for _ in range(100)), return_exceptions=True)
        first, begun = time.monotonic() - begun, time.monotonic()
        with pytest.raises(StoreUnavailable):
            await cache.get(tenant, "key")
        second = time.monotonic() - begun
    finally:
        os.kill(valkey_pid(), signal.SIGCONT)

    assert all(isinstance(result, StoreUnavailable) for result in results)
    assert first < ANSWER_S_MAX
    assert second < LIMIT_S / 2
    await provider.start(5.0)
    await until(lambda: _is_there(cache, tenant, "key"), "it answers again, with what it kept")


async def _is_there(cache: Cache, tenant: UUID, key: str) -> bool:
    try:
        return await cache.get(tenant, key) == b"x"
    except StoreUnavailable:
        return False


async def test_cancelled_calls_leave_every_connection_in_step(cache: Cache, tenant: UUID) -> None:
    """An answer that nobody took must never be given to the next caller."""
    for n in range(50):
        await cache.set(tenant, f"key{n}", b"%d" % n, ttl_s=60)
    for turn in range(20):
        calls = [asyncio.ensure_future(cache.get(tenant, f"key{n}")) for n in range(50)]
        for _ in range(turn % 7):
            await asyncio.sleep(0)
        for call in calls[::2]:
            call.cancel()
        values = await asyncio.gather(*calls, return_exceptions=True)
        right = [value for n, value in enumerate(values) if value == b"%d" % n]
        others = [value for n, value in enumerate(values) if value != b"%d" % n]

        assert len(right) >= 25
        assert all(isinstance(value, asyncio.CancelledError) for value in others)


async def test_many_callers_share_few_connections(provider: CacheOperations, tenant: UUID) -> None:
    parts = [provider.part(name) for name in ("money", "acme.crm", "iam", "gateway", "files")]
    await asyncio.gather(*(part.set(tenant, f"key{n}", b"%d" % n, ttl_s=60) for part in parts for n in range(100)))

    for part in parts:
        assert await part.get(tenant, "key99") == b"99"


async def test_ping_tells_that_the_server_is_not_there() -> None:
    operations = CacheOperations(ValkeyStore("unix:///nowhere/valkey.sock", size=1, timeout_s=LIMIT_S, warn=ignore))
    with pytest.raises(StoreUnavailable):
        await operations.start(0.05)
    await operations.stop()
