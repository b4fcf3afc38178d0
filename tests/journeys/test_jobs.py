"""Operators look at queues over HTTP, tenants at their jobs, and nobody at those of others."""

from __future__ import annotations

from plugin_api.testing import KernelProcess, Tenant

UNKNOWN = "01890a5d-ac96-774b-bcce-b302099a8057"


async def test_operators_see_queues_and_dead_jobs_and_nobody_else_does(kernel: KernelProcess, tenant: Tenant) -> None:
    operator = await kernel.operator()

    assert "items" in (await operator.get("/api/v1/eventbus/queues")).expect(200).json
    assert (await operator.get("/api/v1/eventbus/dead-jobs")).expect(200)["items"] == []
    for path in ("dead-jobs/replay", "jobs/cancel"):
        answer = await operator.post(f"/api/v1/eventbus/{path}", {"job_id": UNKNOWN})
        assert answer.expect(404).code == "not_found"
        assert (await tenant.owner.post(f"/api/v1/eventbus/{path}", {})).expect(403).code == "not_allowed"
    for path in ("queues", "dead-jobs"):
        assert (await tenant.owner.get(f"/api/v1/eventbus/{path}")).expect(403).code == "not_allowed"


async def test_a_tenant_asks_for_its_jobs(kernel: KernelProcess, tenant: Tenant) -> None:
    path = f"/api/v1/eventbus/jobs/{UNKNOWN}"
    nobody = await tenant.add_user(await tenant.add_role("iam.user.read"))

    assert (await tenant.owner.get(path)).expect(404).code == "not_found"
    assert (await tenant.owner.post(f"{path}/cancel")).expect(404).code == "not_found"
    assert (await nobody.get(path)).expect(403).code == "not_allowed"
    assert (await nobody.post(f"{path}/cancel")).expect(403).code == "not_allowed"
    assert (await kernel.client().get(path)).expect(401).code == "not_authenticated"
