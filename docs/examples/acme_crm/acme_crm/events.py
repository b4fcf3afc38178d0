"""What the plugin tells. Inside one version of a type the data only ever gains fields."""

from __future__ import annotations

from typing import Final
from uuid import UUID

from plugin_api import Event, Struct

from acme_crm.model import Deal, Lead, Outcome

DEAL_CLOSED = "acme.crm.deal.closed.v1"
"""The full type, as consumers name it."""


class LeadCreated(Struct, frozen=True):
    """Data of `lead.created.v1`."""

    name: str


class DealClosed(Struct, frozen=True):
    """Data of `deal.closed.v1`."""

    lead_id: UUID
    outcome: Outcome
    amount_minor: int
    currency: str


EVENTS: Final[dict[str, type[Struct]]] = {"lead.created.v1": LeadCreated, "deal.closed.v1": DealClosed}
"""What is declared of them; events.lock, which `pk contract lock` writes, keeps it."""


def lead_created(lead: Lead) -> Event:
    """A lead is there."""
    return Event("lead.created.v1", str(lead.id), LeadCreated(lead.name))


def deal_closed(deal: Deal, outcome: Outcome) -> Event:
    """A deal has ended."""
    return Event("deal.closed.v1", str(deal.id), DealClosed(deal.lead_id, outcome, deal.amount_minor, deal.currency))
