"""Data keys and what is sealed with them. Pure: no I/O.

A sealed value is `magic (3) | format (1) | version of the data key (4) | nonce (12) | AES-256-GCM ciphertext and tag`, all
numbers big-endian. Header, plugin, tenant, purpose and context are authenticated with it, each behind its length, so that
no two different combinations authenticate alike.

What is derived from a data key (RFC 5869) never serves two uses: sealing has one key, fingerprints have one for each plugin
and purpose.
"""

from __future__ import annotations

import hmac
import os
import re
from collections.abc import Sequence
from typing import Final
from uuid import UUID

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from msgspec import Struct

from plugin_api.errors import InvalidRequest, KernelBug
from plugin_api.settings import Secret

KEY_BYTES: Final = 32
NONCE_BYTES: Final = 12
TAG_BYTES: Final = 16
MAGIC: Final = b"PKS"
FORMAT: Final = 1
HEADER_BYTES: Final = 8
SEALED_BYTES_MIN: Final = HEADER_BYTES + NONCE_BYTES + TAG_BYTES
"""What sealing adds to a value."""

PLAINTEXT_BYTES_MAX: Final = 4_194_304
CONTEXT_BYTES_MAX: Final = 4_096
PURPOSE_CHARACTERS_MAX: Final = 100
SECRET_BYTES_MAX: Final = 65_536
NAME_CHARACTERS_MAX: Final = 200
SECRET_VERSIONS_MAX: Final = 100
"""Versions of one named secret that are kept; the oldest goes first."""
SECRET_NAMES_MAX: Final = 10_000
"""Named secrets of one plugin in one tenant."""
DATA_KEY_VERSIONS_MAX: Final = 1_000
NAMES_LISTED_MAX: Final = 1_000

_PLUGIN_ID: Final = re.compile(r"[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)+\Z", re.ASCII)
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/:@-]*\Z", re.ASCII)
_PLUGIN_ID_CHARACTERS_MAX: Final = 60


class WrappedKey(Struct, frozen=True):
    """A data key as it is stored: useless without the key-encryption key."""

    id: UUID
    version: int
    """From 1, per tenant; new values are sealed with the highest."""
    kek_id: str
    wrapped: bytes


class DataKey:
    """One version of one tenant's data key."""

    __slots__ = ("_aead", "_secret", "id", "version")

    def __init__(self, id: UUID, version: int, secret: Secret[bytes]) -> None:
        self.id = id
        self.version = version
        self._secret = secret
        self._aead = AESGCM(self.derive(b"seal"))

    def __repr__(self) -> str:
        return f"DataKey(id={self.id}, version={self.version})"

    def derive(self, use: bytes) -> bytes:
        """The key of one use; different uses have unrelated keys."""
        info = b"platform-kernel vault 1 " + use
        return HKDF(SHA256(), KEY_BYTES, salt=None, info=info).derive(self._secret.reveal())

    def seal(self, plaintext: bytes, bound: bytes) -> bytes:
        """Encrypt, with a new random nonce; `bound` is authenticated with it.

        Random nonces of 96 bits are safe for 2**32 values of one data key; the README says when to rotate.
        """
        header = MAGIC + bytes((FORMAT,)) + self.version.to_bytes(4, "big")
        nonce = os.urandom(NONCE_BYTES)
        return header + nonce + self._aead.encrypt(nonce, plaintext, header + bound)

    def open(self, sealed: bytes, bound: bytes) -> bytes:
        """Decrypt. InvalidRequest (`sealed_value_invalid`) for anything but what `seal` made with this key and `bound`."""
        if version_of(sealed) != self.version:
            raise sealed_value_invalid()
        header, nonce = sealed[:HEADER_BYTES], sealed[HEADER_BYTES : HEADER_BYTES + NONCE_BYTES]
        try:
            return self._aead.decrypt(nonce, sealed[HEADER_BYTES + NONCE_BYTES :], header + bound)
        except InvalidTag:
            raise sealed_value_invalid() from None


class Keyring:
    """All versions of one tenant's data key."""

    def __init__(self, keys: Sequence[DataKey]) -> None:
        self._keys = {key.version: key for key in keys}
        self._fingerprint_keys: dict[bytes, bytes] = {}

    def __bool__(self) -> bool:
        return bool(self._keys)

    @property
    def newest(self) -> DataKey:
        """What seals."""
        return self._keys[max(self._keys)]

    def find(self, version: int) -> DataKey | None:
        """The key of a version."""
        return self._keys.get(version)

    def fingerprint(self, use: bytes, value: bytes) -> bytes:
        """HMAC-SHA-256 with the key of one use, from the first version: equal values stay equal after a rotation."""
        key = self._fingerprint_keys.get(use)
        if key is None:
            if len(self._fingerprint_keys) >= NAMES_LISTED_MAX:
                self._fingerprint_keys.clear()
            key = self._fingerprint_keys[use] = self._keys[min(self._keys)].derive(b"fingerprint " + use)
        return hmac.digest(key, value, "sha256")


def sealed_value_invalid() -> InvalidRequest:
    """The one error for whatever cannot be opened: it does not tell why."""
    return InvalidRequest(
        "the sealed value was changed, was sealed for something else, or its key was destroyed",
        code="sealed_value_invalid",
    )


def version_of(sealed: bytes) -> int:
    """Which version of the data key sealed it. InvalidRequest when it is no sealed value."""
    if len(sealed) < SEALED_BYTES_MIN or sealed[:3] != MAGIC or sealed[3] != FORMAT:
        raise sealed_value_invalid()
    if len(sealed) > PLAINTEXT_BYTES_MAX + SEALED_BYTES_MIN:
        raise sealed_value_invalid()
    return int.from_bytes(sealed[4:HEADER_BYTES], "big")


def joined(*parts: bytes) -> bytes:
    """All parts, each behind its length: no two lists of parts give the same bytes."""
    return b"".join(len(part).to_bytes(4, "big") + part for part in parts)


# -------------------------------------------------------------------------------------- wrapping of data keys


def new_key_bytes() -> Secret[bytes]:
    """A new random key."""
    return Secret(os.urandom(KEY_BYTES))


def envelope(tenant_id: UUID, key_id: UUID, version: int, secret: Secret[bytes]) -> Secret[bytes]:
    """What is wrapped: the key and whose it is, so that a wrapped key is of no use in another row."""
    return Secret(secret.reveal() + _owner(tenant_id, key_id, version))


def from_envelope(tenant_id: UUID, stored: WrappedKey, content: Secret[bytes]) -> DataKey:
    """Take the key out again. KernelBug when it belongs to another row."""
    whole = content.reveal()
    key, owner = whole[:KEY_BYTES], whole[KEY_BYTES:]
    if len(key) != KEY_BYTES or not hmac.compare_digest(owner, _owner(tenant_id, stored.id, stored.version)):
        raise KernelBug(f"data key {stored.id} of tenant {tenant_id} was put into a row that is not its own")
    return DataKey(stored.id, stored.version, Secret(key))


def _owner(tenant_id: UUID, key_id: UUID, version: int) -> bytes:
    return tenant_id.bytes + key_id.bytes + version.to_bytes(4, "big")


# ----------------------------------------------------------------------------------------------------- checks


def check_plugin_id(plugin_id: str) -> str:
    """Return `plugin_id` when it can be one. KernelBug otherwise."""
    if len(plugin_id) > _PLUGIN_ID_CHARACTERS_MAX or not _PLUGIN_ID.match(plugin_id):
        raise KernelBug(f"{plugin_id!r} is no plugin's id")
    return plugin_id


def check_purpose(purpose: str) -> bytes:
    """A purpose as bytes. KernelBug when it is empty, too long or does not print."""
    if not 0 < len(purpose) <= PURPOSE_CHARACTERS_MAX or not purpose.isprintable():
        raise KernelBug(f"a purpose is a printable text of 1 to {PURPOSE_CHARACTERS_MAX} characters")
    return purpose.encode()


def check_plaintext(value: bytes, limit: int = PLAINTEXT_BYTES_MAX) -> bytes:
    """Return `value` when it is small enough. KernelBug otherwise."""
    if len(value) > limit:
        raise KernelBug(f"the vault takes at most {limit} bytes here, not {len(value)}; keep large data elsewhere")
    return value


def check_context(context: bytes) -> bytes:
    """Return `context` when it is small enough. KernelBug otherwise."""
    if len(context) > CONTEXT_BYTES_MAX:
        raise KernelBug(
            f"a context has at most {CONTEXT_BYTES_MAX} bytes, this one {len(context)}; hash what is longer"
        )
    return context


def check_name(name: str) -> str:
    """Return `name` when a secret can be called that. InvalidRequest otherwise."""
    if len(name) > NAME_CHARACTERS_MAX or not _NAME.match(name):
        raise InvalidRequest(
            f"a secret's name has 1 to {NAME_CHARACTERS_MAX} of A-Z a-z 0-9 . _ / : @ - and begins with a letter or digit",
            code="secret_name_invalid",
        )
    return name
