"""The doctor of a running kernel tells how it is in numbers, for people and for programs."""

from __future__ import annotations

import json

from plugin_api.testing import KernelProcess, Tenant, until
from tests.plugins.conftest import run_pk


async def test_the_doctor_reads_the_metrics(kernel: KernelProcess, tenant: Tenant) -> None:
    (await tenant.owner.get("/api/v1/iam/me")).expect(200)

    async def vitals() -> dict[str, object]:
        report = json.loads((await run_pk(kernel, "doctor")).stdout)
        return report if report["vitals"]["loop_lag_p99_s"] and report["vitals"]["outbox_events"] is not None else {}

    report = await until(vitals, "everything was measured once")

    found, checks = report["vitals"], {check["name"]: check for check in report["checks"]}
    assert {"size", "in_use", "waiting", "waits", "wait_seconds"} == set(found["pools"]["database"])
    assert {"on": False, "exported": 0, "dropped": 0, "waiting": 0, "failures": 0} == found["tracing"]
    assert {
        "loop lag",
        "database pool",
        "cache pool",
        "outbox",
        "dead letters",
        "stalls",
        "breakers",
        "tracing",
    } <= set(checks)
    assert "99 of 100 turns were late by" in checks["loop lag"]["detail"]
    assert "of 16 connections in use" in checks["database pool"]["detail"]
