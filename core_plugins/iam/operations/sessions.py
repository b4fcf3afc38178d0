"""Sessions: log-in, refresh, browser sessions, the list of one's own, and their end."""

from __future__ import annotations

from datetime import datetime, timedelta
from functools import partial
from typing import Final
from uuid import UUID

from core_plugins.iam.model import tokens
from core_plugins.iam.model.grants import email_key
from core_plugins.iam.model.recognition import session_key, user_key
from core_plugins.iam.model.sessions import Presented, SessionKind, judge
from core_plugins.iam.model.tokens import OpaqueToken, rejected
from core_plugins.iam.operations.parts import OperationGroup
from core_plugins.iam.operations.providers import PasswordProved, rejected_log_in
from core_plugins.iam.storage import credentials, sessions, tenants
from plugin_api.call import Call
from plugin_api.contracts.auth_provider import LogInAttempt, Proved
from plugin_api.contracts.iam import (
    BrowserSession,
    LogIn,
    Nothing,
    Refresh,
    SessionList,
    SessionRef,
    SessionTokens,
    SessionView,
)
from plugin_api.errors import NotFound
from plugin_api.ids import PLATFORM_TENANT_ID, uuid7
from plugin_api.operation import operation
from plugin_api.pages import Page, keyset
from plugin_api.ports.database import Row, Tx

DECOY_TENANT_ID: Final = UUID("00000000-0000-7000-8000-ffffffffffff")
"""The tenant of nobody: a log-in at an unknown tenant asks it the same questions, so that time tells nothing."""
READ_PERMISSION: Final = "iam.session.read"
DELETE_PERMISSION: Final = "iam.session.delete"
USER_AGENT_LENGTH_MAX: Final = 200


class SessionOperations(OperationGroup):
    """Operations on sessions."""

    # ------------------------------------------------------------------------------------------- log-in

    @operation("POST /sessions", public=True, status=201)
    async def log_in(self, call: Call, request: LogIn) -> SessionTokens:
        """Open a session. Unknown tenant, unknown person, wrong password: one answer, in the same time.

        Failed log-ins beyond 20 in 5 minutes for one account from one network, or 50 from one network, are refused with
        429; the same account still gets in from elsewhere.
        """
        async with self._parts.throttle.attempt(request.tenant, email_key(request.email), call.address):
            proved = await self._prove(call, request)
            session_id = await self._open(call, proved, "bearer", uuid7(), None)
        call.add_response_header("Location", f"/api/v1/iam/sessions/{session_id}")
        return await self._first_tokens(call, session_id, proved.user_id)

    @operation("POST /browser-sessions", public=True, status=201)
    async def log_in_browser(self, call: Call, request: LogIn) -> BrowserSession:
        """Open a session whose secret is in an HttpOnly cookie, out of reach of scripts.

        Calls that change something must send `X-CSRF-Token` with `csrf_token`, which is also in the cookie `pk_csrf`.
        """
        async with self._parts.throttle.attempt(request.tenant, email_key(request.email), call.address):
            proved = await self._prove(call, request)
            cookie = tokens.make_opaque_token(tokens.COOKIE_PREFIX, call.tenant_id, uuid7())
            await self._open(call, proved, "cookie", cookie.session_id, cookie.hash())
        seconds = self._parts.settings.browser_session_days * 86_400
        csrf_token = tokens.csrf_token_of(cookie)
        self._set_cookies(call, str(cookie), csrf_token, seconds)
        call.add_response_header("Location", f"/api/v1/iam/sessions/{cookie.session_id}")
        return BrowserSession(cookie.session_id, csrf_token, seconds)

    async def _prove(self, call: Call, asked: LogIn) -> Proved:
        """Who somebody is; puts the call into their tenant."""
        async with call.system_tx("log-in") as tx:
            tenant_id = await tenants.find_tenant_by_slug(tx, asked.tenant)
        attempt = LogInAttempt(tenant_id or DECOY_TENANT_ID, asked.email, asked.password, asked.proof, call.address)
        proved = await self._parts.providers.prove(attempt)
        if tenant_id is None:
            raise rejected_log_in()
        call.enter(tenant_id)
        return proved

    async def _open(
        self, call: Call, proved: Proved, kind: SessionKind, session_id: UUID, secret_hash: bytes | None
    ) -> UUID:
        """Open a session for somebody, if they are still active and their password is still the same."""
        tx, now, settings = await call.tx(), self._parts.clock.now(), self._parts.settings
        stored, new = (proved.stored_hash, proved.new_hash) if isinstance(proved, PasswordProved) else (None, None)
        if not await credentials.record_log_in(tx, proved.user_id, now, proved_hash=stored, new_hash=new):
            raise rejected_log_in()
        days = settings.browser_session_days if kind == "cookie" else settings.session_days
        agent = call.user_agent.replace("\0", "")[:USER_AGENT_LENGTH_MAX]
        new_session = sessions.NewSession(
            session_id, proved.user_id, kind, secret_hash, call.address, agent, now + timedelta(days=days)
        )
        await sessions.insert_session(tx, new_session, now)
        if await sessions.revoke_oldest(tx, proved.user_id, now, keep=settings.sessions_per_user_max):
            await self._changed(call, user_key(call.tenant_id, proved.user_id))
        return session_id

    async def _first_tokens(self, call: Call, session_id: UUID, user_id: UUID) -> SessionTokens:
        refresh = tokens.make_opaque_token(tokens.REFRESH_PREFIX, call.tenant_id, session_id)
        await self._keep_refresh_token(await call.tx(), refresh, self._parts.clock.now(), None)
        return await self._tokens(refresh, user_id)

    async def open_session_for(self, call: Call, proved: Proved) -> SessionTokens:
        """Open a session for somebody whom another plugin has proved; see `contracts.auth_provider`."""
        async with self._parts.calls.open(call.tenant_id, "log-in", deadline_s=call.remaining_s()) as own:
            own.address, own.user_agent = call.address, call.user_agent
            session_id = await self._open(own, proved, "bearer", uuid7(), None)
            return await self._first_tokens(own, session_id, proved.user_id)

    # ------------------------------------------------------------------------------------------ refresh

    @operation("POST /sessions/refresh", public=True, recorded=False)
    async def refresh_session(self, call: Call, request: Refresh) -> SessionTokens:
        """Exchange a session's newest refresh token for new tokens.

        A token that was used may be sent again within 10 s and gets the same successor: two tabs, a lost answer. Sent
        later it is taken for stolen, and the whole session ends.
        """
        token = tokens.parse_opaque_token(request.refresh_token, tokens.REFRESH_PREFIX)
        if token is None:
            raise rejected()
        # Under the platform's key: the tenant is a stranger's word here, and a first use makes a tenant's key.
        secret = await self._parts.secrets.fingerprint(PLATFORM_TENANT_ID, "refresh-token", str(token).encode())
        call.enter(token.tenant_id)
        user_id, successor = await self._rotate(call, token, token.successor(secret))
        return await self._tokens(successor, user_id)

    async def _rotate(self, call: Call, token: OpaqueToken, successor: OpaqueToken) -> tuple[UUID, OpaqueToken]:
        tx, now = await call.tx(), self._parts.clock.now()
        # Read without a lock first: what ends the session must commit although this call is refused, so it needs a
        # transaction of its own, which would wait for ours if ours held the session. Once reused, always reused.
        if _judge(await sessions.find_refresh_token(tx, token.session_id, token.hash()), now) is Presented.REUSED:
            await self._end_reused(token)
            raise rejected()
        session = await sessions.lock_session(tx, token.session_id)
        if session is None or session.kind != "bearer" or not session.lives(now):
            raise rejected()
        kept = await sessions.find_refresh_token(tx, token.session_id, token.hash())
        judged = _judge(kept, now)
        if kept is None or judged not in (Presented.FRESH, Presented.REPEATED):
            raise rejected()
        if judged is Presented.FRESH:
            await sessions.use_refresh_token(tx, kept.id, now)
            await sessions.note_use(tx, token.session_id, now)
            await self._keep_refresh_token(tx, successor, now, session.expires_at)
        return session.user_id, successor

    async def _end_reused(self, token: OpaqueToken) -> None:
        async with self._parts.calls.open(token.tenant_id, "end reused session", deadline_s=4.0) as call:
            now = self._parts.clock.now()
            ended = await sessions.revoke_session(await call.tx(), token.session_id, "reused_token", now)
            await self._changed(call, session_key(token.session_id))
        if ended:
            self._parts.log.warning(
                "a session ended: a refresh token of it was used twice",
                tenant=str(token.tenant_id),
                session=str(token.session_id),
            )

    async def _keep_refresh_token(self, tx: Tx, token: OpaqueToken, now: datetime, not_after: datetime | None) -> None:
        expires_at = now + timedelta(days=self._parts.settings.refresh_token_days)
        if not_after is not None:
            expires_at = min(expires_at, not_after)
        await sessions.insert_refresh_token(tx, uuid7(), token.session_id, token.hash(), expires_at)

    async def _tokens(self, refresh: OpaqueToken, user_id: UUID) -> SessionTokens:
        settings = self._parts.settings
        claims = tokens.make_claims(
            issuer=settings.issuer,
            audience=settings.audience,
            user_id=user_id,
            tenant_id=refresh.tenant_id,
            session_id=refresh.session_id,
            token_id=uuid7(),
            now=self._parts.clock.now(),
        )
        access_token = tokens.sign_access_token(await self._parts.keys.signer(), claims)
        return SessionTokens(refresh.session_id, access_token, str(refresh), "Bearer", tokens.ACCESS_TOKEN_S)

    # ------------------------------------------------------------------------------------ one's sessions

    @operation("GET /sessions")
    async def list_sessions(self, call: Call, request: SessionList) -> Page[SessionView]:
        """My living sessions; somebody else's with `user_id` and the permission iam.session.read."""
        mine = _own_user(call)
        user_id = request.user_id or mine
        if user_id is None or user_id != mine:
            call.require(READ_PERMISSION)
        if user_id is None:
            return Page([], None)
        place = keyset(call, request)
        rows = await sessions.list_sessions(
            await call.tx(), user_id, place, self._parts.clock.now(), limit=request.limit
        )
        return place.page(call, rows, request.limit, partial(_view, call))

    @operation("GET /sessions/{session_id}")
    async def get_session(self, call: Call, request: SessionRef) -> SessionView:
        """A living session of mine; anybody's with the permission iam.session.read."""
        return await self._find(call, request.session_id, READ_PERMISSION)

    @operation("DELETE /sessions/{session_id}")
    async def end_session(self, call: Call, request: SessionRef) -> None:
        """End a session of mine, or with the permission iam.session.delete anybody's. Its tokens are refused at once."""
        found = await self._find(call, request.session_id, DELETE_PERMISSION)
        call.expect_version(found.version)
        await self._end(call, found.id)

    @operation("DELETE /sessions")
    async def end_my_sessions(self, call: Call, request: Nothing) -> None:
        """End all sessions of mine, this one too."""
        user_id = _own_user(call)
        if user_id is None:
            call.require(DELETE_PERMISSION)
            user_id = call.identity.user_id if call.identity is not None else None
        if user_id is not None:
            await sessions.revoke_sessions_of(await call.tx(), user_id, "ended", self._parts.clock.now())
            await self._changed(call, user_key(call.tenant_id, user_id))

    @operation("DELETE /browser-sessions")
    async def log_out_browser(self, call: Call, request: Nothing) -> None:
        """End the session that this call was made in, and take its cookies from the browser."""
        session_id = call.identity.session_id if call.identity is not None else None
        if session_id is not None:
            await self._end(call, session_id)
        self._set_cookies(call, "", "", 0)

    async def _find(self, call: Call, session_id: UUID, permission: str) -> SessionView:
        """A living session that may be seen. NotFound for all others: unknown, foreign, or a colleague's."""
        row = await sessions.find_session_row(await call.tx(), session_id, self._parts.clock.now())
        if row is None or (row["user_id"] != _own_user(call) and not call.allows(permission)):
            raise NotFound("there is no such session")
        return _view(call, row)

    async def _end(self, call: Call, session_id: UUID) -> None:
        now = self._parts.clock.now()
        await sessions.revoke_session(await call.tx(), session_id, "ended", now)
        await self._changed(call, session_key(session_id))

    def _set_cookies(self, call: Call, value: str, csrf_token: str, seconds: int) -> None:
        secure = self._parts.settings.cookie_secure
        if secure is None:
            secure = self._parts.profile == "server"
        for cookie in tokens.make_cookies(value, csrf_token, max_age_s=seconds, secure=secure):
            call.add_response_header("Set-Cookie", cookie)


def _judge(kept: sessions.RefreshToken | None, now: datetime) -> Presented:
    if kept is None:
        return Presented.DEAD
    return judge(used_at=kept.used_at, expires_at=kept.expires_at, now=now)


def _own_user(call: Call) -> UUID | None:
    """The person who calls; None for an API key, to which its maker's sessions do not belong."""
    if call.actor.kind != "user" or call.identity is None:
        return None
    return call.identity.user_id


def _view(call: Call, row: Row) -> SessionView:
    current = call.identity is not None and call.identity.session_id == row["id"]
    return SessionView(
        row["id"], row["user_id"], row["kind"], current, row["address"], row["user_agent"], row["last_used_at"],
        row["expires_at"], row["version"], row["created_at"],
    )  # fmt: skip
