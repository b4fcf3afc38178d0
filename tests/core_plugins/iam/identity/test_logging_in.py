"""Log-in: one answer to everything that is wrong, bounded guessing, nothing that slips through a change."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from core_plugins.iam.operations.throttle import LogInThrottle
from plugin_api.contracts.auth_provider import LogInAttempt, Proved
from plugin_api.errors import Conflict, LimitReached, NotAuthenticated, StoreUnavailable
from plugin_api.ids import uuid7
from plugin_api.testing import FakeClock


async def test_a_session_is_opened(running: Any) -> None:
    tenant = await running.tenant()
    answer = await running.log_in(tenant.slug, tenant.owner.email.upper(), tenant.owner.password)

    assert 201 == answer.status
    assert f"/api/v1/iam/sessions/{answer['session_id']}" == answer.headers["Location"]
    assert {"session_id", "access_token", "refresh_token", "token_type", "expires_in_s"} == set(answer.json)
    assert ("Bearer", 900) == (answer["token_type"], answer["expires_in_s"])


async def test_whatever_is_wrong_the_answer_is_one(running: Any) -> None:
    tenant = await running.tenant()
    suspended = await running.add(tenant, "member")
    await running.execute(tenant.id, "update users set status = 'suspended' where email = $1", suspended.email)
    body = {"email": f"bare@{tenant.slug}.example.com", "name": "Without Password", "roles": []}
    assert 201 == (await tenant.owner.client.post("/users", body)).status
    guesses = [
        (tenant.slug, tenant.owner.email, "Wrong-password-1"),
        (tenant.slug, "nobody@nowhere.example.com", "Wrong-password-1"),
        ("no-such-tenant", tenant.owner.email, tenant.owner.password),
        ("", "", ""),
        (tenant.slug, suspended.email, suspended.password),
        (tenant.slug, body["email"], "Wrong-password-1"),
    ]
    answers = [await running.log_in(*guess) for guess in guesses]

    assert {401} == {answer.status for answer in answers}
    bodies = {answer.body.replace(answer.headers["X-Request-Id"].encode(), b"") for answer in answers}
    assert 1 == len(bodies)
    assert 1 == len({tuple(sorted(answer.headers)) for answer in answers})


async def test_guessing_is_throttled_and_locks_nobody_out(running: Any) -> None:
    tenant, attacker = await running.tenant(), await running.client()
    guesses = [await running.log_in(tenant.slug, tenant.owner.email, f"Guess-{n}", attacker) for n in range(22)]
    right = await running.log_in(tenant.slug, tenant.owner.email, tenant.owner.password, attacker)

    assert [401] * 20 + [429] * 2 == [answer.status for answer in guesses]
    assert 429 == right.status
    assert "limit_reached" == right.code
    assert right["retry_after_s"] == int(right.headers["Retry-After"])
    assert right.headers["RateLimit"].startswith('"log-in-account";r=0;t=')
    assert '"log-in-account";q=20;w=300' == right.headers["RateLimit-Policy"]
    assert 201 == (await running.log_in(tenant.slug, tenant.owner.email, tenant.owner.password)).status


async def test_throttling_does_not_tell_who_exists(running: Any) -> None:
    tenant, attacker = await running.tenant(), await running.client()
    for _ in range(20):
        assert 401 == (await running.log_in(tenant.slug, "ghost@nowhere.example.com", "Guess", attacker)).status
    ghost = await running.log_in(tenant.slug, "ghost@nowhere.example.com", "Guess", attacker)

    assert 429 == ghost.status
    assert '"log-in-account";q=20;w=300' == ghost.headers["RateLimit-Policy"]


async def test_a_hundred_guesses_at_once_are_no_way_around(running: Any) -> None:
    tenant, attacker = await running.tenant(), await running.client()
    answers = await asyncio.gather(
        *(running.log_in(tenant.slug, tenant.owner.email, f"Guess-{n}", attacker) for n in range(100))
    )

    assert 20 == sum(answer.status == 401 for answer in answers)
    assert 80 == sum(answer.status == 429 for answer in answers)


async def test_spraying_over_accounts_is_throttled_by_network(running: Any) -> None:
    tenant, attacker = await running.tenant(), await running.client()
    statuses = [
        (await running.log_in(tenant.slug, f"{n}@x.example.com", "Summer-2026!", attacker)).status for n in range(60)
    ]

    assert [401] * 50 + [429] * 10 == statuses


async def test_good_log_ins_never_count(running: Any) -> None:
    tenant, client = await running.tenant(), await running.client()
    statuses = {
        (await running.log_in(tenant.slug, tenant.owner.email, tenant.owner.password, client)).status for _ in range(30)
    }

    assert {201} == statuses


class AwayCache:
    """A cache that is away."""

    async def script(self, *_: object) -> object:
        raise StoreUnavailable("away")


async def test_without_the_cache_each_worker_counts_for_itself() -> None:
    throttle = LogInThrottle(AwayCache(), FakeClock())  # type: ignore[arg-type]

    async def attempt(error: Exception | None) -> None:
        async with throttle.attempt("acme", "ada@acme.example", "192.0.2.1"):
            if error is not None:
                raise error

    for _ in range(5):
        await attempt(None)
        with pytest.raises(StoreUnavailable):
            await attempt(StoreUnavailable("not their fault"))
    for _ in range(20):
        with pytest.raises(NotAuthenticated):
            await attempt(NotAuthenticated("wrong"))
    with pytest.raises(LimitReached):
        await attempt(None)


async def test_a_password_that_was_changed_meanwhile_opens_nothing(running: Any) -> None:
    """The hash that was proved must still be the stored one when the session is opened."""
    tenant = await running.tenant()
    parts, hasher = running.parts, running.parts.hasher
    original = hasher.verify

    async def verify_then_change(stored: str | None, password: str) -> bool:
        fits: bool = await original(stored, password)
        await running.execute(tenant.id, "update users set password_hash = $1", await hasher.hash("Another-password-9"))
        return fits

    parts.providers._last._hasher.verify = verify_then_change
    try:
        answer = await running.log_in(tenant.slug, tenant.owner.email, tenant.owner.password)
    finally:
        del parts.providers._last._hasher.verify

    assert 401 == answer.status
    assert 201 == (await running.log_in(tenant.slug, tenant.owner.email, "Another-password-9")).status


async def test_a_log_in_and_a_suspension_wait_for_one_another(running: Any) -> None:
    """Whichever comes second: no session of a suspended person is left living."""
    for _ in range(5):
        tenant = await running.tenant()
        member = await running.add(tenant, "member")
        (row,) = await running.fetch(tenant.id, "select id, version from users where email = $1", member.email)
        suspend = tenant.owner.client.ask(
            "PATCH", f"/users/{row['id']}", {"status": "suspended"}, If_Match=f'"{row["version"]}"'
        )
        logs_in = [running.log_in(tenant.slug, member.email, member.password) for _ in range(4)]
        answers = await asyncio.gather(suspend, *logs_in)

        assert 200 == answers[0].status, answers[0].body
        client = await running.client()
        for answer in answers[1:]:
            assert answer.status in (201, 401)
            if answer.status == 201:
                assert 401 == await client.bearing(answer["access_token"]).me()


async def test_a_hash_is_renewed_when_the_parameters_have_changed(start: Any) -> None:
    async with start() as running:
        tenant = await running.tenant()
    async with start(hash_passes=2) as running:
        (before,) = await running.fetch(tenant.id, "select password_hash, version from users")
        assert 201 == (await running.log_in(tenant.slug, tenant.owner.email, tenant.owner.password)).status
        (after,) = await running.fetch(tenant.id, "select password_hash, version from users")
        assert 201 == (await running.log_in(tenant.slug, tenant.owner.email, tenant.owner.password)).status

    assert "t=1" in before["password_hash"]
    assert "t=2" in after["password_hash"]
    assert before["version"] == after["version"]


async def test_the_oldest_session_ends_when_there_are_too_many(start: Any) -> None:
    async with start(sessions_per_user_max=2) as running:
        tenant = await running.tenant()
        running.clock.advance(1)
        second = await tenant.owner.again()
        running.clock.advance(1)
        third = await tenant.owner.again()

        assert [401, 200, 200] == [await one.client.me() for one in (tenant.owner, second, third)]


async def test_a_suspended_tenant_is_closed(running: Any) -> None:
    tenant = await running.tenant()
    await running.execute(tenant.id, "update tenants set status = 'suspended'")
    running.clock.advance(6)

    assert 401 == await tenant.owner.client.me()
    assert 401 == (await running.refresh(tenant.owner.tokens["refresh_token"])).status
    assert 401 == (await running.log_in(tenant.slug, tenant.owner.email, tenant.owner.password)).status


# ---------------------------------------------------------------------------------------------- providers


class Directory:
    """An `AuthProvider` that knows one person, and asks that person for a second step."""

    name = "directory"

    def __init__(self, tenant_id: UUID, user_id: UUID) -> None:
        self.tenant_id, self.user_id = tenant_id, user_id
        self.asked: list[LogInAttempt] = []

    async def authenticate(self, attempt: LogInAttempt) -> Proved | None:
        self.asked.append(attempt)
        known = (attempt.tenant_id, attempt.email, attempt.password) == (self.tenant_id, "ada", "engine")
        return Proved(self.user_id, self.name) if known else None

    async def confirm(self, attempt: LogInAttempt, proved: Proved) -> None:
        if proved.user_id == self.user_id and attempt.proof != "123456":
            raise NotAuthenticated("send the code of your device in `proof`", code="second_step_needed")


async def test_other_ways_to_log_in_are_asked_before_passwords(running: Any) -> None:
    tenant = await running.tenant()
    directory = Directory(tenant.id, UUID(tenant.made["owner_id"]))
    remove = running.parts.providers.add(directory)
    client = await running.client()
    asked = {"tenant": tenant.slug, "email": "ada", "password": "engine"}

    without = await client.post("/sessions", asked)
    opened = await client.post("/sessions", {**asked, "proof": "123456"})
    by_password = await running.log_in(tenant.slug, tenant.owner.email, tenant.owner.password)

    assert (401, "second_step_needed") == (without.status, without.code)
    assert 201 == opened.status
    assert 200 == await client.bearing(opened["access_token"]).me()
    assert (401, "second_step_needed") == (by_password.status, by_password.code)
    with pytest.raises(Conflict):
        running.parts.providers.add(directory)
    remove()
    assert 201 == (await running.log_in(tenant.slug, tenant.owner.email, tenant.owner.password)).status
    assert "engine" not in repr(directory.asked)


async def test_a_plugin_opens_a_session_for_whom_it_has_proved(running: Any) -> None:
    tenant = await running.tenant()
    proved = Proved(UUID(tenant.made["owner_id"]), "passkey")
    async with running.parts.calls.open(tenant.id, "passkey") as call:
        opened = await running.parts.providers.open_session(call, proved)
        with pytest.raises(NotAuthenticated):
            await running.parts.providers.open_session(call, Proved(uuid7(), "passkey"))

    assert 200 == await tenant.owner.client.bearing(opened.access_token).me()


async def test_sessions_end_by_themselves(running: Any) -> None:
    tenant = await running.tenant()
    tokens = tenant.owner.tokens
    for _ in range(89):
        running.clock.advance(timedelta(days=1).total_seconds())
        tokens = (await running.refresh(tokens["refresh_token"])).json
    assert 200 == await tenant.owner.client.bearing(tokens["access_token"]).me()

    running.clock.advance(timedelta(days=1).total_seconds())
    assert 401 == (await running.refresh(tokens["refresh_token"])).status
