"""Who calls: fills the pipeline's slot `identify`.

`recall` answers from memory in a few microseconds; everything else asks PostgreSQL, where sessions and keys live: nothing
here depends on the cache. Whatever is wrong with a credential, the answer is the same.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Final
from uuid import UUID

from msgspec.structs import replace

from core_plugins.iam.model import tokens
from core_plugins.iam.model.recognition import (
    LookUp,
    Recognised,
    Recollection,
    api_key_key,
    session_key,
    tenant_key,
    user_key,
)
from core_plugins.iam.model.sessions import Session
from core_plugins.iam.model.tokens import rejected
from core_plugins.iam.operations.authorize import Access
from core_plugins.iam.operations.keys import SigningKeys
from core_plugins.iam.storage import sessions
from plugin_api.call import Actor, Identity
from plugin_api.clock import Clock
from plugin_api.errors import NotAllowed, NotAuthenticated
from plugin_api.pipeline import Credentials
from plugin_api.ports.database import Tx
from plugin_api.ports.stamps import Stamps
from plugin_api.registrar import Calls

LOOK_UP_S_MAX: Final = 4.0
SHARED_TRIES_MAX: Final = 3
"""How often one waits for a look-up that others share, before making one's own."""
CREDENTIAL_LENGTH_MAX: Final = 8_192

Load = Callable[[str, LookUp], Awaitable[Recognised]]
"""(what was shown, the look-up): who it is. NotAuthenticated when it does not hold."""
_Shared = tuple[int, str]
"""(which memory it belongs to, what was shown)."""


class Identities:
    """The `Identifier` of the kernel: access tokens, API keys, browser sessions."""

    def __init__(
        self,
        *,
        access: Access,
        keys: SigningKeys,
        identify_key: Load,
        calls: Calls,
        stamps: Stamps,
        clock: Clock,
        issuer: str,
        audience: str,
    ) -> None:
        self._access = access
        self._keys = keys
        self._identify_key = identify_key
        self._calls = calls
        self._clock = clock
        self._issuer = issuer
        self._audience = audience
        self._bearers = Recollection(stamps, clock.monotonic, access.epoch)
        self._cookies = Recollection(stamps, clock.monotonic, access.epoch)
        self._actors = Recollection(stamps, clock.monotonic, access.epoch)
        self._running: dict[_Shared, tuple[LookUp, asyncio.Task[Recognised]]] = {}

    # ------------------------------------------------------------------------------- the pipeline's slot

    def recall(self, credentials: Credentials) -> Identity | None:
        """Answer from memory."""
        authorization = credentials.authorization
        if authorization is not None:
            recognised = self._bearers.recall(authorization)
            return None if recognised is None else recognised.identity
        cookie = tokens.session_cookie_in(credentials.cookie) if credentials.cookie else None
        recognised = self._cookies.recall(cookie) if cookie is not None else None
        if recognised is None or not _may_change(credentials, recognised):
            return None
        return recognised.identity

    async def identify(self, credentials: Credentials) -> Identity | None:
        """Look the caller up. A header `Authorization` wins over a cookie, also when it does not hold.

        Raises:
            NotAuthenticated: what was shown does not hold.
            NotAllowed: code `csrf_token_missing`: a cookie alone, on a call that changes something.
        """
        if credentials.authorization is not None:
            return (await self._recognise(self._bearers, credentials.authorization, self._load_bearer)).identity
        cookie = tokens.session_cookie_in(credentials.cookie) if credentials.cookie else None
        if cookie is None:
            return None
        recognised = await self._recognise(self._cookies, cookie, self._load_cookie)
        if not _may_change(credentials, recognised):
            raise NotAllowed(
                "a change by cookie needs the header X-CSRF-Token with the value of the cookie pk_csrf",
                code="csrf_token_missing",
            )
        return recognised.identity

    # ------------------------------------------------------------------------- what other kernels ask

    async def resolve(self, tenant_id: UUID, actor: Actor, session_id: UUID | None) -> Identity:
        """Who an actor is that another kernel has recognised; the slot `resolve`.

        Raises:
            NotAuthenticated: it was removed, suspended or revoked, or the session has ended.
        """
        if actor.kind not in ("user", "api_key"):
            raise rejected()
        try:
            text = f"{tenant_id} {actor.kind} {UUID(actor.id)} {session_id or ''}"
        except ValueError:
            raise rejected() from None
        return (await self._recognise(self._actors, text, self._load_actor)).identity

    async def held(self, identity: Identity, permissions: Sequence[str]) -> Sequence[str]:
        """Which of these permissions it covers now, registered here or not; the slot `resolve`."""
        async with self._calls.open(identity.tenant_id, "identify", deadline_s=LOOK_UP_S_MAX) as call:
            held = await self._access.held_by(await call.tx(), identity, self._clock.now())
        return [name for name in permissions if held.covers(name)]

    async def _load_actor(self, text: str, look_up: LookUp) -> Recognised:
        tenant, kind, actor_id, session_id = text.split(" ")
        tenant_id, named = UUID(tenant), UUID(actor_id)
        look_up.watch.on(tenant_key(tenant_id), user_key(tenant_id, named) if kind == "user" else api_key_key(named))
        async with self._calls.open(tenant_id, "identify", deadline_s=LOOK_UP_S_MAX) as call:
            tx = await call.tx()
            if session_id:
                session, identity = await self._living(tx, tenant_id, UUID(session_id), named, look_up)
                return Recognised(identity, session.expires_at)
            user_id, expires_at = named, None
            if kind == "api_key":
                user_id, expires_at = await self._access.maker_of_key(tx, named, look_up.now)
                look_up.watch.on(user_key(tenant_id, user_id))
            identity = Identity(tenant_id, Actor("user" if kind == "user" else "api_key", actor_id), 0, user_id)
            held = await self._access.held_by(tx, identity, look_up.now)
        mask = self._access.mask_of(held.grants, tenant_id)
        return Recognised(replace(identity, mask=mask), expires_at)

    # --------------------------------------------------------------------------------- shared look-ups

    async def _recognise(self, memory: Recollection, text: str, load: Load) -> Recognised:
        """Recall or look up; those who show the same credential at once share one look-up, as long as nothing that it
        depends on changes meanwhile."""
        if len(text) > CREDENTIAL_LENGTH_MAX:
            raise rejected()
        for _ in range(SHARED_TRIES_MAX):
            recognised = memory.recall(text)
            if recognised is not None:
                return recognised
            shared = id(memory), text
            look_up, task = self._running.get(shared) or self._begin(memory, shared, load)
            recognised = await asyncio.shield(task)
            if look_up.watch.still_holds():
                return recognised
        return await load(text, memory.start(self._clock.now()))

    def _begin(self, memory: Recollection, shared: _Shared, load: Load) -> tuple[LookUp, asyncio.Task[Recognised]]:
        look_up = memory.start(self._clock.now())
        task = asyncio.ensure_future(_load_and_remember(memory, shared[1], load, look_up))
        task.add_done_callback(partial(self._ended, shared))
        self._running[shared] = look_up, task
        return look_up, task

    def _ended(self, shared: _Shared, task: asyncio.Task[Recognised]) -> None:
        self._running.pop(shared, None)
        if not task.cancelled():
            task.exception()  # retrieved, also when everybody who waited has gone away

    async def drain(self) -> None:
        """Wait for the look-ups that are under way."""
        await asyncio.gather(*(task for _, task in self._running.values()), return_exceptions=True)

    # ----------------------------------------------------------------------------------- what is shown

    async def _load_bearer(self, authorization: str, look_up: LookUp) -> Recognised:
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer" or not token or token != token.strip():
            raise NotAuthenticated("send Authorization: Bearer with an access token or an API key")
        if token.startswith(tokens.API_KEY_PREFIX):
            return await self._identify_key(token, look_up)
        public_key = await self._keys.verifier(tokens.key_id_of(token))
        if public_key is None:
            raise rejected()
        claims = tokens.verify_access_token(
            token, public_key, issuer=self._issuer, audience=self._audience, now=look_up.now
        )
        async with self._calls.open(claims.tid, "identify", deadline_s=LOOK_UP_S_MAX) as call:
            session, identity = await self._living(await call.tx(), claims.tid, claims.sid, claims.sub, look_up)
        if session.kind != "bearer":
            raise rejected()
        return Recognised(identity, min(session.expires_at, tokens.from_timestamp(claims.exp)))

    async def _load_cookie(self, text: str, look_up: LookUp) -> Recognised:
        cookie = tokens.parse_opaque_token(text, tokens.COOKIE_PREFIX)
        if cookie is None:
            raise rejected()
        async with self._calls.open(cookie.tenant_id, "identify", deadline_s=LOOK_UP_S_MAX) as call:
            tx = await call.tx()
            # Read once to learn whose it is: the stamp of that person must be noted before what depends on it is read.
            named = await sessions.find_session(tx, cookie.session_id)
            if named is None or named.kind != "cookie" or not tokens.is_same(cookie.hash(), named.secret_hash):
                raise rejected()
            session, identity = await self._living(tx, cookie.tenant_id, named.id, named.user_id, look_up)
        return Recognised(identity, session.expires_at, tokens.csrf_token_of(cookie).encode())

    async def _living(
        self, tx: Tx, tenant_id: UUID, session_id: UUID, user_id: UUID, look_up: LookUp
    ) -> tuple[Session, Identity]:
        """The session, which must live and be this person's, and what the person may do."""
        look_up.watch.on(tenant_key(tenant_id), user_key(tenant_id, user_id), session_key(session_id))
        session = await sessions.find_session(tx, session_id)
        if session is None or session.user_id != user_id or not session.lives(look_up.now):
            raise rejected()
        subject = await self._access.load(tx, user_id)
        if subject is None:
            raise rejected()
        if session.was_used_long_ago(look_up.now):
            await sessions.note_use(tx, session_id, look_up.now)
        mask = self._access.mask_of(subject.grants, tenant_id)
        return session, Identity(tenant_id, Actor("user", str(user_id)), mask, user_id, session_id)


async def _load_and_remember(memory: Recollection, text: str, load: Load, look_up: LookUp) -> Recognised:
    recognised = await load(text, look_up)
    memory.remember(text, recognised, look_up)
    return recognised


def _may_change(credentials: Credentials, recognised: Recognised) -> bool:
    """Whether a call by cookie may go on: it changes nothing, or shows that our own page has sent it."""
    if not credentials.unsafe:
        return True
    return tokens.is_same((credentials.csrf_token or "").encode("utf-8", "surrogatepass"), recognised.csrf_token)
