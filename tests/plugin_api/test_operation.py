"""`@operation` marks a method and changes nothing about it; what contradicts itself is refused at import."""

from __future__ import annotations

from typing import Any

import pytest

from plugin_api import Call, Struct, job, on, operation
from plugin_api.operation import JOB_ATTRIBUTE, OPERATION_ATTRIBUTE, REACTION_ATTRIBUTE, JobSpec, ReactionSpec


class Nothing(Struct, frozen=True):
    """An empty request."""


def declared(route: str, **options: Any) -> Any:
    @operation(route, **options)
    async def method(self: object, call: Call, request: Nothing) -> None:
        """Do nothing."""

    return getattr(method, OPERATION_ATTRIBUTE)


def test_a_declaration_has_defaults() -> None:
    spec = declared("POST /wallets/{wallet_id}/holds/{hold_id}", permission="hold.create")

    assert (spec.method, spec.path) == ("POST", "/wallets/{wallet_id}/holds/{hold_id}")
    assert spec.placeholders == ("wallet_id", "hold_id")
    assert (spec.idempotency, spec.transaction) == ("optional", "shared")
    assert (spec.status, spec.deadline_s) == (None, None)
    assert (spec.public, spec.operator, spec.deprecated) == (False, False, False)


def test_the_method_itself_is_untouched() -> None:
    async def method(self: object, call: Call, request: Nothing) -> None:
        """Do nothing."""

    assert operation("GET /x")(method) is method


@pytest.mark.parametrize(
    "route",
    [
        "GET",
        "GET x",
        "get /x",
        "HEAD /x",
        "GET /x y",
        "GET /x?y=1",
        "GET /x\n",
        "GET /{a}/{a}",
        "GET /{A}",
        "GET /{a",
        "GET /a}",
        "GET /{}",
        "GET /{a-b}",
        "GET /ä",
    ],
)
def test_what_is_no_route_is_refused(route: str) -> None:
    with pytest.raises(ValueError, match=r"route|placeholder"):
        declared(route)


@pytest.mark.parametrize(
    "options", [{"public": True, "permission": "x.y"}, {"public": True, "operator": True}, {"operator": True}]
)
def test_contradictions_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"public|operator"):
        declared("GET /x", **options)


def test_reactions_and_jobs_are_marked() -> None:
    @on("money.transfer.posted.v1")
    async def react(self: object, call: Call, event: object) -> None:
        """React."""

    @job("*/15 * * * *", per_tenant=True)
    async def run(self: object, call: Call) -> None:
        """Run."""

    assert getattr(react, REACTION_ATTRIBUTE) == ReactionSpec("money.transfer.posted.v1")
    assert getattr(run, JOB_ATTRIBUTE) == JobSpec("*/15 * * * *", per_tenant=True, time_zone="UTC", missed="once")
