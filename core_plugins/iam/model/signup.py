"""Sign-up: which slugs can be had, and the invitations that operators give out."""

from __future__ import annotations

import re
import secrets
from functools import cache
from typing import Annotated, Final, Literal
from uuid import UUID
from zoneinfo import available_timezones

from msgspec import Meta, Struct

from core_plugins.iam.model.passwords import weakness
from core_plugins.iam.model.tokens import SECRET_BYTES
from plugin_api.contracts.iam import SignUp
from plugin_api.errors import Violation

PLATFORM_SLUG: Final = "platform"
DEMO_SLUG: Final = "demo"
RESERVED_SLUGS: Final = frozenset(
    f"""
    {PLATFORM_SLUG} {DEMO_SLUG} about abuse account accounts admin administrator api app apps assets auth autoconfig
    autodiscover beta billing blog browser cache cdn cert certs console contact dashboard data default demos dev dns docs
    download edge email envoy eventbus events example feed files flags ftp gateway git grpc health healthz help home host
    hostmaster iam idp imap info internal invite jobs jwks kernel legal livez local localhost log login logout logs mail
    management marketplace media metrics modules money monitor monitoring news noc notify null oauth oidc openid operator
    operators owner pay payment payments ping pkg plugin plugins pop postmaster press pricing privacy private prod
    production public readyz register registry reports reset root route saml sandbox search secure security server service
    services session sessions settings shell shop signin signup site smtp sso staging startupz static stats status store
    support system tenant tenants terms test testing tests tls tracker ui undefined unknown update upload uploads user users
    vault vpn web webhook webhooks webmail webmaster well-known wiki ws www www1 www2 xds
    """.split()
)
"""Names that people would take for ours, or that become host names of the edge."""

_INVITATION: Final = re.compile(r"pku_([0-9a-f]{32})_([A-Za-z0-9_-]{43})\Z")

SignUpMode = Literal["open", "invite", "closed"]


class NewSignUpInvitation(Struct, frozen=True, forbid_unknown_fields=True):
    """An invitation to sign up one tenant."""

    expires_in_s: Annotated[int, Meta(ge=60, le=7_776_000)] = 1_209_600


class SignUpInvitationMade(Struct, frozen=True):
    """An invitation to sign up one tenant, with its token, shown once."""

    id: UUID
    token: str
    """Sent as `invitation` of the sign-up."""
    expires_in_s: int


def find_sign_up_violations(asked: SignUp) -> list[Violation]:
    """Everything that a sign-up breaks beyond the types of its fields."""
    found = list(find_time_zone_violations(asked.time_zone))
    if asked.slug in RESERVED_SLUGS:
        found.append(Violation("/slug", "reserved", "this slug is reserved; choose another"))
    words = (asked.owner_email, asked.slug, asked.name)
    return found + weakness("/owner_password", asked.owner_password, *words)


def find_time_zone_violations(time_zone: str) -> list[Violation]:
    """Whether a time zone is one that this machine knows; on a machine that knows none, every name is taken."""
    known = _time_zones()
    if not known or time_zone in known:
        return []
    return [
        Violation("/time_zone", "unknown_time_zone", "no time zone of the IANA database; write it like Europe/Berlin")
    ]


@cache
def _time_zones() -> frozenset[str]:
    # Reads the whole database of time zones from disk: once is enough.
    return frozenset(available_timezones())


def signup_mode(asked: SignUpMode | None, profile: str) -> SignUpMode:
    """Who may sign up: what is set, else what suits the profile."""
    if asked is not None:
        return asked
    return "open" if profile == "embedded" else "closed"


def make_invitation_token(invitation_id: UUID) -> str:
    """A new token of an invitation to sign up."""
    return f"pku_{invitation_id.hex}_{secrets.token_urlsafe(SECRET_BYTES)}"


def invitation_of(token: str) -> UUID | None:
    """Which invitation a token claims to be of; None when it is no such token."""
    found = _INVITATION.match(token)
    return UUID(found[1]) if found is not None else None
