"""What the plugin tells and hears, in a real kernel."""

from __future__ import annotations

from plugin_api.testing import Tenant, until

AREA = "/api/v1/x/acme.crm"


async def test_what_is_won_is_added_up_once(tenant: Tenant) -> None:
    lead_id = (await tenant.owner.post(f"{AREA}/leads", {"name": "Ada"})).expect(201)["id"]
    for title, amount in (("Engine", 700), ("Cards", 50), ("Tables", 5)):
        body = {"lead_id": lead_id, "title": title, "amount_minor": amount}
        made = (await tenant.owner.post(f"{AREA}/deals", body)).expect(201)
        if title == "Cards":
            (await tenant.owner.post(f"{AREA}/deals/{made['id']}/close", {"outcome": "lost"})).expect(200)
    (await tenant.owner.post(f"{AREA}/leads/{lead_id}/close", {"outcome": "won"})).expect(200)

    async def both_are_counted() -> bool:
        items = (await tenant.owner.get(f"{AREA}/totals")).expect(200)["items"]
        return bool(items) and items[0]["deals_won"] == 2

    await until(both_are_counted, "both deals that were won are counted")
    assert (await tenant.owner.get(f"{AREA}/totals")).expect(200)["items"] == [
        {"currency": "EUR", "deals_won": 2, "amount_minor": "705"}
    ]


async def test_another_tenants_totals_are_its_own(tenant: Tenant) -> None:
    assert (await tenant.owner.get(f"{AREA}/totals")).expect(200)["items"] == []
