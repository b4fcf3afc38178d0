"""A stranger's plugin comes, changes and goes in a running kernel."""

from __future__ import annotations

import asyncio
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from plugin_api.testing import KernelProcess, Tenant
from plugin_api.testing.plugin import FreshKernel
from tests.plugins.conftest import Pk, Plant, Recipe, plugins_of, words_heard

OCTETS = {"Content-Type": "application/octet-stream"}


async def test_an_installed_plugin_serves_is_listed_and_leaves_no_trace(
    kernel: KernelProcess, tenant: Tenant, pk: Pk, plant: Plant, tmp_path: Path
) -> None:
    before = (await kernel.client().get("/api/v1/openapi.json")).expect(200).json
    recipe = plant("word")
    told = (await pk(kernel, "plugins", "install", recipe.wheel(tmp_path))).document

    assert (told["plugin_id"], told["version"], told["changed"]) == (recipe.plugin_id, "1.0.0", True)
    assert (await tenant.owner.get(recipe.route)).expect(200)["text"] == "Hello"
    assert (await kernel.client().get(recipe.route)).expect(401)
    assert (await (await tenant.add_user("viewer")).get(recipe.route)).expect(403)
    listed = (await plugins_of(kernel))[recipe.plugin_id]
    assert (listed["state"], listed["version"], listed["leaks"], listed["last_error"]) == ("active", "1.0.0", [], "")
    assert recipe.route in (await kernel.client().get("/api/v1/openapi.json")).json["paths"]

    await pk(kernel, "plugins", "remove", recipe.plugin_id)
    gone = (await tenant.owner.get(recipe.route)).expect(404)
    never = (await tenant.owner.get("/api/v1/x/acme.never/word")).expect(404)
    assert {**gone.json, "instance": "", "request_id": ""} == {**never.json, "instance": "", "request_id": ""}
    assert (await kernel.client().get("/api/v1/openapi.json")).json == before
    assert recipe.plugin_id not in await plugins_of(kernel)
    assert not (kernel.data_dir / "plugins" / recipe.plugin_id).exists()


async def test_calls_under_way_end_with_the_version_that_they_began_with(
    kernel: KernelProcess, tenant: Tenant, pk: Pk, plant: Plant, tmp_path: Path
) -> None:
    old = plant("slow")
    await pk(kernel, "plugins", "install", old.wheel(tmp_path))
    slow = [asyncio.create_task(tenant.owner.get(f"{old.route}?ms=4000")) for _ in range(4)]
    await pk(kernel, "plugins", "upgrade", old.plugin_id, replace(old, version="1.1.0", word="Hi").wheel(tmp_path))

    assert await words_heard(tenant.owner, old) == {"Hi"}
    assert {answer.expect(200)["text"] for answer in await asyncio.gather(*slow)} == {"Hello"}
    await pk(kernel, "plugins", "rollback", old.plugin_id)
    assert await words_heard(tenant.owner, old) == {"Hello"}
    listed = (await plugins_of(kernel))[old.plugin_id]
    assert (listed["version"], listed["previous"], listed["leaks"]) == ("1.0.0", "1.1.0", [])


async def test_a_version_that_fails_changes_nothing_and_is_told(
    kernel: KernelProcess, tenant: Tenant, pk: Pk, plant: Plant, tmp_path: Path
) -> None:
    good = plant("steady")
    await pk(kernel, "plugins", "install", good.wheel(tmp_path))
    hooks = "    @hookimpl\n    async def pk_enable(self):\n        raise RuntimeError('no licence')\n"
    bad = replace(good, version="2.0.0", hooks=hooks)
    refused = await pk(kernel, "plugins", "upgrade", good.plugin_id, bad.wheel(tmp_path), status=1)

    assert good.plugin_id in refused.stderr
    assert "no licence" in refused.stderr
    assert await words_heard(tenant.owner, good) == {"Hello"}
    listed = (await plugins_of(kernel))[good.plugin_id]
    assert (listed["version"], listed["state"]) == ("1.0.0", "active")
    assert "2.0.0" in listed["last_error"]
    assert [place.name[:5] for place in (kernel.data_dir / "plugins" / good.plugin_id).iterdir()] == ["1.0.0"]


async def test_operators_change_plugins_over_rest_too(
    kernel: KernelProcess, tenant: Tenant, plant: Plant, tmp_path: Path
) -> None:
    operator, recipe = await kernel.operator(), plant("rest")
    operator.limit_s = 120.0
    area, wheel = f"/api/v1/plugins/{recipe.plugin_id}", recipe.wheel(tmp_path).read_bytes()
    refused = await tenant.owner.request("POST", "/api/v1/plugins", body=wheel, headers=OCTETS)
    assert refused.expect(403)
    made = (await operator.request("POST", "/api/v1/plugins", body=wheel, headers=OCTETS)).expect(201)
    assert (made["id"], made["state"], made.headers["location"]) == (recipe.plugin_id, "active", area)
    newer = replace(recipe, version="1.1.0", word="Hi").wheel(tmp_path).read_bytes()
    upgraded = (await operator.request("POST", f"{area}/upgrade", body=newer, headers=OCTETS)).expect(200)
    assert (upgraded["version"], upgraded["previous"]) == ("1.1.0", "1.0.0")
    assert (await operator.post(f"{area}/rollback", {})).expect(200)["version"] == "1.0.0"
    assert (await operator.post(f"{area}/disable", {})).expect(200)["state"] == "stopped"
    assert (await tenant.owner.get(recipe.route)).expect(404)
    assert (await operator.post(f"{area}/enable", {})).expect(200)["state"] == "active"
    looked = (await operator.delete(f"{area}?data=purge&dry_run=true")).expect(200)
    assert looked["removed"]["routes"] == [f"GET {recipe.route}"]
    assert (await tenant.owner.get(recipe.route)).expect(200)
    assert (await operator.delete(f"{area}?data=purge")).expect(200)["id"] == recipe.plugin_id
    assert (await operator.get(area)).expect(404)
    records = (await operator.get(f"/api/v1/audit/records?target={area}")).expect(200)["items"]
    done = [one["operation"].removeprefix("plugin.") for one in reversed(records)]
    steps = ["install", "upgrade", "rollback", "disable", "enable", "remove", "remove"]
    assert done == [f"{step}_plugin" for step in steps]
    assert {(one["plugin"], one["outcome"]) for one in records} == {("kernel.host", "done")}
    assert not list((kernel.data_dir / "plugins" / ".uploads").glob("*"))


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        ({"requirement": "/etc/passwd"}, {}, 422),
        ({"requirement": "-r /etc/passwd"}, {}, 422),
        ({}, {}, 422),
        ({"requirement": "acme-x", "wheel": "UEsDBA"}, {}, 422),
        (b"PK\x03\x04 no wheel", OCTETS, 422),
        (b"", OCTETS, 422),
        (b"<wheel/>", {"Content-Type": "text/xml"}, 415),
    ],
)
async def test_what_is_no_plugin_is_refused(
    kernel: KernelProcess, body: Any, headers: dict[str, str], status: int
) -> None:
    operator = await kernel.operator()
    given: dict[str, Any] = {"body": body} if isinstance(body, bytes) else {"json": body}
    answer = await operator.request("POST", "/api/v1/plugins", **given, headers=headers)

    assert answer.expect(status).code != "kernel_bug"


async def test_what_lies_on_the_kernels_machine_is_no_requirement(
    kernel: KernelProcess, plant: Plant, tmp_path: Path
) -> None:
    wheel = plant("near").wheel(tmp_path / "a@b")
    answer = await (await kernel.operator()).post("/api/v1/plugins", {"requirement": str(wheel)})

    assert answer.expect(422).code == "invalid_request"


@pytest.mark.parametrize("plugin_id", ["01a22293-ac34-73f4-8259-4d0098c65a8e", "%F1%AC%AE%A9", "acme", "Acme.crm"])
async def test_what_is_no_id_is_no_plugin(kernel: KernelProcess, plugin_id: str) -> None:
    operator, area = await kernel.operator(), f"/api/v1/plugins/{plugin_id}"
    answers = [await operator.delete(area)]
    answers += [await operator.post(f"{area}/{verb}", {}) for verb in ("enable", "disable", "rollback", "upgrade")]

    assert {(answer.status, answer.code) for answer in answers} == {(404, "unknown_plugin")}


async def test_who_is_needed_is_not_taken_away(
    kernel: KernelProcess, tenant: Tenant, pk: Pk, plant: Plant, tmp_path: Path
) -> None:
    base = plant("base")
    base = replace(base, manifest=f'provides = ["{base.plugin_id} 1.0"]\n')
    above = plant("above", manifest=f'requires = ["{base.plugin_id} >=1"]\n')
    early = await pk(kernel, "plugins", "install", above.wheel(tmp_path), status=1)
    assert base.plugin_id in early.stderr
    for recipe in (base, above):
        await pk(kernel, "plugins", "install", recipe.wheel(tmp_path))
    for words in (("disable", base.plugin_id), ("remove", base.plugin_id)):
        refused = await pk(kernel, "plugins", *words, status=1)
        assert above.plugin_id in refused.stderr
    without = replace(base, version="2.0.0", manifest=f'provides = ["{base.plugin_id} 0.9"]\n')
    refused = await pk(kernel, "plugins", "upgrade", base.plugin_id, without.wheel(tmp_path), status=1)
    assert above.plugin_id in refused.stderr
    assert await words_heard(tenant.owner, above) == {"Hello"}

    told = (await pk(kernel, "plugins", "disable", base.plugin_id, "--cascade")).document
    assert told["disabled"] == [above.plugin_id]
    assert await words_heard(tenant.owner, above) == {404}
    refused = await pk(kernel, "plugins", "enable", above.plugin_id, status=1)
    assert base.plugin_id in refused.stderr
    for recipe in (base, above):
        await pk(kernel, "plugins", "enable", recipe.plugin_id)
    assert await words_heard(tenant.owner, above) == {"Hello"}


async def test_every_worker_serves_a_change_and_so_does_one_that_comes_later(
    fresh_kernel: FreshKernel, pk: Pk, plant: Plant, tmp_path: Path
) -> None:
    pair = await fresh_kernel("--workers", "2")
    tenant, recipe = await pair.sign_up(), plant("pair")
    await pk(pair, "plugins", "install", recipe.wheel(tmp_path))
    assert await words_heard(tenant.owner, recipe) == {"Hello"}
    pair.kill("worker1")
    newer = replace(recipe, version="1.1.0", word="Hi")
    await pk(pair, "plugins", "upgrade", recipe.plugin_id, newer.wheel(tmp_path))
    assert await words_heard(tenant.owner, recipe) == {"Hi"}
    await pk(pair, "reload")
    assert await words_heard(tenant.owner, recipe) == {"Hi"}
    workers = (await plugins_of(pair))[recipe.plugin_id]["workers"]
    assert [(one["worker"], one["version"], one["state"]) for one in workers] == [
        (0, "1.1.0", "active"),
        (1, "1.1.0", "active"),
    ]
    await pk(pair, "plugins", "disable", recipe.plugin_id)
    await pair.restart()
    assert (await plugins_of(pair))[recipe.plugin_id]["state"] == "stopped"
    await pk(pair, "plugins", "enable", recipe.plugin_id)
    await pk(pair, "plugins", "rollback", recipe.plugin_id)
    assert await words_heard(pair.client(tenant.owner.token), recipe) == {"Hello"}


def _later(recipe: Recipe, version: str, **changes: Any) -> Recipe:
    return replace(recipe, version=version, **changes)


async def test_repeating_a_change_is_no_error_and_changes_nothing(
    kernel: KernelProcess, pk: Pk, plant: Plant, tmp_path: Path
) -> None:
    recipe = plant("twice")
    wheel = recipe.wheel(tmp_path)
    await pk(kernel, "plugins", "install", wheel)
    assert (await pk(kernel, "plugins", "install", wheel)).document["changed"] is False
    assert (await pk(kernel, "plugins", "upgrade", recipe.plugin_id, wheel)).document["changed"] is False
    other = await pk(kernel, "plugins", "install", _later(recipe, "1.1.0").wheel(tmp_path), status=1)
    assert f"pk plugins upgrade {recipe.plugin_id}" in other.stderr
    older = await pk(kernel, "plugins", "upgrade", recipe.plugin_id, _later(recipe, "0.9.0").wheel(tmp_path), status=1)
    assert "rollback" in older.stderr
    never = await pk(kernel, "plugins", "rollback", recipe.plugin_id, status=1)
    assert "no version before" in never.stderr
    for verb in ("enable", "disable", "rollback", "upgrade", "remove"):
        unknown = await pk(kernel, "plugins", verb, "acme.nobody", status=1)
        assert "acme.nobody" in unknown.stderr
        ours = await pk(kernel, "plugins", verb, "kernel.iam", status=1)
        assert "kernel.iam" in ours.stderr


async def test_a_package_that_was_lost_is_installed_again(
    kernel: KernelProcess, tenant: Tenant, pk: Pk, plant: Plant, tmp_path: Path
) -> None:
    """As the reason of its failure says: with what it was installed from, after a disk was restored without it, say."""
    recipe = plant("lost")
    wheel = recipe.wheel(tmp_path)
    await pk(kernel, "plugins", "install", wheel)
    shutil.rmtree(kernel.data_dir / "plugins" / recipe.plugin_id)
    await pk(kernel, "reload")
    lost = (await plugins_of(kernel))[recipe.plugin_id]
    assert (lost["state"], "install it again" in lost["reason"]) == ("failed", True)

    await pk(kernel, "plugins", "install", wheel)
    assert await words_heard(tenant.owner, recipe) == {"Hello"}
    assert (await plugins_of(kernel))[recipe.plugin_id]["state"] == "active"
