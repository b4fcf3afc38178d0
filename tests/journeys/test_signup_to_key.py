"""From a stranger to a working API key and back: the whole kernel, through HTTP only."""

from __future__ import annotations

from plugin_api.testing import KernelProcess, Tenant, unique
from plugin_api.testing.people import IAM, log_in, new_password


async def test_a_stranger_gets_a_tenant_a_role_a_user_and_a_key(kernel: KernelProcess) -> None:
    source = kernel.new_source_address()
    slug, password = unique(), new_password()
    email = f"owner@{slug}.example.com"
    sign_up = {"slug": slug, "name": "Journey Ltd", "owner_email": email, "owner_password": password}
    made = (await kernel.client(source_address=source).post(f"{IAM}/tenants", sign_up)).expect(201)
    owner = await log_in(kernel.url, source, slug, email, password)
    me = (await owner.get(f"{IAM}/me")).expect(200)
    assert (me["user"]["id"], me["tenant"]["id"], me["roles"]) == (made["owner_id"], made["id"], ["owner"])

    role = unique("reader")
    (await owner.post(f"{IAM}/roles", {"name": role, "permissions": ["iam.user.read"]})).expect(201)
    tenant = Tenant(made["id"], slug, owner)
    reader = await tenant.add_user(role)
    (await reader.get(f"{IAM}/users")).expect(200)
    refused = (await reader.post(f"{IAM}/users", {"email": "x@y.example.com", "name": "X", "roles": []})).expect(403)
    assert "iam.user.create" in refused["detail"]

    key = (await owner.post(f"{IAM}/api-keys", {"name": "robot", "permissions": ["iam.user.read"]})).expect(201)
    robot = kernel.client(key["secret"], source)
    listed = (await robot.get(f"{IAM}/users")).expect(200)
    assert {user["email"] for user in listed["items"]} == {email, reader.email}
    (await robot.post(f"{IAM}/users", {"email": "x@y.example.com", "name": "X", "roles": []})).expect(403)

    (await owner.delete(f"{IAM}/api-keys/{key['id']}", etag=key.etag)).expect(204)
    (await robot.get(f"{IAM}/users")).expect(401)


async def test_a_revoked_session_ends_at_once_and_others_go_on(tenant: Tenant) -> None:
    other = await tenant.owner.log_in_again()
    (await other.get(f"{IAM}/me")).expect(200)
    (await tenant.owner.delete(f"{IAM}/sessions/{other.session['session_id']}")).expect(204)

    (await other.get(f"{IAM}/me")).expect(401)
    (await tenant.owner.get(f"{IAM}/me")).expect(200)
    refresh = {"refresh_token": other.session["refresh_token"]}
    (await other.post(f"{IAM}/sessions/refresh", refresh)).expect(401)


async def test_a_session_is_refreshed(tenant: Tenant, kernel: KernelProcess) -> None:
    client = kernel.client(source_address=tenant.owner.source_address)
    refresh = {"refresh_token": tenant.owner.session["refresh_token"]}
    refreshed = (await client.post(f"{IAM}/sessions/refresh", refresh)).expect(200)

    (await kernel.client(refreshed["access_token"]).get(f"{IAM}/me")).expect(200)
    assert refreshed["refresh_token"] != refresh["refresh_token"]


async def test_a_role_that_is_narrowed_takes_effect_at_once(tenant: Tenant) -> None:
    name = await tenant.add_role("iam.user.read", "iam.role.read")
    reader = await tenant.add_user(name)
    (await reader.get(f"{IAM}/users")).expect(200)
    roles = (await tenant.owner.get(f"{IAM}/roles?limit=200")).expect(200)
    role = next(role for role in roles["items"] if role["name"] == name)
    path = f"{IAM}/roles/{role['id']}"
    read = (await tenant.owner.get(path)).expect(200)
    (await tenant.owner.patch(path, {"permissions": ["iam.role.read"]}, etag=read.etag)).expect(200)

    (await reader.get(f"{IAM}/users")).expect(403)
    (await reader.get(f"{IAM}/roles")).expect(200)


async def test_tenants_do_not_see_one_another(tenant: Tenant, kernel: KernelProcess) -> None:
    stranger = (await kernel.sign_up()).owner
    user = await tenant.add_user("member")
    own, other = f"{IAM}/users/{user.id}", f"{IAM}/tenants/{tenant.id}"

    for path in (own, other):
        (await tenant.owner.get(path)).expect(200)
        (await stranger.get(path)).expect(404)
    (await stranger.patch(own, {"name": "Mine"}, etag='"1"')).expect(404)
    (await stranger.delete(own, etag='"1"')).expect(404)
    listed = (await stranger.get(f"{IAM}/users")).expect(200)
    assert [item["id"] for item in listed["items"]] == [stranger.id]
    (await user.get(f"{IAM}/me")).expect(200)


async def test_a_removed_user_is_out_at_once(tenant: Tenant) -> None:
    user = await tenant.add_user("member")
    path = f"{IAM}/users/{user.id}"
    (await tenant.owner.delete(path, etag=(await tenant.owner.get(path)).etag)).expect(204)

    (await user.get(f"{IAM}/me")).expect(401)
    credentials = {"tenant": tenant.slug, "email": user.email, "password": user.password}
    (await user.post(f"{IAM}/sessions", credentials)).expect(401)
