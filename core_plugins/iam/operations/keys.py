"""The keys that sign access tokens: made, published before they sign, followed, withdrawn.

Rows say which keys there are (`signing_keys`), the vault keeps the private parts. When a key signs is a matter of time
alone, so every process changes over at the same moment without being told: a key is made `key_lead_s` before it signs,
and everybody who verifies has seen it by then.
"""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

from core_plugins.iam.model.recognition import SIGNING_KEYS_KEY, StampWatch
from core_plugins.iam.model.tokens import (
    KeyRing,
    Signer,
    SigningKey,
    load_signer,
    make_private_key,
    withdrawal_of,
)
from core_plugins.iam.operations.parts import OperationGroup
from core_plugins.iam.storage import credentials
from plugin_api.call import Call
from plugin_api.clock import Clock
from plugin_api.contracts.iam import JsonWebKey, JsonWebKeySet, Nothing
from plugin_api.errors import NotFound, StoreUnavailable, Unavailable
from plugin_api.ids import PLATFORM_TENANT_ID
from plugin_api.operation import operation
from plugin_api.ports.secrets import Secrets
from plugin_api.ports.stamps import Stamps
from plugin_api.registrar import Calls, Logger

RELOAD_PAUSE_S: Final = 1.0
"""Tokens with unknown key ids cause at most one reload in this time."""
LOOK_EVERY_S: Final = 30.0
"""How often each worker looks for keys that another machine has made; far less than any sensible lead."""
FIRST_SIGNS_BEFORE_S: Final = 300
"""The very first key signs at once, also on machines whose clocks are behind."""
JWKS_MAX_AGE_S: Final = 300


class SigningKeys:
    """This process's view of the signing keys."""

    def __init__(
        self,
        *,
        calls: Calls,
        secrets: Secrets,
        stamps: Stamps,
        clock: Clock,
        log: Logger,
        rotation: timedelta,
        lead: timedelta,
    ) -> None:
        self._calls = calls
        self._secrets = secrets
        self._stamps = stamps
        self._clock = clock
        self._log = log
        self._rotation = rotation
        self._lead = min(lead, rotation)
        self._ring = KeyRing((), {})
        self._signers: dict[str, Signer] = {}
        self._watch = StampWatch(stamps)
        self._loaded_at: float | None = None
        self._loading = asyncio.Lock()

    # ------------------------------------------------------------------------------------------ using

    async def signer(self) -> Signer:
        """The key that signs now. Unavailable when there is none."""
        await self._refresh_quietly()
        signer = self._ring.signer(self._clock.now())
        if signer is None:
            await self.rotate()
            signer = self._ring.signer(self._clock.now())
        if signer is None:
            raise Unavailable("no key signs access tokens now; the log tells why")
        return signer

    async def verifier(self, kid: str) -> EllipticCurvePublicKey | None:
        """The public key of this name; an unknown one is looked for once more, at most every RELOAD_PAUSE_S.

        Raises:
            StoreUnavailable: the name is unknown and the database cannot be asked.
        """
        key = self._ring.verifier(kid, self._clock.now())
        if key is None and (not self._is_fresh() or self._may_reload()):
            await self.reload()
            key = self._ring.verifier(kid, self._clock.now())
        return key

    async def published(self) -> list[JsonWebKey]:
        """Every public key that tokens may be signed with now or soon."""
        await self._refresh_quietly()
        return self._ring.published(self._clock.now())

    def _is_fresh(self) -> bool:
        return self._loaded_at is not None and self._watch.still_holds()

    def _may_reload(self) -> bool:
        return self._loaded_at is None or self._clock.monotonic() - self._loaded_at >= RELOAD_PAUSE_S

    async def _refresh_quietly(self) -> None:
        """Reload when somebody on this machine has changed the keys; the old ring serves while the database is away."""
        if self._is_fresh():
            return
        try:
            await self.reload()
        except StoreUnavailable:
            if self._loaded_at is None:
                raise

    # ---------------------------------------------------------------------------------------- loading

    async def reload(self) -> None:
        """Read the keys; those who ask at the same time wait for one reading."""
        asked_at = self._clock.monotonic()
        async with self._loading:
            if self._loaded_at is not None and self._loaded_at > asked_at and self._watch.still_holds():
                return
            await self._load()

    async def _load(self) -> None:
        watch = StampWatch(self._stamps)
        watch.on(SIGNING_KEYS_KEY)
        async with self._calls.open(PLATFORM_TENANT_ID, "read signing keys", deadline_s=4.0) as call:
            keys = await credentials.list_signing_keys(await call.tx())
        now = self._clock.now()
        signers = {key.kid: signer for key in keys if (signer := await self._signer(key, now)) is not None}
        self._ring, self._signers, self._watch = KeyRing(keys, signers), signers, watch
        self._loaded_at = self._clock.monotonic()

    async def _signer(self, key: SigningKey, now: datetime) -> Signer | None:
        """The private part of a key that signs or will; None for one that has signed, or whose private part is lost."""
        if key.signs_from <= now and not key.may_sign(now):
            return None
        known = self._signers.get(key.kid)
        if known is not None:
            return known
        try:
            return load_signer(key.kid, await self._secrets.get(PLATFORM_TENANT_ID, _secret_name(key.kid)))
        except (NotFound, ValueError):
            self._log.error("the private part of a signing key is not in the vault", kid=key.kid)
            return None

    # --------------------------------------------------------------------------------------- rotating

    async def rotate(self) -> None:
        """Make the next key when it is time, forget withdrawn ones, and read the result. Safe from many processes at
        once: one does it, the others wait and find it done."""
        async with self._calls.open(PLATFORM_TENANT_ID, "rotate signing keys", deadline_s=20.0) as call:
            tx = await call.tx()
            await credentials.lock_signing_keys(tx)
            keys = await credentials.list_signing_keys(tx)
            now = self._clock.now()
            signs_from = await self._due(keys, now)
            if signs_from is not None:
                await self._publish(call, signs_from)
            gone = [key.kid for key in keys if key.withdrawn_at is not None and key.withdrawn_at <= now]
            if gone:
                await credentials.delete_signing_keys(tx, gone)
        for kid in gone:
            await self._secrets.delete(PLATFORM_TENANT_ID, _secret_name(kid))
        if gone or signs_from is not None:
            self._stamps.touch(SIGNING_KEYS_KEY)
        await self.reload()

    async def _due(self, keys: list[SigningKey], now: datetime) -> datetime | None:
        """From when a key that is made now signs; None when none is needed yet."""
        usable = [key for key in keys if await self._signer(key, now) is not None]
        if not any(key.may_sign(now) for key in usable):
            return now - timedelta(seconds=FIRST_SIGNS_BEFORE_S)
        follows = max(key.signs_from for key in usable) + self._rotation
        return max(follows, now + self._lead) if now + self._lead >= follows else None

    async def _publish(self, call: Call, signs_from: datetime) -> None:
        kid, point, private = make_private_key()
        # The private part first: a key without it would be published and could never sign.
        await self._secrets.put(PLATFORM_TENANT_ID, _secret_name(kid), private)
        tx = await call.tx()
        await credentials.insert_signing_key(tx, SigningKey(kid, point, signs_from, None))
        await credentials.withdraw_followed_keys(tx, kid, withdrawal_of(max(signs_from, self._clock.now())))
        self._log.info("a key for access tokens was made", kid=kid, signs_from=signs_from.isoformat())

    async def maintain(self) -> None:
        """Background task: rotate when it is time, and see what other machines have done."""
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            await self.rotate()


class KeyOperations(OperationGroup):
    """The public keys, for whoever verifies access tokens."""

    @operation("GET /.well-known/jwks.json", public=True)
    async def list_signing_keys(self, call: Call, request: Nothing) -> JsonWebKeySet:
        """The public keys that access tokens are signed with, now or soon (RFC 7517). May be cached for five minutes."""
        call.add_response_header("Cache-Control", f"public, max-age={JWKS_MAX_AGE_S}")
        return JsonWebKeySet(await self._parts.keys.published())


def _secret_name(kid: str) -> str:
    return f"signing-key-{kid}"
