"""Whoever shows nothing that holds leaves nothing behind: no row in any table, however often it is tried."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import asyncpg

from plugin_api.ids import uuid7
from plugin_api.testing import Client, KernelProcess
from plugin_api.testing.people import IAM
from plugin_api.testing.plugin import FreshKernel

TRIES = 10


async def count_rows(kernel: KernelProcess) -> dict[str, int]:
    """How many rows each table of each plugin has."""
    run = kernel.data_dir / "run" / "postgres"
    connection = await asyncpg.connect(f"postgresql://kernel@/postgres?host={run}&port=5432")
    try:
        tables = await connection.fetch(
            "select format('%I.%I', schemaname, tablename) as name from pg_tables"
            " where schemaname not in ('pg_catalog', 'information_schema', 'pk') order by 1"
        )
        names = [row["name"] for row in tables]
        return {name: await connection.fetchval(f"select count(*) from {name}") for name in names}
    finally:
        await connection.close()


async def try_doors(client: Client, refresh_token: str, slug: str) -> set[int]:
    """Everything that a stranger can send, with values that look right; the statuses."""
    parts = refresh_token.split("_")
    forged = "_".join([parts[0], *(_like(part) for part in parts[1:])])
    bodies: list[tuple[str, dict[str, Any]]] = [
        (f"{IAM}/sessions/refresh", {"refresh_token": forged}),
        (f"{IAM}/sessions", {"tenant": slug, "email": "nobody@there.example.com", "password": "x" * 20}),
        (f"{IAM}/sessions", {"tenant": "nowhere-at-all", "email": "a@b.example.com", "password": "x" * 20}),
        (f"{IAM}/invitations/accept", {"token": forged, "name": "X", "password": "x" * 20}),
    ]
    statuses = {(await client.post(path, body)).status for path, body in bodies}
    for token in (f"pkk_{uuid4().hex}_{'s' * 43}", f"pkk_{uuid7()}_{'s' * 43}", forged, "x"):
        statuses.add((await Client(client.url, token, client.source_address).get(f"{IAM}/me")).status)
    return statuses


def _like(part: str) -> str:
    """Something of the same form: another id, or another secret."""
    compact = part.replace("-", "")
    if len(compact) == 32:
        return str(uuid7()) if "-" in part else uuid7().hex
    return part[::-1]


async def test_a_stranger_leaves_nothing_behind(fresh_kernel: FreshKernel) -> None:
    kernel = await fresh_kernel()
    tenant = await kernel.sign_up()
    before = await count_rows(kernel)
    statuses = set[int]()
    for _ in range(TRIES):
        client = kernel.client(source_address=kernel.new_source_address())
        statuses |= await try_doors(client, tenant.owner.session["refresh_token"], tenant.slug)

    assert await count_rows(kernel) == before
    assert statuses <= {400, 401, 404, 422}
