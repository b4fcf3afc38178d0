"""Tokens: the signed ones that open calls, the opaque ones that renew a session, and the keys that sign.

Access tokens are JWT (RFC 7519) signed with ES256 and nothing else. Secrets of opaque tokens have 256 random bits, so a
plain SHA-256 of the whole token is what the database keeps.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import secrets
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

import msgspec
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.api_jws import PyJWS
from jwt.exceptions import PyJWTError
from msgspec import Struct

from plugin_api.contracts.iam import JsonWebKey
from plugin_api.errors import NotAuthenticated

ALGORITHM: Final = "ES256"
ACCESS_TOKEN_S: Final = 900
EARLY_S: Final = 5
"""`nbf` lies so far before `iat`: the clocks of two machines are never quite equal, and verifying has no leeway."""
TOKEN_LENGTH_MAX: Final = 2_048
SECRET_BYTES: Final = 32
REFRESH_PREFIX: Final = "pkr"
COOKIE_PREFIX: Final = "pks"
API_KEY_PREFIX: Final = "pkk_"
SESSION_COOKIE: Final = "pk_session"
CSRF_COOKIE: Final = "pk_csrf"

_HEADER_FIELDS: Final = frozenset({"alg", "kid", "typ"})
_RANDOM: Final = r"[A-Za-z0-9_-]{43}"
_OPAQUE: Final = re.compile(rf"(pkr|pks)_([0-9a-f]{{32}})_([0-9a-f]{{32}})_({_RANDOM})\Z")
_COOKIE: Final = re.compile(rf"(?:^|;)\s*{SESSION_COOKIE}=([^;\s]*)")
_jws: Final = PyJWS(algorithms=[ALGORITHM])
_encoder: Final = msgspec.json.Encoder()


# ------------------------------------------------------------------------------------------ access tokens


class Claims(Struct, frozen=True, forbid_unknown_fields=True):
    """The nine claims of an access token: ids and times, no personal data."""

    iss: str
    aud: str
    sub: UUID
    """User."""
    tid: UUID
    """Tenant."""
    sid: UUID
    """Session."""
    jti: UUID
    iat: int
    nbf: int
    exp: int


_claims_decoder: Final = msgspec.json.Decoder(Claims)


class SigningKey(Struct, frozen=True):
    """A key pair of ours: what is published of it, from when it signs, until when it is believed."""

    kid: str
    public_point: bytes
    """Uncompressed point (SEC 1): 65 bytes."""
    signs_from: datetime
    withdrawn_at: datetime | None
    """When the last token that it can have signed has expired; None while nothing follows it."""

    def public_key(self) -> ec.EllipticCurvePublicKey:
        """The key that verifies."""
        return ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), self.public_point)

    def may_sign(self, now: datetime) -> bool:
        """Whether a token that it signs now would be believed to its end."""
        ends = now + timedelta(seconds=ACCESS_TOKEN_S)
        return self.signs_from <= now and (self.withdrawn_at is None or self.withdrawn_at >= ends)

    def published(self) -> JsonWebKey:
        """The key as in the JWKS (RFC 7517)."""
        x, y = self.public_point[1:33], self.public_point[33:]
        return JsonWebKey("EC", "P-256", encode_base64url(x), encode_base64url(y), self.kid, "sig", ALGORITHM)


class Signer(Struct, frozen=True):
    """A private key and its name. Never printed."""

    kid: str
    private_key: ec.EllipticCurvePrivateKey

    def __repr__(self) -> str:
        return f"Signer({self.kid!r})"


def make_private_key() -> tuple[str, bytes, bytes]:
    """Make a key pair: its kid (derived from the public part), the uncompressed point, the private part as PKCS #8."""
    private_key = ec.generate_private_key(ec.SECP256R1())
    point = private_key.public_key().public_bytes(
        serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint
    )
    private = private_key.private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return hashlib.sha256(point).hexdigest()[:24], point, private


def load_signer(kid: str, private: bytes) -> Signer:
    """Read a private key back.

    Raises:
        ValueError: it is no P-256 key in PKCS #8.
    """
    private_key = serialization.load_der_private_key(private, None)
    if not isinstance(private_key, ec.EllipticCurvePrivateKey) or private_key.curve.name != "secp256r1":
        raise ValueError(f"the signing key {kid} is no P-256 key")
    return Signer(kid, private_key)


class KeyRing:
    """The keys of one moment. Never changed: a reload makes a new one."""

    def __init__(self, keys: Sequence[SigningKey], signers: Mapping[str, Signer]) -> None:
        self._keys = sorted(keys, key=lambda key: key.signs_from)
        self._signers = dict(signers)
        self._public = {key.kid: (key.public_key(), key) for key in self._keys}

    def signer(self, now: datetime) -> Signer | None:
        """The newest key that signs already; None when there is none."""
        ready = [key for key in self._keys if key.may_sign(now) and key.kid in self._signers]
        return self._signers[ready[-1].kid] if ready else None

    def verifier(self, kid: str, now: datetime) -> ec.EllipticCurvePublicKey | None:
        """The public key of this name, unless it is unknown or withdrawn."""
        found = self._public.get(kid)
        if found is None or (found[1].withdrawn_at is not None and found[1].withdrawn_at <= now):
            return None
        return found[0]

    def published(self, now: datetime) -> list[JsonWebKey]:
        """What the JWKS shows: every key that is not withdrawn."""
        return [key.published() for key in self._keys if self.verifier(key.kid, now) is not None]


def sign_access_token(signer: Signer, claims: Claims) -> str:
    """Make the compact JWT of these claims."""
    return _jws.encode(_encoder.encode(claims), signer.private_key, ALGORITHM, {"kid": signer.kid})


def make_claims(
    *, issuer: str, audience: str, user_id: UUID, tenant_id: UUID, session_id: UUID, token_id: UUID, now: datetime
) -> Claims:
    """The claims of a token that begins now."""
    issued = int(now.timestamp())
    return Claims(
        issuer, audience, user_id, tenant_id, session_id, token_id, issued, issued - EARLY_S, issued + ACCESS_TOKEN_S
    )


def key_id_of(token: str) -> str:
    """The `kid` of a token whose shape and header are right; nothing else of it has been checked.

    The header may hold `alg` (ES256 alone), `kid` and `typ`: no key, no address of a key, no critical extension is
    honoured, so none is accepted. Each part must be in the one canonical base64url spelling.

    Raises:
        NotAuthenticated: it is no such token.
    """
    parts = token.split(".")
    if len(token) > TOKEN_LENGTH_MAX or len(parts) != 3:
        raise rejected()
    raw = [decode_base64url(part) for part in parts]
    if any(not one for one in raw):
        raise rejected()
    try:
        header = msgspec.json.decode(raw[0] or b"", type=dict[str, str])
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise rejected() from None
    if header.get("alg") != ALGORITHM or not header.keys() <= _HEADER_FIELDS or not header.get("kid"):
        raise rejected()
    return header["kid"]


def verify_access_token(
    token: str, public_key: ec.EllipticCurvePublicKey, *, issuer: str, audience: str, now: datetime
) -> Claims:
    """Check signature, claims and times of a token whose key was found by `key_id_of`.

    Raises:
        NotAuthenticated: code `token_expired` when that alone is wrong, `not_authenticated` for everything else.
    """
    try:
        payload: bytes = _jws.decode_complete(token, public_key, algorithms=[ALGORITHM])["payload"]
        claims = _claims_decoder.decode(payload)
    except (PyJWTError, msgspec.DecodeError, ValueError):
        raise rejected() from None
    seconds = now.timestamp()
    if claims.iss != issuer or claims.aud != audience or claims.nbf > seconds:
        raise rejected()
    if claims.exp <= seconds:
        raise NotAuthenticated("the access token has expired; refresh the session", code="token_expired")
    return claims


def rejected() -> NotAuthenticated:
    """The one answer to every credential that does not hold, whatever is wrong with it."""
    return NotAuthenticated("the credentials do not hold: they are forged, revoked, expired or malformed; log in again")


# ------------------------------------------------------------------------------------------ opaque tokens


class OpaqueToken(Struct, frozen=True):
    """A refresh token (`pkr_...`) or a browser's session cookie (`pks_...`), taken apart. It names its tenant and session,
    so neither has to be looked for across tenants; its secret alone makes it believed."""

    prefix: str
    tenant_id: UUID
    session_id: UUID
    secret: str

    def __str__(self) -> str:
        return f"{self.prefix}_{self.tenant_id.hex}_{self.session_id.hex}_{self.secret}"

    def __repr__(self) -> str:
        return f"OpaqueToken({self.prefix!r}, session_id={self.session_id})"

    def hash(self) -> bytes:
        """What the database keeps: SHA-256 of the whole text."""
        return hash_token(str(self))

    def successor(self, fingerprint: bytes) -> OpaqueToken:
        """The token that follows this one; the same each time, so that it need not be stored.

        `fingerprint` is a keyed hash of this token of 32 bytes, which nobody can make who holds the token alone.
        """
        return OpaqueToken(self.prefix, self.tenant_id, self.session_id, encode_base64url(fingerprint))


def make_opaque_token(prefix: str, tenant_id: UUID, session_id: UUID) -> OpaqueToken:
    """Make a token with a new random secret."""
    return OpaqueToken(prefix, tenant_id, session_id, secrets.token_urlsafe(SECRET_BYTES))


def parse_opaque_token(text: str, prefix: str) -> OpaqueToken | None:
    """Take a token apart; None when it is none of this kind."""
    found = _OPAQUE.match(text)
    if found is None or found[1] != prefix:
        return None
    return OpaqueToken(found[1], UUID(found[2]), UUID(found[3]), found[4])


def hash_token(text: str) -> bytes:
    """SHA-256 of a token."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def is_same(left: bytes, right: bytes | None) -> bool:
    """Compare in constant time; nothing is the same as None."""
    return right is not None and hmac.compare_digest(left, right)


# ----------------------------------------------------------------------------------------------- browsers


def csrf_token_of(cookie: OpaqueToken) -> str:
    """What a browser session must show in `X-CSRF-Token`: keyed by the session's secret, so it need not be stored."""
    return encode_base64url(hmac.digest(cookie.secret.encode(), b"pk-csrf:" + cookie.session_id.bytes, "sha256"))


def session_cookie_in(header: str) -> str | None:
    """The value of our session cookie in a `Cookie` header; None when it has none, or has it twice."""
    values = _COOKIE.findall(header) if len(header) <= TOKEN_LENGTH_MAX * 4 else []
    return values[0] if len(values) == 1 and values[0] else None


def make_cookies(value: str, csrf_token: str, *, max_age_s: int, secure: bool) -> list[str]:
    """The `Set-Cookie` values that begin a browser session, or end it with `max_age_s=0`."""
    rest = f"Path=/; SameSite=Lax; Max-Age={max_age_s}" + ("; Secure" if secure else "")
    return [f"{SESSION_COOKIE}={value}; HttpOnly; {rest}", f"{CSRF_COOKIE}={csrf_token}; {rest}"]


# ----------------------------------------------------------------------------------------------- encoding


def encode_base64url(data: bytes) -> str:
    """base64url without padding (RFC 7515, 2)."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def decode_base64url(text: str) -> bytes | None:
    """The bytes of a text in the one canonical spelling without padding; None for every other spelling."""
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        return None
    return raw if encode_base64url(raw) == text else None


def withdrawal_of(follower_signs_from: datetime) -> datetime:
    """When a key is withdrawn whose follower signs from then: after the last token it may have signed has expired."""
    return follower_signs_from + timedelta(seconds=ACCESS_TOKEN_S + 60)


def from_timestamp(seconds: int) -> datetime:
    """Seconds since the epoch as a time."""
    return datetime.fromtimestamp(seconds, UTC)
