"""The capability: sealing, fingerprints and named secrets, under a data key for each tenant."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncGenerator, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Protocol
from uuid import UUID

from core_plugins.vault import model, storage
from core_plugins.vault.model import DataKey, Keyring, WrappedKey
from core_plugins.vault.settings import Settings
from plugin_api.clock import Clock
from plugin_api.errors import DeadlinePassed, Gone, InvalidRequest, LimitReached, NotFound, StoreUnavailable
from plugin_api.ids import uuid7
from plugin_api.ports.database import Tx
from plugin_api.ports.secrets import Secrets
from plugin_api.ports.stamps import Stamps
from plugin_api.registrar import Calls, Logger
from plugin_api.settings import Secret

STORE_S: Final = 5.0
"""What one use of the store may take."""
RELOAD_S: Final = 1.0
"""A keyring that lacks a version is read again at most this often: forged values cost no more than that."""
REWRAP_BATCH: Final = 100
DAY_S: Final = 86_400


class KeyEncryption(Protocol):
    """Keeps the key-encryption keys and wraps data keys with them.

    Raises, all of them:
        StoreUnavailable: it is away, or a key is missing.
    """

    @property
    def place(self) -> str:
        """Where the keys are, for operators."""
        ...

    @property
    def current_id(self) -> str:
        """Id of the key that wraps."""
        ...

    @property
    def made_at(self) -> datetime:
        """When the current key was made."""
        ...

    async def open(self, *, create: bool) -> None:
        """Make ready; make the first key if there is none and `create` says so."""
        ...

    async def ids(self) -> frozenset[str]:
        """Ids of all keys that there are now."""
        ...

    async def wrap(self, content: Secret[bytes]) -> tuple[str, bytes]:
        """Wrap with the current key; (id of that key, wrapped)."""
        ...

    async def unwrap(self, kek_id: str, wrapped: bytes) -> Secret[bytes]:
        """Take out what `wrap` wrapped."""
        ...

    async def rotate(self) -> str:
        """Make a new key current, beside the old ones; its id."""
        ...

    async def retire(self, needed: Collection[str]) -> list[str]:
        """Forget keys that nothing needs; their ids."""
        ...


@dataclass(frozen=True)
class Entry:
    """A keyring in memory."""

    keyring: Keyring
    loaded_at: float
    slot: int
    stamp: int


class KeyStore:
    """The data keys of all tenants: in the database wrapped, in memory for a while."""

    def __init__(self, keks: KeyEncryption, calls: Calls, clock: Clock, stamps: Stamps, settings: Settings) -> None:
        self.keks = keks
        self._calls = calls
        self._clock = clock
        self._stamps = stamps
        self._settings = settings
        self._entries: OrderedDict[UUID, Entry] = OrderedDict()
        self._loads: dict[UUID, asyncio.Task[Keyring]] = {}

    @asynccontextmanager
    async def transaction(self, tenant_id: UUID, reason: str) -> AsyncGenerator[Tx]:
        """A transaction of the vault's own in a tenant; it cannot share its caller's.

        Raises:
            StoreUnavailable: the database is away, or too slow.
        """
        try:
            async with self._calls.open(tenant_id, reason, deadline_s=STORE_S) as call:
                yield await call.tx()
        except DeadlinePassed as error:
            raise StoreUnavailable("the store of the keys did not answer in time; try again") from error

    # -- use

    async def find(self, tenant_id: UUID) -> Keyring:
        """The tenant's keys, an empty ring if it has none."""
        entry = self._recall(tenant_id)
        return entry.keyring if entry is not None else await self._load_once(tenant_id)

    async def get(self, tenant_id: UUID) -> Keyring:
        """The tenant's keys, the first one made now if there is none.

        Raises:
            Gone: the tenant was erased and its keys with it.
        """
        keyring = await self.find(tenant_id)
        return keyring if keyring else await self._make_first(tenant_id)

    async def find_version(self, tenant_id: UUID, version: int) -> DataKey | None:
        """One version; read again from the store when it is newer than what is in memory."""
        key = (await self.find(tenant_id)).find(version)
        entry = self._entries.get(tenant_id)
        if key is None and entry is not None and self._clock.monotonic() - entry.loaded_at >= RELOAD_S:
            self.forget(tenant_id)
            key = (await self.find(tenant_id)).find(version)
        return key

    def forget(self, tenant_id: UUID) -> None:
        """Drop the tenant's keys from the memory of this process."""
        self._entries.pop(tenant_id, None)

    async def close(self) -> None:
        """Forget all keys and end what is being read."""
        loads = list(self._loads.values())
        for load in loads:
            load.cancel()
        await asyncio.gather(*loads, return_exceptions=True)
        self._entries.clear()

    # -- change

    async def add_version(self, tenant_id: UUID) -> int:
        """Make a new data key, which seals from now on; its version. What older ones sealed can still be opened.

        Raises:
            LimitReached: the tenant has DATA_KEY_VERSIONS_MAX versions.
        """
        newest = (await self.get(tenant_id)).newest.version
        if newest >= model.DATA_KEY_VERSIONS_MAX:
            raise LimitReached(f"a tenant has at most {model.DATA_KEY_VERSIONS_MAX} versions of its data key")
        await self._insert(tenant_id, await self._new_key(tenant_id, newest + 1))
        return (await self.get(tenant_id)).newest.version

    async def destroy(self, tenant_id: UUID) -> None:
        """Destroy all keys and named secrets of the tenant: what was sealed for it can never be opened again."""
        async with self.transaction(tenant_id, "destroy keys") as tx:
            await storage.lock_tenant(tx)
            await storage.destroy(tx)
        self._touch(tenant_id)

    async def rewrap(self, tenant_id: UUID) -> int:
        """Wrap the tenant's data keys with the current key-encryption key; how many. Sealed values stay as they are."""
        async with self.transaction(tenant_id, "rewrap keys") as tx:
            await storage.lock_tenant(tx)
            old = [key for key in await storage.find_data_keys(tx) if key.kek_id != self.keks.current_id]
            for key in old:
                content = await self.keks.unwrap(key.kek_id, key.wrapped)
                kek_id, wrapped = await self.keks.wrap(content)
                await storage.rewrap_data_key(tx, WrappedKey(key.id, key.version, kek_id, wrapped))
        return len(old)

    async def usage(self) -> dict[str, int]:
        """How many data keys each key-encryption key wraps."""
        async with self._calls.open(None, "key usage", deadline_s=STORE_S) as call, call.system_tx("key usage") as tx:
            return await storage.kek_usage(tx)

    async def tenants_to_rewrap(self) -> list[UUID]:
        """Some tenants whose data keys another than the current key-encryption key wraps."""
        async with self._calls.open(None, "rewrap keys", deadline_s=STORE_S) as call, call.system_tx("rewrap") as tx:
            rows = await storage.tenants_to_rewrap(tx, self.keks.current_id, REWRAP_BATCH)
            return [row["tenant_id"] for row in rows]

    # -- memory

    def _recall(self, tenant_id: UUID) -> Entry | None:
        entry = self._entries.get(tenant_id)
        if entry is None:
            return None
        age_s = self._clock.monotonic() - entry.loaded_at
        if age_s > self._settings.data_key_cache_s or self._stamps.read(entry.slot) != entry.stamp:
            del self._entries[tenant_id]
            return None
        self._entries.move_to_end(tenant_id)
        return entry

    def _keep(self, tenant_id: UUID, entry: Entry) -> None:
        self._entries[tenant_id] = entry
        while len(self._entries) > self._settings.data_keys_cached_max:
            self._entries.popitem(last=False)

    def _touch(self, tenant_id: UUID) -> None:
        self.forget(tenant_id)
        self._stamps.touch(_stamp_key(tenant_id))

    # -- store

    async def _load_once(self, tenant_id: UUID) -> Keyring:
        """Many callers, one reading; a caller that is cancelled takes it from nobody else."""
        load = self._loads.get(tenant_id)
        if load is None:
            load = self._loads[tenant_id] = asyncio.create_task(self._load(tenant_id), name="vault-load")
            load.add_done_callback(lambda task: self._loaded(tenant_id, task))
        return await asyncio.shield(load)

    def _loaded(self, tenant_id: UUID, task: asyncio.Task[Keyring]) -> None:
        self._loads.pop(tenant_id, None)
        if not task.cancelled():
            task.exception()  # every caller may be gone; then nobody else looks at it

    async def _load(self, tenant_id: UUID) -> Keyring:
        slot = self._stamps.slot(_stamp_key(tenant_id))
        stamp = self._stamps.read(slot)  # before the reading: a change meanwhile makes the entry stale
        async with self.transaction(tenant_id, "load keys") as tx:
            stored = await storage.find_data_keys(tx)
        keyring = Keyring([await self._unwrapped(tenant_id, key) for key in stored])
        if keyring:
            self._keep(tenant_id, Entry(keyring, self._clock.monotonic(), slot, stamp))
        return keyring

    async def _unwrapped(self, tenant_id: UUID, key: WrappedKey) -> DataKey:
        return model.from_envelope(tenant_id, key, await self.keks.unwrap(key.kek_id, key.wrapped))

    async def _make_first(self, tenant_id: UUID) -> Keyring:
        await self._insert(tenant_id, await self._new_key(tenant_id, 1))
        return await self.find(tenant_id)

    async def _new_key(self, tenant_id: UUID, version: int) -> WrappedKey:
        key_id = uuid7()
        content = model.envelope(tenant_id, key_id, version, model.new_key_bytes())
        kek_id, wrapped = await self.keks.wrap(content)
        return WrappedKey(key_id, version, kek_id, wrapped)

    async def _insert(self, tenant_id: UUID, key: WrappedKey) -> None:
        """Store a key, unless another process has stored its version: then that one is the tenant's key."""
        async with self.transaction(tenant_id, "make a key") as tx:
            await storage.lock_tenant(tx)
            if await storage.is_destroyed(tx):
                raise Gone("the tenant was erased and its keys with it", code="tenant_erased")
            if key.version not in {stored.version for stored in await storage.find_data_keys(tx)}:
                await storage.insert_data_key(tx, key)
        self._touch(tenant_id)


def _stamp_key(tenant_id: UUID) -> str:
    return f"vault:{tenant_id.hex}"


class VaultPart:
    """The port `Secrets` of one plugin."""

    def __init__(self, keys: KeyStore, plugin_id: str) -> None:
        self._keys = keys
        self._plugin = model.check_plugin_id(plugin_id)

    async def seal(self, tenant_id: UUID, purpose: str, plaintext: bytes, *, context: bytes = b"") -> bytes:
        """Encrypt; see the port."""
        bound = self._bound(b"value", tenant_id, model.check_purpose(purpose), model.check_context(context))
        return (await self._keys.get(tenant_id)).newest.seal(model.check_plaintext(plaintext), bound)

    async def open(self, tenant_id: UUID, purpose: str, sealed: bytes, *, context: bytes = b"") -> bytes:
        """Decrypt; see the port."""
        bound = self._bound(b"value", tenant_id, model.check_purpose(purpose), model.check_context(context))
        return await self._open(tenant_id, sealed, bound)

    async def fingerprint(self, tenant_id: UUID, purpose: str, value: bytes) -> bytes:
        """Make a keyed fingerprint; see the port."""
        use = model.joined(self._plugin.encode(), model.check_purpose(purpose))
        return (await self._keys.get(tenant_id)).fingerprint(use, model.check_plaintext(value))

    async def put(self, tenant_id: UUID, name: str, value: bytes) -> int:
        """Store a named secret; see the port. The oldest of more than SECRET_VERSIONS_MAX versions go.

        Raises:
            InvalidRequest: `secret_name_invalid`.
            LimitReached: the plugin has SECRET_NAMES_MAX names in the tenant.
        """
        model.check_name(name)
        model.check_plaintext(value, model.SECRET_BYTES_MAX)
        key = (await self._keys.get(tenant_id)).newest
        async with self._keys.transaction(tenant_id, "put a secret") as tx:
            await storage.lock_tenant(tx)
            await self._check_room(tx, name)
            version = await storage.newest_version(tx, self._plugin, name) + 1
            sealed = key.seal(value, self._secret_bound(tenant_id, name, version))
            await storage.insert_secret(tx, self._plugin, name, version, sealed, model.SECRET_VERSIONS_MAX)
        return version

    async def get(self, tenant_id: UUID, name: str, *, version: int | None = None) -> bytes:
        """Read a named secret; see the port."""
        model.check_name(name)
        async with self._keys.transaction(tenant_id, "get a secret") as tx:
            found = await storage.find_secret(tx, self._plugin, name, version)
        if found is None:
            raise NotFound("there is no such secret")
        number, sealed = found
        return await self._open(tenant_id, sealed, self._secret_bound(tenant_id, name, number))

    async def names(self, tenant_id: UUID, *, prefix: str = "") -> Sequence[str]:
        """Names of secrets; see the port."""
        if prefix:
            model.check_name(prefix)
        async with self._keys.transaction(tenant_id, "list secrets") as tx:
            return await storage.list_names(tx, self._plugin, prefix)

    async def delete(self, tenant_id: UUID, name: str) -> None:
        """Destroy a named secret; see the port."""
        model.check_name(name)
        async with self._keys.transaction(tenant_id, "delete a secret") as tx:
            await storage.lock_tenant(tx)
            await storage.delete_secret(tx, self._plugin, name)

    async def _check_room(self, tx: Tx, name: str) -> None:
        if await storage.is_destroyed(tx):
            raise Gone("the tenant was erased and its keys with it", code="tenant_erased")
        if await storage.newest_version(tx, self._plugin, name) == 0:
            names = await storage.count_names(tx, self._plugin)
            if names >= model.SECRET_NAMES_MAX:
                raise LimitReached(
                    f"a plugin keeps at most {model.SECRET_NAMES_MAX} secrets of one tenant; delete some"
                )

    async def _open(self, tenant_id: UUID, sealed: bytes, bound: bytes) -> bytes:
        key = await self._keys.find_version(tenant_id, model.version_of(sealed))
        if key is None:
            raise model.sealed_value_invalid()
        return key.open(sealed, bound)

    def _bound(self, kind: bytes, tenant_id: UUID, *rest: bytes) -> bytes:
        return model.joined(kind, self._plugin.encode(), tenant_id.bytes, *rest)

    def _secret_bound(self, tenant_id: UUID, name: str, version: int) -> bytes:
        return self._bound(b"named", tenant_id, name.encode(), version.to_bytes(8, "big"))


class VaultOperations:
    """The port `SecretsProvider`, and what an operator does with keys."""

    def __init__(self, keys: KeyStore, clock: Clock, settings: Settings, log: Logger) -> None:
        self.keys = keys
        self._clock = clock
        self._settings = settings
        self._log = log

    def part(self, plugin_id: str) -> Secrets:
        """One plugin's part; see the port."""
        return VaultPart(self.keys, plugin_id)

    async def start(self) -> None:
        """Make ready: the key-encryption keys are there, and they are those that the data keys need.

        Raises:
            InvalidRequest: a key is missing or cannot be used; the detail names it and has the remedy.
        """
        usage = await self.keys.usage()
        await self.keys.keks.open(create=not usage)
        missing = sorted(set(usage) - await self.keys.keks.ids())
        if missing:
            wrapped = sum(usage[kek_id] for kek_id in missing)
            raise InvalidRequest(
                f"{self.keys.keks.place} lacks the key-encryption key {', '.join(missing)}, which wraps {wrapped} data "
                "keys in the database; put back the file that belongs to this database: without it nothing that was "
                "sealed for these tenants can be opened"
            )

    def reminder(self) -> str:
        """What an operator should do about the keys; empty when nothing."""
        days = int((self._clock.now() - self.keys.keks.made_at).total_seconds() // DAY_S)
        if days < self._settings.kek_rotation_days:
            return ""
        return (
            f"the key-encryption key {self.keys.keks.current_id} is {days} days old; rotate it every "
            f"{self._settings.kek_rotation_days} days"
        )

    async def rotate_kek(self) -> str:
        """Make a new key-encryption key and wrap every data key with it; its id. Sealed values stay as they are.

        Interrupted, it leaves every data key wrapped by the old or the new one, both of which are there: repeat it.
        """
        kek_id = await self.keys.keks.rotate()
        await self.rewrap_all()
        self._log.info("the key-encryption key was rotated", kek=kek_id)
        return kek_id

    async def rewrap_all(self) -> int:
        """Wrap with the current key-encryption key whatever another one wraps; how many data keys."""
        done = 0
        while tenants := await self.keys.tenants_to_rewrap():
            progress = sum([await self.keys.rewrap(tenant_id) for tenant_id in tenants])
            if progress == 0:
                break  # somebody else does the same work, or undoes it
            done += progress
        return done

    async def stop(self) -> None:
        """End what is under way."""
        await self.keys.close()

    async def retire_keks(self) -> list[str]:
        """Forget old key-encryption keys that wrap nothing any more; their ids. Wrapped keys in old backups of the
        database are of no use from then on."""
        gone = await self.keys.keks.retire(set(await self.keys.usage()))
        if gone:
            self._log.info("key-encryption keys were retired", keks=gone)
        return gone
