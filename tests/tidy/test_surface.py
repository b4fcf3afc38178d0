"""The plugin API's public surface is a committed file: what is removed or narrowed fails here."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tools"))

from surface import SNAPSHOT, lost, surface  # type: ignore[import-not-found]  # noqa: E402


def test_the_surface_is_as_committed() -> None:
    """After a wanted addition run `make reference` and commit `plugin_api/surface.txt` with it."""
    committed = SNAPSHOT.read_text().splitlines()

    assert [] == lost(committed, surface())
    assert committed == surface()


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (["plugin_api.ids.uuid7() -> UUID"], []),
        (["plugin_api.a.A.b: str = ..."], ["plugin_api.a.A.b: str"]),
        (
            ["plugin_api.a.Name = Annotated[str, Meta(max_length=9)]"],
            ["plugin_api.a.Name = Annotated[str, Meta(max_length=8)]"],
        ),
        (["plugin_api.call.Call.tx(self) -> Tx"], ["plugin_api.call.Call.tx(self, more: int) -> Tx"]),
        (
            ["plugin_api.errors.NotFound(KernelError) status=404"],
            ["plugin_api.errors.NotFound(KernelError) status=410"],
        ),
    ],
)
def test_a_removal_or_a_change_is_found(before: list[str], after: list[str]) -> None:
    assert before == lost(before, after)


def test_an_addition_loses_nothing() -> None:
    assert [] == lost(["plugin_api.a"], ["plugin_api.a", "plugin_api.b"])


def test_the_surface_sees_what_authors_use() -> None:
    text = "\n".join(surface())

    for name in (
        "plugin_api.operation.operation(",
        "plugin_api.call.Call.tx(",
        "plugin_api.errors.NotFound(",
        "plugin_api.hooks.pk_register(",
        "plugin_api.call.Actor.kind: ActorKind",
        "plugin_api.call.ActorKind = Literal[",
        "plugin_api.pages.PageRequest.limit: Annotated[int, Meta(ge=1, ",
        "plugin_api.testing.plugin.tenant (fixture)",
    ):
        assert name in text
