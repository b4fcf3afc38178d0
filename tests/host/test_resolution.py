"""Start order and refusals: deterministic, explained, and never more than the plugins concerned."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from importlib_metadata import EntryPoint

from host.discovery import Found
from host.resolution import Resolution, UnknownPlugin, resolve
from plugin_api.manifest import Manifest
from plugin_api.version_range import split_requirement


def plugin(
    plugin_id: str,
    requires: tuple[str, ...] = (),
    after: tuple[str, ...] = (),
    provides: tuple[str, ...] = (),
    problem: str | None = None,
) -> Found:
    """A plugin as discovery finds it."""
    manifest = Manifest(
        id=plugin_id,
        version="1.0.0",
        api=">=1.0,<2",
        summary="Test",
        requires=list(requires),
        after=list(after),
        provides=list(provides),
    )
    entry = EntryPoint(name=plugin_id, value="x:y", group="g")
    return Found(manifest, Path(), "x", "x:y", "dist", "1", problem, entry)


def ids(resolution: Resolution) -> list[str]:
    return [found.id for found in resolution.order]


IAM = plugin("kernel.iam", ("data >=1", "cache", "vault >=1"), provides=("iam 1.0",))
DATA = plugin("kernel.data", provides=("data 1.2",))
CACHE = plugin("kernel.cache", provides=("cache 1.0",))
VAULT = plugin("kernel.vault", ("data",), provides=("vault 1.0",))
NOTIFY = plugin("kernel.notify", ("data",), ("iam",), ("notify 2.0",))
CRM = plugin("acme.crm", ("iam >=1,<2",), ("notify",), ("acme.crm 1.4",))
KERNEL = [IAM, DATA, CACHE, VAULT, NOTIFY, CRM]


def test_what_is_required_comes_first() -> None:
    order = ids(resolve(KERNEL))

    assert order == ["kernel.cache", "kernel.data", "kernel.vault", "kernel.iam", "kernel.notify", "acme.crm"]


@pytest.mark.parametrize("capability", ["migrations", "desired_state"])
def test_what_reaches_everybodys_tables_is_for_the_kernels_own(capability: str) -> None:
    data = plugin("kernel.data", provides=("data 1.2", f"{capability} 1.0"))
    thief = plugin("acme.thief", (capability,))
    resolution = resolve([data, thief, plugin("kernel.iam", (capability,))])

    assert (ids(resolution), list(resolution.blocked)) == (["kernel.data", "kernel.iam"], ["acme.thief"])
    assert capability in resolution.blocked["acme.thief"]
    assert ids(resolve([data, plugin("acme.sly", after=(capability,))])) == ["kernel.data"]


@given(st.randoms(use_true_random=False))
def test_the_order_of_finding_does_not_matter(source: random.Random) -> None:
    shuffled = source.sample(KERNEL, len(KERNEL))

    assert resolve(KERNEL).order == resolve(shuffled).order


def test_only_takes_what_it_requires_along() -> None:
    resolution = resolve(KERNEL, only=["iam"])

    assert ids(resolution) == ["kernel.cache", "kernel.data", "kernel.vault", "kernel.iam"]
    assert (resolution.blocked, set(resolution.left_out)) == ({}, {"kernel.notify", "acme.crm"})
    assert ids(resolve(KERNEL, only=["acme.crm", "kernel.notify"])) == ids(resolve(KERNEL))


def test_only_names_what_exists() -> None:
    with pytest.raises(UnknownPlugin, match="there is no plugin iaam here; did you mean iam"):
        resolve(KERNEL, only=["iaam"])


def test_what_is_missing_is_named_with_the_nearest() -> None:
    resolution = resolve([*KERNEL, plugin("acme.mail", ("notfy >=1",))])

    assert resolution.blocked == {
        "acme.mail": "acme.mail needs notfy >=1, which nothing here provides; the nearest is notify 2.0; "
        "install a plugin that does"
    }
    assert len(resolution.order) == len(KERNEL)


def test_a_version_that_does_not_fit_is_named() -> None:
    [said] = resolve([*KERNEL, plugin("acme.mail", ("notify >=1,<2",))]).blocked.values()

    assert said == "acme.mail needs notify >=1,<2, and kernel.notify provides notify 2.0; install versions that fit"


def test_dependents_go_with_what_they_need_and_the_rest_stays() -> None:
    broken = plugin("kernel.vault", problem="manifest.toml:1: broken")
    resolution = resolve([broken, *(one for one in KERNEL if one is not VAULT)])

    assert ids(resolution) == ["kernel.cache", "kernel.data", "kernel.notify"]
    assert resolution.blocked["kernel.vault"] == "manifest.toml:1: broken"
    assert resolution.blocked["kernel.iam"].startswith("kernel.iam needs vault >=1")
    assert "kernel.iam, which provides it, cannot start" in resolution.blocked["acme.crm"]


def test_disabled_plugins_block_their_dependents_with_the_remedy() -> None:
    resolution = resolve(KERNEL, disabled=["vault", "kernel.notify", "never.heard"])

    assert resolution.disabled == ("kernel.notify", "kernel.vault")
    assert "its plugin is disabled; enable it" in resolution.blocked["kernel.iam"]
    assert set(resolution.blocked) == {"kernel.iam", "acme.crm"}


def test_a_circle_is_shown_and_blocks_its_members_and_dependents_alone() -> None:
    circle = [
        plugin(f"acme.{a}", (f"acme.{b} >=1",), provides=(f"acme.{a} 1",))
        for a, b in (("a", "b"), ("b", "c"), ("c", "a"))
    ]
    hanging = plugin("acme.z", ("acme.a",))

    resolution = resolve([*circle, hanging, *KERNEL])

    assert len(resolution.order) == len(KERNEL)
    assert set(resolution.blocked) == {"acme.a", "acme.b", "acme.c", "acme.z"}
    assert resolution.blocked["acme.a"].startswith("acme.a -> acme.b -> acme.c -> acme.a is a circle of requirements")
    assert "acme.a, which provides it" in resolution.blocked["acme.z"]


def test_one_that_needs_itself_is_a_circle_and_two_circles_are_two() -> None:
    found = [
        plugin("acme.self", ("acme.self",), provides=("acme.self 1",)),
        plugin("acme.x", ("acme.y",), provides=("acme.x 1",)),
        plugin("acme.y", ("acme.x",), provides=("acme.y 1",)),
    ]

    blocked = resolve(found).blocked

    assert blocked["acme.self"].startswith("acme.self -> acme.self is a circle")
    assert blocked["acme.x"] == blocked["acme.y"]
    assert blocked["acme.x"].startswith("acme.x -> acme.y -> acme.x is")


def test_soft_needs_order_when_they_can_and_block_nothing() -> None:
    found = [
        plugin("acme.a", after=("acme.b", "nowhere >=9"), provides=("acme.a 1",)),
        plugin("acme.b", after=("acme.a",), provides=("acme.b 1",)),
        plugin("acme.c", after=("acme.z",)),
        plugin("acme.z", provides=("acme.z 1",)),
    ]

    resolution = resolve(found)

    assert ids(resolution) == ["acme.b", "acme.a", "acme.z", "acme.c"]
    assert resolution.blocked == {}


def test_a_second_provider_is_blocked_and_the_kernels_own_goes_first() -> None:
    resolution = resolve(
        [plugin("kernel.b", provides=("thing 1",)), plugin("kernel.a", provides=("thing 1",)), *KERNEL]
    )

    assert resolution.blocked == {
        "kernel.b": "kernel.b provides thing, which kernel.a provides already; disable one of the two"
    }


# ------------------------------------------------------------------------------------------------ properties

NAMES = [f"acme.{letter}" for letter in "abcdef"]
entries = st.builds(
    lambda name, wanted: f"{name} {wanted}".strip(), st.sampled_from(NAMES), st.sampled_from(["", ">=1", "<2", ">=2"])
)
plugins = st.lists(
    st.builds(
        lambda name, requires, after, version: plugin(name, tuple(requires), tuple(after), (f"{name} {version}",)),
        st.sampled_from(NAMES),
        st.lists(entries, max_size=3),
        st.lists(entries, max_size=2),
        st.sampled_from(["1.0", "2.1"]),
    ),
    max_size=6,
    unique_by=lambda found: found.id,
)


@given(plugins)
def test_every_plugin_starts_after_its_needs_or_is_blocked_for_a_reason(found: list[Found]) -> None:
    resolution = resolve(found)

    started: dict[str, str] = {}
    for one in resolution.order:
        for entry in one.manifest.requires:
            name, wanted = split_requirement(entry)
            assert wanted.allows(started[name])
        started |= dict(provided.split(" ") for provided in one.manifest.provides)
    assert {one.id for one in found} == {*ids(resolution), *resolution.blocked}
    assert all(resolution.blocked.values())
    # Nothing is blocked that could start: one more step finds no plugin whose needs are all there.
    for one in found:
        if one.id in resolution.blocked:
            needs = [split_requirement(entry) for entry in one.manifest.requires]
            assert not all(name in started and wanted.allows(started[name]) for name, wanted in needs)


def test_what_another_kernel_serves_is_neither_started_nor_missed() -> None:
    apart = resolve(KERNEL, only=["acme.crm"], elsewhere=["iam"])
    alone = resolve([CRM, DATA], elsewhere=["iam"])
    here = resolve(KERNEL, elsewhere=["iam"])

    assert (["acme.crm"], {}) == (ids(apart), dict(apart.blocked))
    assert (True, {}) == ("acme.crm" in ids(alone), dict(alone.blocked))
    assert ids(resolve(KERNEL)) == ids(here)  # what runs here all the same is used here


def test_a_disabled_provider_is_not_missed_when_another_kernel_serves_it() -> None:
    apart = resolve(KERNEL, disabled=["iam"], elsewhere=["iam"])

    assert "acme.crm" in ids(apart)
    assert {} == dict(apart.blocked)
