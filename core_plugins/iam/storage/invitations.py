"""Invitations: the hash of the token alone."""

# ruff: noqa: S608 - statements are put together from constants of this file; values are placeholders

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final
from uuid import UUID

from msgspec import Struct

from plugin_api.contracts.iam import InvitationList, InvitationView
from plugin_api.pages import Keyset
from plugin_api.ports.database import Row, Tx

_COLUMNS: Final = "id, email, roles, invited_by, expires_at, accepted_at, version, created_at"


class NewInvite(Struct, frozen=True):
    """An invitation to be made."""

    id: UUID
    email: str
    roles: list[str]
    token_hash: bytes
    invited_by: UUID
    expires_at: datetime

    def __repr__(self) -> str:
        return f"NewInvite({self.id})"


class OpenInvitation(Struct, frozen=True):
    """An invitation that can still be accepted."""

    id: UUID
    email: str
    roles: list[str]
    token_hash: bytes
    invited_by: UUID
    tenant_slug: str

    def __repr__(self) -> str:
        return f"OpenInvitation({self.id})"


async def insert_invitation(tx: Tx, new: NewInvite, now: datetime) -> None:
    """Keep an invitation."""
    await tx.execute(
        """insert into invitations
        (id, email, roles, token_hash, invited_by, expires_at, created_at, updated_at)
        values ($1, $2, $3, $4, $5, $6, $7, $7)""",
        new.id, new.email, new.roles, new.token_hash, new.invited_by, new.expires_at, now,
    )  # fmt: skip


async def find_invitation(tx: Tx, invitation_id: UUID) -> InvitationView | None:
    """An invitation."""
    row = await tx.fetch_one(f"select {_COLUMNS} from invitations where id = $1", invitation_id)
    return None if row is None else view_invitation(row)


async def lock_invitation(tx: Tx, invitation_id: UUID) -> InvitationView | None:
    """An invitation which nobody can accept or withdraw until this transaction ends."""
    row = await tx.fetch_one(f"select {_COLUMNS} from invitations where id = $1 for update", invitation_id)
    return None if row is None else view_invitation(row)


async def find_open_invitation(tx: Tx, invitation_id: UUID, now: datetime) -> OpenInvitation | None:
    """An invitation of an active tenant by an active person, neither used nor expired."""
    row = await tx.fetch_one(
        """select i.id, i.email, i.roles, i.token_hash, i.invited_by, t.slug
        from invitations i
        join tenants t on t.tenant_id = i.tenant_id and t.status = 'active'
        join users u on u.tenant_id = i.tenant_id and u.id = i.invited_by and u.status = 'active'
        where i.id = $1 and i.accepted_at is null and i.expires_at > $2""",
        invitation_id, now,
    )  # fmt: skip
    if row is None:
        return None
    return OpenInvitation(row["id"], row["email"], row["roles"], row["token_hash"], row["invited_by"], row["slug"])


async def list_invitations(tx: Tx, asked: InvitationList, place: Keyset) -> Sequence[Row]:
    """One page of invitations and one more."""
    condition, order, arguments = place.clause(2)
    return await tx.fetch(
        f"select {_COLUMNS} from invitations where {condition} order by {order} limit $1",
        asked.limit + 1, *arguments,
    )  # fmt: skip


async def mark_accepted(tx: Tx, invitation_id: UUID, now: datetime) -> None:
    """Use a locked invitation up."""
    await tx.execute(
        """update invitations set accepted_at = $2, version = version + 1, updated_at = $2
        where id = $1""",
        invitation_id, now,
    )  # fmt: skip


async def delete_invitation(tx: Tx, invitation_id: UUID) -> None:
    """Withdraw an invitation, or forget one that was used."""
    await tx.execute("delete from invitations where id = $1", invitation_id)


def view_invitation(row: Row) -> InvitationView:
    """An invitation as answers show it."""
    return InvitationView(
        row["id"], row["email"], row["roles"], row["invited_by"], row["expires_at"],
        row["accepted_at"], row["version"], row["created_at"],
    )  # fmt: skip
