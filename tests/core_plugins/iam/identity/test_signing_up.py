"""Sign-up makes a tenant with its owner, whole or not at all; a tenant is its own business."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import timedelta
from typing import Any
from uuid import UUID

from core_plugins.iam.storage import tenants as storage
from plugin_api.errors import Unavailable
from plugin_api.ids import uuid7
from plugin_api.pipeline import Tenant as ToldTenant
from plugin_api.testing import until

NEVER_WAS = "0190f3c2-7b1e-7cc0-9a55-2f6b3a1d4e5f"


async def test_a_sign_up_makes_tenant_roles_and_owner(running: Any) -> None:
    tenant = await running.tenant()
    me = (await tenant.owner.client.get("/me")).json

    assert f"/api/v1/iam/tenants/{tenant.id}" == tenant.made.headers["Location"]
    assert '"1"' == tenant.made.etag
    assert tenant.made["owner_id"] == me["user"]["id"]
    assert (["owner"], ["*"]) == (me["roles"], me["permissions"])
    assert b"password" not in tenant.made.body
    roles = [row["name"] for row in await running.fetch(tenant.id, "select name from roles order by name")]
    assert ["admin", "member", "owner", "viewer"] == roles


async def test_a_taken_slug_is_refused_and_leaves_nothing(running: Any) -> None:
    tenant = await running.tenant()
    answer = await running.sign_up(
        slug=tenant.slug, owner_email="late@late.example.com", owner_password="Horse-late-comer-1"
    )

    assert (409, "conflict") == (answer.status, answer.code)
    assert 401 == (await running.log_in(tenant.slug, "late@late.example.com", "Horse-late-comer-1")).status
    assert 200 == await tenant.owner.client.me()


async def test_a_slug_is_won_once(running: Any) -> None:
    answers = await asyncio.gather(*(running.sign_up(slug="won-once-only") for _ in range(8)))

    assert {201: 1, 409: 7} == Counter(answer.status for answer in answers)


async def test_every_fault_of_a_sign_up_is_listed_without_the_password(running: Any) -> None:
    faults = {"slug": "admin", "owner_password": "password1234", "time_zone": "Mars/Olympus"}
    answer = await running.sign_up(**faults)

    assert 422 == answer.status
    assert {"/slug", "/owner_password", "/time_zone"} == {error["pointer"] for error in answer["errors"]}
    assert b"password1234" not in answer.body


async def test_an_owner_cannot_be_named_by_the_password(running: Any) -> None:
    answer = await running.sign_up(owner_email="horatio@nelson.example.com", owner_password="Horatio-1805!")

    assert ["/owner_password"] == [error["pointer"] for error in answer["errors"]]


async def test_a_tenant_is_read_and_changed_by_its_own_people(running: Any) -> None:
    tenant, other = await running.tenant(), await running.tenant()
    client, path = tenant.owner.client, f"/tenants/{tenant.id}"
    read = await client.get(path)
    changed = await client.ask(
        "PATCH", path, {"name": "Acme & Söhne", "time_zone": "Europe/Berlin"}, If_Match=read.etag
    )

    assert (200, '"1"') == (read.status, read.etag)
    assert (200, "Acme & Söhne", "Europe/Berlin", "EUR") == (
        changed.status,
        changed["name"],
        changed["time_zone"],
        changed["currency"],
    )
    assert '"2"' == changed.etag
    assert 412 == (await client.ask("PATCH", path, {"name": "Late"}, If_Match=read.etag)).status
    assert 428 == (await client.ask("PATCH", path, {"name": "Late"})).status
    assert 422 == (await client.ask("PATCH", path, {"time_zone": "Mars/Olympus"}, If_Match=changed.etag)).status
    assert "Acme & Söhne" == (await client.get("/me"))["tenant"]["name"]
    for method, body in (("GET", None), ("PATCH", {"name": "Mine now"})):
        pair = [await client.ask(method, f"/tenants/{one}", body, If_Match='"1"') for one in (other.id, NEVER_WAS)]
        assert [404, 404] == [answer.status for answer in pair]
        assert pair[0]["detail"] == pair[1]["detail"]


async def test_a_member_reads_the_tenant_and_does_not_change_it(running: Any) -> None:
    tenant = await running.tenant()
    member = await running.add(tenant, "member")

    assert 200 == (await member.client.get(f"/tenants/{tenant.id}")).status
    refused = await member.client.ask("PATCH", f"/tenants/{tenant.id}", {"name": "Mine"}, If_Match='"1"')
    assert 403 == refused.status
    assert "iam.tenant.update" in refused["detail"]


async def test_plugins_are_told_of_a_new_tenant(running: Any) -> None:
    tenant = await running.tenant()

    async def announced() -> bool:
        (row,) = await running.fetch(tenant.id, "select announced_at from tenants")
        return row["announced_at"] is not None

    await until(announced, "the tenant is announced")


async def test_a_tenant_that_a_crash_left_untold_is_told_later(running: Any) -> None:
    tenant_id, announcer = uuid7(), running.parts.announcer
    await running.execute(
        tenant_id,
        """insert into tenants (slug, name, time_zone, locale, currency, owner_id, created_at)
        values ($1, 'Left', 'UTC', 'en', 'EUR', $2, now() - interval '1 hour')""",
        f"left-{tenant_id.hex[-8:]}", uuid7(),
    )  # fmt: skip

    assert tenant_id in await announcer._left()
    await announcer.tell(tenant_id)
    assert tenant_id not in await announcer._left()


class FailingOnce:
    """Tenant hooks that fail the first time."""

    def __init__(self) -> None:
        self.told: list[UUID] = []

    async def created(self, tenant: ToldTenant) -> None:
        self.told.append(tenant.id)
        if len(self.told) == 1:
            raise Unavailable("a plugin could not take part")


async def test_telling_is_repeated_until_no_plugin_fails(running: Any) -> None:
    tenant = await running.tenant()
    announcer, hooks = running.parts.announcer, FailingOnce()
    await running.execute(tenant.id, "update tenants set announced_at = null")
    announcer._hooks = hooks

    await announcer._tell_or_leave(tenant.id)
    await announcer._tell_or_leave(tenant.id)
    await announcer._tell_or_leave(tenant.id)

    assert [tenant.id] * 2 == hooks.told


async def test_dead_sessions_are_deleted_once_by_one_of_many(running: Any) -> None:
    from core_plugins.iam.operations.housekeeping import Housekeeping

    tenant = await running.tenant()
    keeper = Housekeeping(running.parts.calls, running.clock)
    await tenant.owner.client.delete("/sessions")
    living = await tenant.owner.again()

    running.clock.advance(timedelta(days=8).total_seconds())
    assert [False, False, True] == sorted(await asyncio.gather(*(keeper.sweep_if_due() for _ in range(3))))

    left = [row["id"] for row in await running.fetch(tenant.id, "select id from sessions")]
    assert [UUID(living.tokens["session_id"])] == left
    assert 1 == len(await running.fetch(tenant.id, "select id from refresh_tokens"))


async def test_tenants_are_walked_in_pages(running: Any) -> None:
    made = {(await running.tenant()).id for _ in range(3)}
    async with running.parts.calls.open(None, "walk") as call, call.system_tx("walk") as tx:
        found: list[UUID] = []
        while page := await storage.list_tenants_after(tx, found[-1] if found else None, limit=2):
            found += page

    assert sorted(found) == found
    assert made <= set(found)
    assert 5 == len(found)
