"""Deals in a real kernel, over HTTP."""

from __future__ import annotations

import pytest
from plugin_api.testing import KernelProcess, Tenant

AREA = "/api/v1/x/acme.crm"
DEALS = f"{AREA}/deals"


@pytest.fixture
async def lead_id(tenant: Tenant) -> str:
    """A lead of the tenant."""
    return str((await tenant.owner.post(f"{AREA}/leads", {"name": "Ada"})).expect(201)["id"])


async def test_a_deal_is_created_and_changed(tenant: Tenant, lead_id: str) -> None:
    body = {"lead_id": lead_id, "title": "Engine", "amount_minor": 1_000}
    made = (await tenant.owner.post(DEALS, body)).expect(201)
    path = f"{DEALS}/{made['id']}"

    changed = await tenant.owner.patch(path, {"amount_minor": 900}, etag=made.etag)

    assert (made["currency"], made["state"]) == ("EUR", "open")
    assert (changed.expect(200)["amount_minor"], changed["title"]) == (900, "Engine")
    assert (await tenant.owner.get(path)).expect(200).json == changed.json


async def test_a_deal_ends_alone(tenant: Tenant, lead_id: str) -> None:
    body = {"lead_id": lead_id, "title": "Engine", "amount_minor": 1_000, "currency": "CHF"}
    path = f"{DEALS}/{(await tenant.owner.post(DEALS, body)).expect(201)['id']}"

    assert (await tenant.owner.post(f"{path}/close", {"outcome": "won"})).expect(200)["state"] == "won"
    assert (await tenant.owner.post(f"{path}/close", {"outcome": "won"})).expect(409).code == "deal_closed"
    assert (await tenant.owner.get(f"{AREA}/leads/{lead_id}")).expect(200)["state"] == "open"


async def test_deals_end_with_their_lead(tenant: Tenant, lead_id: str) -> None:
    for title, outcome in (("Engine", None), ("Cards", "won"), ("Tables", None)):
        body = {"lead_id": lead_id, "title": title, "amount_minor": 1_000}
        made = (await tenant.owner.post(DEALS, body)).expect(201)
        if outcome:
            (await tenant.owner.post(f"{DEALS}/{made['id']}/close", {"outcome": outcome})).expect(200)

    (await tenant.owner.post(f"{AREA}/leads/{lead_id}/close", {"outcome": "lost"})).expect(200)

    deals = (await tenant.owner.get(f"{DEALS}?lead_id={lead_id}")).expect(200)["items"]
    assert [(one["title"], one["state"]) for one in deals] == [("Engine", "lost"), ("Cards", "won"), ("Tables", "lost")]
    refused = await tenant.owner.post(DEALS, {"lead_id": lead_id, "title": "More", "amount_minor": 1})
    assert refused.expect(409).code == "lead_closed"


async def test_another_tenant_sees_nothing(kernel: KernelProcess, tenant: Tenant, lead_id: str) -> None:
    other = await kernel.sign_up()

    assert (await other.owner.get(f"{AREA}/leads/{lead_id}")).expect(404).code == "not_found"
    body = {"lead_id": lead_id, "title": "Theft", "amount_minor": 1}
    assert (await other.owner.post(DEALS, body)).expect(404).code == "not_found"
    assert (await other.owner.get(f"{AREA}/leads")).expect(200)["items"] == []
