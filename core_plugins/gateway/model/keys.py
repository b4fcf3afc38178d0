"""Idempotency keys: how they are written, what of a request counts as the same, and how an answer is kept."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cache
from hashlib import sha256
from typing import Any, Final

import msgspec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from msgspec import NODEFAULT, Struct

from plugin_api.errors import KernelBug, Unreadable

KEY_CHARACTERS_MAX: Final = 255
ANSWER_BYTES_MAX: Final = 1_048_576
"""JSON of an answer that is kept, and its header fields."""
_ONE_TIME_NONCE: Final = bytes(12)
"""Each key encrypts one answer, so its one nonce may be known."""
_SIZE_BYTES: Final = 2
_encoder: Final = msgspec.msgpack.Encoder(order="deterministic")


class Kept(Struct, frozen=True, array_like=True):
    """An answer as it was given: the bytes of its JSON, and the header fields that the operation had added."""

    body: bytes
    headers: list[tuple[str, str]]


_decoder: Final = msgspec.msgpack.Decoder(Kept)


def read_key(sent: str) -> str:
    """The key in a header field: bare, or as a String of RFC 9651 (`"abc"`), which is the same key.

    Raises:
        Unreadable: `bad_header`.
    """
    text = sent.strip(" \t")
    key = _unquoted(text[1:-1]) if len(text) > 1 and text[0] == text[-1] == '"' else text
    is_open = text.startswith('"') and key is text
    if key is None or is_open or not 1 <= len(key) <= KEY_CHARACTERS_MAX or not _is_visible(key):
        raise Unreadable(
            f"the Idempotency-Key is no 1 to {KEY_CHARACTERS_MAX} visible ASCII characters, bare or in one pair of double "
            "quotes; send a new UUID, say",
            code="bad_header",
        )
    return key


def _unquoted(inner: str) -> str | None:
    """What stands between the quotes, its escapes undone; None when it is not well formed."""
    made, rest = list[str](), iter(inner)
    for character in rest:
        if character == '"':
            return None
        if character == "\\":
            escaped = next(rest, "")
            if escaped not in ('"', "\\") or not escaped:
                return None
            made.append(escaped)
        else:
            made.append(character)
    return "".join(made)


def _is_visible(text: str) -> bool:
    return all("!" <= character <= "~" for character in text)


# ------------------------------------------------------------------------------------------- the same request


def digest_of(request: Struct) -> bytes:
    """SHA-256 of a validated request, equal for whatever means the same through every door.

    A field that has its default counts as absent: a client may repeat across an upgrade that has added one.
    """
    return sha256(_encoder.encode(_plain(request))).digest()


def scope_of(actor: str, operation: str, key: str) -> bytes:
    """Whose key for what it is. No part of it has a NUL."""
    return "\0".join((actor, operation, key)).encode()


def _plain(value: Any) -> Any:
    match value:
        case Struct():
            return _fields(value)
        case Mapping():
            return {name: _plain(entry) for name, entry in value.items()}
        case list() | tuple() | set() | frozenset():
            entries = [_plain(entry) for entry in value]
            return sorted(entries, key=_encoder.encode) if isinstance(value, set | frozenset) else entries
        case _:
            return value


def _fields(value: Struct) -> dict[str, Any]:
    found: dict[str, Any] = {"": value.__struct_config__.tag} if value.__struct_config__.tag is not None else {}
    for name, default in _defaults(type(value)):
        entry = getattr(value, name)
        if default is NODEFAULT or type(entry) is not type(default) or entry != default:
            found[name] = _plain(entry)
    return found


@cache
def _defaults(cls: type[Struct]) -> list[tuple[str, Any]]:
    found = list[tuple[str, Any]]()
    for field in msgspec.structs.fields(cls):
        made = field.default_factory() if field.default_factory is not NODEFAULT else field.default
        found.append((field.name, made))
    return found


# ------------------------------------------------------------------------------------------------ kept answers


class AnswerKey:
    """A key that encrypts one answer; `sealed` is that key, encrypted for the tenant by the vault."""

    __slots__ = ("_key", "sealed")

    def __init__(self, key: bytes, sealed: bytes) -> None:
        self._key = key
        self.sealed = sealed

    def encrypt(self, kept: Kept, scope: bytes) -> bytes:
        """What is stored: good for one answer, under one scope.

        Raises:
            KernelBug: the answer is larger than ANSWER_BYTES_MAX.
        """
        plain = msgspec.msgpack.encode(kept)
        if len(plain) > ANSWER_BYTES_MAX:
            raise KernelBug(
                f"an answer of {len(plain)} bytes is too large to be kept under an idempotency key (at most "
                f'{ANSWER_BYTES_MAX}); answer less, or declare idempotency="none"'
            )
        size = len(self.sealed).to_bytes(_SIZE_BYTES, "big")
        return size + self.sealed + AESGCM(self._key).encrypt(_ONE_TIME_NONCE, plain, scope)


def new_answer_key() -> bytes:
    """A new key for one answer."""
    return os.urandom(32)


def split(stored: bytes) -> tuple[bytes, bytes]:
    """The sealed key and the encrypted answer of what is stored."""
    end = _SIZE_BYTES + int.from_bytes(stored[:_SIZE_BYTES], "big")
    return stored[_SIZE_BYTES:end], stored[end:]


def decrypt(key: bytes, encrypted: bytes, scope: bytes) -> Kept:
    """The answer again."""
    return _decoder.decode(AESGCM(key).decrypt(_ONE_TIME_NONCE, encrypted, scope))
