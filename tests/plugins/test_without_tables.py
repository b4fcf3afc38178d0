"""A plugin without migrations has transactions all the same: the answers of keyed calls are kept in them."""

from __future__ import annotations

from pathlib import Path

from plugin_api.testing import KernelProcess, unique
from tests.plugins.conftest import Pk, Plant

MORE = """    @operation("POST /words", permission="word.read")
    async def write(self, call: Call, request: Ask) -> Said:
        \"\"\"Say a word that is new each time.\"\"\"
        return Said(text=str(uuid.uuid4()))
"""


async def test_a_keyed_call_of_it_is_answered_once(kernel: KernelProcess, pk: Pk, plant: Plant, tmp_path: Path) -> None:
    recipe = plant("bare", operations_top="import uuid", more=MORE)
    await pk(kernel, "plugins", "install", recipe.wheel(tmp_path))
    tenant = await kernel.sign_up()
    path, key = f"/api/v1/x/{recipe.plugin_id}/words", {"Idempotency-Key": unique("key")}
    first = (await tenant.owner.post(path, {}, headers=key)).expect(200)
    again = (await tenant.owner.post(path, {}, headers=key)).expect(200)

    assert first.body == again.body
    assert again.headers["Idempotency-Replayed"] == "true"
