"""Refresh: rotation, a short grace for repeats, the end of the session for reuse, and no way past a revocation."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any
from uuid import UUID

from core_plugins.iam.model.tokens import REFRESH_PREFIX, parse_opaque_token
from plugin_api.ids import uuid7


async def test_tokens_are_rotated_within_one_session(running: Any) -> None:
    tenant = await running.tenant()
    old = tenant.owner.tokens
    answer = await running.refresh(old["refresh_token"])
    fresh = answer.json

    assert 200 == answer.status
    assert set(old) == set(fresh)
    assert old["session_id"] == fresh["session_id"]
    assert old["refresh_token"] != fresh["refresh_token"]
    assert old["access_token"] != fresh["access_token"]
    for token in (old["access_token"], fresh["access_token"]):
        assert 200 == await tenant.owner.client.bearing(token).me()
    assert 200 == (await running.refresh(fresh["refresh_token"])).status


async def test_a_repeat_within_the_grace_gets_the_same_successor(running: Any) -> None:
    tenant = await running.tenant()
    token = tenant.owner.tokens["refresh_token"]
    first = await running.refresh(token)
    running.clock.advance(10)
    repeat = await running.refresh(token)

    assert (200, first["refresh_token"]) == (repeat.status, repeat["refresh_token"])
    assert 200 == await tenant.owner.client.me()
    assert 2 == len(await running.fetch(tenant.id, "select id from refresh_tokens"))


async def test_a_repeat_after_the_grace_ends_the_whole_session_at_once(running: Any) -> None:
    tenant = await running.tenant()
    other, token = await tenant.owner.again(), tenant.owner.tokens["refresh_token"]
    fresh = await running.refresh(token)
    client = tenant.owner.client.bearing(fresh["access_token"])
    running.clock.advance(10.5)
    assert 200 == await client.me()

    assert 401 == (await running.refresh(token)).status
    assert 401 == await client.me()
    assert 401 == (await running.refresh(fresh["refresh_token"])).status
    assert 200 == await other.client.me()
    (row,) = await running.fetch(tenant.id, "select revoked_why from sessions where revoked_at is not null")
    assert "reused_token" == row["revoked_why"]


async def test_an_old_token_of_a_long_chain_is_reuse_too(running: Any) -> None:
    tenant = await running.tenant()
    first = tenant.owner.tokens["refresh_token"]
    newest = (await running.refresh(first))["refresh_token"]
    for _ in range(3):
        running.clock.advance(60)
        newest = (await running.refresh(newest))["refresh_token"]

    assert 401 == (await running.refresh(first)).status
    assert 401 == (await running.refresh(newest)).status


async def test_who_knows_no_secret_ends_no_session(running: Any) -> None:
    """A token names its session openly; only a token that was really given out may end it."""
    tenant = await running.tenant()
    token = tenant.owner.tokens["refresh_token"]
    made_up = token[:-43] + "A" * 43
    running.clock.advance(60)

    assert [401, 401] == [(await running.refresh(made_up)).status for _ in range(2)]
    assert 200 == await tenant.owner.client.me()
    assert 200 == (await running.refresh(token)).status


async def test_refreshes_at_once_agree_on_one_successor(running: Any) -> None:
    tenant = await running.tenant()
    answers = await asyncio.gather(*(running.refresh(tenant.owner.tokens["refresh_token"]) for _ in range(8)))

    assert {200} == {answer.status for answer in answers}
    assert 1 == len({answer["refresh_token"] for answer in answers})
    assert 8 == len({answer["access_token"] for answer in answers})


async def test_whatever_a_racing_refresh_answers_nothing_of_a_revoked_session_works(running: Any) -> None:
    for _ in range(5):
        tenant = await running.tenant()
        other = await tenant.owner.again()
        work = [running.refresh(other.tokens["refresh_token"]) for _ in range(7)]
        work.insert(3, tenant.owner.client.delete(f"/sessions/{other.tokens['session_id']}"))
        answers = await asyncio.gather(*work)

        assert {answer.status for answer in answers} <= {200, 204, 401}
        given = [answer for answer in answers if answer.status == 200] + [None]
        for tokens in [answer.json if answer else other.tokens for answer in given]:
            assert 401 == await other.client.bearing(tokens["access_token"]).me()
            assert 401 == (await running.refresh(tokens["refresh_token"])).status


async def test_other_tokens_are_no_refresh_tokens(running: Any) -> None:
    tenant = await running.tenant()
    refresh, access = tenant.owner.tokens["refresh_token"], tenant.owner.tokens["access_token"]
    parsed = parse_opaque_token(refresh, REFRESH_PREFIX)
    assert parsed is not None
    foreign = refresh.replace(parsed.tenant_id.hex, uuid7().hex)
    for bad in (
        "x",
        "0" * 500,
        access,
        refresh[:-2],
        refresh + "A",
        refresh.upper(),
        foreign,
        refresh.replace("pkr", "pks"),
    ):
        assert 401 == (await running.refresh(bad)).status, bad
    assert 422 == (await running.refresh("")).status
    assert 401 == await tenant.owner.client.bearing(refresh).me()
    assert 200 == (await running.refresh(refresh)).status


async def test_a_refresh_token_expires(running: Any) -> None:
    tenant = await running.tenant()
    running.clock.advance(timedelta(days=30).total_seconds())

    assert 401 == (await running.refresh(tenant.owner.tokens["refresh_token"])).status


async def test_a_suspended_person_refreshes_nothing(running: Any) -> None:
    tenant = await running.tenant()
    member = await running.add(tenant, "member")
    await running.execute(tenant.id, "update users set status = 'suspended' where email = $1", member.email)

    assert 401 == (await running.refresh(member.tokens["refresh_token"])).status


async def test_the_database_keeps_no_token(running: Any) -> None:
    tenant = await running.tenant()
    fresh = await running.refresh(tenant.owner.tokens["refresh_token"])
    rows = await running.fetch(
        tenant.id,
        """select encode(t.token_hash, 'escape') || s::text as kept, s.id
        from refresh_tokens t join sessions s on s.id = t.session_id""",
    )

    assert {UUID(fresh["session_id"])} == {row["id"] for row in rows}
    for token in (tenant.owner.tokens["refresh_token"], fresh["refresh_token"]):
        assert not any(token[-43:] in row["kept"] for row in rows)
