"""Secrets that are shown once: API keys and the tokens of invitations.

Each carries the ids of its tenant and of its row, so nothing is ever looked for across tenants, and 32
random bytes that make it believed. The database keeps SHA-256 of the whole text: a secret of 256 random
bits needs no slow hash.
"""

from __future__ import annotations

import re
import secrets
from typing import Final
from uuid import UUID

from msgspec import Struct

from core_plugins.iam.model.tokens import (
    API_KEY_PREFIX,
    SECRET_BYTES,
    decode_base64url,
    encode_base64url,
    hash_token,
)

INVITATION_PREFIX: Final = "pki_"

_UUID: Final = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_RANDOM_PART: Final = r"[A-Za-z0-9_-]{64}"  # 48 bytes: the tenant's id and the random ones
_ISSUED: Final = re.compile(rf"(pk[ki]_)({_UUID})_({_RANDOM_PART})\Z")


class Issued(Struct, frozen=True):
    """A secret taken apart. Never printed."""

    tenant_id: UUID
    id: UUID
    """Of the row."""
    text: str

    def __repr__(self) -> str:
        return f"Issued({self.id})"

    def hash(self) -> bytes:
        """What the database keeps."""
        return hash_token(self.text)


def issue_api_key(tenant_id: UUID, key_id: UUID) -> Issued:
    """Make the secret of a new API key: `pkk_<id>_<secret>`."""
    return _issue(API_KEY_PREFIX, tenant_id, key_id)


def issue_invitation(tenant_id: UUID, invitation_id: UUID) -> Issued:
    """Make the token of a new invitation: `pki_<id>_<secret>`."""
    return _issue(INVITATION_PREFIX, tenant_id, invitation_id)


def parse_api_key(text: str) -> Issued | None:
    """Take an API key apart; None when it is none."""
    return _parse(API_KEY_PREFIX, text)


def parse_invitation(text: str) -> Issued | None:
    """Take an invitation's token apart; None when it is none."""
    return _parse(INVITATION_PREFIX, text)


def _issue(prefix: str, tenant_id: UUID, row_id: UUID) -> Issued:
    secret = encode_base64url(tenant_id.bytes + secrets.token_bytes(SECRET_BYTES))
    return Issued(tenant_id, row_id, f"{prefix}{row_id}_{secret}")


def _parse(prefix: str, text: str) -> Issued | None:
    found = _ISSUED.match(text)
    if found is None or found[1] != prefix:
        return None
    raw = decode_base64url(found[3])
    return None if raw is None else Issued(UUID(bytes=raw[:16]), UUID(found[2]), text)
