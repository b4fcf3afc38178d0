"""Secrets and keys: envelope encryption, a data key for each tenant under a key-encryption key."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol
from uuid import UUID

from plugin_api.services import ServiceKey


class Secrets(Protocol):
    """One plugin's part of the vault.

    Raises, all of them:
        StoreUnavailable: the store of the keys is away.
    """

    async def seal(self, tenant_id: UUID, purpose: str, plaintext: bytes, *, context: bytes = b"") -> bytes:
        """Encrypt under the tenant's data key (AES-256-GCM). Plugin, tenant, `purpose` and `context` are authenticated
        with it: what was sealed for one row or tenant cannot be opened as another's."""
        ...

    async def open(self, tenant_id: UUID, purpose: str, sealed: bytes, *, context: bytes = b"") -> bytes:
        """Decrypt what `seal` gave for the same tenant, purpose and context.

        Raises:
            InvalidRequest: code `sealed_value_invalid`: changed, or sealed for something else, or the key was destroyed.
        """
        ...

    async def fingerprint(self, tenant_id: UUID, purpose: str, value: bytes) -> bytes:
        """Make a keyed fingerprint (HMAC-SHA-256, 32 bytes): equal for equal values of one tenant and purpose only."""
        ...

    async def put(self, tenant_id: UUID, name: str, value: bytes) -> int:
        """Store a named secret, encrypted; its new version, from 1."""
        ...

    async def get(self, tenant_id: UUID, name: str, *, version: int | None = None) -> bytes:
        """Read a named secret (the newest version by default). NotFound when there is none."""
        ...

    async def names(self, tenant_id: UUID, *, prefix: str = "") -> Sequence[str]:
        """The names that begin with `prefix`, sorted, at most 1000."""
        ...

    async def delete(self, tenant_id: UUID, name: str) -> None:
        """Destroy all versions of a named secret. Deleting an absent one is no error."""
        ...


class SecretsProvider(Protocol):
    """Hands each plugin its part; provided by `kernel.vault` as the capability `vault`."""

    def part(self, plugin_id: str) -> Secrets:
        """The part of one plugin."""
        ...


SECRETS: ServiceKey[SecretsProvider] = ServiceKey("vault")
