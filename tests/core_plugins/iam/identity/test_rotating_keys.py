"""Signing keys: made once by one of many, published before they sign, believed until their last token has ended."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta
from typing import Any

from core_plugins.iam.model.recognition import SIGNING_KEYS_KEY
from core_plugins.iam.model.tokens import decode_base64url
from core_plugins.iam.operations.keys import SigningKeys
from plugin_api.ids import PLATFORM_TENANT_ID

DAY_S = timedelta(days=1).total_seconds()


async def kids(running: Any) -> list[str]:
    answer = await (await running.client()).get("//.well-known/jwks.json")
    assert (200, "public, max-age=300") == (answer.status, answer.headers["Cache-Control"])
    assert all("d" not in key for key in answer["keys"])
    return [key["kid"] for key in answer["keys"]]


def kid_of(token: str) -> str:
    return str(json.loads(decode_base64url(token.split(".", maxsplit=1)[0]) or b"")["kid"])


def another_process(running: Any) -> SigningKeys:
    """What another worker knows of the keys."""
    parts = running.parts
    return SigningKeys(
        calls=parts.calls,
        secrets=parts.secrets,
        stamps=parts.stamps,
        clock=parts.clock,
        log=parts.log,
        rotation=timedelta(days=30),
        lead=timedelta(hours=1),
    )


async def test_a_key_is_published_an_hour_before_it_signs(running: Any) -> None:
    tenant = await running.tenant()
    (first,) = await kids(running)
    assert first == kid_of(tenant.owner.tokens["access_token"])

    running.clock.advance(30 * DAY_S - 3_600 - 600)
    await running.parts.keys.rotate()
    assert [first] == await kids(running)

    running.clock.advance(600)
    await running.parts.keys.rotate()
    both = await kids(running)
    assert 2 == len(both)
    last_by_first = await tenant.owner.again()
    assert first == kid_of(last_by_first.tokens["access_token"])

    running.clock.advance(3_600)
    assert both[1] == kid_of((await tenant.owner.again()).tokens["access_token"])
    assert both == await kids(running)


async def test_a_key_that_has_signed_is_believed_until_its_last_token_ends(running: Any) -> None:
    tenant = await running.tenant()
    (first,) = await kids(running)
    running.clock.advance(30 * DAY_S - 3_600)
    await running.parts.keys.rotate()
    # The first key has signed for as long as it lived: a little before the end it still does.
    running.clock.advance(3_600 - 310)
    late = await tenant.owner.again()
    assert first == kid_of(late.tokens["access_token"])

    running.clock.advance(890)
    assert 200 == await late.client.me()
    running.clock.advance(380)
    await running.parts.keys.rotate()
    assert first not in await kids(running)
    assert 1 == len(await kids(running))
    assert 1 == len(await running.parts.secrets.names(PLATFORM_TENANT_ID, prefix="signing-key-"))


async def test_many_who_rotate_at_once_make_one_key(running: Any) -> None:
    running.clock.advance(30 * DAY_S)
    await asyncio.gather(*(another_process(running).rotate() for _ in range(6)))

    assert 2 == len(await kids(running))


async def test_another_process_signs_and_verifies_with_the_same_keys(running: Any) -> None:
    other = another_process(running)
    (kid,) = await kids(running)

    assert kid == (await other.signer()).kid
    assert await other.verifier(kid) is not None


async def test_a_new_key_is_felt_by_other_processes_at_once(running: Any) -> None:
    other = another_process(running)
    await other.reload()
    running.clock.advance(30 * DAY_S)
    await running.parts.keys.rotate()

    assert await kids(running) == [key.kid for key in await other.published()]


async def test_an_unknown_key_causes_one_reload_in_a_second(running: Any) -> None:
    keys, loads = another_process(running), 0
    await keys.reload()
    load = keys._load

    async def counted() -> None:
        nonlocal loads
        loads += 1
        await load()

    keys._load = counted  # type: ignore[method-assign]
    for _ in range(20):
        assert await keys.verifier("unknown") is None
    assert 0 == loads

    running.clock.advance(1.1)
    for _ in range(20):
        assert await keys.verifier("unknown") is None
    assert 1 == loads

    running.parts.stamps.touch(SIGNING_KEYS_KEY)
    assert await keys.verifier("unknown") is None
    assert 2 == loads


async def test_a_lost_private_part_is_replaced_at_once(running: Any) -> None:
    tenant = await running.tenant()
    (first,) = await kids(running)
    await running.parts.secrets.delete(PLATFORM_TENANT_ID, f"signing-key-{first}")
    fresh = another_process(running)

    assert first != (await fresh.signer()).kid
    assert 2 == len(await kids(running))
    assert 200 == await tenant.owner.client.me()


async def test_keys_and_tokens_survive_a_restart(start: Any) -> None:
    async with start() as running:
        tenant = await running.tenant()
        gone = await tenant.owner.again()
        await tenant.owner.client.delete(f"/sessions/{gone.tokens['session_id']}")
        before, clock = await kids(running), running.clock
    async with start(clock) as running:
        client = await running.client()

        assert before == await kids(running)
        assert 200 == await client.bearing(tenant.owner.tokens["access_token"]).me()
        assert 401 == await client.bearing(gone.tokens["access_token"]).me()
        assert 200 == (await running.refresh(tenant.owner.tokens["refresh_token"])).status
        assert 401 == (await running.refresh(gone.tokens["refresh_token"])).status
