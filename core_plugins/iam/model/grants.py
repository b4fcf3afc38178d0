"""Grants: what they cover, what the built-in roles hold, and permissions as bits of one number.

A grant is a permission's full name (`iam.user.read`), a name that ends in `.*` and covers whatever
lies below it, or `*`. Names below `platform.` mean something in the tenant `platform` alone: no grant
covers them anywhere else, `*` included.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final
from uuid import UUID

from msgspec import Struct

from plugin_api.contracts.iam import ADMIN, MEMBER, OWNER, VIEWER
from plugin_api.errors import NotAllowed, Violation
from plugin_api.ids import PLATFORM_TENANT_ID

EVERYTHING: Final = "*"
EVERY_AREA: Final = "*.*"
"""Every area's permissions, but not `*` itself: what the role `admin` holds. It covers each grant but
`*`, so an admin can hand out all of it and still make no owner. Nobody can ask for it: the contract
knows no such grant, and views show the areas instead (`shown`)."""
PLATFORM_PREFIX: Final = "platform."

BUILT_IN_GRANTS: Final[Mapping[str, tuple[str, ...]]] = {
    OWNER: (EVERYTHING,),
    ADMIN: (EVERY_AREA,),
    # Whoever works together sees who the others are; changing anything of it is not their business.
    MEMBER: ("iam.tenant.read", "iam.user.read"),
    # Their tenant's name and, as everybody who is logged in, their own profile: no list of people.
    VIEWER: ("iam.tenant.read",),
}
"""Code, not rows: so every tenant's built-in roles follow the kernel's version at once."""


def email_key(email: str) -> str:
    """What makes two addresses the same: the text without regard to the case of ASCII letters.

    Only those, so that no letter of another script is ever taken for one (`K` the kelvin sign).
    """
    return email.encode("utf-8", "surrogatepass").lower().decode("utf-8", "surrogatepass")


def role_grants(name: str, stored: Iterable[str], *, built_in: bool) -> tuple[str, ...]:
    """The grants of a role; for a built-in one what is stored does not matter."""
    return BUILT_IN_GRANTS[name] if built_in else tuple(stored)


# ------------------------------------------------------------------------------------------ cover


def covers(held: Iterable[str], wanted: str, *, in_platform: bool) -> bool:
    """Whether one of the grants `held` covers a permission, or all that another grant covers."""
    return covering(held, wanted, in_platform=in_platform) is not None


def covering(held: Iterable[str], wanted: str, *, in_platform: bool) -> str | None:
    """The first of the grants `held` that covers `wanted`, or None."""
    if wanted.startswith(PLATFORM_PREFIX) and not in_platform:
        return None
    return next((grant for grant in held if _covers(grant, wanted)), None)


def _covers(grant: str, wanted: str) -> bool:
    if grant in (wanted, EVERYTHING):
        return True
    if grant == EVERY_AREA:
        return wanted != EVERYTHING
    return grant.endswith(".*") and wanted.startswith(grant[:-1])


def intersection(left: Iterable[str], right: Iterable[str], *, in_platform: bool) -> tuple[str, ...]:
    """The grants that cover exactly what both sides cover.

    Two grants are nested or apart, never half in each other, so the inner ones of all nested pairs
    are the whole answer.
    """
    left, right = tuple(left), tuple(right)
    inner = [grant for grant in left if covers(right, grant, in_platform=in_platform)]
    inner += [grant for grant in right if covers(left, grant, in_platform=in_platform)]
    return tuple(dict.fromkeys(inner))


def shown(grants: Iterable[str], areas: Iterable[str], *, in_platform: bool) -> list[str]:
    """Grants as an answer shows them: every area by its name instead of `EVERY_AREA`."""
    every = [f"{area}.*" for area in sorted(areas)] + ([f"{PLATFORM_PREFIX}*"] * in_platform)
    named = [every if grant == EVERY_AREA else [grant] for grant in grants]
    return list(dict.fromkeys(grant for grants in named for grant in grants))


def platform_violations(grants: Iterable[str], *, in_platform: bool) -> list[Violation]:
    """One violation for each grant of a request's `permissions` that cannot exist in this tenant."""
    if in_platform:
        return []
    detail = "permissions below `platform.` exist in the tenant platform only; leave it out"
    return [
        Violation(f"/permissions/{number}", "operators_only", detail)
        for number, grant in enumerate(grants)
        if grant.startswith(PLATFORM_PREFIX)
    ]


# ----------------------------------------------------------------------------------------- people


class Held(Struct, frozen=True):
    """What an actor holds now, and in which tenant."""

    grants: tuple[str, ...]
    in_platform: bool

    def covers(self, wanted: str) -> bool:
        """Whether it covers a permission, or all that a grant covers."""
        return covers(self.grants, wanted, in_platform=self.in_platform)

    def require(self, wanted: Iterable[str], what: str) -> None:
        """Raise NotAllowed naming the first grant of `wanted` that is not covered.

        `what` says what would have handed it out or taken it away: `the role auditor holds`.
        """
        lacking = next((grant for grant in wanted if not self.covers(grant)), None)
        if lacking is not None:
            name = "permissions of every area" if lacking == EVERY_AREA else lacking
            raise NotAllowed(f"{what} {name}, which you do not hold; ask somebody who does")


class HeldRole(Struct, frozen=True):
    """A role of a person."""

    name: str
    grants: tuple[str, ...]


class Subject(Struct, frozen=True):
    """A person as decisions see them."""

    tenant_id: UUID
    user_id: UUID
    status: str
    roles: tuple[HeldRole, ...]
    """By name."""

    @property
    def is_active(self) -> bool:
        """Whether this person may do anything at all (their tenant may still be suspended)."""
        return self.status == "active"

    @property
    def is_owner(self) -> bool:
        """Whether this person has the role `owner`, active or not."""
        return any(role.name == OWNER for role in self.roles)

    @property
    def in_platform(self) -> bool:
        """Whether this is an operator's tenant."""
        return self.tenant_id == PLATFORM_TENANT_ID

    @property
    def role_names(self) -> list[str]:
        """The roles' names, in order."""
        return [role.name for role in self.roles]

    @property
    def grants(self) -> tuple[str, ...]:
        """What all roles together grant; for decisions. Answers show `Access.shown` of it."""
        return tuple(dict.fromkeys(grant for role in self.roles for grant in role.grants))

    @property
    def held(self) -> Held:
        """What this person holds."""
        return Held(self.grants, self.in_platform)


# ------------------------------------------------------------------------------------------- bits


class PermissionBits:
    """Permissions as bits of one number, so that a check is one `&`.

    A name keeps its bit for good and names are only ever added: a mask that was made before a name
    was added lacks its bit, so whoever keeps masks compares `len()` of now with that of then.
    What each wildcard covers is kept up to date, so a mask costs one look-up for each grant.
    """

    def __init__(self) -> None:
        self._masks: dict[str, int] = {EVERYTHING: 0, EVERY_AREA: 0}
        self._count = 0
        self._platform = 0

    def __len__(self) -> int:
        return self._count

    def bit_of(self, name: str) -> int:
        """The bit of a permission; given out now when the name is new."""
        return self._masks.get(name) or self._add(name)

    def mask_of(self, grants: Iterable[str], *, in_platform: bool) -> int:
        """The bits of every known permission that these grants cover."""
        mask = 0
        for grant in grants:
            mask |= self._masks.get(grant, 0)
        return mask if in_platform else mask & ~self._platform

    def _add(self, name: str) -> int:
        bit = 1 << self._count
        self._count += 1
        if name.startswith(PLATFORM_PREFIX):
            self._platform |= bit
        parts = name.split(".")
        wildcards = [".".join(parts[:length]) + ".*" for length in range(1, len(parts))]
        for key in (name, EVERYTHING, EVERY_AREA, *wildcards):
            self._masks[key] = self._masks.get(key, 0) | bit
        return bit
