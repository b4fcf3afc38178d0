"""Ways to prove who one is, asked in order: those that plugins have added, then this kernel's own passwords."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

from core_plugins.iam.model.grants import email_key
from core_plugins.iam.model.passwords import PasswordHasher
from core_plugins.iam.storage.credentials import find_log_in
from plugin_api.call import Call
from plugin_api.contracts.auth_provider import AUTH_PROVIDERS_MAX, AuthProvider, LogInAttempt, Proved
from plugin_api.contracts.iam import SessionTokens
from plugin_api.errors import Conflict, KernelBug, NotAuthenticated
from plugin_api.registrar import Calls


class PasswordProved(Proved, frozen=True):
    """Proved by password: which hash it fitted, and the hash that replaces it when the parameters have changed."""

    stored_hash: str
    new_hash: str | None

    def __repr__(self) -> str:
        return f"PasswordProved({self.user_id})"


class PasswordProvider:
    """The first `AuthProvider`: passwords in this kernel's own database.

    Holds no connection while it hashes, and hashes once for everybody: also for those who are not there.
    """

    name = "password"

    def __init__(self, calls: Calls, hasher: PasswordHasher) -> None:
        self._calls = calls
        self._hasher = hasher

    async def authenticate(self, attempt: LogInAttempt) -> Proved | None:
        """Compare the password with the stored hash."""
        async with self._calls.open(attempt.tenant_id, "log-in", deadline_s=4.0) as call:
            row = await find_log_in(await call.tx(), email_key(attempt.email))
        stored = row.password_hash if row is not None else None
        fits = await self._hasher.verify(stored, attempt.password)
        if row is None or stored is None or not fits:
            return None
        new_hash = await self._hasher.hash(attempt.password) if self._hasher.is_outdated(stored) else None
        return PasswordProved(row.user_id, self.name, stored, new_hash)

    async def confirm(self, attempt: LogInAttempt, proved: Proved) -> None:
        """A password alone asks for no second step."""


class Providers:
    """Every provider in order; the implementation of the capability `auth_providers`."""

    def __init__(self, last: AuthProvider) -> None:
        self._added: list[AuthProvider] = []
        self._last = last
        self._open: Callable[[Call, Proved], Awaitable[SessionTokens]] | None = None

    def opens_sessions_by(self, open_session: Callable[[Call, Proved], Awaitable[SessionTokens]]) -> None:
        """Set what opens sessions; once, by `IamOperations`."""
        self._open = open_session

    def add(self, provider: AuthProvider) -> Callable[[], None]:
        """Ask one more; see the contract."""
        names = {one.name for one in self._all()}
        if provider.name in names or len(self._added) >= AUTH_PROVIDERS_MAX:
            raise Conflict(
                f"{provider.name} cannot be added to {sorted(names)}: names are unique, {AUTH_PROVIDERS_MAX} at most"
            )
        self._added.append(provider)
        return partial(self._remove, provider)

    def _remove(self, provider: AuthProvider) -> None:
        self._added = [one for one in self._added if one is not provider]

    def _all(self) -> list[AuthProvider]:
        return [*self._added, self._last]

    async def prove(self, attempt: LogInAttempt) -> Proved:
        """Who somebody is, by the first provider that knows, after every provider's second step.

        Raises:
            NotAuthenticated: nobody knows them, or a second step is missing or wrong.
        """
        for provider in self._all():
            proved = await provider.authenticate(attempt)
            if proved is not None:
                break
        else:
            raise rejected_log_in()
        for provider in self._all():
            await provider.confirm(attempt, proved)
        return proved

    async def open_session(self, call: Call, proved: Proved) -> SessionTokens:
        """Open a session for somebody whom a provider has proved; see the contract."""
        if self._open is None:
            raise KernelBug("nothing opens sessions; plugin.py wires it")
        return await self._open(call, proved)


def rejected_log_in() -> NotAuthenticated:
    """The one answer to every log-in that fails, whatever is wrong with it."""
    return NotAuthenticated("tenant, e-mail address or password is wrong, or the account may not log in")
