"""API keys: for machines that act for the person who made them.

A key holds what it was given as far as its maker still holds it, at every call. Whoever may revoke keys
may revoke everybody's: a key that has leaked must be stopped by whoever notices first. A key that makes
another takes it along when it ends.
"""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from core_plugins.iam.model.grants import Subject, platform_violations
from core_plugins.iam.model.issued import Issued, issue_api_key, parse_api_key
from core_plugins.iam.model.recognition import (
    LookUp,
    Recognised,
    api_key_key,
    tenant_key,
    user_key,
)
from core_plugins.iam.model.tokens import is_same, rejected
from core_plugins.iam.operations.authorize import held_by_key, maker_of, refuse
from core_plugins.iam.operations.parts import OperationGroup, Parts
from core_plugins.iam.storage.api_keys import (
    KeyRow,
    NewKey,
    delete_key,
    find_key,
    find_key_row,
    insert_key,
    list_keys,
    lock_key,
    note_key_uses,
    view_key,
)
from plugin_api.call import Actor, Call, Identity
from plugin_api.contracts.iam import ApiKeyList, ApiKeyMade, ApiKeyRef, ApiKeyView, NewApiKey
from plugin_api.errors import NotFound, StoreUnavailable
from plugin_api.ids import PLATFORM_TENANT_ID, uuid7
from plugin_api.operation import operation
from plugin_api.pages import Page, keyset
from plugin_api.ports.database import Tx

NO_KEY: Final = "there is no such API key in this tenant"
LOOK_UP_S_MAX: Final = 4.0
USED_EVERY_S: Final = 60
"""`last_used_at` of a key is exact to this."""
USES_PAUSE_S: Final = 2.0
"""Uses are collected for so long before they are written together."""
USES_MAX: Final = 10_000
"""Keys whose uses wait to be written; of a further one this use is not noted."""


class ApiKeyOperations(OperationGroup):
    """`/api-keys`."""

    @operation("POST /api-keys", permission="api_key.create", status=201)
    async def create_api_key(self, call: Call, request: NewApiKey) -> ApiKeyMade:
        """Make an API key; its secret is shown in this answer and never again.

        403 when it would hold more than the caller. A key that is made by a key ends with it at the
        latest.
        """
        in_platform = call.tenant_id == PLATFORM_TENANT_ID
        refuse(platform_violations(request.permissions, in_platform=in_platform))
        maker, now, tx = maker_of(call), self._parts.clock.now(), await call.tx()
        held = await self._parts.access.held(call, tx, now)
        permissions = list(dict.fromkeys(request.permissions))
        held.require(permissions, "the key would hold")
        parent = await _parent(call, tx)
        issued = issue_api_key(call.tenant_id, uuid7())
        new = NewKey(
            issued.id, request.name, maker, permissions, issued.hash(),
            _end(request, parent, now), parent.id if parent is not None else None,
        )  # fmt: skip
        await insert_key(tx, new, now)
        return ApiKeyMade(new.id, new.name, maker, permissions, new.expires_at, None, 1, now, issued.text)

    @operation("GET /api-keys/{key_id}", permission="api_key.read")
    async def get_api_key(self, call: Call, request: ApiKeyRef) -> ApiKeyView:
        """Answer one API key, without its secret."""
        return _present(await find_key(await call.tx(), request.key_id))

    @operation("GET /api-keys", permission="api_key.read")
    async def list_api_keys(self, call: Call, request: ApiKeyList) -> Page[ApiKeyView]:
        """List the tenant's API keys, without their secrets."""
        place = keyset(call, request)
        rows = await list_keys(await call.tx(), request, place)
        return place.page(call, rows, request.limit, view_key)

    @operation("DELETE /api-keys/{key_id}", permission="api_key.delete")
    async def delete_api_key(self, call: Call, request: ApiKeyRef) -> None:
        """Revoke an API key, and every key that came from it: their very next call is 401."""
        tx = await call.tx()
        key = _present(await lock_key(tx, request.key_id))
        call.expect_version(key.version)
        await self._changed(call, *map(api_key_key, await delete_key(tx, key.id)))


async def _parent(call: Call, tx: Tx) -> ApiKeyView | None:
    """The key that makes another one, or None when a person does."""
    if call.actor.kind != "api_key":
        return None
    parent = await find_key(tx, UUID(call.actor.id))
    if parent is None:
        raise rejected()
    return parent


def _end(request: NewApiKey, parent: ApiKeyView | None, now: datetime) -> datetime | None:
    ends = [] if parent is None or parent.expires_at is None else [parent.expires_at]
    if request.expires_in_s is not None:
        ends.append(now + timedelta(seconds=request.expires_in_s))
    return min(ends, default=None)


def _present(key: ApiKeyView | None) -> ApiKeyView:
    if key is None:
        raise NotFound(NO_KEY)
    return key


class ApiKeyIdentifier:
    """Recognises API keys; a part of what fills the slot `identify`."""

    def __init__(self, parts: Parts) -> None:
        self._access = parts.access
        self._calls = parts.calls
        self._clock = parts.clock
        self._used: dict[UUID, UUID] = {}
        self._noted = asyncio.Event()

    async def identify_key(self, token: str, look_up: LookUp) -> Recognised:
        """Who shows this API key; what it depends on is noted in `look_up` before it is read.

        Raises:
            NotAuthenticated: the key is malformed, unknown, revoked or expired, or its maker or tenant is
                not active; the answer is the same for all of them.
            StoreUnavailable: it cannot be told now.
        """
        issued = parse_api_key(token)
        if issued is None:
            raise rejected()
        look_up.watch.on(tenant_key(issued.tenant_id), api_key_key(issued.id))
        opened = self._calls.open(issued.tenant_id, "identify", deadline_s=LOOK_UP_S_MAX)
        async with opened as call:
            tx = await call.tx()
            key = await _living_key(tx, issued, look_up.now)
            # Only now is it known whose it is: that person's stamp comes before what they hold is read.
            look_up.watch.on(user_key(issued.tenant_id, key.user_id))
            maker = await self._access.load(tx, key.user_id)
        if maker is None or not maker.is_active:
            raise rejected()
        self._note(issued.tenant_id, key, look_up.now)
        return Recognised(self._identity(key, maker), key.expires_at)

    def _identity(self, key: KeyRow, maker: Subject) -> Identity:
        grants = held_by_key(key.permissions, maker).grants
        mask = self._access.mask_of(grants, maker.tenant_id)
        return Identity(maker.tenant_id, Actor("api_key", str(key.id)), mask, maker.user_id)

    # ------------------------------------------------------------------------------------- uses

    def _note(self, tenant_id: UUID, key: KeyRow, now: datetime) -> None:
        written_at = key.last_used_at
        if written_at is not None and now - written_at < timedelta(seconds=USED_EVERY_S):
            return
        if len(self._used) < USES_MAX:
            self._used[key.id] = tenant_id
            self._noted.set()

    async def write_uses(self) -> None:
        """Write `last_used_at` of keys that were used, apart from any request; a task that never ends."""
        while True:
            await self._noted.wait()
            await asyncio.sleep(USES_PAUSE_S)
            await self.flush_uses()

    async def flush_uses(self) -> None:
        """Write what was noted so far. While the store is away it is dropped: the next use is noted again."""
        used, self._used = self._used, {}
        self._noted.clear()
        by_tenant: dict[UUID, list[UUID]] = {}
        for key_id, tenant_id in used.items():
            by_tenant.setdefault(tenant_id, []).append(key_id)
        for tenant_id, key_ids in by_tenant.items():
            try:
                async with self._calls.open(tenant_id, "note uses of API keys") as call:
                    await note_key_uses(await call.tx(), key_ids, self._clock.now())
            except StoreUnavailable:
                return


async def _living_key(tx: Tx, issued: Issued, now: datetime) -> KeyRow:
    key = await find_key_row(tx, issued.id)
    if key is None or not is_same(issued.hash(), key.secret_hash) or not key.lives(now):
        raise rejected()
    return key
