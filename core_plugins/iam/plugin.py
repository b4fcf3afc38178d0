"""Wiring of identity and access."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from core_plugins.iam.drivers.argon2_hasher import Argon2Hasher
from core_plugins.iam.events import ACCESS_CHANGED, EVENTS, stale_keys
from core_plugins.iam.operations import IamOperations
from core_plugins.iam.operations.announce import Announcer
from core_plugins.iam.operations.api_keys import ApiKeyIdentifier
from core_plugins.iam.operations.authorize import Access
from core_plugins.iam.operations.demo import fill_demo, find_tenant
from core_plugins.iam.operations.first_start import make_first_tenants
from core_plugins.iam.operations.housekeeping import Housekeeping
from core_plugins.iam.operations.identify import Identities
from core_plugins.iam.operations.keys import SigningKeys
from core_plugins.iam.operations.parts import Parts
from core_plugins.iam.operations.providers import PasswordProvider, Providers
from core_plugins.iam.operations.throttle import LogInThrottle
from core_plugins.iam.settings import Settings
from plugin_api import Registrar, hookimpl
from plugin_api.contracts.auth_provider import AUTH_PROVIDERS
from plugin_api.contracts.iam import PASSWORD_LENGTH_MAX, PASSWORD_LENGTH_MIN
from plugin_api.errors import InvalidRequest, KernelError, Violation
from plugin_api.events import EventEnvelope
from plugin_api.hooks import Health
from plugin_api.pipeline import PipelineSlots, Tenant
from plugin_api.ports.event_log import EVENT_LOG, Subscription
from plugin_api.ports.stamps import Stamps


@dataclass
class _Wired:
    """What one generation of the plugin consists of."""

    registrar: Registrar
    parts: Parts
    hasher: Argon2Hasher
    api_keys: ApiKeyIdentifier
    identities: Identities
    heard: Subscription | None = None
    """What other kernels change; None where no event log is."""


class IamPlugin:
    """`kernel.iam`."""

    def __init__(self) -> None:
        self._wired: _Wired | None = None

    @hookimpl
    def pk_configure(self, settings: object) -> None:
        """Refuse passwords for the first start that nobody could log in with."""
        if not isinstance(settings, Settings):
            return
        given = {"operator_password": settings.operator_password, "demo_password": settings.demo_password}
        wrong = [
            Violation(
                f"/iam/{name}", "bound", f"a password has {PASSWORD_LENGTH_MIN} to {PASSWORD_LENGTH_MAX} characters"
            )
            for name, secret in given.items()
            if secret is not None and not PASSWORD_LENGTH_MIN <= len(secret.reveal()) <= PASSWORD_LENGTH_MAX
        ]
        if wrong:
            names = ", ".join(f"iam.{violation.pointer.rpartition('/')[2]}" for violation in wrong)
            raise InvalidRequest(f"{names}: {wrong[0].detail}", violations=wrong)

    @hookimpl
    def pk_register(self, registrar: Registrar) -> None:
        """Make the plugin's objects; register operations, providers and tasks."""
        wired = self._wired = _wire(registrar)
        parts = wired.parts
        registrar.operations(IamOperations(parts))
        registrar.events(EVENTS)
        registrar.service(AUTH_PROVIDERS, parts.providers)
        registrar.task("announce", parts.announcer.run)
        registrar.task("api-key-uses", wired.api_keys.write_uses)
        registrar.task("signing-keys", parts.keys.maintain)
        registrar.task("housekeeping", Housekeeping(registrar.calls, registrar.clock).run)

    @hookimpl
    def pk_pipeline(self, slots: PipelineSlots) -> None:
        """Fill `identify`, `authorize` and `resolve`."""
        wired = self._active()
        wired.parts.access.attach(slots.permissions)
        slots.identify(wired.identities)
        slots.authorize(wired.parts.access)
        slots.resolve(wired.identities)

    @hookimpl
    async def pk_enable(self) -> None:
        """Have a signing key, and the tenants that every kernel begins with."""
        wired = self._active()
        wired.hasher.warm_up()
        await wired.parts.keys.rotate()
        await make_first_tenants(wired.parts, wired.registrar.announce)

    @hookimpl
    async def pk_ready(self) -> None:
        """Tell plugins of new tenants from now on, and hear what other kernels change."""
        wired = self._active()
        wired.parts.announcer.open()
        event_log = wired.registrar.services.find(EVENT_LOG)
        if event_log is not None:
            stamps = wired.parts.stamps
            wired.heard = event_log.broadcast([ACCESS_CHANGED], lambda event: _touch(stamps, event))

    @hookimpl
    async def pk_health(self) -> Health:
        """Whether there is a key that signs."""
        try:
            await self._active().parts.keys.signer()
        except KernelError as error:
            return Health(ok=False, detail=error.detail)
        return Health(ok=True)

    @hookimpl
    async def pk_find_tenant(self, slug: str) -> Tenant | None:
        """Tell which tenant has this slug."""
        return await find_tenant(self._active().parts, slug)

    @hookimpl
    async def pk_demo(self, tenant: Tenant) -> list[str]:
        """Fill the demo tenant with roles and people."""
        return await fill_demo(self._active().parts, tenant)

    @hookimpl
    async def pk_drain(self) -> None:
        """Let look-ups that are under way end, and write what was noted."""
        if self._wired is not None:
            await self._wired.identities.drain()
            await self._wired.api_keys.flush_uses()

    @hookimpl
    async def pk_disable(self) -> None:
        """Let the hashing threads go."""
        wired, self._wired = self._wired, None
        if wired is not None:
            wired.hasher.close()
            if wired.heard is not None:
                wired.heard.close()

    def _active(self) -> _Wired:
        assert self._wired is not None, "the host registers a plugin before it enables it"
        return self._wired


def _touch(stamps: Stamps, event: EventEnvelope) -> None:
    for key in stale_keys(event.data):
        stamps.touch(key)


def _wire(registrar: Registrar) -> _Wired:
    settings: Settings = registrar.settings or Settings()
    calls, clock, log, stamps = registrar.calls, registrar.clock, registrar.log, registrar.stamps
    hasher = Argon2Hasher(
        memory_kib=settings.hash_memory_kib,
        passes=settings.hash_passes,
        threads=settings.hash_threads,
        queue_max=settings.hash_queue_max,
    )
    keys = SigningKeys(
        calls=calls,
        secrets=registrar.secrets,
        stamps=stamps,
        clock=clock,
        log=log,
        rotation=timedelta(days=settings.key_rotation_days),
        lead=timedelta(seconds=settings.key_lead_s),
    )
    parts = Parts(
        settings=settings,
        profile=registrar.host_state.profile,
        clock=clock,
        stamps=stamps,
        cache=registrar.cache,
        secrets=registrar.secrets,
        calls=calls,
        log=log,
        hasher=hasher,
        access=Access(),
        keys=keys,
        throttle=LogInThrottle(registrar.cache, clock),
        providers=Providers(PasswordProvider(calls, hasher)),
        announcer=Announcer(calls, registrar.tenant_hooks, clock, log),
    )
    api_keys = ApiKeyIdentifier(parts)
    return _Wired(registrar, parts, hasher, api_keys, _identities(parts, api_keys))


def _identities(parts: Parts, api_keys: ApiKeyIdentifier) -> Identities:
    return Identities(
        access=parts.access,
        keys=parts.keys,
        identify_key=api_keys.identify_key,
        calls=parts.calls,
        stamps=parts.stamps,
        clock=parts.clock,
        issuer=parts.settings.issuer,
        audience=parts.settings.audience,
    )


plugin = IamPlugin()
