"""API keys: shown once, limited by their maker at every call, ended at once with all that came from them."""

from __future__ import annotations

import asyncio
import re
from datetime import timedelta

import pytest

from core_plugins.iam.model.issued import issue_api_key, parse_api_key, parse_invitation
from core_plugins.iam.model.recognition import Recollection
from core_plugins.iam.operations.api_keys import ApiKeyIdentifier
from plugin_api.contracts.iam import ApiKeyList, ApiKeyRef, RolePatch, UserPatch, UserRef
from plugin_api.errors import InvalidRequest, NotAllowed, NotAuthenticated, NotFound, PreconditionFailed
from plugin_api.ids import PLATFORM_TENANT_ID, uuid7
from plugin_api.testing.waiting import until


async def refused(iam, secret: str) -> str:
    with pytest.raises(NotAuthenticated) as raised:
        await iam.show_key(secret)
    return raised.value.detail


def allows(iam, person, permission: str) -> bool:
    return iam.parts.access.allows(person.identity, permission)


async def test_a_key_is_shown_once_and_works(iam, tenant):
    made = await tenant.owner.key("iam.user.read", "iam.user.read")

    keyed = await iam.show_key(made.secret)

    assert re.fullmatch(r"pkk_[A-Za-z0-9-]+_[A-Za-z0-9_-]{43,}", made.secret)
    assert (keyed.identity.actor.kind, keyed.identity.actor.id) == ("api_key", str(made.id))
    assert (keyed.tenant_id, keyed.id) == (tenant.id, tenant.owner.id)
    assert made.permissions == ["iam.user.read"]
    await keyed("get_user", UserRef(tenant.owner.id))
    with pytest.raises(NotAllowed, match=r"iam\.api_key\.read"):
        await keyed("list_api_keys", ApiKeyList())
    row = (await tenant.fetch("select * from api_keys"))[0]
    assert made.secret.split("_", 2)[2] not in str(dict(row.items()))


async def test_whatever_is_wrong_with_a_key_the_answer_is_the_same(iam, tenant):
    one, two = (await tenant.owner.key("iam.user.read")).secret, await tenant.owner.key("iam.user.read")
    prefix, key_id, hidden = one.split("_", 2)
    bent = hidden[:32] + ("A" if hidden[32] != "A" else "B") + hidden[33:]
    elsewhere = (await (await iam.tenant()).owner.key("iam.user.read")).secret
    spoilt = [
        f"{prefix}_{key_id}_{bent}",
        f"{prefix}_{key_id}_{two.secret.split('_', 2)[2]}",
        f"{prefix}_{key_id}_{elsewhere.split('_', 2)[2]}",
        f"{prefix}_{elsewhere.split('_', 2)[1]}_{hidden}",
        f"{prefix}_{uuid7()}_{hidden}",
        f"{prefix}_{key_id}_",
        f"{prefix}_{key_id.upper()}_{hidden}",
        one[:-1],
        one + "A",
        one + "\n",
        one + "=",
        "pki_" + one[4:],
        hidden,
        "pkk_",
    ]

    assert len({await refused(iam, secret) for secret in spoilt}) == 1
    await iam.show_key(one)


async def test_a_key_expires_also_when_it_is_remembered(iam, tenant):
    made = await tenant.owner.key("iam.user.read", expires_in_s=2)
    memory = Recollection(iam.parts.stamps, iam.clock.monotonic, iam.parts.access.epoch)
    look_up = memory.start(iam.clock.now())
    memory.remember(made.secret, await ApiKeyIdentifier(iam.parts).identify_key(made.secret, look_up), look_up)
    assert made.expires_at == iam.clock.now() + timedelta(seconds=2)

    iam.clock.advance(1.9)
    assert memory.recall(made.secret) is not None
    iam.clock.advance(0.2)
    assert memory.recall(made.secret) is None
    await refused(iam, made.secret)


@pytest.mark.parametrize("end", ["revoked", "maker suspended", "maker removed", "role weaker", "tenant suspended"])
async def test_every_end_of_a_key_makes_what_is_remembered_of_it_stale(iam, tenant, end):
    role = await tenant.role("iam.*")
    maker = await tenant.add(role.name)
    made = await maker.key("iam.user.read")
    memory = Recollection(iam.parts.stamps, iam.clock.monotonic, iam.parts.access.epoch)
    look_up = memory.start(iam.clock.now())
    memory.remember(made.secret, await ApiKeyIdentifier(iam.parts).identify_key(made.secret, look_up), look_up)
    assert memory.recall(made.secret) is not None

    if end == "revoked":
        await tenant.owner("delete_api_key", ApiKeyRef(made.id))
    elif end == "maker suspended":
        await tenant.owner("update_user", UserPatch(maker.id, status="suspended"), version=1)
    elif end == "maker removed":
        await tenant.owner("delete_user", UserRef(maker.id))
    elif end == "role weaker":
        await tenant.owner("update_role", RolePatch(role.id, permissions=["iam.role.read"]), version=1)
    else:
        async with iam.parts.calls.open(tenant.id, "suspend") as call:
            await (await call.tx()).execute("update tenants set status = 'suspended'")
        iam.parts.stamps.touch(f"iam:{tenant.id}")

    assert memory.recall(made.secret) is None
    if end == "role weaker":
        assert not allows(iam, await iam.show_key(made.secret), "iam.user.read")
    else:
        await refused(iam, made.secret)


async def test_a_key_holds_no_more_than_its_maker_still_does(iam, tenant):
    maker = await tenant.add("admin")
    made = await maker.key("iam.*")
    assert allows(iam, await iam.show_key(made.secret), "iam.user.delete")

    await tenant.owner("update_user", UserPatch(maker.id, roles=["member"]), version=1)

    keyed = await iam.show_key(made.secret)
    assert allows(iam, keyed, "iam.user.read")
    assert not allows(iam, keyed, "iam.user.delete")


async def test_neither_a_person_nor_a_key_makes_a_stronger_key(iam, tenant):
    maker = await tenant.add((await tenant.role("iam.api_key.create", "iam.user.read")).name)
    keyed = await iam.show_key((await tenant.owner.key("iam.api_key.create", "iam.user.read")).secret)

    for one in (maker, keyed):
        for wanted in ("*", "iam.*", "iam.user.create", "money.*"):
            with pytest.raises(NotAllowed, match="the key would hold"):
                await one.key(wanted)
        child = await one.key("iam.user.read")
        assert allows(iam, await iam.show_key(child.secret), "iam.user.read")


async def test_a_key_that_came_from_a_key_ends_with_it(iam, tenant):
    parent = await tenant.owner.key("iam.*", expires_in_s=100)
    child = await (await iam.show_key(parent.secret)).key("iam.*", expires_in_s=1_000)
    grandchild = await (await iam.show_key(child.secret)).key("iam.user.read")
    bystander = await tenant.owner.key("iam.user.read")
    assert child.expires_at == grandchild.expires_at == parent.expires_at
    slots = [iam.parts.stamps.slot(f"iam:api-key:{key.id}") for key in (parent, child, grandchild)]
    before = [iam.parts.stamps.read(slot) for slot in slots]

    await tenant.owner("delete_api_key", ApiKeyRef(parent.id))

    for key in (parent, child, grandchild):
        await refused(iam, key.secret)
    await iam.show_key(bystander.secret)
    assert not set(before) & {iam.parts.stamps.read(slot) for slot in slots}


async def test_a_key_that_is_revoked_while_it_makes_another_leaves_none(iam, tenant):
    for _ in range(5):
        parent = await tenant.owner.key("iam.*")
        keyed = await iam.show_key(parent.secret)

        await asyncio.gather(
            keyed.key("iam.user.read"), tenant.owner("delete_api_key", ApiKeyRef(parent.id)), return_exceptions=True
        )

        assert await tenant.fetch("select id from api_keys") == []


async def test_platform_grants_are_refused_outside_the_platform_tenant(iam, tenant):
    for wanted in ("platform.*", "platform.plugin.install"):
        with pytest.raises(InvalidRequest):
            await tenant.owner.key(wanted)
    platform = await iam.tenant(PLATFORM_TENANT_ID)
    assert (await platform.owner.key("platform.*")).permissions == ["platform.*"]


async def test_a_star_key_of_an_owner_covers_no_platform_permission(iam, tenant):
    bit = iam.parts.access.check("platform.plugin.install")

    ours = await iam.show_key((await tenant.owner.key("*")).secret)
    operators = await iam.show_key((await (await iam.tenant(PLATFORM_TENANT_ID)).owner.key("*")).secret)

    assert not bit(ours.identity)
    assert bit(operators.identity)


async def test_a_use_is_written_at_most_once_a_minute_and_apart_from_requests(iam, tenant):
    made = await tenant.owner.key("iam.user.read")
    identifier = ApiKeyIdentifier(iam.parts)
    memory = Recollection(iam.parts.stamps, iam.clock.monotonic, iam.parts.access.epoch)

    async def use_and_write():
        await identifier.identify_key(made.secret, memory.start(iam.clock.now()))
        await identifier.flush_uses()
        return (await tenant.owner("get_api_key", ApiKeyRef(made.id))).last_used_at

    assert made.last_used_at is None
    first = await use_and_write()
    assert first == iam.clock.now()
    iam.clock.advance(59)
    assert await use_and_write() == first
    iam.clock.advance(2)
    assert await use_and_write() == iam.clock.now()
    assert (await tenant.owner("get_api_key", ApiKeyRef(made.id))).version == 1


async def test_the_task_writes_uses_by_itself(iam, tenant, monkeypatch):
    monkeypatch.setattr("core_plugins.iam.operations.api_keys.USES_PAUSE_S", 0.0)
    made, identifier = await tenant.owner.key("iam.user.read"), ApiKeyIdentifier(iam.parts)
    memory = Recollection(iam.parts.stamps, iam.clock.monotonic, iam.parts.access.epoch)
    task = asyncio.create_task(identifier.write_uses())

    await identifier.identify_key(made.secret, memory.start(iam.clock.now()))

    async def is_written() -> bool:
        return (await tenant.owner("get_api_key", ApiKeyRef(made.id))).last_used_at is not None

    await until(is_written, "the use is written")
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_somebody_elses_key_looks_like_none(iam, tenant):
    foreign = await (await iam.tenant()).owner.key("*")
    mine = await tenant.owner.key("*")

    for key_id in (foreign.id, uuid7()):
        for name in ("get_api_key", "delete_api_key"):
            with pytest.raises(NotFound, match="no such API key in this tenant"):
                await tenant.owner(name, ApiKeyRef(key_id), version=9)
    with pytest.raises(PreconditionFailed):
        await tenant.owner("delete_api_key", ApiKeyRef(mine.id), version=9)


def test_a_secret_is_taken_apart_into_what_it_was_made_of():
    tenant_id, key_id = uuid7(), uuid7()

    issued = issue_api_key(tenant_id, key_id)

    assert parse_api_key(issued.text) == issued
    assert (issued.tenant_id, issued.id) == (tenant_id, key_id)
    assert parse_invitation(issued.text) is None
    assert issued.text not in repr(issued)
    assert issue_api_key(tenant_id, key_id).hash() != issued.hash()
