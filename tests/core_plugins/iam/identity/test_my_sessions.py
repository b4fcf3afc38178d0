"""One's own sessions: seen, ended, and refused at once by every memory."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID

from core_plugins.iam.model.tokens import encode_base64url


async def ids(client: Any, query: str = "") -> list[str]:
    answer = await client.get(f"/sessions{query}")
    assert 200 == answer.status, answer.body
    return [one["id"] for one in answer["items"]]


async def test_my_sessions_are_listed_and_nobody_elses(running: Any) -> None:
    tenant = await running.tenant()
    running.clock.advance(1)
    mate, second = await running.add(tenant, "member"), await tenant.owner.again()
    answer = await tenant.owner.client.get("/sessions")

    assert [second.tokens["session_id"], tenant.owner.tokens["session_id"]] == [one["id"] for one in answer["items"]]
    assert [False, True] == [one["current"] for one in answer["items"]]
    assert b"token" not in answer.body
    assert mate.tokens["session_id"].encode() not in answer.body
    assert [mate.tokens["session_id"]] == await ids(mate.client)


async def test_sessions_come_in_pages(running: Any) -> None:
    tenant = await running.tenant()
    expected = [tenant.owner.tokens["session_id"]]
    for _ in range(4):
        running.clock.advance(1)
        expected.append((await tenant.owner.again()).tokens["session_id"])
    seen: list[str] = []
    cursor = ""
    while True:
        page = await tenant.owner.client.get(f"/sessions?limit=2&sort=created_at{cursor}")
        seen += [one["id"] for one in page["items"]]
        if page["next_cursor"] is None:
            break
        cursor = f"&cursor={page['next_cursor']}"

    assert expected == seen


async def test_somebody_elses_sessions_need_a_permission(running: Any) -> None:
    tenant = await running.tenant()
    member = await running.add(tenant, "member")
    owner_id, member_id = [(await one.client.get("/me"))["user"]["id"] for one in (tenant.owner, member)]

    assert [member.tokens["session_id"]] == await ids(tenant.owner.client, f"?user_id={member_id}")
    refused = await member.client.get(f"/sessions?user_id={owner_id}")
    assert 403 == refused.status
    assert "iam.session.read" in refused["detail"]
    assert [] == await ids(tenant.owner.client, "?user_id=0190f3c2-7b1e-7cc0-9a55-2f6b3a1d4e5f")


async def test_an_ended_session_is_refused_at_once(running: Any) -> None:
    tenant = await running.tenant()
    other = await tenant.owner.again()
    path = f"/sessions/{other.tokens['session_id']}"
    assert 200 == await other.client.me()
    read = await tenant.owner.client.get(path)

    assert ('"1"', other.tokens["session_id"]) == (read.etag, read["id"])
    assert 412 == (await tenant.owner.client.delete(path, If_Match='"7"')).status
    assert 204 == (await tenant.owner.client.delete(path)).status
    assert 401 == await other.client.me()
    assert 401 == (await running.refresh(other.tokens["refresh_token"])).status
    assert 200 == await tenant.owner.client.me()
    assert 404 == (await tenant.owner.client.delete(path)).status
    assert 404 == (await tenant.owner.client.get(path)).status


async def test_a_colleagues_session_looks_like_none(running: Any) -> None:
    tenant, foreign = await running.tenant(), await running.tenant()
    member = await running.add(tenant, "member")
    targets = [
        tenant.owner.tokens["session_id"],
        foreign.owner.tokens["session_id"],
        "0190f3c2-7b1e-7cc0-9a55-2f6b3a1d4e5f",
    ]

    for method in ("GET", "DELETE"):
        answers = [await member.client.ask(method, f"/sessions/{target}") for target in targets]
        assert [(404, answers[0]["detail"])] * 3 == [(answer.status, answer["detail"]) for answer in answers]
    assert 200 == await tenant.owner.client.me()
    assert 204 == (await tenant.owner.client.delete(f"/sessions/{member.tokens['session_id']}")).status
    assert 401 == await member.client.me()


async def test_all_my_sessions_end_and_nobody_elses(running: Any) -> None:
    tenant = await running.tenant()
    member, second = await running.add(tenant, "member"), await tenant.owner.again()
    assert [200, 200] == [await one.client.me() for one in (tenant.owner, second)]

    assert 204 == (await tenant.owner.client.delete("/sessions")).status
    for person in (tenant.owner, second):
        assert 401 == await person.client.me()
        assert 401 == (await running.refresh(person.tokens["refresh_token"])).status
    assert 200 == await member.client.me()
    assert 200 == await (await tenant.owner.again()).client.me()


async def test_two_who_end_all_at_once_do_not_block_one_another(running: Any) -> None:
    tenant = await running.tenant()
    people = [tenant.owner, *[await tenant.owner.again() for _ in range(5)]]
    answers = await asyncio.gather(*(person.client.delete("/sessions") for person in people))

    assert {answer.status for answer in answers} <= {204, 401}
    assert {401} == {await person.client.me() for person in people}


async def test_a_revocation_is_not_undone_by_a_look_up_under_way(running: Any) -> None:
    """Requests that race with the end of their session may be answered; none after it is."""
    for _ in range(10):
        tenant = await running.tenant()
        other = await tenant.owner.again()
        path = f"/sessions/{other.tokens['session_id']}"
        asked = [other.client.me() for _ in range(10)]
        asked.insert(5, tenant.owner.client.delete(path))
        await asyncio.gather(*asked)

        assert {401} == {await other.client.me() for _ in range(3)}


async def test_another_spelling_of_a_revoked_token_is_refused(running: Any) -> None:
    import base64

    order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
    tenant = await running.tenant()
    other = await tenant.owner.again()
    head, body, mark = other.tokens["access_token"].split(".")
    raw = base64.urlsafe_b64decode(mark + "==")
    twin = f"{head}.{body}.{encode_base64url(raw[:32] + (order - int.from_bytes(raw[32:], 'big')).to_bytes(32, 'big'))}"
    assert [200, 200] == [await other.client.bearing(token).me() for token in (other.tokens["access_token"], twin)]

    await tenant.owner.client.delete(f"/sessions/{other.tokens['session_id']}")
    assert [401, 401] == [await other.client.bearing(token).me() for token in (other.tokens["access_token"], twin)]


async def test_a_key_does_not_own_its_makers_sessions(running: Any) -> None:
    tenant = await running.tenant()
    made = await tenant.owner.client.post("/api-keys", {"name": "k", "permissions": ["iam.user.read"]})
    key = tenant.owner.client.bearing(made["secret"])

    assert 403 == (await key.get("/sessions")).status
    assert 403 == (await key.delete("/sessions")).status
    assert 404 == (await key.delete(f"/sessions/{tenant.owner.tokens['session_id']}")).status
    me = await key.get("/me")
    assert ([], ["iam.user.read"]) == (me["roles"], me["permissions"])
    assert 200 == await tenant.owner.client.me()


async def test_the_last_use_is_seen(running: Any) -> None:
    tenant = await running.tenant()
    begun = (await tenant.owner.client.get("/sessions"))["items"][0]["last_used_at"]
    running.clock.advance(120)
    await tenant.owner.client.me()

    assert begun < (await tenant.owner.client.get("/sessions"))["items"][0]["last_used_at"]


async def test_an_access_token_ends_after_fifteen_minutes(running: Any) -> None:
    tenant = await running.tenant()
    running.clock.advance(899)
    assert 200 == await tenant.owner.client.me()

    running.clock.advance(2)
    answer = await tenant.owner.client.get("/me")
    assert (401, "token_expired") == (answer.status, answer.code)
    assert "Bearer" == answer.headers["WWW-Authenticate"]


async def test_a_change_behind_the_kernels_back_is_felt_within_five_seconds(running: Any) -> None:
    """Another machine touches no stamp here: what is remembered is looked up again."""
    tenant = await running.tenant()
    assert 200 == await tenant.owner.client.me()
    await running.execute(tenant.id, "update sessions set revoked_at = now()")

    running.clock.advance(5)
    assert 401 == await tenant.owner.client.me()


async def test_a_person_of_another_tenant_is_not_taken_for_one(running: Any) -> None:
    """The ids in a token belong together: a session of another person or tenant is none."""
    from core_plugins.iam.model.tokens import make_claims, sign_access_token
    from plugin_api.ids import uuid7

    one, other = await running.tenant(), await running.tenant()
    signer = await running.parts.keys.signer()
    mine = {
        "user_id": UUID(one.made["owner_id"]), "tenant_id": one.id, "session_id": UUID(one.owner.tokens["session_id"]),
    }  # fmt: skip
    theirs = {
        "user_id": UUID(other.made["owner_id"]), "tenant_id": other.id, "session_id": UUID(other.owner.tokens["session_id"]),
    }  # fmt: skip

    def token(**ids: UUID) -> str:
        names = {"issuer": "platform-kernel", "audience": "platform-kernel"}
        return sign_access_token(
            signer, make_claims(**names, **{**mine, **ids}, token_id=uuid7(), now=running.clock.now())
        )

    assert 200 == await one.owner.client.bearing(token()).me()
    for name, value in theirs.items():
        assert 401 == await one.owner.client.bearing(token(**{name: value})).me(), name
