"""What the first start makes: the tenant `platform` of the operators, and the tenant `demo`.

Safe with any number of processes at once, and at every later start: what is there stays as it is.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from functools import partial
from uuid import UUID

from core_plugins.iam.model.signup import DEMO_SLUG, PLATFORM_SLUG
from core_plugins.iam.operations.founding import found_tenant
from core_plugins.iam.operations.parts import Parts
from core_plugins.iam.storage import tenants
from plugin_api.contracts.iam import SignUp
from plugin_api.ids import PLATFORM_TENANT_ID, uuid7
from plugin_api.settings import Secret

OPERATOR_EMAIL = "operator@platform.localhost"
DEMO_EMAIL = "owner@demo.localhost"
GENERATED_BYTES = 18


async def make_first_tenants(parts: Parts, announce: Callable[[str], None]) -> None:
    """Make the tenants that every kernel begins with, unless they are there."""
    settings = parts.settings
    await _make(
        parts,
        announce,
        PLATFORM_TENANT_ID,
        SignUp(slug=PLATFORM_SLUG, name="Platform", owner_email=OPERATOR_EMAIL, owner_password=""),
        settings.operator_password,
    )
    if settings.demo:
        demo = SignUp(slug=DEMO_SLUG, name="Demo", owner_email=DEMO_EMAIL, owner_password="")
        await _make(parts, announce, uuid7(), demo, settings.demo_password)


async def _make(
    parts: Parts, announce: Callable[[str], None], tenant_id: UUID, asked: SignUp, given: Secret[str] | None
) -> None:
    if await _exists(parts, asked.slug):
        return
    password = given.reveal() if given is not None else secrets.token_urlsafe(GENERATED_BYTES)
    password_hash = await parts.hasher.hash(password)
    async with parts.calls.open(tenant_id, "first start") as call:
        tx = await call.tx()
        await tenants.lock_first_start(tx)
        if await tenants.find_tenant_by_slug(tx, asked.slug) is not None:
            return
        await found_tenant(tx, tenant_id, asked, password_hash)
        if given is None:
            # Told before the commit: after a crash in between the next start makes and tells another one, while a
            # password that was stored and never told would be lost.
            announce(f"{asked.owner_email} may log in to the tenant {asked.slug} with the password {password}")
        call.after_commit(partial(parts.announcer.enqueue, tenant_id))


async def _exists(parts: Parts, slug: str) -> bool:
    async with parts.calls.open(None, "first start") as call, call.system_tx("first start") as tx:
        return await tenants.find_tenant_by_slug(tx, slug) is not None
