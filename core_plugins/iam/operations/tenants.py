"""Tenants: signing up, reading and changing one's own."""

from __future__ import annotations

from datetime import timedelta
from functools import partial
from uuid import UUID

import msgspec
from msgspec import UNSET

from core_plugins.iam.model.recognition import tenant_key
from core_plugins.iam.model.signup import (
    NewSignUpInvitation,
    SignUpInvitationMade,
    find_sign_up_violations,
    find_time_zone_violations,
    invitation_of,
    make_invitation_token,
    signup_mode,
)
from core_plugins.iam.model.tokens import hash_token
from core_plugins.iam.operations.founding import found_tenant
from core_plugins.iam.operations.parts import OperationGroup
from core_plugins.iam.storage import credentials, tenants
from plugin_api.call import Call
from plugin_api.contracts.iam import SignUp, TenantPatch, TenantRef, TenantView
from plugin_api.errors import (
    Conflict,
    InvalidRequest,
    NotAllowed,
    NotFound,
    PreconditionFailed,
    UniqueViolation,
    Violation,
)
from plugin_api.ids import PLATFORM_TENANT_ID, uuid7
from plugin_api.operation import operation


class TenantOperations(OperationGroup):
    """Operations on tenants."""

    @operation("POST /tenants", public=True, status=201)
    async def sign_up(self, call: Call, request: SignUp) -> TenantView:
        """Make a tenant with its owner and the roles owner, admin, member, viewer: all of it or nothing.

        Who may do so is the setting `iam.signup`: anybody, whoever has an operator's invitation, or nobody.
        """
        mode = signup_mode(self._parts.settings.signup, self._parts.profile)
        if mode == "closed":
            raise NotAllowed(
                "sign-up is closed here; an operator makes tenants (setting iam.signup)", code="sign_up_closed"
            )
        violations = find_sign_up_violations(request)
        if violations:
            raise InvalidRequest("the sign-up cannot be taken; see errors", violations=violations)
        if mode == "open":
            return await self._found(call, uuid7(), request)
        return await self._found_by_invitation(call, uuid7(), request)

    async def _found_by_invitation(self, call: Call, tenant_id: UUID, asked: SignUp) -> TenantView:
        invitation_id = await self._claim_invitation(asked, tenant_id)
        try:
            return await self._found(call, tenant_id, asked)
        except BaseException:
            await self._release_invitation(invitation_id, tenant_id)
            raise

    async def _found(self, call: Call, tenant_id: UUID, asked: SignUp) -> TenantView:
        # Hashed before the transaction begins: it takes long, and a transaction holds a connection.
        password_hash = await self._parts.hasher.hash(asked.owner_password)
        call.enter(tenant_id)
        tx = await call.tx()
        try:
            view = await found_tenant(tx, tenant_id, asked, password_hash)
        except UniqueViolation as error:
            if error.constraint != tenants.SLUG_CONSTRAINT:
                raise
            raise Conflict("there is a tenant with this slug already; choose another") from None
        call.after_commit(partial(self._parts.announcer.enqueue, tenant_id))
        return view

    async def _claim_invitation(self, asked: SignUp, tenant_id: UUID) -> UUID:
        """Use the invitation up before the tenant is made: two sign-ups with one invitation make one tenant."""
        invitation_id = invitation_of(asked.invitation or "")
        claimed = False
        if invitation_id is not None and asked.invitation is not None:
            async with self._parts.calls.open(PLATFORM_TENANT_ID, "claim invitation") as call:
                claimed = await credentials.claim_signup_invitation(
                    await call.tx(), invitation_id, hash_token(asked.invitation), tenant_id, self._parts.clock.now()
                )
        if not claimed or invitation_id is None:
            wrong = Violation(
                "/invitation", "invitation_invalid", "missing, used, expired or unknown; ask an operator for one"
            )
            raise InvalidRequest("sign-up is by invitation here", violations=[wrong])
        return invitation_id

    async def _release_invitation(self, invitation_id: UUID, tenant_id: UUID) -> None:
        async with self._parts.calls.open(PLATFORM_TENANT_ID, "release invitation") as call:
            await credentials.release_signup_invitation(await call.tx(), invitation_id, tenant_id)

    @operation("POST /signup-invitations", permission="signup.create", operator=True, status=201)
    async def invite_to_sign_up(self, call: Call, request: NewSignUpInvitation) -> SignUpInvitationMade:
        """Make an invitation with which somebody may sign up one tenant; its token is shown once."""
        invitation_id = uuid7()
        token = make_invitation_token(invitation_id)
        expires_at = self._parts.clock.now() + timedelta(seconds=request.expires_in_s)
        maker = call.identity.user_id if call.identity is not None else None
        await credentials.insert_signup_invitation(
            await call.tx(), invitation_id, hash_token(token), maker or invitation_id, expires_at
        )
        return SignUpInvitationMade(invitation_id, token, request.expires_in_s)

    @operation("GET /tenants/{tenant_id}", permission="tenant.read")
    async def get_tenant(self, call: Call, request: TenantRef) -> TenantView:
        """Read one's own tenant; no other one can be seen."""
        return await self._own(call, request.tenant_id)

    @operation("PATCH /tenants/{tenant_id}", permission="tenant.update")
    async def update_tenant(self, call: Call, request: TenantPatch) -> TenantView:
        """Change name, time zone, locale or currency of one's own tenant."""
        before = await self._own(call, request.tenant_id)
        call.expect_version(before.version)
        asked = {name: getattr(request, name) for name in ("name", "time_zone", "locale", "currency")}
        changes = {name: value for name, value in asked.items() if value is not UNSET}
        violations = find_time_zone_violations(changes.get("time_zone", before.time_zone))
        if violations:
            raise InvalidRequest("the change cannot be taken; see errors", violations=violations)
        after = await tenants.update_tenant(await call.tx(), msgspec.structs.replace(before, **changes))
        if after is None:
            raise PreconditionFailed("the tenant has changed since it was read; read it again and repeat the change")
        await self._changed(call, tenant_key(call.tenant_id))
        return after

    async def _own(self, call: Call, tenant_id: UUID) -> TenantView:
        found = await tenants.find_tenant(await call.tx()) if tenant_id == call.tenant_id else None
        if found is None:
            raise NotFound("there is no such tenant")
        return found
