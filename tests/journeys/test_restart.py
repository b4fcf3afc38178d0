"""Whatever was acknowledged is there after the kernel was stopped, replaced or killed, and nothing that was revoked is."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from typing import Any

from plugin_api.testing import Client, KernelProcess, Person, Tenant, until
from plugin_api.testing.people import IAM
from plugin_api.testing.plugin import FreshKernel


@dataclass
class Life:
    """What a tenant has before the kernel goes away."""

    tenant: Tenant
    user: Person
    revoked: Person
    key: str
    revoked_key: str
    users: list[dict[str, Any]]


async def begin(kernel: KernelProcess) -> Life:
    tenant = await kernel.sign_up()
    user = await tenant.add_user("admin")
    owner = tenant.owner
    revoked = await owner.log_in_again()
    (await owner.delete(f"{IAM}/sessions/{revoked.session['session_id']}")).expect(204)
    keys = [
        (await owner.post(f"{IAM}/api-keys", {"name": f"key{n}", "permissions": ["iam.user.read"]})).expect(201)
        for n in range(2)
    ]
    (await owner.delete(f"{IAM}/api-keys/{keys[1]['id']}", etag=keys[1].etag)).expect(204)
    users = await read_users(owner)
    return Life(tenant, user, revoked, keys[0]["secret"], keys[1]["secret"], users)


async def read_users(client: Client) -> list[dict[str, Any]]:
    """Everything about the tenant's people but when they logged in last."""
    users: list[dict[str, Any]] = (await client.get(f"{IAM}/users")).expect(200)["items"]
    return [{name: value for name, value in user.items() if name != "last_login_at"} for user in users]


async def check(kernel: KernelProcess, life: Life) -> None:
    """Everything of before, at the kernel's address of now."""

    def at(token: str | None) -> Client:
        return kernel.client(token, life.tenant.owner.source_address)

    for person in (life.tenant.owner, life.user):
        (await at(person.token).get(f"{IAM}/me")).expect(200)
    assert await read_users(at(life.key)) == life.users
    (await at(life.revoked.token).get(f"{IAM}/me")).expect(401)
    (await at(life.revoked_key).get(f"{IAM}/users")).expect(401)
    credentials = {"tenant": life.tenant.slug, "email": life.user.email, "password": life.user.password}
    (await at(None).post(f"{IAM}/sessions", credentials)).expect(201)
    wrong = {**credentials, "password": credentials["password"] + "x"}
    (await at(None).post(f"{IAM}/sessions", wrong)).expect(401)
    await kernel.operator()


async def test_a_restart_keeps_everything(fresh_kernel: FreshKernel) -> None:
    kernel = await fresh_kernel()
    life = await begin(kernel)
    for by in (signal.SIGTERM, signal.SIGINT):
        assert await kernel.stop(by) == 0
        assert not (kernel.data_dir / "run" / "kernel.json").exists()
        await kernel.start()

        await check(kernel, life)


async def test_a_killed_kernel_keeps_everything(fresh_kernel: FreshKernel) -> None:
    kernel = await fresh_kernel()
    life = await begin(kernel)
    kernel.kill("parent")
    await kernel.start()

    await check(kernel, life)


async def test_all_processes_killed_at_once_keep_everything(fresh_kernel: FreshKernel) -> None:
    """As when the machine loses its power, as far as a process can tell."""
    kernel = await fresh_kernel()
    life = await begin(kernel)
    pids = kernel.pids()
    kernel.kill("parent", signal.SIGSTOP)
    for name, pid in pids.items():
        if name != "parent":
            os.kill(pid, signal.SIGKILL)
    kernel.kill("parent")
    await kernel.start()

    await check(kernel, life)


async def test_a_reload_replaces_the_workers_and_keeps_everything(fresh_kernel: FreshKernel) -> None:
    kernel = await fresh_kernel()
    life = await begin(kernel)
    before = kernel.pids()
    os.kill(before["parent"], signal.SIGHUP)
    await until(lambda: kernel.pids().get("worker0") not in (None, before["worker0"]), "the worker was replaced", 30)
    await kernel.until_ready()

    await check(kernel, life)
    after = kernel.pids()
    assert {name: after[name] for name in ("parent", "postgres", "valkey")} == {
        name: before[name] for name in ("parent", "postgres", "valkey")
    }
