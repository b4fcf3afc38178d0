"""People: adding, changing and removing them.

Nobody gives a role that grants more than they hold, and nobody changes somebody who holds more than
they do: an admin can neither set an owner's password nor remove an owner. One active owner always
remains. There is no exception for oneself here: whoever may not change people may not change
themselves by these operations either.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Final, TypeVar
from uuid import UUID

from msgspec import UNSET, UnsetType

from core_plugins.iam.model.grants import Held
from core_plugins.iam.model.passwords import weakness
from core_plugins.iam.model.recognition import api_key_key, user_key
from core_plugins.iam.operations.authorize import find_roles, refuse, require_roles
from core_plugins.iam.operations.parts import OperationGroup
from core_plugins.iam.storage.api_keys import delete_keys_of
from core_plugins.iam.storage.roles import NamedRole
from core_plugins.iam.storage.sessions import revoke_sessions_of
from core_plugins.iam.storage.users import (
    EMAIL_CONSTRAINT,
    UserChange,
    delete_user,
    find_other_owner,
    find_subject,
    find_user,
    hand_tenant_over,
    insert_user,
    list_users,
    lock_owners,
    lock_user,
    set_user_roles,
    update_user,
    users_place,
    view_user,
)
from plugin_api.call import Call
from plugin_api.contracts.iam import OWNER, NewUser, UserList, UserPatch, UserRef, UserView
from plugin_api.errors import Conflict, NotFound, UniqueViolation, Violation
from plugin_api.ids import uuid7
from plugin_api.operation import operation
from plugin_api.pages import Page, keyset
from plugin_api.ports.database import Tx

T = TypeVar("T")

NO_PERSON: Final = "there is no such person in this tenant"
ADDRESS_TAKEN: Final = "somebody in this tenant has this e-mail address already; use another"
_LAST_OWNER: Final = "this is the last active owner of the tenant; give the role owner to somebody else first"
_STRONGER: Final = "this person holds"


class UserOperations(OperationGroup):
    """`/users`."""

    @operation("POST /users", permission="user.create", status=201)
    async def create_user(self, call: Call, request: NewUser) -> UserView:
        """Add a person with roles; without a password they cannot log in until one is set.

        409 when the e-mail address is taken, without regard to case. 403 when a role grants more than
        the caller holds.
        """
        violations, hashed = await self._hash(request)
        tx = await call.tx()
        roles, unknown = await find_roles(tx, request.roles)
        refuse([*violations, *unknown])
        held = await self._parts.access.held(call, tx, self._parts.clock.now())
        require_roles(held, roles)
        return await add_person(tx, request.email, request.name, hashed, roles)

    @operation("GET /users/{user_id}", permission="user.read")
    async def get_user(self, call: Call, request: UserRef) -> UserView:
        """Answer one person."""
        return _present(await find_user(await call.tx(), request.user_id))

    @operation("GET /users", permission="user.read")
    async def list_users(self, call: Call, request: UserList) -> Page[UserView]:
        """List people: by address, role or status; in the order of their coming or of their address."""
        place = users_place(keyset(call, request))
        rows = await list_users(await call.tx(), request, place)
        return place.page(call, rows, request.limit, view_user)

    @operation("PATCH /users/{user_id}", permission="user.update")
    async def update_user(self, call: Call, request: UserPatch) -> UserView:
        """Change a person. A new password, or a suspension, ends their sessions and API keys at once.

        403 when the person, or one of the new roles, holds more than the caller. 409 when the last
        active owner would be lost, or the e-mail address is taken.
        """
        password = given(request.password, None)
        hashed = None if password is None else await self._parts.hasher.hash(password)
        tx = await call.tx()
        if request.roles is not UNSET or request.status is not UNSET:
            await lock_owners(tx)
        user = _present(await lock_user(tx, request.user_id))
        call.expect_version(user.version)
        roles = await self._allowed_roles(call, tx, user, request)
        change = UserChange(
            given(request.email, user.email),
            given(request.name, user.name),
            given(request.status, user.status),
            request.password is not UNSET,
            hashed,
        )
        await self._write(call, tx, user, change, roles)
        return _present(await find_user(tx, user.id))

    @operation("DELETE /users/{user_id}", permission="user.delete")
    async def delete_user(self, call: Call, request: UserRef) -> None:
        """Remove a person; their sessions and API keys end at once.

        403 when the person holds more than the caller. 409 when it is the last active owner.
        """
        tx = await call.tx()
        await lock_owners(tx)
        user = _present(await lock_user(tx, request.user_id))
        call.expect_version(user.version)
        await self._require_not_stronger(call, tx, user.id)
        await _keep_an_owner(tx, user, stays=False)
        await delete_user(tx, user.id)
        await self._changed(call, user_key(call.tenant_id, user.id))

    # ------------------------------------------------------------------------------------ steps

    async def _hash(self, new: NewUser) -> tuple[list[Violation], str | None]:
        """What is wrong with the password, or else its hash; no connection is held meanwhile."""
        if new.password is None:
            return [], None
        violations = weakness("/password", new.password, new.email, new.name)
        return violations, None if violations else await self._parts.hasher.hash(new.password)

    async def _allowed_roles(self, call: Call, tx: Tx, user: UserView, request: UserPatch) -> list[NamedRole] | None:
        """The new roles, when the request names some; refused are whatever is wrong or too strong."""
        roles, violations = await find_roles(tx, given(request.roles, []))
        password = given(request.password, None)
        if password is not None:
            words = (user.email, user.name, given(request.email, ""), given(request.name, ""))
            violations += weakness("/password", password, *filter(None, words))
        refuse(violations)
        held = await self._require_not_stronger(call, tx, user.id)
        require_roles(held, roles)
        return None if request.roles is UNSET else roles

    async def _require_not_stronger(self, call: Call, tx: Tx, user_id: UUID) -> Held:
        """What the actor holds, which must cover all that the person holds."""
        held = await self._parts.access.held(call, tx, self._parts.clock.now())
        subject = await find_subject(tx, user_id)
        held.require(() if subject is None else subject.grants, _STRONGER)
        return held

    async def _write(
        self, call: Call, tx: Tx, user: UserView, change: UserChange, roles: list[NamedRole] | None
    ) -> None:
        names = user.roles if roles is None else [role.name for role in roles]
        await _keep_an_owner(tx, user, stays=change.status == "active" and OWNER in names)
        with address_taken():
            await update_user(tx, user.id, change)
        if roles is not None:
            await set_user_roles(tx, user.id, [role.id for role in roles])
        await self._changed(call, user_key(call.tenant_id, user.id))
        if change.new_password or (change.status != "active" and user.status == "active"):
            await self._end_everything(call, tx, user.id)

    async def _end_everything(self, call: Call, tx: Tx, user_id: UUID) -> None:
        """End a person's sessions and API keys; after the person's row was written, so that no log-in is missed."""
        await revoke_sessions_of(tx, user_id, "user_changed", self._parts.clock.now())
        keys = await delete_keys_of(tx, user_id)
        await self._changed(call, *map(api_key_key, keys))


async def add_person(tx: Tx, email: str, name: str, password_hash: str | None, roles: Sequence[NamedRole]) -> UserView:
    """Add a person with roles. Conflict when the e-mail address is taken."""
    user_id = uuid7()
    with address_taken():
        await insert_user(tx, id=user_id, email=email, name=name, password_hash=password_hash)
    await set_user_roles(tx, user_id, [role.id for role in roles])
    return _present(await find_user(tx, user_id))


@contextmanager
def address_taken() -> Generator[None, None, None]:
    """Say what it means that an address must be unique."""
    try:
        yield
    except UniqueViolation as error:
        if error.constraint != EMAIL_CONSTRAINT:
            raise
        raise Conflict(ADDRESS_TAKEN) from error


def given(value: T | UnsetType, otherwise: T) -> T:
    """The value of a merge patch's field, or `otherwise` when the patch leaves the field alone."""
    return otherwise if value is UNSET else value


def _present(user: UserView | None) -> UserView:
    if user is None:
        raise NotFound(NO_PERSON)
    return user


async def _keep_an_owner(tx: Tx, user: UserView, *, stays: bool) -> None:
    """Refuse the loss of the last active owner; else somebody who stays is named in the tenant's record.

    Needs `lock_owners` whenever `user` may be an active owner who does not stay one.
    """
    if stays or OWNER not in user.roles or user.status != "active":
        return
    other = await find_other_owner(tx, user.id)
    if other is None:
        raise Conflict(_LAST_OWNER)
    await hand_tenant_over(tx, user.id, other)
