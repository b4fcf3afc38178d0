"""From what an operator wants and what is desired to what is done, and every reason for which nothing is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from msgspec.structs import replace

from host.changes.orders import Change
from host.changes.plans import Plan, plan_of
from host.store import Package
from plugin_api.errors import Conflict, InvalidRequest, KernelError, NotFound
from plugin_api.ports.desired_state import DesiredPlugin, DesiredPlugins, PreviousVersion


def digest(version: str) -> str:
    """As if the version were the contents."""
    return version.replace(".", "").ljust(64, "0")


def desired(version: str = "1.1.0", plugin_id: str = "acme.crm", **changes: Any) -> DesiredPlugin:
    made = DesiredPlugin(plugin_id, version, digest(version), "acme-crm", "acme_crm:plugin", "acme-crm")
    return replace(made, **changes)


def package(version: str, plugin_id: str = "acme.crm") -> Package:
    return Package(plugin_id, version, digest(version), "/x", "acme-crm", "acme_crm:plugin", "acme-crm", ())


BEFORE = PreviousVersion("1.0.0", digest("1.0.0"), "acme-crm", "acme_crm:plugin", "acme-crm")


@dataclass
class Around:
    """What a plan can ask for: a package, and what the workers know."""

    package: Package = field(default_factory=lambda: package("1.1.0"))
    needing: list[str] = field(default_factory=list)
    known: dict[str, Any] = field(default_factory=dict)

    async def prepare(self, what: str) -> tuple[Package, list[str]]:
        return self.package, [f"{what} is no good name"]

    async def dependents(self, plugin_id: str) -> list[str]:
        return self.needing

    async def survey(self, plugin_id: str) -> dict[str, Any]:
        return self.known


async def plan(
    verb: Any, present: DesiredPlugin | Sequence[DesiredPlugin] | None, around: Around | None = None, **fields: Any
) -> Plan:
    """The plan of one change of `acme.crm`."""
    there = (present,) if isinstance(present, DesiredPlugin) else tuple(present or ())
    fields = fields if verb == "install" else {"plugin_id": "acme.crm", **fields}
    return await plan_of(Change(verb=verb, **fields), DesiredPlugins(7, "x", there), around or Around())


async def test_what_is_new_is_staged_written_and_let_out_of_its_quarantine() -> None:
    made = await plan("install", None, what="acme-crm")

    assert made.stage == desired("1.1.0")
    assert (list(made.put), made.lifts, made.leaving) == ([made.stage], "acme.crm", None)
    assert (made.outcome.version, made.outcome.changed, made.outcome.former) == ("1.1.0", True, "")
    assert made.outcome.warnings == ["acme-crm is no good name"]


async def test_a_new_version_remembers_the_one_before() -> None:
    made = await plan("upgrade", desired("1.0.0", previous=PreviousVersion("0.9", "", "a", "a:b", "")), what="x")

    assert made.stage is not None
    assert made.stage.previous == BEFORE
    assert (made.outcome.former, made.outcome.version) == ("1.0.0", "1.1.0")


async def test_a_disabled_plugin_is_upgraded_without_being_brought_up() -> None:
    made = await plan("upgrade", desired("1.0.0", enabled=False), what="x")

    assert made.stage is None
    assert [(one.version, one.enabled) for one in made.put] == [("1.1.0", False)]


async def test_a_version_of_the_environment_cannot_be_returned_to() -> None:
    of_environment = desired("1.0.0", digest="")
    made = await plan("upgrade", None, Around(known={"environment": of_environment}), what="x")

    assert made.put[0].previous is None


async def test_a_rollback_swaps_the_two() -> None:
    made = await plan("rollback", desired("1.1.0", previous=BEFORE))

    assert made.stage is not None
    assert (made.stage.version, made.stage.digest) == ("1.0.0", digest("1.0.0"))
    assert made.stage.previous == PreviousVersion("1.1.0", digest("1.1.0"), "acme-crm", "acme_crm:plugin", "acme-crm")
    assert made.lifts == "acme.crm"


@pytest.mark.parametrize("verb", ["install", "upgrade"])
async def test_the_same_package_again_changes_nothing(verb: str) -> None:
    made = await plan(verb, desired("1.1.0"), what="x")

    assert (made.outcome.changed, list(made.put), made.lifts) == (False, [], "")


async def test_enabling_brings_up_and_ends_a_quarantine() -> None:
    made = await plan("enable", desired(enabled=False))

    assert made.stage == desired()
    assert made.lifts == "acme.crm"


async def test_a_cascade_takes_those_along_that_cannot_serve_without_it() -> None:
    there = [desired(), desired(plugin_id="acme.mail")]
    around = Around(needing=["acme.mail"])
    disabled = await plan("disable", there, around, cascade=True)
    removed = await plan("remove", there, around, cascade=True, data="purge")

    assert [(one.id, one.enabled) for one in disabled.put] == [("acme.crm", False), ("acme.mail", False)]
    assert disabled.outcome.disabled == ["acme.mail"]
    assert [(one.id, one.enabled, one.leaving) for one in removed.put] == [
        ("acme.mail", False, ""),
        ("acme.crm", False, "purge"),
    ]
    assert (dict(removed.uninstall), removed.leaving, removed.lifts) == ({"acme.crm": "purge"}, "purge", "acme.crm")


async def test_a_dry_run_says_what_would_go_and_refuses_nothing() -> None:
    there = [desired(), desired(plugin_id="acme.mail")]
    made = await plan("remove", there, Around(needing=["acme.mail"], known={"tables": 3}), dry_run=True)

    assert made.outcome.removed == {"package": f"1.1.0-{digest('1.1.0')[:12]}", "data": "keep", "tables": 3}


async def test_a_removal_that_was_cut_off_goes_on_as_it_was_asked_for() -> None:
    made = await plan("remove", desired(enabled=False, leaving="purge"), Around(needing=["acme.mail"]), data="keep")

    assert made.leaving == "purge"


LEAVING: dict[str, Any] = {"enabled": False, "leaving": "keep"}


@pytest.mark.parametrize(
    ("verb", "present", "around", "error", "code", "said"),
    [
        ("install", desired("1.0.0"), Around(), Conflict, "already_installed", "pk plugins upgrade acme.crm"),
        ("upgrade", desired("1.2.0"), Around(), Conflict, "older_version", "pk plugins rollback acme.crm"),
        ("upgrade", desired(), Around(package("2", "acme.mail")), InvalidRequest, "", "pk plugins install"),
        ("rollback", desired(), Around(), Conflict, "nothing_to_roll_back", "pk plugins upgrade"),
        ("disable", desired(), Around(needing=["acme.mail"]), Conflict, "needed", "acme.mail cannot serve without"),
        ("remove", desired(), Around(needing=["acme.mail"]), Conflict, "needed", "disable them first"),
        ("remove", desired(digest=""), Around(), Conflict, "environment_plugin", "uninstall it there"),
        ("upgrade", desired(**LEAVING), Around(), Conflict, "leaving", "pk plugins remove acme.crm"),
        ("rollback", desired(**LEAVING), Around(), Conflict, "leaving", "pk plugins remove acme.crm"),
        ("enable", desired(**LEAVING), Around(), Conflict, "leaving", "pk plugins remove acme.crm"),
        ("disable", desired(**LEAVING), Around(), Conflict, "leaving", "pk plugins remove acme.crm"),
    ],
)
async def test_what_cannot_be_is_refused_with_a_remedy(
    verb: str, present: DesiredPlugin, around: Around, error: type[KernelError], code: str, said: str
) -> None:
    with pytest.raises(error) as caught:
        await plan(verb, present, around, what="x")

    assert said in caught.value.detail
    assert "acme.crm" in caught.value.detail
    assert caught.value.code == (code or error.default_code)


@pytest.mark.parametrize("verb", ["upgrade", "rollback", "enable", "disable", "remove"])
async def test_who_is_not_there_or_comes_with_the_kernel_is_not_changed(verb: str) -> None:
    with pytest.raises(NotFound, match=r"acme\.crm is not installed here; `pk plugins list`") as unknown:
        await plan(verb, None)
    with pytest.raises(Conflict, match=r"kernel\.iam comes with the kernel.*host\.disabled") as ours:
        await plan(verb, None, plugin_id="kernel.iam")

    assert (unknown.value.code, ours.value.code) == ("unknown_plugin", "kernel_plugin")


@pytest.mark.parametrize(
    ("known", "is_first"), [({}, True), ({"tables": {"leads": 3}}, False), ({"environment": desired(digest="")}, False)]
)
async def test_what_is_in_the_database_already_outlives_a_failed_installation(
    known: dict[str, Any], is_first: bool
) -> None:
    assert (await plan("install", None, Around(known=known), what="x")).is_first is is_first
