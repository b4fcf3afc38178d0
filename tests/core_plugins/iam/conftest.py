"""A kernel of this process with the real database and the access half of iam: who may do what, without log-ins."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from time import monotonic
from typing import Any, cast
from uuid import UUID

import msgspec
import pytest
from msgspec import Struct

from core_plugins.data.plugin import DataPlugin
from core_plugins.data.settings import Settings as DataSettings
from core_plugins.iam.drivers.argon2_hasher import Argon2Hasher
from core_plugins.iam.model.recognition import Recollection
from core_plugins.iam.operations.api_keys import ApiKeyIdentifier, ApiKeyOperations
from core_plugins.iam.operations.authorize import Access
from core_plugins.iam.operations.check import CheckOperations
from core_plugins.iam.operations.founding import found_tenant
from core_plugins.iam.operations.invitations import InvitationOperations
from core_plugins.iam.operations.parts import Parts
from core_plugins.iam.operations.roles import RoleOperations
from core_plugins.iam.operations.users import UserOperations
from core_plugins.iam.settings import Settings
from core_plugins.iam.storage.roles import named_roles
from core_plugins.iam.storage.sessions import NewSession, insert_session
from core_plugins.iam.storage.users import insert_user, set_user_roles
from host.discovery import Found, discover
from host.generations import Generation
from host.kernel import Kernel, Place
from host.lifecycle import Lifecycle
from host.migrations import migrate
from host.stamps import FileStamps, create_stamps
from plugin_api import hookimpl
from plugin_api.call import ANONYMOUS, Actor, Call, Identity
from plugin_api.contracts.iam import NewApiKey, NewRole, SignUp
from plugin_api.ids import uuid7
from plugin_api.pipeline import Credentials, PipelineSlots
from plugin_api.ports.migrations import MIGRATOR
from plugin_api.registrar import Registrar
from plugin_api.testing.clock import FakeClock
from tests.conftest import MakeDatabase


class AccessOperations(UserOperations, RoleOperations, InvitationOperations, ApiKeyOperations, CheckOperations):
    """The access half."""


class NobodyKnown:
    """No door is used here, so nobody is identified at one."""

    def recall(self, credentials: Credentials) -> Identity | None:
        return None

    async def identify(self, credentials: Credentials) -> Identity | None:
        return None


class AccessPlugin:
    """`kernel.iam` without log-ins; hashes cheaply."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.hasher = Argon2Hasher(memory_kib=8, passes=1, threads=1, queue_max=64)
        self.parts: Parts = cast("Parts", None)

    @hookimpl
    def pk_register(self, registrar: Registrar) -> None:
        absent: Any = None
        self.parts = Parts(
            settings=Settings(),
            profile="embedded",
            clock=self.clock,
            stamps=registrar.stamps,
            cache=absent,
            secrets=absent,
            calls=registrar.calls,
            log=registrar.log,
            hasher=self.hasher,
            access=Access(),
            keys=absent,
            throttle=absent,
            providers=absent,
            announcer=absent,
        )
        registrar.operations(AccessOperations(self.parts))

    @hookimpl
    def pk_pipeline(self, slots: PipelineSlots) -> None:
        self.parts.access.attach(slots.permissions)
        slots.identify(NobodyKnown())
        slots.authorize(self.parts.access)


@dataclass
class Iam:
    """The kernel, and what it takes to act in it."""

    kernel: Kernel
    lifecycle: Lifecycle
    plugin: AccessPlugin
    generation: Generation
    clock: FakeClock
    _numbers: count[int] = field(default_factory=lambda: count(1))

    @property
    def parts(self) -> Parts:
        return self.plugin.parts

    def unique(self, prefix: str) -> str:
        return f"{prefix}{next(self._numbers)}"

    async def tenant(self, tenant_id: UUID | None = None) -> Tenant:
        """Found a tenant; its owner is there."""
        tenant_id, slug = tenant_id or uuid7(), self.unique("tenant")
        asked = SignUp(slug, "A tenant", f"owner@{slug}.example.com", "")
        async with self.parts.calls.open(tenant_id, "found") as call:
            view = await found_tenant(await call.tx(), tenant_id, asked, "no hash")
        return Tenant(self, tenant_id, slug, Person(self, tenant_id, view.owner_id, asked.owner_email))

    async def anonymous(self, name: str, request: Struct) -> Any:
        """Call a public operation."""
        call = Call(
            self.kernel.runtime(self.generation),
            tenant_id=None,
            actor=ANONYMOUS,
            request_id="r",
            deadline=monotonic() + 10,
        )
        return await getattr(self.kernel.proxy("iam"), name)(call, request)

    async def show_key(self, secret: str) -> Person:
        """Whoever an API key is recognised as."""
        look_up = Recollection(self.parts.stamps, monotonic, self.parts.access.epoch).start(self.clock.now())
        identity = (await ApiKeyIdentifier(self.parts).identify_key(secret, look_up)).identity
        assert identity.user_id is not None
        return Person(self, identity.tenant_id, identity.user_id, "", identity)


@dataclass
class Tenant:
    """A tenant with its owner."""

    iam: Iam
    id: UUID
    slug: str
    owner: Person

    async def add(self, *roles: str) -> Person:
        """Add a person with these roles, past every rule."""
        user_id, email = uuid7(), f"{self.iam.unique('person')}@{self.slug}.example.com"
        async with self.iam.parts.calls.open(self.id, "add") as call:
            tx = await call.tx()
            await insert_user(tx, id=user_id, email=email, name="Una", password_hash="no hash")
            known = await named_roles(tx, roles)
            await set_user_roles(tx, user_id, [known[role].id for role in roles])
        return Person(self.iam, self.id, user_id, email)

    async def role(self, *permissions: str) -> Any:
        """Make a role as the owner."""
        return await self.owner("create_role", NewRole(self.iam.unique("role"), list(permissions)))

    async def fetch(self, sql: str, *arguments: Any) -> list[Any]:
        """Read what is stored for this tenant."""
        async with self.iam.parts.calls.open(self.id, "look") as call:
            return list(await (await call.tx()).fetch(sql, *arguments))


@dataclass
class Person:
    """Somebody who calls operations; `await person("get_user", UserRef(...), version=1)`."""

    iam: Iam
    tenant_id: UUID
    id: UUID
    email: str
    identity: Identity | None = None
    """Kept when it is an API key's; a person's is made anew for each call, as for a new request."""

    async def recognised(self) -> Identity:
        """Who this is, with the mask of now."""
        if self.identity is not None:
            return self.identity
        access = self.iam.parts.access
        async with self.iam.parts.calls.open(self.tenant_id, "identify") as call:
            subject = await access.load(await call.tx(), self.id)
        mask = access.mask_of(subject.grants, self.tenant_id) if subject is not None else 0
        return Identity(self.tenant_id, Actor("user", str(self.id)), mask, self.id)

    async def __call__(self, name: str, request: Struct, *, version: int | None = None) -> Any:
        identity, kernel = await self.recognised(), self.iam.kernel
        access = self.iam.parts.access
        call = Call(
            kernel.runtime(self.iam.generation),
            tenant_id=self.tenant_id,
            actor=identity.actor,
            request_id="r",
            deadline=monotonic() + 10,
            identity=identity,
            allows=lambda permission: access.allows(identity, permission),
            if_match=None if version is None else f'"{version}"',
        )
        return await getattr(kernel.proxy("iam"), name)(call, request)

    async def log_in(self) -> UUID:
        """Open a session, past the log-in."""
        session_id, now = uuid7(), self.iam.clock.now()
        async with self.iam.parts.calls.open(self.tenant_id, "log in") as call:
            ends = now.replace(year=now.year + 1)
            new = NewSession(session_id, self.id, "bearer", None, "127.0.0.1", "", ends)
            await insert_session(await call.tx(), new, now)
        return session_id

    async def key(self, *permissions: str, **given: Any) -> Any:
        """Make an API key."""
        return await self("create_api_key", NewApiKey("a key", list(permissions), **given))


def found_plugin(plugin_id: str) -> Found:
    return next(found for found in discover() if found.id == plugin_id)


@pytest.fixture
async def iam(make_database: MakeDatabase, tmp_path: Path) -> AsyncIterator[Iam]:
    """A kernel with one database of its own; no tenant is there yet."""
    dsn = await make_database("iam")
    create_stamps(tmp_path / "stamps")
    place = Place(tmp_path, "embedded", 0, {"postgres": dsn})
    kernel = Kernel(place, FileStamps(tmp_path / "stamps"), b"k" * 32, lambda text: None)

    async def run_migrations(generation: Generation, found: Any) -> list[str]:
        provided = kernel.table.services.get(MIGRATOR.name)
        if provided is None:
            return []
        schema = generation.names.schema
        return await migrate(
            cast("Any", provided.implementation), generation.plugin_id, schema, found.folder / "migrations"
        )

    lifecycle = Lifecycle(kernel, run_migrations)
    clock = FakeClock(datetime.now(UTC))
    plugin = AccessPlugin(clock)
    await lifecycle.activate(found_plugin("kernel.data"), DataPlugin(), DataSettings(pool_size=8))
    found = found_plugin("kernel.iam")
    half = replace(found, manifest=_without_others(found.manifest))
    generation = await lifecycle.activate(half, plugin, Settings())
    yield Iam(kernel, lifecycle, plugin, generation, clock)
    await lifecycle.deactivate("kernel.iam")
    await lifecycle.deactivate("kernel.data")
    plugin.hasher.close()


def _without_others(manifest: Any) -> Any:
    """The manifest of iam as far as this half provides it."""
    return msgspec.structs.replace(manifest, provides=["iam 1.0"])


@pytest.fixture
async def tenant(iam: Iam) -> Tenant:
    """A tenant with its owner."""
    return await iam.tenant()
