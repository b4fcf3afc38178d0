"""Leads in a real kernel, over HTTP."""

from __future__ import annotations

from plugin_api.testing import Answer, Tenant

LEADS = "/api/v1/x/acme.crm/leads"


async def create(tenant: Tenant, **fields: str) -> Answer:
    """A lead; the name can be left out."""
    return (await tenant.owner.post(LEADS, {"name": "Ada", **fields})).expect(201)


async def test_a_lead_is_created_and_read(tenant: Tenant) -> None:
    made = await create(tenant, company="Engines Ltd", email="ada@engines.example")

    read = (await tenant.owner.get(made.headers["Location"])).expect(200)

    assert read.json == made.json
    assert (read["state"], read["assignee_id"], read.etag) == ("open", None, '"1"')


async def test_leads_are_listed_by_state_in_pages(tenant: Tenant) -> None:
    made = [await create(tenant, name=f"Lead {number}") for number in range(3)]
    (await tenant.owner.post(f"{LEADS}/{made[0]['id']}/close", {"outcome": "lost"})).expect(200)

    first = (await tenant.owner.get(f"{LEADS}?state=open&limit=1")).expect(200)
    second = (await tenant.owner.get(f"{LEADS}?state=open&limit=1&cursor={first['next_cursor']}")).expect(200)

    assert [page["items"][0]["name"] for page in (first, second)] == ["Lead 1", "Lead 2"]
    assert second["next_cursor"] is None


async def test_a_lead_is_changed_by_who_has_read_it(tenant: Tenant) -> None:
    made = await create(tenant, company="Engines Ltd")
    path = f"{LEADS}/{made['id']}"

    unread = await tenant.owner.patch(path, {"name": "Ada King"})
    changed = await tenant.owner.patch(path, {"name": "Ada King", "company": None}, etag=made.etag)
    late = await tenant.owner.patch(path, {"name": "Somebody"}, etag=made.etag)

    assert unread.expect(428).code == "precondition_required"
    assert (changed.expect(200)["name"], changed["company"], changed["version"]) == ("Ada King", None, 2)
    assert late.expect(412).code == "precondition_failed"


async def test_a_lead_is_assigned_to_somebody_of_the_tenant(tenant: Tenant) -> None:
    path = f"{LEADS}/{(await create(tenant))['id']}"
    member = await tenant.add_user("member")
    stranger = "00000000-0000-7000-8000-000000000000"

    assigned = await tenant.owner.post(f"{path}/assign", {"user_id": member.id})
    refused = await tenant.owner.post(f"{path}/assign", {"user_id": stranger})

    assert assigned.expect(200)["assignee_id"] == member.id
    assert [one["code"] for one in refused.expect(422)["errors"]] == ["unknown_user"]
    assert len((await tenant.owner.get(f"{LEADS}?assignee_id={member.id}")).expect(200)["items"]) == 1


async def test_who_assigns_must_be_allowed_to_see_people(tenant: Tenant) -> None:
    path = f"{LEADS}/{(await create(tenant))['id']}/assign"
    seller = await tenant.add_user(await tenant.add_role("acme.crm.lead.update"))
    chief = await tenant.add_user(await tenant.add_role("acme.crm.lead.update", "iam.user.read"))

    assert (await seller.post(path, {"user_id": seller.id})).expect(403).code == "not_allowed"
    assert (await chief.post(path, {"user_id": seller.id})).expect(200)["assignee_id"] == seller.id


async def test_what_has_ended_stays(tenant: Tenant) -> None:
    made = await create(tenant)
    path = f"{LEADS}/{made['id']}"

    closed = (await tenant.owner.post(f"{path}/close", {"outcome": "won"})).expect(200)

    assert closed["state"] == "won"
    assert (await tenant.owner.post(f"{path}/close", {"outcome": "lost"})).expect(409).code == "lead_closed"
    assert (await tenant.owner.patch(path, {"name": "B"}, etag=closed.etag)).expect(409).code == "lead_closed"


async def test_a_permission_is_needed(tenant: Tenant) -> None:
    viewer = await tenant.add_user("viewer")
    reader = await tenant.add_user(await tenant.add_role("acme.crm.lead.read"))

    assert (await viewer.get(LEADS)).expect(403).code == "not_allowed"
    assert (await reader.get(LEADS)).expect(200)["items"] == []
    assert (await reader.post(LEADS, {"name": "Ada"})).expect(403).code == "not_allowed"


async def test_everything_wrong_is_told_at_once(tenant: Tenant) -> None:
    refused = await tenant.owner.post(LEADS, {"name": "", "email": "nobody", "colour": "red"})

    assert {one["pointer"] for one in refused.expect(422)["errors"]} == {"/name", "/email", "/colour"}
