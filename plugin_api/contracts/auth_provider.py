"""Contract of the capability `auth_providers`: further ways to prove who one is (OIDC, LDAP, passkeys, TOTP), as plugins.

`iam` asks its providers in order, its own passwords last. A provider is added in `pk_enable` and taken out in
`pk_disable`. A way that does not begin with a log-in request (a redirect from an identity provider, a passkey) has routes
of its own and ends with `open_session`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol
from uuid import UUID

from msgspec import Struct

from plugin_api.call import Call
from plugin_api.contracts.iam import SessionTokens
from plugin_api.services import ServiceKey


class LogInAttempt(Struct, frozen=True):
    """What somebody shows at a log-in. Never logged."""

    tenant_id: UUID
    email: str
    password: str
    proof: str | None
    """What a second step asked for: a one-time code, an assertion."""
    address: str

    def __repr__(self) -> str:
        return f"LogInAttempt(tenant_id={self.tenant_id})"


class Proved(Struct, frozen=True):
    """Somebody is who they say."""

    user_id: UUID
    """A person of the attempt's tenant. Whether that person is active is checked by iam."""
    method: str
    """`password`, `ldap`, `totp`, ...: for the audit."""


class AuthProvider(Protocol):
    """One way to prove who one is. Both methods run in the tenant, before the session is opened, in a transaction of none."""

    name: str
    """Unique, lower snake word."""

    async def authenticate(self, attempt: LogInAttempt) -> Proved | None:
        """Prove the first step; None when this provider does not know the person or the proof: the next is asked.

        Takes as long for unknown people as for wrong proofs.

        Raises:
            NotAuthenticated: nobody else may be asked about this person.
        """
        ...

    async def confirm(self, attempt: LogInAttempt, proved: Proved) -> None:
        """Ask for a second step, after any provider has proved the first; return when none is needed or it was shown.

        Raises:
            NotAuthenticated: code `second_step_needed`, the detail naming what to send in `proof`.
        """
        ...


class AuthProviders(Protocol):
    """Where providers are added, and sessions opened for people whom a provider has proved."""

    def add(self, provider: AuthProvider) -> Callable[[], None]:
        """Ask this provider from now on, after those added before; call what is returned to take it out again.

        Raises:
            Conflict: a provider of this name is there already, or there are AUTH_PROVIDERS_MAX.
        """
        ...

    async def open_session(self, call: Call, proved: Proved) -> SessionTokens:
        """Open a session in the call's tenant. NotAuthenticated when the person is not there or not active."""
        ...


AUTH_PROVIDERS_MAX = 16
AUTH_PROVIDERS: ServiceKey[AuthProviders] = ServiceKey("auth_providers")
