"""What our plugins promise of their events is a committed file each, and the code keeps it: inside a version data only gains
fields. `make reference` writes those of the kernel's plugins, `pk contract lock DIR` those of the examples."""

from __future__ import annotations

import shutil
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tools"))

import event_locks  # type: ignore[import-not-found]  # noqa: E402

from host.authoring.rules import tryable  # noqa: E402
from host.authoring.scaffold import new_project  # noqa: E402
from host.event_lock import breaks, gains, read_lock  # noqa: E402
from host.trial import try_out  # noqa: E402
from plugin_api.event_schemas import Schema  # noqa: E402

EXAMPLE = ROOT / "docs" / "examples" / "acme_crm"


def faults(package: Path, declared: Mapping[str, Schema]) -> list[str]:
    """What is wrong with the events of a plugin: undeclared, not in its lock, or not as its lock has them."""
    emitted = tomllib.loads((package / "manifest.toml").read_text()).get("events", {}).get("emits", [])
    locked = read_lock(package) or {}
    undeclared = [f"{one} has no Struct" for one in emitted if one not in declared]
    broken = list(breaks(locked, declared, emitted))
    return [*undeclared, *broken, *([] if broken else gains(locked, declared))]


async def declared_by(project: Path) -> tuple[Path, dict[str, Schema]]:
    """A project's package, and what its code declares."""
    place = tryable(project)
    assert place is not None
    package = place.target.partition(":")[0]
    trial = await try_out(place.top, place.target, place.plugin_id, names=[package])
    return place.top / package, trial.events or {}


def test_the_kernels_plugins_keep_their_promises() -> None:
    found = {one.id: faults(one.folder, event_locks.declared(one)) for one in event_locks.telling()}

    assert "kernel.iam" in found
    assert {} == {plugin_id: told for plugin_id, told in found.items() if told}


def test_every_plugin_of_ours_that_tells_is_looked_at() -> None:
    """Kernel plugins by their entry points; of the examples, those that emit."""
    telling = [
        file.parent.name
        for file in [*(ROOT / "core_plugins").rglob("manifest.toml"), *(ROOT / "docs/examples").rglob("manifest.toml")]
        if tomllib.loads(file.read_text()).get("events", {}).get("emits")
    ]

    assert sorted([*(one.folder.name for one in event_locks.telling()), EXAMPLE.name]) == sorted(telling)


async def test_the_example_and_the_scaffold_keep_theirs(tmp_path: Path) -> None:
    for project in (EXAMPLE, Path(new_project("acme.stock", tmp_path).folder)):
        package, declared = await declared_by(project)
        assert declared
        assert [] == faults(package, declared)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("    amount_minor: int\n", "", "drops /amount_minor"),
        ("    lead_id: UUID\n", "    lead_id: str\n", "changes /lead_id"),
        ("    currency: str\n", "    currency: str\n    note: str = ''\n", "gains /note"),
        ('"deal.closed.v1": DealClosed', "", "deal.closed.v1 has no Struct"),
    ],
    ids=["dropped", "changed", "gained", "undeclared"],
)
async def test_a_broken_twin_is_found(tmp_path: Path, old: str, new: str, words: str) -> None:
    twin = shutil.copytree(EXAMPLE, tmp_path / "acme_crm", ignore=shutil.ignore_patterns("__pycache__"))
    events = twin / "acme_crm" / "events.py"
    text = events.read_text()
    assert text.count(old) == 1
    events.write_text(text.replace(old, new))

    package, declared = await declared_by(twin)
    assert any(words in told for told in faults(package, declared))


def test_a_promise_is_never_generated_over() -> None:
    """`make reference` stops instead."""
    (iam,) = [one for one in event_locks.telling() if one.id == "kernel.iam"]
    now = event_locks.declared(iam)
    before = {"access.changed.v1": {"type": "object", "properties": {"key": {}}, "required": ["key"]}}

    with pytest.raises(event_locks.PromiseBroken, match="it drops /key"):
        event_locks.grown("kernel.iam", before, now, ["access.changed.v1"])
