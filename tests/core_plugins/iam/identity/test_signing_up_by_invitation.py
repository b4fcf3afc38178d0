"""Who may sign up is a setting: anybody, the invited, or nobody."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

OPERATOR = ("platform", "operator@platform.localhost", "Operator-y7Qv2mR9xK")


async def test_nobody_signs_up_where_it_is_closed(start: Any) -> None:
    async with start(signup="closed") as running:
        answer = await running.sign_up()

        assert (403, "sign_up_closed") == (answer.status, answer.code)


async def test_an_invitation_is_good_for_one_tenant(start: Any) -> None:
    async with start(signup="invite") as running:
        operator = await running.person(*OPERATOR)
        made = await operator.client.post("/signup-invitations", {})
        token = made["token"]

        assert 201 == made.status
        for bad in (None, "x", token[:-1], token + "A"):
            answer = await running.sign_up(invitation=bad)
            assert 422 == answer.status, bad
            assert ["/invitation"] == [error["pointer"] for error in answer["errors"]]
        answers = await asyncio.gather(*(running.sign_up(invitation=token) for _ in range(4)))
        assert {201: 1, 422: 3} == Counter(answer.status for answer in answers)


async def test_a_failed_sign_up_gives_its_invitation_back(start: Any) -> None:
    async with start(signup="invite") as running:
        operator = await running.person(*OPERATOR)
        tokens = [(await operator.client.post("/signup-invitations", {}))["token"] for _ in range(2)]
        taken = await running.sign_up(invitation=tokens[0])

        assert 409 == (await running.sign_up(invitation=tokens[1], slug=taken["slug"])).status
        assert 201 == (await running.sign_up(invitation=tokens[1])).status


async def test_an_invitation_expires(start: Any) -> None:
    async with start(signup="invite") as running:
        operator = await running.person(*OPERATOR)
        token = (await operator.client.post("/signup-invitations", {"expires_in_s": 60}))["token"]
        running.clock.advance(61)

        assert 422 == (await running.sign_up(invitation=token)).status


async def test_only_operators_invite_to_sign_up(running: Any) -> None:
    tenant = await running.tenant()
    answer = await tenant.owner.client.post("/signup-invitations", {})

    assert 403 == answer.status
    assert "platform.iam.signup.create" in answer["detail"]
