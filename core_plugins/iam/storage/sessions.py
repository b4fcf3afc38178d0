"""Sessions and their refresh tokens.

A session's row is the lock of everything that happens to it: refreshing takes it (`lock_session`), revoking writes it, so
whichever comes second sees what the first has done.
"""
# ruff: noqa: S608 - statements are put together from constants of this file; values are placeholders

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from msgspec import Struct

from core_plugins.iam.model.sessions import RevokedWhy, Session, SessionKind
from plugin_api.pages import Keyset
from plugin_api.ports.database import Row, Tx

_SESSION: Final = """
select s.id, s.user_id, s.kind, s.secret_hash, s.expires_at, s.revoked_at, s.last_used_at,
       u.status as user_status, t.status as tenant_status
from sessions s
join users u on u.tenant_id = s.tenant_id and u.id = s.user_id
join tenants t on t.tenant_id = s.tenant_id
where s.id = $1
"""
_VIEW: Final = "id, user_id, kind, address, user_agent, last_used_at, expires_at, version, created_at"


class NewSession(Struct, frozen=True):
    """A session to be opened."""

    id: UUID
    user_id: UUID
    kind: SessionKind
    secret_hash: bytes | None
    address: str
    user_agent: str
    expires_at: datetime


class RefreshToken(Struct, frozen=True):
    """What is kept of a refresh token."""

    id: UUID
    used_at: datetime | None
    expires_at: datetime


async def insert_session(tx: Tx, new: NewSession, now: datetime) -> None:
    """Open a session. Its person must be locked (`credentials.record_log_in`), so that no change of it is missed."""
    await tx.execute(
        """insert into sessions
        (id, user_id, kind, secret_hash, address, user_agent, last_used_at, expires_at, created_at, updated_at)
        values ($1, $2, $3, $4, $5, $6, $7, $8, $7, $7)""",
        new.id, new.user_id, new.kind, new.secret_hash, new.address, new.user_agent, now, new.expires_at,
    )  # fmt: skip


async def find_session(tx: Tx, session_id: UUID) -> Session | None:
    """A session, living or not."""
    return _session(await tx.fetch_one(_SESSION, session_id))


async def lock_session(tx: Tx, session_id: UUID) -> Session | None:
    """A session, living or not, which nobody else can change until this transaction ends."""
    return _session(await tx.fetch_one(f"{_SESSION} for update of s", session_id))


async def find_session_row(tx: Tx, session_id: UUID, now: datetime) -> Row | None:
    """A living session as its view shows it."""
    return await tx.fetch_one(
        f"select {_VIEW} from sessions where id = $1 and revoked_at is null and expires_at > $2", session_id, now
    )


async def list_sessions(tx: Tx, user_id: UUID, place: Keyset, now: datetime, *, limit: int) -> Sequence[Row]:
    """The living sessions of one person, one more than `limit`."""
    condition, order, arguments = place.clause(4)
    return await tx.fetch(
        f"""select {_VIEW} from sessions
        where user_id = $1 and revoked_at is null and expires_at > $2 and {condition} order by {order} limit $3""",
        user_id, now, limit + 1, *arguments,
    )  # fmt: skip


async def note_use(tx: Tx, session_id: UUID, now: datetime) -> None:
    """Write `last_used_at`, unless somebody is changing the session right now."""
    await tx.execute(
        """update sessions set last_used_at = $2 where (tenant_id, id) in
        (select tenant_id, id from sessions where id = $1 and revoked_at is null for update skip locked)""",
        session_id, now,
    )  # fmt: skip


async def revoke_session(tx: Tx, session_id: UUID, why: RevokedWhy, now: datetime) -> bool:
    """End a session; whether it lived."""
    return bool(
        await tx.execute(
            """update sessions set revoked_at = $3, revoked_why = $2, version = version + 1, updated_at = $3
            where id = $1 and revoked_at is null and expires_at > $3""",
            session_id,
            why,
            now,
        )
    )


async def revoke_sessions_of(tx: Tx, user_id: UUID, why: RevokedWhy, now: datetime) -> int:
    """End every session of a person; how many there were. Touch `user_key` after the commit."""
    return await _revoke(tx, why, now, "user_id = $3", user_id)


async def revoke_oldest(tx: Tx, user_id: UUID, now: datetime, *, keep: int) -> int:
    """End the oldest living sessions of a person beyond `keep`; how many. Touch `user_key` when there were any."""
    return await _revoke(
        tx,
        "too_many",
        now,
        """id in (select id from sessions where user_id = $3 and revoked_at is null and expires_at > $2
        order by created_at desc, id desc offset $4 limit 1000)""",
        user_id,
        keep,
    )


async def _revoke(tx: Tx, why: RevokedWhy, now: datetime, which: str, *arguments: Any) -> int:
    # Locked in one order, or two that end the same sessions at once could wait for one another.
    return await tx.execute(
        f"""with mine as (select tenant_id, id from sessions
            where {which} and revoked_at is null and expires_at > $2 order by id for update)
        update sessions s set revoked_at = $2, revoked_why = $1, version = s.version + 1, updated_at = $2
        from mine where s.tenant_id = mine.tenant_id and s.id = mine.id""",
        why, now, *arguments,
    )  # fmt: skip


async def insert_refresh_token(
    tx: Tx, token_id: UUID, session_id: UUID, token_hash: bytes, expires_at: datetime
) -> None:
    """Keep the hash of a refresh token that is given out now."""
    await tx.execute(
        "insert into refresh_tokens (id, session_id, token_hash, expires_at) values ($1, $2, $3, $4)",
        token_id, session_id, token_hash, expires_at,
    )  # fmt: skip


async def find_refresh_token(tx: Tx, session_id: UUID, token_hash: bytes) -> RefreshToken | None:
    """What is kept of a refresh token of this session."""
    row = await tx.fetch_one(
        "select id, used_at, expires_at from refresh_tokens where token_hash = $2 and session_id = $1",
        session_id, token_hash,
    )  # fmt: skip
    return None if row is None else RefreshToken(row["id"], row["used_at"], row["expires_at"])


async def use_refresh_token(tx: Tx, token_id: UUID, now: datetime) -> None:
    """Note that a refresh token has its successor."""
    await tx.execute("update refresh_tokens set used_at = $2 where id = $1", token_id, now)


async def delete_dead_sessions(tx: Tx, before: datetime, *, limit: int) -> int:
    """Delete sessions, with their refresh tokens, that ended before then; how many, at most `limit`."""
    return await tx.execute(
        """delete from sessions where (tenant_id, id) in (select tenant_id, id from sessions
        where expires_at < $1 or revoked_at < $1 order by id limit $2 for update skip locked)""",
        before, limit,
    )  # fmt: skip


def _session(row: Row | None) -> Session | None:
    if row is None:
        return None
    return Session(
        row["id"], row["user_id"], row["kind"], row["secret_hash"], row["expires_at"], row["revoked_at"],
        row["last_used_at"], row["user_status"], row["tenant_status"],
    )  # fmt: skip
