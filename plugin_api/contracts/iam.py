"""Contract of the capability `iam`: tenants, people, roles, sessions, API keys."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Final, Literal, Protocol
from uuid import UUID

from msgspec import UNSET, Meta, Struct, UnsetType

from plugin_api.call import Call
from plugin_api.pages import Page, PageRequest
from plugin_api.services import ServiceKey

PASSWORD_LENGTH_MIN: Final = 12
PASSWORD_LENGTH_MAX: Final = 256
OWNER, ADMIN, MEMBER, VIEWER = "owner", "admin", "member", "viewer"
BUILT_IN_ROLES: Final = (OWNER, ADMIN, MEMBER, VIEWER)

_SECRET = {"writeOnly": True, "format": "password"}
Slug = Annotated[
    str,
    Meta(
        pattern=r"^[a-z][a-z0-9-]{1,38}[a-z0-9]\Z",
        description="3 to 40 lower-case letters, digits and hyphens; begins with a letter, ends with none but a hyphen.",
        examples=["acme"],
    ),
]
Name = Annotated[str, Meta(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+\Z", examples=["Ada Lovelace"])]
Email = Annotated[
    str,
    Meta(
        max_length=254,
        pattern=r"^[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?\Z",
        description="An e-mail address; unique in a tenant without regard to case.",
        examples=["ada@example.com"],
    ),
]
NewPassword = Annotated[
    str,
    Meta(
        min_length=PASSWORD_LENGTH_MIN,
        max_length=PASSWORD_LENGTH_MAX,
        description="12 to 256 characters; the commonest passwords are refused.",
        extra_json_schema=_SECRET,
    ),
]
GivenPassword = Annotated[str, Meta(max_length=PASSWORD_LENGTH_MAX, extra_json_schema=_SECRET)]
Token = Annotated[str, Meta(min_length=1, max_length=4_096, extra_json_schema=_SECRET)]
RoleName = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z0-9](?:[A-Za-z0-9 ._-]{0,61}[A-Za-z0-9])?\Z",
        description="1 to 63 letters, digits, spaces, dots, hyphens and underscores; begins and ends with a letter or digit.",
        examples=["support"],
    ),
]
Grant = Annotated[
    str,
    Meta(
        max_length=200,
        pattern=r"^(\*|[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*){2,}|[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)*\.\*)\Z",
        description="A permission's full name, a name that ends in `.*`, or `*`.",
        examples=["iam.user.read", "iam.user.*", "*"],
    ),
]
PermissionName = Annotated[
    str,
    Meta(max_length=200, pattern=r"^[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*){2,}\Z", examples=["iam.user.read"]),
]
TimeZone = Annotated[str, Meta(max_length=64, pattern=r"^[A-Za-z0-9_+/-]+\Z", examples=["Europe/Berlin"])]
Locale = Annotated[str, Meta(max_length=35, pattern=r"^[a-z]{2,3}(-[A-Za-z0-9]{2,8})*\Z", examples=["en-GB"])]
Currency = Annotated[str, Meta(pattern=r"^[A-Z]{3}\Z", examples=["EUR"])]
RoleNames = Annotated[list[RoleName], Meta(max_length=50)]
Grants = Annotated[list[Grant], Meta(max_length=500)]

# ----------------------------------------------------------------------------------------------- tenants


class SignUp(Struct, frozen=True, forbid_unknown_fields=True):
    """A new tenant and its owner."""

    slug: Slug
    name: Name
    owner_email: Email
    owner_password: NewPassword
    time_zone: TimeZone = "UTC"
    locale: Locale = "en"
    currency: Currency = "EUR"
    invitation: Token | None = None
    """Needed while sign-up is by invitation (setting `iam.signup = "invite"`)."""


class TenantView(Struct, frozen=True):
    """A tenant."""

    id: UUID
    slug: str
    name: str
    status: str
    time_zone: str
    locale: str
    currency: str
    owner_id: UUID
    version: int
    created_at: datetime
    updated_at: datetime


class TenantRef(Struct, frozen=True, forbid_unknown_fields=True):
    """Which tenant; only one's own can be named."""

    tenant_id: UUID


class TenantPatch(Struct, frozen=True, forbid_unknown_fields=True):
    """Changes of a tenant (merge patch)."""

    tenant_id: UUID
    name: Name | UnsetType = UNSET
    time_zone: TimeZone | UnsetType = UNSET
    locale: Locale | UnsetType = UNSET
    currency: Currency | UnsetType = UNSET


# ---------------------------------------------------------------------------------------------- sessions


class LogIn(Struct, frozen=True, forbid_unknown_fields=True):
    """Credentials of a person."""

    tenant: Annotated[str, Meta(max_length=64, description="The tenant's slug.")]
    email: Annotated[str, Meta(max_length=254)]
    password: GivenPassword
    proof: Annotated[str, Meta(max_length=4096, extra_json_schema=_SECRET)] | None = None
    """What a second step asked for, such as a one-time code; see `contracts.auth_provider`."""


class SessionTokens(Struct, frozen=True):
    """A session's tokens, shown once."""

    session_id: UUID
    access_token: str
    refresh_token: str
    token_type: str
    expires_in_s: int


class Refresh(Struct, frozen=True, forbid_unknown_fields=True):
    """The newest refresh token of a session."""

    refresh_token: Token


class BrowserSession(Struct, frozen=True):
    """A session whose secret is in an HttpOnly cookie; send `csrf_token` as `X-CSRF-Token` with every change."""

    session_id: UUID
    csrf_token: str
    expires_in_s: int


class SessionView(Struct, frozen=True):
    """A living session of mine."""

    id: UUID
    user_id: UUID
    kind: Literal["bearer", "cookie"]
    current: bool
    """Whether this request was made in it."""
    address: str
    user_agent: str
    last_used_at: datetime
    expires_at: datetime
    version: int
    created_at: datetime


class SessionRef(Struct, frozen=True, forbid_unknown_fields=True):
    """Which session."""

    session_id: UUID


class SessionList(PageRequest, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """My living sessions; of everybody with `user_id` and the permission `iam.session.read`."""

    sort: Literal["created_at", "-created_at"] = "-created_at"
    user_id: UUID | None = None


class Nothing(Struct, frozen=True, forbid_unknown_fields=True):
    """No arguments."""


class Person(Struct, frozen=True):
    """The user of `/me`."""

    id: UUID
    email: str
    name: str


class TenantBrief(Struct, frozen=True):
    """The tenant of `/me`."""

    id: UUID
    slug: str
    name: str
    time_zone: str
    locale: str
    currency: str


class Me(Struct, frozen=True):
    """Who I am and what I may do; for an API key the user is its maker and `roles` is empty."""

    user: Person
    tenant: TenantBrief
    roles: list[str]
    permissions: list[str]


# ------------------------------------------------------------------------------------------------- users


class NewUser(Struct, frozen=True, forbid_unknown_fields=True):
    """A person to add; without a password they cannot log in until one is set."""

    email: Email
    name: Name
    roles: RoleNames
    password: NewPassword | None = None


class UserView(Struct, frozen=True):
    """A person."""

    id: UUID
    email: str
    name: str
    roles: list[str]
    status: str
    last_login_at: datetime | None
    version: int
    created_at: datetime
    updated_at: datetime


class UserRef(Struct, frozen=True, forbid_unknown_fields=True):
    """Which person."""

    user_id: UUID


class UserPatch(Struct, frozen=True, forbid_unknown_fields=True):
    """Changes of a person (merge patch)."""

    user_id: UUID
    email: Email | UnsetType = UNSET
    name: Name | UnsetType = UNSET
    roles: RoleNames | UnsetType = UNSET
    password: NewPassword | UnsetType | None = UNSET
    """null: no log-in by password any more."""
    status: Literal["active", "suspended"] | UnsetType = UNSET


class UserList(PageRequest, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """People of my tenant."""

    sort: Literal["created_at", "-created_at", "email", "-email"] = "created_at"
    email: Annotated[str, Meta(max_length=254)] | None = None
    role: RoleName | None = None
    status: Literal["active", "suspended"] | None = None


# ------------------------------------------------------------------------------------------------- roles


class NewRole(Struct, frozen=True, forbid_unknown_fields=True):
    """A role to make."""

    name: RoleName
    permissions: Grants


class RoleView(Struct, frozen=True):
    """A role."""

    id: UUID
    name: str
    permissions: list[str]
    built_in: bool
    version: int
    created_at: datetime
    updated_at: datetime


class RoleRef(Struct, frozen=True, forbid_unknown_fields=True):
    """Which role."""

    role_id: UUID


class RolePatch(Struct, frozen=True, forbid_unknown_fields=True):
    """Changes of a role (merge patch)."""

    role_id: UUID
    name: RoleName | UnsetType = UNSET
    permissions: Grants | UnsetType = UNSET


class RoleList(PageRequest, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Roles of my tenant."""

    sort: Literal["created_at", "-created_at", "name", "-name"] = "created_at"
    name: RoleName | None = None


# -------------------------------------------------------------------------------------------- invitations


class NewInvitation(Struct, frozen=True, forbid_unknown_fields=True):
    """Somebody to invite."""

    email: Email
    roles: RoleNames
    expires_in_s: Annotated[int, Meta(ge=60, le=2_592_000)] = 604_800


class InvitationView(Struct, frozen=True):
    """An invitation."""

    id: UUID
    email: str
    roles: list[str]
    invited_by: UUID
    expires_at: datetime
    accepted_at: datetime | None
    version: int
    created_at: datetime


class InvitationMade(InvitationView, frozen=True):
    """A new invitation with its token, shown once."""

    token: str


class InvitationRef(Struct, frozen=True, forbid_unknown_fields=True):
    """Which invitation."""

    invitation_id: UUID


class InvitationList(PageRequest, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Invitations of my tenant."""

    sort: Literal["created_at", "-created_at"] = "-created_at"


class AcceptInvitation(Struct, frozen=True, forbid_unknown_fields=True):
    """An invitation's token and what its person chooses."""

    token: Token
    name: Name
    password: NewPassword


# ---------------------------------------------------------------------------------------------- API keys


class NewApiKey(Struct, frozen=True, forbid_unknown_fields=True):
    """An API key to make; it may hold only what its maker holds."""

    name: Name
    permissions: Grants
    expires_in_s: Annotated[int, Meta(ge=1, le=315_360_000)] | None = None
    """None: until it is revoked."""


class ApiKeyView(Struct, frozen=True):
    """An API key without its secret."""

    id: UUID
    name: str
    user_id: UUID
    permissions: list[str]
    expires_at: datetime | None
    last_used_at: datetime | None
    """Within a minute."""
    version: int
    created_at: datetime


class ApiKeyMade(ApiKeyView, frozen=True):
    """A new API key with its secret, shown once."""

    secret: str
    """`pkk_<id>_<secret>`, sent as Bearer."""


class ApiKeyRef(Struct, frozen=True, forbid_unknown_fields=True):
    """Which API key."""

    key_id: UUID


class ApiKeyList(PageRequest, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """API keys of my tenant."""

    sort: Literal["created_at", "-created_at"] = "-created_at"


# ------------------------------------------------------------------------------------------------ access


class Check(Struct, frozen=True, forbid_unknown_fields=True):
    """May somebody do this?"""

    permission: PermissionName
    resource: Annotated[str, Meta(max_length=500)] | None = None
    user_id: UUID | None = None
    """None: the caller."""


class Why(Struct, frozen=True):
    """The reason for a decision."""

    reason: Literal["granted", "no_grant", "unknown_permission", "operators_only", "suspended"]
    detail: str
    role: str | None = None
    grant: str | None = None


class Decision(Struct, frozen=True):
    """The answer to `Check`."""

    allowed: bool
    why: Why


class JsonWebKey(Struct, frozen=True):
    """One public signing key (RFC 7517)."""

    kty: str
    crv: str
    x: str
    y: str
    kid: str
    use: str
    alg: str


class JsonWebKeySet(Struct, frozen=True):
    """The public signing keys: of now, of the recent past, and of the near future."""

    keys: list[JsonWebKey]


class Iam(Protocol):
    """What other plugins may ask of iam."""

    async def get_user(self, call: Call, request: UserRef) -> UserView:
        """A person of the call's tenant. NotFound when there is none."""
        ...

    async def list_users(self, call: Call, request: UserList) -> Page[UserView]:
        """People of the call's tenant."""
        ...

    async def check(self, call: Call, request: Check) -> Decision:
        """Whether somebody holds a permission, and why."""
        ...


IAM: ServiceKey[Iam] = ServiceKey("iam", Iam)
