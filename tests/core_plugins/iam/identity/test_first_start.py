"""The first start makes the tenants platform and demo, once, and tells a generated password once."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from core_plugins.iam.operations.first_start import make_first_tenants
from host.startup import StartFailed
from plugin_api.ids import PLATFORM_TENANT_ID
from plugin_api.testing import until

OPERATOR, DEMO = "operator@platform.localhost", "owner@demo.localhost"


async def test_given_passwords_are_used_and_never_told(start: Any) -> None:
    async with start(operator_password="Horse-first-start-1", demo_password="Horse-first-start-2") as running:
        operator = await running.person("platform", OPERATOR, "Horse-first-start-1")
        demo = await running.person("demo", DEMO, "Horse-first-start-2")
        me = await operator.client.get("/me")

        assert str(PLATFORM_TENANT_ID) == me["tenant"]["id"]
        assert (["owner"], ["*"]) == (me["roles"], me["permissions"])
        assert ["*"] == (await demo.client.get("/me"))["permissions"]
        assert [] == running.announced


async def test_generated_passwords_are_told_once(start: Any) -> None:
    async with start(operator_password=None, demo_password=None) as running:
        told = running.announced
        assert 2 == len(told)
        for text, slug, email in ((told[0], "platform", OPERATOR), (told[1], "demo", DEMO)):
            assert email in text.split()
            assert "\n" not in text
            good = [word for word in text.split() if (await running.log_in(slug, email, word)).status == 201]
            assert 1 == len(good)
    async with start(operator_password=None, demo_password=None) as running:
        assert [] == running.announced


async def test_a_later_start_keeps_the_stored_password(start: Any) -> None:
    async with start(operator_password="Horse-first-start-1"):
        pass
    async with start(operator_password="Horse-other-start-2") as running:
        assert 201 == (await running.log_in("platform", OPERATOR, "Horse-first-start-1")).status
        assert 401 == (await running.log_in("platform", OPERATOR, "Horse-other-start-2")).status


async def test_the_demo_can_be_left_out_and_added_later(start: Any) -> None:
    async with start(demo=False) as running:
        assert 401 == (await running.log_in("demo", DEMO, "Demo-b4Wn8tZ3cL")).status
    async with start() as running:
        assert 201 == (await running.log_in("demo", DEMO, "Demo-b4Wn8tZ3cL")).status


async def test_many_first_starts_at_once_make_each_tenant_once(start: Any) -> None:
    async with start(demo=False, operator_password="Horse-first-start-1") as running:
        import msgspec

        from core_plugins.iam.settings import Settings

        told: list[str] = []
        settings: Settings = msgspec.structs.replace(running.parts.settings, demo=True, demo_password=None)
        object.__setattr__(running.parts, "settings", settings)
        await asyncio.gather(*(make_first_tenants(running.parts, told.append) for _ in range(6)))

        assert 1 == len(told)
        password = told[0].split()[-1]
        assert 201 == (await running.log_in("demo", DEMO, password)).status


async def test_a_password_that_nobody_could_use_stops_the_start(start: Any) -> None:
    with pytest.raises(StartFailed, match="operator_password") as caught:
        async with start(operator_password="short"):
            pass

    assert "'short'" not in str(caught.value)


async def test_plugins_that_start_later_hear_of_the_first_tenants(running: Any) -> None:
    async def announced() -> bool:
        (row,) = await running.fetch(PLATFORM_TENANT_ID, "select announced_at from tenants")
        return row["announced_at"] is not None

    await until(announced, "the tenant platform is announced")
    assert running.parts.announcer._open.is_set()


async def test_the_reserved_slugs_stay_reserved(running: Any) -> None:
    for slug in ("platform", "demo", "kernel", "api", "www"):
        answer = await running.sign_up(slug=slug)
        assert 422 == answer.status
        assert ["/slug"] == [error["pointer"] for error in answer["errors"]]
