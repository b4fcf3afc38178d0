"""The command line changes the plugins of a kernel elsewhere, over REST with an operator's API key."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from plugin_api.testing import KernelProcess, Tenant
from tests.plugins.conftest import Plant, words_heard

LIMIT_S = 120.0


async def pk_at(
    kernel: KernelProcess, key: str, *words: object, status: int = 0, group: str = "plugins"
) -> tuple[Any, str]:
    """Run `pk GROUP WORDS --url ...`; (its document or text, stderr)."""
    program = Path(sys.executable).parent / "pk"
    process = await asyncio.create_subprocess_exec(
        program, group, *map(str, words), "--url", kernel.url, "--json",
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "PK_API_KEY": key},
    )  # fmt: skip
    async with asyncio.timeout(LIMIT_S):
        stdout, stderr = await process.communicate()
    assert process.returncode == status, f"{words}: {stdout!r} {stderr!r}"
    return json.loads(stdout) if stdout and not status else None, stderr.decode()


async def test_a_kernel_elsewhere_is_changed_with_a_key(
    kernel: KernelProcess, tenant: Tenant, plant: Plant, tmp_path: Path
) -> None:
    operator = await kernel.operator()
    wanted = {"name": "deploy", "permissions": ["platform.plugin.*"]}
    key = str((await operator.post("/api/v1/iam/api-keys", wanted)).expect(201)["secret"])
    recipe = plant("far")
    newer = replace(recipe, version="1.1.0", word="Hi")

    told, _ = await pk_at(kernel, key, "install", recipe.wheel(tmp_path))
    assert (told["plugin_id"], told["version"]) == (recipe.plugin_id, "1.0.0")
    await pk_at(kernel, key, "upgrade", recipe.plugin_id, newer.wheel(tmp_path))
    assert await words_heard(tenant.owner, recipe) == {"Hi"}
    await pk_at(kernel, key, "rollback", recipe.plugin_id)
    assert await words_heard(tenant.owner, recipe) == {"Hello"}
    await pk_at(kernel, key, "disable", recipe.plugin_id, "--cascade")
    await pk_at(kernel, key, "enable", recipe.plugin_id)
    looked, _ = await pk_at(kernel, key, "remove", recipe.plugin_id, "--dry-run")
    assert looked["removed"]["routes"] == [f"GET {recipe.route}"]
    await pk_at(kernel, key, "remove", recipe.plugin_id, "--data", "purge")
    assert await words_heard(tenant.owner, recipe) == {404}

    _, refused = await pk_at(kernel, key, "install", tmp_path, status=1)
    assert "folder" in refused
    _, refused = await pk_at(kernel, "pkk_nobody_knows", "install", recipe.wheel(tmp_path), status=1)
    assert "folder" not in refused
    _, refused = await pk_at(kernel, key, "upgrade", "acme.nobody", status=1)
    assert "acme.nobody" in refused
