"""Tenants and their people, made for one test over HTTP."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from plugin_api.testing.client import Client

IAM: Final = "/api/v1/iam"


def unique(prefix: str = "test") -> str:
    """A lower-case name that nobody else has: `prefix` and ten hexadecimal digits."""
    return f"{prefix}{secrets.token_hex(5)}"


class Person(Client):
    """Somebody who is logged in: a client with the access token."""

    def __init__(
        self, url: str, source_address: str | None, tenant: str, email: str, password: str, session: Mapping[str, Any]
    ) -> None:
        super().__init__(url, session["access_token"], source_address)
        self.tenant = tenant
        """Slug of the tenant."""
        self.email = email
        self.password = password
        self.session = dict(session)
        """What the log-in answered: `session_id access_token refresh_token ...`."""
        self.id = ""
        """User id, where the test made the user."""

    async def log_in_again(self) -> Person:
        """A further session of the same person."""
        return await log_in(self.url, self.source_address, self.tenant, self.email, self.password)


@dataclass
class Tenant:
    """A customer, made for one test."""

    id: str
    slug: str
    owner: Person
    people: list[Person] = field(default_factory=list)
    """Whom `add_user` made."""

    async def add_user(self, *roles: str) -> Person:
        """Make a user with these roles and log in as that user."""
        email, password = f"{unique('u')}@{self.slug}.example.com", new_password()
        body = {"email": email, "name": "Una User", "password": password, "roles": list(roles)}
        made = (await self.owner.post(f"{IAM}/users", body)).expect(201)
        person = await log_in(self.owner.url, self.owner.source_address, self.slug, email, password)
        person.id = made["id"]
        self.people.append(person)
        return person

    async def add_role(self, *permissions: str) -> str:
        """Make a role with exactly these permissions; its name."""
        name = unique("role")
        (await self.owner.post(f"{IAM}/roles", {"name": name, "permissions": list(permissions)})).expect(201)
        return name


def new_password() -> str:
    """A password that nobody has."""
    return f"Horse-{secrets.token_urlsafe(15)}"


async def log_in(url: str, source_address: str | None, tenant: str, email: str, password: str) -> Person:
    """Open a session. AssertionError when it is refused."""
    credentials = {"tenant": tenant, "email": email, "password": password}
    answer = await Client(url, None, source_address).post(f"{IAM}/sessions", credentials)
    return Person(url, source_address, tenant, email, password, answer.expect(201).json)


async def sign_up(url: str, source_address: str | None, changes: Mapping[str, Any]) -> Tenant:
    """Make a tenant and log its owner in. AssertionError when either is refused."""
    slug, password = unique(), new_password()
    usual = {"slug": slug, "name": "Test Ltd", "owner_email": f"owner@{slug}.example.com", "owner_password": password}
    body = {**usual, **changes}
    made = (await Client(url, None, source_address).post(f"{IAM}/tenants", body)).expect(201)
    owner = await log_in(url, source_address, body["slug"], body["owner_email"], body["owner_password"])
    owner.id = made["owner_id"]
    return Tenant(made["id"], body["slug"], owner)
