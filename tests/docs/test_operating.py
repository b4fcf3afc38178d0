"""What operators are told to type is typed here, at a kernel that is running."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from plugin_api.testing import KernelProcess
from plugin_api.testing.people import log_in
from tests.plugins.conftest import Recipe, run_pk

ROOT = Path(__file__).parents[2]
OPERATING = ROOT / "docs" / "operating"


def script(page: str, **replaced: str) -> str:
    """The `sh` blocks of a page as one script, with our places instead of its own."""
    text = "\n".join(re.findall(r"^```sh\n(.*?)^```", (OPERATING / page).read_text(), re.MULTILINE | re.DOTALL))
    for name, value in replaced.items():
        text, count = re.subn(rf"^{name}=\S+$", f"{name}={value}", text, flags=re.MULTILINE)
        assert count == 1, f"{page} sets {name} once"
    return "set -euo pipefail\n" + text.replace(".venv/bin/python", sys.executable)


def run(text: str) -> None:
    """Run it; AssertionError with what it said when it fails."""
    ran = subprocess.run(["bash", "-c", text], capture_output=True, text=True, timeout=120, check=False)
    assert ran.returncode == 0, ran.stdout[-2000:] + ran.stderr[-2000:]


async def test_a_backup_of_a_running_kernel_is_restored(fresh_kernel: Any, tmp_path: Path) -> None:
    kernel = await fresh_kernel()
    tenant = await kernel.sign_up()
    key = (
        await tenant.owner.post("/api/v1/iam/api-keys", {"name": "export", "permissions": ["iam.user.read"]})
    ).expect(201)
    recipe = Recipe("acme.saved")
    await run_pk(kernel, "plugins", "install", recipe.wheel(tmp_path / "wheels"))
    restored = KernelProcess(["--no-demo"])

    run(script("backup.md", DIR=str(kernel.data_dir), BACKUP=str(tmp_path), RESTORED=str(restored.data_dir)))
    await kernel.stop()
    try:
        await restored.start()
        owner = tenant.owner
        await log_in(restored.url, restored.new_source_address(), tenant.slug, owner.email, owner.password)

        by_token = await restored.client(owner.token).get("/api/v1/iam/me")
        by_key = await restored.client(key["secret"]).get("/api/v1/iam/users")
        by_plugin = await restored.client(owner.token).get(recipe.route)
    finally:
        await restored.close()

    assert owner.email == by_token.expect(200)["user"]["email"]
    assert [owner.email] == [user["email"] for user in by_key.expect(200)["items"]]
    assert "Hello" == by_plugin.expect(200)["text"]


def test_health_and_metrics_are_where_the_page_says(kernel: KernelProcess) -> None:
    run(script("watching.md").replace("http://127.0.0.1:9000", kernel.management_url))


def test_the_page_names_every_metric_of_the_host(kernel: KernelProcess) -> None:
    asked = subprocess.run(
        ["curl", "--silent", "--fail", f"{kernel.management_url}/metrics"], capture_output=True, text=True, check=True
    )
    names = set(re.findall(r"^# TYPE (pk_\w+)", asked.stdout, re.MULTILINE))
    page = (OPERATING / "watching.md").read_text()

    assert {"pk_requests_total", "pk_workers_ready"} <= names
    assert set() == {
        name for name in names if name.startswith(("pk_request", "pk_worker", "pk_server")) and name not in page
    }
