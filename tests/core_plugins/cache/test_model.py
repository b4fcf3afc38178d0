"""Keys of different parts and tenants are different, whatever they hold; what is out of bounds is refused."""

from __future__ import annotations

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core_plugins.cache.model import check_prefix, stored_key, ttl_ms
from plugin_api.errors import KernelBug

prefixes = st.from_regex(r"[a-z][a-z0-9_]{0,9}(\.[a-z][a-z0-9]{0,9}){0,2}", fullmatch=True)
tenants = st.none() | st.uuids()
keys = st.text(st.characters(exclude_categories=["C", "Z"]) | st.sampled_from(":-*[]?{}\\ "), min_size=1, max_size=200)
places = st.tuples(prefixes, tenants, keys)


def taken_apart(stored: bytes) -> tuple[str, UUID | None, str]:
    prefix, tenant, key = stored.decode().split(":", 2)
    return prefix, None if tenant == "-" else UUID(tenant), key


@given(places)
def test_a_stored_key_can_be_taken_apart_in_one_way_only(place: tuple[str, UUID | None, str]) -> None:
    """So no two places make the same stored key: nothing that a key holds moves it elsewhere."""
    assert taken_apart(stored_key(*place)) == place


@given(st.text(max_size=300))
def test_what_does_not_print_is_never_stored(key: str) -> None:
    try:
        stored = stored_key("money", None, key)
    except KernelBug:
        assert not key.isprintable() or not 0 < len(key) <= 200
    else:
        assert stored == b"money:-:" + key.encode()


@given(st.text(max_size=80))
def test_a_prefix_has_neither_colon_nor_pattern(prefix: str) -> None:
    """The server reads a prefix as the beginning of a pattern of keys (ACL)."""
    try:
        check_prefix(prefix)
    except KernelBug:
        return
    assert set(prefix) <= set("abcdefghijklmnopqrstuvwxyz0123456789_.")


@pytest.mark.parametrize("prefix", ["", "a:b", "*", "acme.*", "Money", "money\n", "a" * 61, ".crm", "acme..crm", "-"])
def test_other_prefixes_are_refused(prefix: str) -> None:
    with pytest.raises(KernelBug):
        check_prefix(prefix)


def test_an_error_does_not_tell_the_key() -> None:
    with pytest.raises(KernelBug) as caught:
        stored_key("money", None, "secret-token\n")

    assert "secret-token" not in str(caught.value)


@pytest.mark.parametrize(("ttl_s", "milliseconds"), [(0.001, 1), (0.0014, 1), (1.5, 1500), (2_592_000, 2_592_000_000)])
def test_seconds_become_whole_milliseconds(ttl_s: float, milliseconds: int) -> None:
    assert ttl_ms(ttl_s) == milliseconds


@pytest.mark.parametrize("ttl_s", [0, -1, 0.0009, 2_592_000.1, float("inf"), float("nan")])
def test_other_times_to_live_are_refused(ttl_s: float) -> None:
    with pytest.raises(KernelBug):
        ttl_ms(ttl_s)
