"""What grants cover, against an oracle that spells the rules out, and masks against the same oracle."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core_plugins.iam.model.grants import (
    BUILT_IN_GRANTS,
    EVERY_AREA,
    Held,
    HeldRole,
    PermissionBits,
    Subject,
    covering,
    covers,
    email_key,
    intersection,
    platform_violations,
    role_grants,
    shown,
)
from plugin_api.contracts.iam import ADMIN, BUILT_IN_ROLES, MEMBER, OWNER, VIEWER
from plugin_api.errors import NotAllowed
from plugin_api.ids import PLATFORM_TENANT_ID, uuid7

WORDS = ("a", "ab", "platform")
NAMES = sorted(".".join(parts) for length in (3, 4) for parts in product(WORDS, repeat=length))
WILDCARDS = sorted(".".join(parts) + ".*" for length in (1, 2, 3) for parts in product(WORDS, repeat=length))
names = st.sampled_from(NAMES)
grants = st.one_of(st.sampled_from(["*", EVERY_AREA]), st.sampled_from(WILDCARDS), names)
grant_lists = st.lists(grants, max_size=6)


def oracle(grant: str, name: str, in_platform: bool) -> bool:
    """The rules, word by word: does one grant cover one permission?"""
    parts = name.split(".")
    if parts[0] == "platform" and not in_platform:
        return False
    if grant in ("*", EVERY_AREA):
        return True
    wanted = grant.split(".")
    if wanted[-1] == "*":
        return len(parts) >= len(wanted) and parts[: len(wanted) - 1] == wanted[:-1]
    return parts == wanted


def covered(held: list[str] | tuple[str, ...], in_platform: bool) -> set[str]:
    return {name for name in NAMES if any(oracle(grant, name, in_platform) for grant in held)}


@given(grant_lists, names, st.booleans())
def test_a_permission_is_covered_as_the_rules_say(held, name, in_platform):
    assert covers(held, name, in_platform=in_platform) == (name in covered(held, in_platform))


@given(grant_lists, grants, st.booleans())
def test_a_grant_is_covered_only_when_all_of_it_is(held, wanted, in_platform):
    if covers(held, wanted, in_platform=in_platform):
        assert covered([wanted], in_platform) <= covered(held, in_platform)


@given(grants, grants, st.booleans())
def test_everything_that_could_still_be_installed_counts(grant, wanted, in_platform):
    """A wildcard is not covered by the names that it happens to stand for today."""
    if wanted.endswith(".*") and wanted != EVERY_AREA and not grant.endswith("*"):
        assert not covers([grant], wanted, in_platform=in_platform)


@given(grant_lists)
def test_nothing_but_itself_covers_the_star(held):
    assert covers(held, "*", in_platform=True) == ("*" in held)
    assert covers(held, EVERY_AREA, in_platform=True) == bool({"*", EVERY_AREA} & set(held))


@given(grant_lists, grant_lists, st.booleans())
def test_an_intersection_covers_what_both_cover(left, right, in_platform):
    both = intersection(left, right, in_platform=in_platform)

    assert covered(both, in_platform) == covered(left, in_platform) & covered(right, in_platform)
    assert all(covers(side, grant, in_platform=in_platform) for grant in both for side in (left, right))


@given(grant_lists, st.lists(names, unique=True), st.booleans())
def test_a_mask_has_the_bits_of_what_is_covered(held, registered, in_platform):
    bits = PermissionBits()
    of = {name: bits.bit_of(name) for name in registered}

    mask = bits.mask_of(held, in_platform=in_platform)

    assert {name for name, bit in of.items() if mask & bit} == covered(held, in_platform) & set(registered)
    assert mask.bit_length() <= len(bits) == len(registered)


@given(st.lists(names, unique=True, min_size=1), grant_lists)
def test_a_bit_never_changes_when_names_are_added(registered, held):
    bits = PermissionBits()
    before: dict[str, int] = {}
    for name in registered:
        epoch, mask = len(bits), bits.mask_of(held, in_platform=True)
        before[name] = bits.bit_of(name)

        assert len(bits) == epoch + 1
        assert mask == bits.mask_of(held, in_platform=True) & ~before[name]
    assert before == {name: bits.bit_of(name) for name in registered}


@pytest.mark.parametrize("grant", ["platform.*", "platform.plugin.*", "platform.plugin.install", "*", EVERY_AREA])
def test_platform_permissions_mean_nothing_outside_the_platform_tenant(grant):
    bits = PermissionBits()
    bit = bits.bit_of("platform.plugin.install")

    assert not bits.mask_of([grant], in_platform=False) & bit
    assert bits.mask_of([grant], in_platform=True) & bit


def test_a_name_that_merely_begins_alike_is_not_covered():
    assert covers(["iam.user.*"], "iam.user.read", in_platform=False)
    assert not covers(["iam.user.*"], "iam.userx.read", in_platform=False)
    assert not covers(["iam.*"], "iamx.user.read", in_platform=False)
    assert not covers(["iam.user.read"], "iam.user.read.more", in_platform=False)
    assert covers(["acme.crm.*"], "acme.crm.lead.create", in_platform=False)


def test_every_built_in_role_has_grants_that_no_row_can_change():
    assert set(BUILT_IN_GRANTS) == set(BUILT_IN_ROLES)
    assert role_grants(OWNER, ["iam.user.read"], built_in=True) == ("*",)
    assert role_grants("support", ["iam.user.read"], built_in=False) == ("iam.user.read",)


def test_owner_and_admin_hold_what_is_installed_later_and_the_others_do_not():
    holds = {name for name, held in BUILT_IN_GRANTS.items() if covers(held, "acme.crm.lead.create", in_platform=False)}

    assert holds == {OWNER, ADMIN}


def test_an_admin_makes_no_owner_but_another_admin():
    admin = Held(BUILT_IN_GRANTS[ADMIN], in_platform=False)

    for name in (ADMIN, MEMBER, VIEWER):
        admin.require(BUILT_IN_GRANTS[name], "the role grants")
    with pytest.raises(NotAllowed, match=r"the role owner grants \*"):
        admin.require(BUILT_IN_GRANTS[OWNER], "the role owner grants")


def test_a_refusal_names_the_first_grant_that_is_lacking():
    held = Held(("iam.user.*",), in_platform=False)

    with pytest.raises(NotAllowed, match=r"iam\.role\.read"):
        held.require(["iam.user.read", "iam.role.read", "iam.role.create"], "the key would hold")
    with pytest.raises(NotAllowed, match="permissions of every area"):
        held.require([EVERY_AREA], "the role admin grants")


def test_answers_show_every_area_by_its_name():
    areas = ["money", "acme.crm", "iam"]

    assert shown([EVERY_AREA, "x.y.z"], areas, in_platform=False) == ["acme.crm.*", "iam.*", "money.*", "x.y.z"]
    assert shown([EVERY_AREA], areas, in_platform=True)[-1] == "platform.*"
    assert shown(["*", "iam.*", "*"], areas, in_platform=False) == ["*", "iam.*"]


def test_the_grant_that_decides_is_named():
    assert covering(["iam.role.*", "iam.user.*", "*"], "iam.user.read", in_platform=False) == "iam.user.*"


def test_grants_that_cannot_exist_are_pointed_at():
    asked = ["iam.user.read", "platform.*", "platform.plugin.install", "platformx.a.b"]

    found = platform_violations(asked, in_platform=False)

    assert [one.pointer for one in found] == ["/permissions/1", "/permissions/2"]
    assert platform_violations(asked, in_platform=True) == []


def test_a_person_holds_what_all_roles_together_grant():
    roles = (HeldRole("a", ("iam.user.read", "iam.role.read")), HeldRole("b", ("iam.role.read", "money.*")))
    subject = Subject(uuid7(), uuid7(), "active", roles)

    assert subject.grants == ("iam.user.read", "iam.role.read", "money.*")
    assert subject.role_names == ["a", "b"]
    assert not subject.in_platform
    assert not subject.is_owner
    assert Subject(PLATFORM_TENANT_ID, uuid7(), "suspended", ()).in_platform


@pytest.mark.parametrize(
    ("left", "right", "same"),
    [
        ("Ada@Example.COM", "ada@example.com", True),
        ("ada@example.com", "adb@example.com", False),
        ("\u212aate@example.com", "kate@example.com", False),
        ("K\u0130@example.com", "k\u0130@example.com", True),
    ],
)
def test_addresses_are_the_same_without_regard_to_the_case_of_ascii_letters(left, right, same):
    assert (email_key(left) == email_key(right)) == same
