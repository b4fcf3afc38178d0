"""A plugin that was installed into the kernel's own environment: found at the start, and changed live all the same."""

from __future__ import annotations

import zipfile
from dataclasses import replace
from pathlib import Path

from plugin_api.testing.plugin import FreshKernel
from tests.plugins.conftest import Pk, Recipe, plugins_of, words_heard

RECIPE = Recipe("acme.image", word="of the image")


async def test_what_comes_with_the_environment_is_disabled_superseded_and_comes_back(
    fresh_kernel: FreshKernel, pk: Pk, tmp_path: Path
) -> None:
    site = tmp_path / "site"
    with zipfile.ZipFile(RECIPE.wheel(tmp_path)) as wheel:
        wheel.extractall(site)
    kernel = await fresh_kernel(environment={"PYTHONPATH": str(site)})
    tenant = await kernel.sign_up()
    assert await words_heard(tenant.owner, RECIPE) == {"of the image"}
    refused = await pk(kernel, "plugins", "remove", RECIPE.plugin_id, status=1)
    assert "environment" in refused.stderr

    await pk(kernel, "plugins", "disable", RECIPE.plugin_id)
    assert await words_heard(tenant.owner, RECIPE) == {404}
    await kernel.restart()
    owner = kernel.client(tenant.owner.token)
    assert await words_heard(owner, RECIPE) == {404}
    assert (await plugins_of(kernel))[RECIPE.plugin_id]["state"] == "stopped"
    await pk(kernel, "plugins", "enable", RECIPE.plugin_id)
    assert await words_heard(owner, RECIPE) == {"of the image"}

    newer = replace(RECIPE, version="1.1.0", word="of the store")
    await pk(kernel, "plugins", "upgrade", RECIPE.plugin_id, newer.wheel(tmp_path))
    assert await words_heard(owner, RECIPE) == {"of the store"}
    await pk(kernel, "plugins", "remove", RECIPE.plugin_id)
    assert await words_heard(owner, RECIPE) == {"of the image"}
    listed = (await plugins_of(kernel))[RECIPE.plugin_id]
    assert (listed["version"], listed["state"], listed["leaks"]) == ("1.0.0", "active", [])
