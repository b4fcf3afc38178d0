"""Who did what, read over HTTP by those who may."""

from __future__ import annotations

from typing import Any

from plugin_api.testing import Client, KernelProcess, Tenant, unique
from plugin_api.testing.people import IAM, log_in, new_password

RECORDS = "/api/v1/audit/records"


async def records(client: Client, **query: str) -> list[dict[str, Any]]:
    """One page of records, the newest first."""
    words = "&".join(f"{name}={value}" for name, value in query.items())
    answer = (await client.get(f"{RECORDS}?{words}")).expect(200)
    return list(answer["items"])


async def test_what_is_made_changed_and_removed_is_recorded(tenant: Tenant) -> None:
    owner, password = tenant.owner, new_password()
    body = {"email": f"{unique()}@x.example.com", "name": "Una", "password": password, "roles": ["viewer"]}
    made = (await owner.post(f"{IAM}/users", body)).expect(201)
    path = f"{IAM}/users/{made['id']}"
    (await owner.get(path)).expect(200)
    changed = (await owner.patch(path, {"password": new_password()}, etag=made.etag)).expect(200)
    (await owner.post(f"{IAM}/users", body)).expect(409)
    (await owner.delete(path, etag=changed.etag)).expect(204)

    found = await records(owner, target=path)

    assert [(one["operation"], one["outcome"]) for one in found] == [
        ("iam.delete_user", "done"),
        ("iam.update_user", "done"),
        ("iam.create_user", "done"),
    ]
    me = (await owner.get(f"{IAM}/me"))["user"]["id"]
    for one in found:
        assert (one["actor"], one["plugin"], one["target"]) == (f"user:{me}", "kernel.iam", path)
        assert (one["session_id"], one["on_behalf_of"]) == (owner.session["session_id"], None)
    assert found[2]["request_id"] == made.headers["X-Request-ID"]
    everything = str(await records(owner))
    assert password not in everything
    assert body["email"] not in everything
    assert await records(owner, operation="iam.create_user", target=f"{IAM}/users") == [found[2]]


async def test_who_is_refused_is_recorded(kernel: KernelProcess, tenant: Tenant) -> None:
    viewer = await tenant.add_user("viewer")
    (await viewer.delete(f"{IAM}/users/{viewer.id}")).expect(403)
    (await viewer.get(f"{IAM}/users")).expect(403)
    admin = await tenant.add_user("admin")
    too_much = {"email": f"{unique()}@x.example.com", "name": "X", "roles": ["owner"]}
    (await admin.post(f"{IAM}/users", too_much)).expect(403)

    (by_viewer,) = await records(tenant.owner, actor=f"user:{viewer.id}")
    (by_admin,) = await records(tenant.owner, actor=f"user:{admin.id}")

    assert (by_viewer["operation"], by_viewer["outcome"]) == ("iam.delete_user", "refused")
    assert by_viewer["target"] == f"{IAM}/users/{viewer.id}"
    assert (by_admin["operation"], by_admin["outcome"], by_admin["target"]) == (
        "iam.create_user",
        "refused",
        f"{IAM}/users",
    )


async def test_behind_a_key_is_its_maker(kernel: KernelProcess, tenant: Tenant) -> None:
    key = (await tenant.owner.post(f"{IAM}/api-keys", {"name": "robot", "permissions": ["iam.role.create"]})).expect(
        201
    )
    robot = kernel.client(key["secret"], tenant.owner.source_address)
    role = (await robot.post(f"{IAM}/roles", {"name": unique("r"), "permissions": []})).expect(201)

    (found,) = await records(tenant.owner, actor=f"api_key:{key['id']}")

    me = (await tenant.owner.get(f"{IAM}/me"))["user"]["id"]
    assert (found["on_behalf_of"], found["target"]) == (f"user:{me}", f"{IAM}/roles/{role['id']}")
    assert key["secret"] not in str(await records(tenant.owner))


async def test_log_ins_are_recorded_and_refreshes_are_not(kernel: KernelProcess) -> None:
    tenant = await kernel.sign_up()
    owner = tenant.owner
    again = await log_in(owner.url, owner.source_address, tenant.slug, owner.email, owner.password)
    client = kernel.client(source_address=owner.source_address)
    (await client.post(f"{IAM}/sessions/refresh", {"refresh_token": again.session["refresh_token"]})).expect(200)
    (await owner.post(f"{IAM}/check", {"permission": "iam.user.read"})).expect(200)
    wrong = {"tenant": tenant.slug, "email": owner.email, "password": new_password()}
    (await client.post(f"{IAM}/sessions", wrong)).expect(401)

    found = await records(owner)

    assert {(one["operation"], one["actor"], one["outcome"]) for one in found} == {
        ("iam.log_in", "anonymous", "done"),
        ("iam.sign_up", "anonymous", "done"),
    }
    assert len(found) == 3
    for secret in (owner.password, owner.email, again.session["refresh_token"], again.session["access_token"]):
        assert secret not in str(found)


async def test_nobody_sees_the_records_of_another_tenant(kernel: KernelProcess, tenant: Tenant) -> None:
    other = await kernel.sign_up()
    person = await other.add_user("viewer")

    assert person.id not in str(await records(tenant.owner))
    assert await records(tenant.owner, target=f"{IAM}/users/{person.id}") == []
    assert len(await records(other.owner, target=f"{IAM}/users/{person.id}")) == 1


async def test_records_are_for_those_who_may_read_them(kernel: KernelProcess, tenant: Tenant) -> None:
    auditor = await tenant.add_user(await tenant.add_role("audit.record.read"))

    (await auditor.get(RECORDS)).expect(200)
    (await (await tenant.add_user("admin")).get(RECORDS)).expect(200)
    for role in ("member", "viewer"):
        assert (await (await tenant.add_user(role)).get(RECORDS)).expect(403).code == "not_allowed"
    assert (await kernel.client().get(RECORDS)).expect(401).code == "not_authenticated"
    for method in ("POST", "PUT", "PATCH", "DELETE"):
        assert (await tenant.owner.request(method, RECORDS, {})).status == 405


async def test_pages_follow_one_another_newest_first(kernel: KernelProcess) -> None:
    owner = (await kernel.sign_up()).owner
    names = [unique("r") for _ in range(5)]
    ids = [(await owner.post(f"{IAM}/roles", {"name": n, "permissions": []})).expect(201)["id"] for n in names]
    query = f"{RECORDS}?operation=iam.create_role&limit=2"
    first = (await owner.get(query)).expect(200)
    (await owner.post(f"{IAM}/roles", {"name": unique("r"), "permissions": []})).expect(201)
    seen, cursor = list(first["items"]), first["next_cursor"]
    while cursor is not None:
        page = (await owner.get(f"{query}&cursor={cursor}")).expect(200)
        seen, cursor = seen + page["items"], page["next_cursor"]

    assert [one["target"].rpartition("/")[2] for one in seen] == ids[::-1]
    foreign = await owner.get(f"{RECORDS}?operation=iam.log_in&cursor={first['next_cursor']}")
    assert foreign.expect(400).code == "bad_cursor"
    assert (await owner.get(f"{RECORDS}?limit=201")).expect(422).code == "invalid_request"


async def test_records_of_a_time(kernel: KernelProcess) -> None:
    owner = (await kernel.sign_up()).owner
    ids = [
        (await owner.post(f"{IAM}/roles", {"name": unique("r"), "permissions": []})).expect(201)["id"] for _ in "abc"
    ]
    newest, middle, oldest = await records(owner, operation="iam.create_role")
    assert [one["target"].rpartition("/")[2] for one in (oldest, middle, newest)] == ids

    since, until = (moment["at"].replace("+", "%2B") for moment in (middle, newest))

    assert await records(owner, operation="iam.create_role", since=since) == [newest, middle]
    assert await records(owner, operation="iam.create_role", since=since, until=until) == [middle]


async def test_what_operators_do_with_plugins_is_recorded(kernel: KernelProcess) -> None:
    operator = await kernel.operator()
    before = await records(operator, operation="plugin.install_plugin")
    refused = await operator.post("/api/v1/plugins/kernel.iam/disable")
    (await operator.post("/api/v1/plugins", {"requirement": "/etc/passwd"})).expect(422)

    assert refused.status in (409, 422), refused
    assert await records(operator, operation="plugin.install_plugin") == before
    tried = await kernel.sign_up()
    (await tried.owner.post("/api/v1/plugins/acme.crm/disable")).expect(403)
    (found,) = await records(tried.owner, operation="plugin.disable_plugin")
    assert (found["plugin"], found["outcome"], found["target"]) == (
        "kernel.host",
        "refused",
        "/api/v1/plugins/acme.crm/disable",
    )
