"""Invitations: who holds the token may become a person of the tenant, once.

Whatever is wrong with a token, the answer is the same 404. What the inviter may hand out is asked twice:
when the invitation is made, and when it is accepted.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

from core_plugins.iam.model.grants import email_key
from core_plugins.iam.model.issued import Issued, issue_invitation, parse_invitation
from core_plugins.iam.model.passwords import weakness
from core_plugins.iam.model.tokens import is_same
from core_plugins.iam.operations.authorize import find_roles, maker_of, refuse, require_roles
from core_plugins.iam.operations.parts import OperationGroup
from core_plugins.iam.operations.users import ADDRESS_TAKEN, add_person
from core_plugins.iam.storage.invitations import (
    NewInvite,
    OpenInvitation,
    delete_invitation,
    find_invitation,
    find_open_invitation,
    insert_invitation,
    list_invitations,
    lock_invitation,
    mark_accepted,
    view_invitation,
)
from core_plugins.iam.storage.roles import NamedRole
from core_plugins.iam.storage.users import find_subject, user_by_email_key
from plugin_api.call import Call
from plugin_api.contracts.iam import (
    AcceptInvitation,
    InvitationList,
    InvitationMade,
    InvitationRef,
    InvitationView,
    NewInvitation,
    UserView,
)
from plugin_api.errors import Conflict, NotAllowed, NotFound
from plugin_api.ids import uuid7
from plugin_api.operation import operation
from plugin_api.pages import Page, keyset
from plugin_api.ports.database import Tx

USERS_PATH: Final = "/api/v1/iam/users"
NO_INVITATION: Final = "there is no such invitation in this tenant"
_NOT_OPEN: Final = "there is no such invitation, or it was used, withdrawn or has expired; ask for a new one"


class InvitationOperations(OperationGroup):
    """`/invitations`."""

    @operation("POST /invitations", permission="invitation.create", status=201)
    async def create_invitation(self, call: Call, request: NewInvitation) -> InvitationMade:
        """Invite somebody; the token is shown in this answer and never again.

        403 when a role grants more than the caller holds. 409 when the e-mail address is a person's already.
        """
        maker, now = maker_of(call), self._parts.clock.now()
        tx = await call.tx()
        roles, unknown = await find_roles(tx, request.roles)
        refuse(unknown)
        require_roles(await self._parts.access.held(call, tx, now), roles)
        if await user_by_email_key(tx, email_key(request.email)) is not None:
            raise Conflict(ADDRESS_TAKEN)
        issued = issue_invitation(call.tenant_id, uuid7())
        names, expires_at = [role.name for role in roles], now + timedelta(seconds=request.expires_in_s)
        new = NewInvite(issued.id, request.email, names, issued.hash(), maker, expires_at)
        await insert_invitation(tx, new, now)
        return InvitationMade(new.id, new.email, new.roles, new.invited_by, expires_at, None, 1, now, issued.text)

    @operation("GET /invitations/{invitation_id}", permission="invitation.read")
    async def get_invitation(self, call: Call, request: InvitationRef) -> InvitationView:
        """Answer one invitation, without its token."""
        return _present(await find_invitation(await call.tx(), request.invitation_id))

    @operation("GET /invitations", permission="invitation.read")
    async def list_invitations(self, call: Call, request: InvitationList) -> Page[InvitationView]:
        """List invitations, the used and the expired ones too."""
        place = keyset(call, request)
        rows = await list_invitations(await call.tx(), request, place)
        return place.page(call, rows, request.limit, view_invitation)

    @operation("DELETE /invitations/{invitation_id}", permission="invitation.delete")
    async def delete_invitation(self, call: Call, request: InvitationRef) -> None:
        """Withdraw an invitation; its token is worth nothing from now on."""
        tx = await call.tx()
        invitation = _present(await lock_invitation(tx, request.invitation_id))
        call.expect_version(invitation.version)
        await delete_invitation(tx, invitation.id)

    @operation("POST /invitations/accept", public=True, status=201)
    async def accept_invitation(self, call: Call, request: AcceptInvitation) -> UserView:
        """Become a person of the tenant that has invited, with exactly the roles of the invitation.

        404 for a token that is unknown, used, withdrawn or expired, or whose inviter has gone or no
        longer holds what it gives. 409 when the e-mail address has become somebody's meanwhile.
        """
        issued = parse_invitation(request.token)
        if issued is None:
            raise NotFound(_NOT_OPEN)
        invitation = await self._look_at(call, issued)
        words = (invitation.email, request.name, invitation.tenant_slug)
        refuse(weakness("/password", request.password, *words))
        hashed = await self._parts.hasher.hash(request.password)
        call.enter(issued.tenant_id)
        tx, now = await call.tx(), self._parts.clock.now()
        await lock_invitation(tx, issued.id)
        roles = await _roles_given(tx, await _open(tx, issued, now))
        user = await add_person(tx, invitation.email, request.name, hashed, roles)
        await mark_accepted(tx, invitation.id, now)
        call.add_response_header("Location", f"{USERS_PATH}/{user.id}")
        return user

    async def _look_at(self, call: Call, issued: Issued) -> OpenInvitation:
        """The invitation of a token, before a password is hashed for it; no connection is held after."""
        opened = self._parts.calls.open(issued.tenant_id, "look at an invitation", deadline_s=call.remaining_s())
        async with opened as looking:
            return await _open(await looking.tx(), issued, self._parts.clock.now())


async def _open(tx: Tx, issued: Issued, now: datetime) -> OpenInvitation:
    invitation = await find_open_invitation(tx, issued.id, now)
    if invitation is None or not is_same(issued.hash(), invitation.token_hash):
        raise NotFound(_NOT_OPEN)
    return invitation


async def _roles_given(tx: Tx, invitation: OpenInvitation) -> list[NamedRole]:
    """The roles of an invitation, as long as all of them exist and the inviter holds what they grant now."""
    roles, unknown = await find_roles(tx, invitation.roles)
    inviter = await find_subject(tx, invitation.invited_by)
    if unknown or inviter is None:
        raise NotFound(_NOT_OPEN)
    try:
        require_roles(inviter.held, roles)
    except NotAllowed as error:
        raise NotFound(_NOT_OPEN) from error
    return roles


def _present(invitation: InvitationView | None) -> InvitationView:
    if invitation is None:
        raise NotFound(NO_INVITATION)
    return invitation
