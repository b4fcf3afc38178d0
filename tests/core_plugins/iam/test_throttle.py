"""Failed log-ins are bounded by account and network, and by network."""

from __future__ import annotations

import pytest

from core_plugins.iam.model.throttle import (
    ACCOUNT_FAILURES_MAX,
    PREFIX_FAILURES_MAX,
    WINDOW_S,
    LocalAttempts,
    Refusal,
    limits_of,
    prefix_of,
    too_many,
)


@pytest.mark.parametrize(
    ("address", "prefix"),
    [
        ("192.0.2.77", "192.0.2.0/24"),
        ("::ffff:192.0.2.77", "192.0.2.0/24"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", "local"),
        ("/run/kernel.sock", "local"),
        ("192.0.2.77, 198.51.100.1", "local"),
    ],
)
def test_an_address_counts_as_its_network(address: str, prefix: str) -> None:
    assert prefix == prefix_of(address)


def attempts(counter: LocalAttempts, address: str, account: str, times: int, now: float = 0.0) -> list[Refusal | None]:
    return [counter.begin(limits_of("acme", account, address), f"{now}-{n}", now) for n in range(times)]


def test_beyond_twenty_failures_of_one_account_the_network_waits() -> None:
    outcomes = attempts(LocalAttempts(), "192.0.2.1", "ada@acme.example", 30)

    assert [None] * ACCOUNT_FAILURES_MAX == outcomes[:ACCOUNT_FAILURES_MAX]
    assert all(one is not None and one.limit.scope == "account" for one in outcomes[ACCOUNT_FAILURES_MAX:])


def test_the_same_account_gets_in_from_elsewhere() -> None:
    counter = LocalAttempts()
    attempts(counter, "192.0.2.1", "ada@acme.example", 30)

    assert [None] == attempts(counter, "192.0.3.1", "ada@acme.example", 1)
    assert attempts(counter, "192.0.2.200", "ada@acme.example", 1) != [None]


def test_beyond_fifty_failures_over_all_accounts_the_network_waits() -> None:
    counter = LocalAttempts()
    outcomes = [attempts(counter, "192.0.2.1", f"{n}@acme.example", 1)[0] for n in range(60)]

    assert [None] * PREFIX_FAILURES_MAX == outcomes[:PREFIX_FAILURES_MAX]
    assert all(one is not None and one.limit.scope == "address" for one in outcomes[PREFIX_FAILURES_MAX:])


def test_the_window_slides() -> None:
    counter = LocalAttempts()
    limits = limits_of("acme", "ada@acme.example", "192.0.2.1")
    for second in range(ACCOUNT_FAILURES_MAX):
        assert counter.begin(limits, str(second), float(second)) is None

    refusal = counter.begin(limits, "late", 100.0)
    assert refusal is not None
    assert WINDOW_S - 100 + 1 == refusal.retry_after_s
    assert counter.begin(limits, "room", WINDOW_S + 0.5) is None
    assert counter.begin(limits, "none", WINDOW_S + 0.6) is not None


def test_what_is_refused_is_not_counted() -> None:
    counter = LocalAttempts()
    attempts(counter, "192.0.2.1", "ada@acme.example", ACCOUNT_FAILURES_MAX + 500)

    assert [None] == attempts(counter, "192.0.2.1", "bob@acme.example", 1)


def test_a_success_is_taken_back_and_no_more() -> None:
    counter = LocalAttempts()
    limits = limits_of("acme", "ada@acme.example", "192.0.2.1")
    attempts(counter, "192.0.2.1", "ada@acme.example", ACCOUNT_FAILURES_MAX - 1)
    for number in range(10):
        assert counter.begin(limits, f"good-{number}", 1.0) is None
        counter.succeed(limits, f"good-{number}")

    assert counter.begin(limits, "bad", 1.0) is None
    assert counter.begin(limits, "worse", 1.0) is not None


def test_memory_is_bounded() -> None:
    counter = LocalAttempts(keys_max=100)
    for number in range(1_000):
        attempts(counter, f"10.{number // 250}.{number % 250}.1", "ada@acme.example", 1)

    assert 100 >= len(counter)


def test_keys_hold_no_address_and_are_short() -> None:
    account, network = limits_of("acme" * 100, "ada@acme.example" * 100, "2001:db8::1")

    assert "ada" not in account.key
    assert max(len(account.key), len(network.key)) <= 200


def test_the_refusal_says_when_to_come_back() -> None:
    account, _ = limits_of("acme", "ada@acme.example", "192.0.2.1")
    error = too_many(account, 17)

    assert 17 == error.retry_after_s
    assert '"log-in-account";r=0;t=17' == error.headers["RateLimit"]
    assert '"log-in-account";q=20;w=300' == error.headers["RateLimit-Policy"]
    assert "ada" not in error.detail
