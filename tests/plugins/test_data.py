"""What becomes of a plugin's tables when it is upgraded, rolled back and removed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from plugin_api.testing import KernelProcess, Tenant
from tests.plugins.conftest import Pk, Plant, Recipe, plugins_of, words_heard

LEADS = """-- phase: expand
-- up
create table leads (
  tenant_id uuid not null default pk.tenant_id(), id uuid not null, name text not null,
  version bigint not null default 1, created_at timestamptz not null default now(),
  primary key (tenant_id, id));
select pk.protect('leads');
-- down
drop table leads;
"""
COLOURS = """-- phase: expand
-- up
alter table leads add column colour text;
-- down
alter table leads drop column colour;
"""
NO_NAMES = """-- phase: contract
-- up
alter table leads drop column name;
-- down
"""
STORING = '''
    @operation("POST /leads", permission="word.read", status=201)
    async def add(self, call: Call, request: Add) -> Said:
        """Add a lead."""
        tx = await call.tx()
        await tx.execute("insert into leads (id, name) values (gen_random_uuid(), $1)", request.name)
        return Said(text=request.name)

    @operation("GET /leads", permission="word.read")
    async def count(self, call: Call, request: Ask) -> Said:
        """Count the leads."""
        tx = await call.tx()
        row = await tx.fetch_one("select count(*) as n from leads")
        return Said(text=str(row["n"]))
'''
ADD = "class Add(Struct, frozen=True, forbid_unknown_fields=True):\n    name: str\n"


def storing(plant: Plant, short: str) -> Recipe:
    """A plugin with one table."""
    return plant(
        short,
        manifest='requires = ["data >=1"]\n',
        files={"migrations/0001_leads.sql": LEADS},
        more=STORING,
        operations_top=ADD,
    )


def with_migrations(recipe: Recipe, version: str, **files: str) -> Recipe:
    """A later version with further migrations."""
    added = {f"migrations/{name}.sql": text for name, text in files.items()}
    return replace(recipe, version=version, word=version, files={**recipe.files, **added})


async def states(kernel: KernelProcess, pk: Pk, recipe: Recipe) -> dict[str, str]:
    """Migration -> state, as `pk migrate status` says."""
    told = (await pk(kernel, "migrate", "status", recipe.plugin_id)).document["items"]
    return {one["file"]: one["state"] for one in told[0]["migrations"]}


async def count_leads(tenant: Tenant, recipe: Recipe) -> str:
    """How many leads the tenant sees."""
    return str((await tenant.owner.get(f"/api/v1/x/{recipe.plugin_id}/leads")).expect(200)["text"])


async def add_lead(tenant: Tenant, recipe: Recipe) -> None:
    """Add one."""
    (await tenant.owner.post(f"/api/v1/x/{recipe.plugin_id}/leads", {"name": "Ada"})).expect(201)


async def test_an_upgrade_adds_a_rollback_keeps_and_a_contract_waits(
    kernel: KernelProcess, tenant: Tenant, pk: Pk, plant: Plant, tmp_path: Path
) -> None:
    old = storing(plant, "leads")
    await pk(kernel, "plugins", "install", old.wheel(tmp_path))
    await add_lead(tenant, old)
    new = with_migrations(old, "2.0.0", **{"0002_colours": COLOURS, "0003_no_names": NO_NAMES})
    await pk(kernel, "plugins", "upgrade", old.plugin_id, new.wheel(tmp_path))
    assert await words_heard(tenant.owner, old) == {"2.0.0"}
    pending = {"0001_leads.sql": "applied", "0002_colours.sql": "applied", "0003_no_names.sql": "pending"}
    assert await states(kernel, pk, old) == pending

    await pk(kernel, "plugins", "rollback", old.plugin_id)
    assert await states(kernel, pk, old) == {"0001_leads.sql": "applied", "0002_colours.sql": "newer"}
    await add_lead(tenant, old)
    assert await count_leads(tenant, old) == "2"

    await pk(kernel, "plugins", "rollback", old.plugin_id)
    assert await words_heard(tenant.owner, old) == {"2.0.0"}
    await pk(kernel, "migrate", "up", old.plugin_id)
    assert set((await states(kernel, pk, old)).values()) == {"applied"}
    refused = await pk(kernel, "plugins", "rollback", old.plugin_id, status=1)
    assert "0003_no_names.sql" in refused.stderr
    assert await words_heard(tenant.owner, old) == {"2.0.0"}


async def test_a_migration_that_fails_half_way_leaves_nothing(
    kernel: KernelProcess, tenant: Tenant, pk: Pk, plant: Plant, tmp_path: Path
) -> None:
    old = storing(plant, "half")
    await pk(kernel, "plugins", "install", old.wheel(tmp_path))
    broken = COLOURS.replace("add column colour text;", "add column colour text;\nselect 1 / 0;")
    bad = with_migrations(old, "2.0.0", **{"0002_colours": broken})
    refused = await pk(kernel, "plugins", "upgrade", old.plugin_id, bad.wheel(tmp_path), status=1)

    assert old.plugin_id in refused.stderr
    assert "0002_colours.sql" in refused.stderr
    assert await states(kernel, pk, old) == {"0001_leads.sql": "applied"}
    assert await words_heard(tenant.owner, old) == {"Hello"}
    good = with_migrations(old, "2.0.0", **{"0002_colours": COLOURS})
    await pk(kernel, "plugins", "upgrade", old.plugin_id, good.wheel(tmp_path))
    assert await words_heard(tenant.owner, old) == {"2.0.0"}


async def test_kept_data_is_found_again(
    kernel: KernelProcess, tenant: Tenant, pk: Pk, plant: Plant, tmp_path: Path
) -> None:
    recipe = storing(plant, "kept")
    wheel = recipe.wheel(tmp_path)
    await pk(kernel, "plugins", "install", wheel)
    await add_lead(tenant, recipe)
    await pk(kernel, "plugins", "remove", recipe.plugin_id)
    assert recipe.plugin_id not in await plugins_of(kernel)
    await pk(kernel, "plugins", "install", wheel)
    assert await count_leads(tenant, recipe) == "1"


@pytest.mark.parametrize("data", ["export", "purge"])
async def test_data_is_looked_at_exported_and_destroyed(
    kernel: KernelProcess, tenant: Tenant, pk: Pk, plant: Plant, tmp_path: Path, data: str
) -> None:
    recipe = storing(plant, data)
    wheel = recipe.wheel(tmp_path)
    await pk(kernel, "plugins", "install", wheel)
    for _ in range(3):
        await add_lead(tenant, recipe)
    looked = (await pk(kernel, "plugins", "remove", recipe.plugin_id, "--data", data, "--dry-run")).document["removed"]
    schema = f"x_{recipe.plugin_id.replace('.', '_')}"
    assert (looked["schema"], looked["tables"], looked["data"]) == (schema, {"leads": 3}, data)
    assert await count_leads(tenant, recipe) == "3"

    removed = (await pk(kernel, "plugins", "remove", recipe.plugin_id, "--data", data)).document["removed"]
    if data == "export":
        assert _exported(Path(removed["folder"])) == [("Ada", tenant.id)] * 3
    await pk(kernel, "plugins", "install", wheel)
    assert await count_leads(tenant, recipe) == "0"


def _exported(folder: Path) -> list[tuple[Any, Any]]:
    rows = [json.loads(line) for line in (folder / "leads.jsonl").read_text().splitlines()]
    return [(row["name"], row["tenant_id"]) for row in rows]
