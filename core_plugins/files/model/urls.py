"""Signed URLs of the filesystem: `{key id}.{grant}.{HMAC-SHA-256}`, each in base64url without padding.

The code is compared as text and in constant time, so that no other spelling of the same bytes passes either.
"""

from __future__ import annotations

import hmac
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping
from typing import Final
from uuid import UUID

import msgspec
from msgspec import Struct

from plugin_api.errors import InvalidRequest, NotAllowed
from plugin_api.limits import BLOB_BYTES_MAX, BLOB_URL_S_MAX
from plugin_api.ports.blob_store import UrlMethod
from plugin_api.settings import Secret

FORMAT: Final = 1
TOKEN_CHARACTERS_MAX: Final = 4_096
_CONTEXT: Final = b"platform-kernel blob url 1\0"
_PARTS: Final = 3


class Grant(Struct, frozen=True, array_like=True):
    """What one signed URL allows."""

    method: UrlMethod
    area: str
    tenant_id: UUID
    key: str
    expires_at: int
    """Seconds since 1970, UTC; refused from then on."""
    size: int | None = None
    size_max: int | None = None
    content_type: str | None = None
    format: int = FORMAT

    @property
    def bytes_max(self) -> int:
        """How many bytes may be sent at most."""
        return self.size if self.size is not None else self.size_max or 0


def check_grant(method: UrlMethod, expires_s: int, size: int | None, size_max: int | None) -> None:
    """InvalidRequest, code `signed_url_refused`, when such a URL must not be made."""
    if method not in ("GET", "PUT"):
        raise refused(f"{str(method)[:20]} cannot be signed; sign GET or PUT")
    if not 1 <= expires_s <= BLOB_URL_S_MAX:
        raise refused(
            f"a signed URL lives 1 to {BLOB_URL_S_MAX} s, not {expires_s} s; sign another when it has expired"
        )
    if method == "GET" and not (size is None and size_max is None):
        raise refused("a size bounds what is sent, and a GET sends nothing; leave it out")
    if method == "PUT" and (size is None) == (size_max is None):
        raise refused("a signed PUT needs either `size` or `size_max`, in bytes")
    for bound in (size, size_max):
        if bound is not None and not 0 <= bound <= BLOB_BYTES_MAX:
            raise refused(f"a blob has 0 to {BLOB_BYTES_MAX} bytes, not {bound}")


def refused(why: str) -> InvalidRequest:
    """The error of a URL that is not made."""
    return InvalidRequest(why, code="signed_url_refused")


def make_token(grant: Grant, key_id: str, key: Secret[bytes]) -> str:
    """Sign a grant."""
    text = f"{key_id}.{_encoded(msgspec.msgpack.encode(grant))}"
    return f"{text}.{_code(text, key)}"


def key_id_of(token: str) -> str:
    """Which key is said to have signed a token; nothing is proven yet."""
    return token.partition(".")[0]


def open_token(token: str, keys: Mapping[str, Secret[bytes]], method: str, now: float) -> Grant:
    """What a token allows, for `method` (HEAD passes as GET) at `now` (seconds since 1970).

    Raises:
        NotAllowed: code `signed_url_invalid`: not made by us, changed, or for another method; `signed_url_expired`.
    """
    parts = token.split(".")
    key = keys.get(parts[0])
    if len(token) > TOKEN_CHARACTERS_MAX or len(parts) != _PARTS or key is None:
        raise invalid()
    text = f"{parts[0]}.{parts[1]}"
    if not hmac.compare_digest(_code(text, key).encode(), parts[2].encode("utf-8", "replace")):
        raise invalid()
    grant = msgspec.msgpack.decode(urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)), type=Grant)
    if grant.format != FORMAT or grant.method != ("GET" if method == "HEAD" else method):
        raise invalid()
    if now >= grant.expires_at:
        raise NotAllowed("the signed URL has expired; ask for a new one", code="signed_url_expired")
    return grant


def check_upload(grant: Grant, length: int | None, content_type: str) -> None:
    """NotAllowed, code `signed_url_invalid`, when what is announced is not what the URL was signed for."""
    if length is not None and (length > grant.bytes_max or (grant.size is not None and length != grant.size)):
        raise NotAllowed(
            f"the signed URL is for {'exactly' if grant.size is not None else 'at most'} {grant.bytes_max} bytes, not "
            f"{length}; ask for a new one",
            code="signed_url_invalid",
        )
    if grant.content_type is not None and content_type.lower() != grant.content_type.lower():
        raise NotAllowed(
            f"the signed URL is for {grant.content_type}; send that as Content-Type", code="signed_url_invalid"
        )


def invalid() -> NotAllowed:
    """The one error for whatever was not signed for this: it does not tell why."""
    return NotAllowed(
        "the signed URL was changed, or is for another method; ask for a new one", code="signed_url_invalid"
    )


def _code(text: str, key: Secret[bytes]) -> str:
    return _encoded(hmac.digest(key.reveal(), _CONTEXT + text.encode("utf-8", "replace"), "sha256"))


def _encoded(raw: bytes) -> str:
    return urlsafe_b64encode(raw).rstrip(b"=").decode()
