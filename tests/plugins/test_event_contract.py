"""A stranger's version that tells its events otherwise than promised is refused while the version before serves on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from plugin_api.testing import KernelProcess, Tenant
from tests.plugins.conftest import Pk, Plant, Recipe, plugins_of

TYPE = "word.said.v1"
MANIFEST = f'requires = ["data", "eventbus"]\n[events]\nemits = ["{TYPE}"]\n'
TOP = "from plugin_api import Event, Struct\nclass Said(Struct, frozen=True):\n    {fields}\n"
TABLE = """-- phase: expand
-- up
create table words (tenant_id uuid not null default pk.tenant_id(), id uuid not null, primary key (tenant_id, id));
select pk.protect('words');
-- down
drop table words;
"""
TELL = """
    @operation("POST /words", permission="word.read", status=201)
    async def tell(self, call: Call, request: Ask) -> Said:
        \"\"\"Tell that a word was said.\"\"\"
        tx = await call.tx()
        tx.emit(Event("word.said.v1", "w", {data}))
        return Said(text="told")
"""


def telling(recipe: Recipe, fields: str, data: str, version: str = "1.0.0", **files: str) -> Recipe:
    """A version that declares these fields and tells this data."""
    return replace(
        recipe,
        version=version,
        manifest=MANIFEST,
        top=TOP.format(fields=fields.replace("\n", "\n    ")),
        register=f'registrar.events({{"{TYPE}": Said}})',
        operations_top="from plugin_api import Event",
        more=TELL.format(data=data),
        files={"migrations/0001_words.sql": TABLE, **files},
    )


async def promised(kernel: KernelProcess, recipe: Recipe) -> list[dict[str, Any]]:
    """What operators see of it."""
    answer = await (await kernel.operator()).get(f"/api/v1/eventbus/types?area={recipe.plugin_id}")
    items: list[dict[str, Any]] = answer.expect(200)["items"]
    return items


async def tell(tenant: Tenant, recipe: Recipe, status: int = 201, **body: int) -> None:
    (await tenant.owner.post(f"/api/v1/x/{recipe.plugin_id}/words", body)).expect(status)


async def test_an_upgrade_may_gain_and_go_back_and_break_nothing(
    kernel: KernelProcess, tenant: Tenant, pk: Pk, plant: Plant, tmp_path: Path
) -> None:
    seed = plant("promise")
    first = telling(seed, "word: str", '{"word": "Hello"}')
    await pk(kernel, "plugins", "install", first.wheel(tmp_path))
    await tell(tenant, first)
    (shown,) = await promised(kernel, first)
    assert (shown["type"], shown["topic"]) == (f"{seed.plugin_id}.{TYPE}", "platform.module.events")
    assert shown["schema"] == {"type": "object", "properties": {"word": {"type": "string"}}, "required": ["word"]}

    gained = telling(seed, 'word: str\nby: str = ""', '{"word": "Hello", "by": "me"}', "1.1.0")
    await pk(kernel, "plugins", "upgrade", seed.plugin_id, gained.wheel(tmp_path))
    await tell(tenant, first)
    (shown,) = await promised(kernel, first)
    assert (sorted(shown["schema"]["properties"]), shown["schema"]["required"]) == (["by", "word"], ["word"])
    await pk(kernel, "plugins", "rollback", seed.plugin_id)
    await tell(tenant, first)
    assert await promised(kernel, first) == [shown]

    for fields, words in (("by: str", "it drops /word"), ("word: int", "it changes /word from"), ("word: str\nby: int", "it changes /by from")):  # fmt: skip
        broken = telling(seed, fields, '{"word": 1, "by": 2}', "2.0.0")
        refused = await pk(kernel, "plugins", "upgrade", seed.plugin_id, broken.wheel(tmp_path), status=1)
        assert words in refused.stderr
        assert f"{seed.plugin_id}.{TYPE}" in refused.stderr
        assert "tell word.said.v2 beside word.said.v1" in refused.stderr
        await tell(tenant, first)
        listed = (await plugins_of(kernel))[seed.plugin_id]
        assert (listed["version"], listed["state"], listed["leaks"]) == ("1.0.0", "active", [])
        assert await promised(kernel, first) == [shown]


async def test_data_that_does_not_fit_is_not_told(
    kernel: KernelProcess, tenant: Tenant, pk: Pk, plant: Plant, tmp_path: Path
) -> None:
    data = '{"word": "Hello", **({"colour": "red"} if request.ms else {})}'
    careless = telling(plant("misfit"), "word: str", data)
    await pk(kernel, "plugins", "install", careless.wheel(tmp_path))

    await tell(tenant, careless)
    await tell(tenant, careless, status=500, ms=1)


async def test_a_package_that_contradicts_its_lock_is_not_installed(
    kernel: KernelProcess, pk: Pk, plant: Plant, tmp_path: Path
) -> None:
    lock = '{"events": {"%s": {"type": "object", "properties": {"by": {}}, "required": ["by"]}}, "format": 1}' % TYPE  # noqa: UP031
    contrary = telling(plant("contrary"), "word: str", "{}", **{"events.lock": lock})
    refused = await pk(kernel, "plugins", "install", contrary.wheel(tmp_path), status=1)

    assert "event_schema_broken" in refused.stderr
    assert "it drops /by" in refused.stderr
    assert contrary.plugin_id not in await plugins_of(kernel)


async def test_only_operators_read_what_is_promised(kernel: KernelProcess, tenant: Tenant) -> None:
    path = "/api/v1/eventbus/types"
    assert (await tenant.owner.get(path)).expect(403).code == "not_allowed"
    assert (await kernel.client().get(path)).expect(401)
    operator = await kernel.operator()
    first = (await operator.get(f"{path}?limit=1")).expect(200)
    assert len(first["items"]) == 1
    assert (await operator.get(f"{path}?limit=0")).expect(422)
    assert (await operator.get(f"{path}?cursor=x")).expect(400).code == "bad_cursor"
    iam = (await operator.get(f"{path}?area=iam")).expect(200)["items"]
    assert [(one["type"], one["source"]) for one in iam] == [("iam.access.changed.v1", "/plugins/kernel.iam")]
