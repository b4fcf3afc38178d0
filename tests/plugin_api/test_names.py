"""Everything that a plugin owns is derived from its id, and nothing of two plugins is ever the same."""

from __future__ import annotations

import dataclasses
import re

import msgspec
from hypothesis import assume, given
from hypothesis import strategies as st

from plugin_api.manifest import Names, names_of
from plugin_api.services import ServiceKey

words = st.from_regex(r"[a-z][a-z0-9]{0,7}", fullmatch=True)
plugin_ids = st.one_of(
    st.lists(words, min_size=2, max_size=4).map(".".join).filter(lambda name: not name.startswith("kernel.")),
    st.from_regex(r"kernel\.[a-z][a-z0-9_]{0,12}", fullmatch=True),
)


def test_names_are_those_of_the_published_table() -> None:
    assert names_of("kernel.money") == Names("money", "/api/v1/money", "money", "pk.money.v1")
    assert names_of("acme.crm") == Names("acme.crm", "/api/v1/x/acme.crm", "x_acme_crm", "pk.x.acme_crm.v1")


@given(plugin_ids, plugin_ids)
def test_two_plugins_never_share_a_name(one: str, other: str) -> None:
    assume(one != other)
    # `kernel.x_acme_crm` would be `acme.crm`'s schema; the kernel's own plugins are reviewed, so it is left out.
    assume(not one.startswith("kernel.x") and not other.startswith("kernel.x"))
    mine, theirs = msgspec.structs.asdict(names_of(one)), msgspec.structs.asdict(names_of(other))

    assert not set(mine.values()) & set(theirs.values())


@given(plugin_ids)
def test_a_schema_is_a_plain_identifier(plugin_id: str) -> None:
    assert re.fullmatch(r"[a-z][a-z0-9_]*", names_of(plugin_id).schema)


def test_service_keys_are_equal_by_name() -> None:
    assert ServiceKey[int]("money") == ServiceKey[str]("money")
    assert {ServiceKey[int]("money"): 1}[ServiceKey("money")] == 1
    try:
        ServiceKey[int]("money").name = "other"  # type: ignore[misc]
    except dataclasses.FrozenInstanceError:
        return
    raise AssertionError("a service key can be changed")
