"""Leads and deals as they are asked for and answered, and what may become of them. Nothing here waits or reads."""

from __future__ import annotations

from datetime import datetime
from typing import Literal
from uuid import UUID

from msgspec import UNSET, UnsetType
from plugin_api import Annotated, Meta, Struct, errors
from plugin_api.limits import INTEGER_MAX
from plugin_api.pages import PageRequest

State = Literal["open", "won", "lost"]
Outcome = Literal["won", "lost"]
Name = Annotated[str, Meta(min_length=1, max_length=200)]
Email = Annotated[str, Meta(min_length=3, max_length=254, pattern=r"^[^@\s]+@[^@\s]+\Z")]
AmountMinor = Annotated[int, Meta(ge=0, le=INTEGER_MAX, description="In the currency's smallest unit: cents.")]
Currency = Annotated[str, Meta(pattern=r"^[A-Z]{3}\Z", examples=["EUR"])]

# ------------------------------------------------------------------------------------------------- leads


class Lead(Struct, frozen=True):
    """Somebody who may buy. `id` and `version` give its answers `Location` and `ETag`."""

    id: UUID
    name: str
    company: str | None
    email: str | None
    state: State
    assignee_id: UUID | None
    version: int
    created_at: datetime
    updated_at: datetime


class NewLead(Struct, frozen=True, forbid_unknown_fields=True):
    """A lead to create."""

    name: Name
    company: Name | None = None
    email: Email | None = None


class LeadRef(Struct, frozen=True, forbid_unknown_fields=True):
    """Which lead."""

    lead_id: UUID


class LeadList(PageRequest, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which leads, in which order."""

    sort: Literal["created_at", "-created_at"] = "created_at"
    state: State | None = None
    assignee_id: UUID | None = None


class LeadPatch(Struct, frozen=True, forbid_unknown_fields=True):
    """Changes of a lead: what is left out stays, null takes away."""

    lead_id: UUID
    name: Name | UnsetType = UNSET
    company: Name | UnsetType | None = UNSET
    email: Email | UnsetType | None = UNSET


class Assignment(Struct, frozen=True, forbid_unknown_fields=True):
    """Who is to look after a lead."""

    lead_id: UUID
    user_id: UUID


class Closing(Struct, frozen=True, forbid_unknown_fields=True):
    """How a lead ends."""

    lead_id: UUID
    outcome: Outcome


# ------------------------------------------------------------------------------------------------- deals


class Deal(Struct, frozen=True):
    """What a lead may buy."""

    id: UUID
    lead_id: UUID
    title: str
    amount_minor: int
    currency: str
    state: State
    version: int
    created_at: datetime
    updated_at: datetime


class NewDeal(Struct, frozen=True, forbid_unknown_fields=True):
    """A deal to create."""

    lead_id: UUID
    title: Name
    amount_minor: AmountMinor
    currency: Currency | None = None
    """Left out: the operator's setting."""


class DealRef(Struct, frozen=True, forbid_unknown_fields=True):
    """Which deal."""

    deal_id: UUID


class DealList(PageRequest, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which deals, in which order."""

    sort: Literal["created_at", "-created_at"] = "created_at"
    lead_id: UUID | None = None
    state: State | None = None


class DealPatch(Struct, frozen=True, forbid_unknown_fields=True):
    """Changes of a deal: what is left out stays."""

    deal_id: UUID
    title: Name | UnsetType = UNSET
    amount_minor: AmountMinor | UnsetType = UNSET


class DealClosing(Struct, frozen=True, forbid_unknown_fields=True):
    """How a deal ends."""

    deal_id: UUID
    outcome: Outcome


# ------------------------------------------------------------------------------------------------- totals


class NoRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """Nothing."""


class Total(Struct, frozen=True):
    """What was won in one currency."""

    currency: str
    deals_won: int
    amount_minor: str
    """Decimal text: a sum may be larger than what JSON readers keep exact."""


class Totals(Struct, frozen=True):
    """All of it."""

    items: list[Total]


# ------------------------------------------------------------------------------------------------- rules


def require_open(what: Literal["lead", "deal"], state: State) -> None:
    """Refuse to touch what has ended: 409 `lead_closed` or `deal_closed`."""
    if state != "open":
        raise errors.Conflict(f"this {what} is {state} already; create another one", code=f"{what}_closed")
