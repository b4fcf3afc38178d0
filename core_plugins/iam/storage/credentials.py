"""What log-ins are checked against, invitations to sign up, and the signing keys' public parts."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from msgspec import Struct

from core_plugins.iam.model.tokens import SigningKey
from plugin_api.ports.database import Tx


class LogInRow(Struct, frozen=True):
    """A person as a log-in sees them."""

    user_id: UUID
    password_hash: str | None

    def __repr__(self) -> str:
        return f"LogInRow({self.user_id})"


async def find_log_in(tx: Tx, email_key: str) -> LogInRow | None:
    """The person with this address and their password's hash, active or not."""
    row = await tx.fetch_one("select id, password_hash from users where email_key = $1", email_key)
    return None if row is None else LogInRow(row["id"], row["password_hash"])


async def record_log_in(tx: Tx, user_id: UUID, now: datetime, *, proved_hash: str | None, new_hash: str | None) -> bool:
    """Note a log-in, and lock its person until the transaction ends; whether person and tenant are active and the
    password is still the one that was proved (`proved_hash`; None when it was proved by other means).

    Whoever changes a password or a status writes the user's row first and ends sessions after that: either this sees the
    change, or the change sees the session.
    """
    return bool(
        await tx.execute(
            """update users set last_login_at = $2, password_hash = coalesce($4, password_hash)
            where id = $1 and status = 'active' and ($3::text is null or password_hash = $3)
            and exists (select from tenants where status = 'active')""",
            user_id,
            now,
            proved_hash,
            new_hash,
        )
    )


# ------------------------------------------------------------------------------------ invitations to sign up


async def insert_signup_invitation(
    tx: Tx, invitation_id: UUID, token_hash: bytes, invited_by: UUID, expires_at: datetime
) -> None:
    """Keep an invitation; in the tenant `platform`."""
    await tx.execute(
        "insert into signup_invitations (id, token_hash, invited_by, expires_at) values ($1, $2, $3, $4)",
        invitation_id, token_hash, invited_by, expires_at,
    )  # fmt: skip


async def claim_signup_invitation(
    tx: Tx, invitation_id: UUID, token_hash: bytes, used_for: UUID, now: datetime
) -> bool:
    """Use an invitation up for one tenant; whether it was still good. In the tenant `platform`."""
    return bool(
        await tx.execute(
            """update signup_invitations set used_at = $4, used_for = $3
            where id = $1 and token_hash = $2 and used_at is null and expires_at > $4""",
            invitation_id,
            token_hash,
            used_for,
            now,
        )
    )


async def release_signup_invitation(tx: Tx, invitation_id: UUID, used_for: UUID) -> None:
    """Give an invitation back whose sign-up failed."""
    await tx.execute(
        "update signup_invitations set used_at = null, used_for = null where id = $1 and used_for = $2",
        invitation_id, used_for,
    )  # fmt: skip


# ---------------------------------------------------------------------------------------------- signing keys


async def lock_signing_keys(tx: Tx) -> None:
    """Wait until no other process changes the signing keys."""
    await tx.fetch("select pg_advisory_xact_lock(hashtextextended('iam:signing-keys', 0))")


async def list_signing_keys(tx: Tx) -> list[SigningKey]:
    """Every signing key, oldest first; in the tenant `platform`."""
    rows = await tx.fetch(
        "select kid, public_point, signs_from, withdrawn_at from signing_keys order by signs_from, kid"
    )
    return [SigningKey(row["kid"], row["public_point"], row["signs_from"], row["withdrawn_at"]) for row in rows]


async def insert_signing_key(tx: Tx, key: SigningKey) -> None:
    """Publish a key; its private part must be in the vault already."""
    await tx.execute(
        "insert into signing_keys (kid, public_point, signs_from, withdrawn_at) values ($1, $2, $3, $4)",
        key.kid, key.public_point, key.signs_from, key.withdrawn_at,
    )  # fmt: skip


async def withdraw_followed_keys(tx: Tx, newest_kid: str, withdrawn_at: datetime) -> None:
    """Set when the keys before the newest one are withdrawn, where it is not set yet."""
    await tx.execute(
        """update signing_keys set withdrawn_at = $2
        where kid <> $1 and withdrawn_at is null""",
        newest_kid, withdrawn_at,
    )  # fmt: skip


async def delete_signing_keys(tx: Tx, kids: Sequence[str]) -> None:
    """Forget keys that are withdrawn."""
    await tx.execute("delete from signing_keys where kid = any($1::text[])", list(kids))
