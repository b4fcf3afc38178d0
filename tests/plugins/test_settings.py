"""A plugin's settings are read from the kernel's own sources, and a plugin that fails is tried again by itself."""

from __future__ import annotations

from pathlib import Path

from plugin_api.testing import until
from plugin_api.testing.plugin import FreshKernel
from tests.plugins.conftest import Pk, Recipe, plugins_of, words_heard

SETTINGS = """from typing import Annotated
from plugin_api import Struct
from plugin_api.settings import setting

class Settings(Struct, frozen=True, forbid_unknown_fields=True):
    licence: Annotated[str, setting("A file that has to be there.")]
"""
HOOKS = """    @hookimpl
    def pk_configure(self, settings):
        self.licence = settings.licence

    @hookimpl
    async def pk_enable(self):
        if not Path(self.licence).exists():
            raise RuntimeError("there is no licence")
"""
RECIPE = Recipe("acme.licensed", files={"settings.py": SETTINGS}, top="from pathlib import Path", hooks=HOOKS)


async def test_what_could_not_be_brought_up_is_tried_again(fresh_kernel: FreshKernel, pk: Pk, tmp_path: Path) -> None:
    kernel = await fresh_kernel("--set", "host.retry_s=0.5")
    tenant, licence = await kernel.sign_up(), tmp_path / "licence"
    refused = await pk(kernel, "plugins", "install", RECIPE.wheel(tmp_path), status=1)
    assert "acme.licensed.licence" in refused.stderr

    (kernel.data_dir / "pk.toml").write_text(f'[acme.licensed]\nlicence = "{licence}"\n')
    refused = await pk(kernel, "plugins", "install", RECIPE.wheel(tmp_path), status=1)
    assert "there is no licence" in refused.stderr
    licence.touch()
    await pk(kernel, "plugins", "install", RECIPE.wheel(tmp_path))
    assert await words_heard(tenant.owner, RECIPE) == {"Hello"}
    listed = (await pk(kernel, "settings", "acme.licensed")).document["items"]
    assert [(one["name"], one["value"]) for one in listed] == [("licence", str(licence))]

    licence.unlink()
    await kernel.restart()
    owner = kernel.client(tenant.owner.token)
    assert await words_heard(owner, RECIPE) == {404}
    told = (await plugins_of(kernel))[RECIPE.plugin_id]
    assert (told["state"], "there is no licence" in told["reason"]) == ("failed", True)
    licence.touch()

    async def serves() -> bool:
        return await words_heard(owner, RECIPE, 2) == {"Hello"}

    await until(serves, "the plugin has come by itself", 60.0)
    assert (await plugins_of(kernel))[RECIPE.plugin_id]["state"] == "active"
