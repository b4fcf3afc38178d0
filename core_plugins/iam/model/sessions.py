"""What a session's row means: whether it lives, and what a presented refresh token does to it."""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import Enum
from typing import Final, Literal
from uuid import UUID

from msgspec import Struct

GRACE_S: Final = 10
"""A refresh token that was used may be presented again for so long: two tabs, a lost answer."""
USED_EVERY_S: Final = 60
"""`last_used_at` of sessions is exact to this."""

SessionKind = Literal["bearer", "cookie"]
RevokedWhy = Literal["logged_out", "ended", "reused_token", "too_many", "user_changed"]


class Session(Struct, frozen=True):
    """A session with the state of its person and tenant."""

    id: UUID
    user_id: UUID
    kind: SessionKind
    secret_hash: bytes | None
    expires_at: datetime
    revoked_at: datetime | None
    last_used_at: datetime
    user_status: str
    tenant_status: str

    def lives(self, now: datetime) -> bool:
        """Whether anything may still be done in it."""
        active = self.user_status == "active" and self.tenant_status == "active"
        return active and self.revoked_at is None and self.expires_at > now

    def was_used_long_ago(self, now: datetime) -> bool:
        """Whether `last_used_at` is worth a write."""
        return now - self.last_used_at > timedelta(seconds=USED_EVERY_S)


class Presented(Enum):
    """What a presented refresh token is."""

    FRESH = "fresh"
    """It was never used: rotate."""
    REPEATED = "repeated"
    """It was used a moment ago: answer its successor once more."""
    REUSED = "reused"
    """It was used long ago: somebody has stolen it, end the session."""
    DEAD = "dead"
    """It is unknown, or has expired."""


def judge(*, used_at: datetime | None, expires_at: datetime, now: datetime, grace_s: float = GRACE_S) -> Presented:
    """Tell what a known refresh token is. Once REUSED, always REUSED, as long as its row is kept."""
    if used_at is not None:
        within = now - used_at <= timedelta(seconds=grace_s)
        return Presented.REPEATED if within else Presented.REUSED
    return Presented.FRESH if expires_at > now else Presented.DEAD
