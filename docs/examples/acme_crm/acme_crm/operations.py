"""What can be done with leads and deals. REST, OpenAPI and the in-process call are made from these declarations."""

from __future__ import annotations

from typing import TypeVar
from uuid import UUID

from msgspec import UnsetType
from plugin_api import Call, errors, operation
from plugin_api.contracts.iam import Iam, UserRef
from plugin_api.ids import uuid7
from plugin_api.pages import Page, keyset
from plugin_api.ports.database import Tx

from acme_crm.events import deal_closed, lead_created
from acme_crm.model import (
    Assignment,
    Closing,
    Deal,
    DealClosing,
    DealList,
    DealPatch,
    DealRef,
    Lead,
    LeadList,
    LeadPatch,
    LeadRef,
    NewDeal,
    NewLead,
    NoRequest,
    Totals,
    require_open,
)
from acme_crm.settings import Settings
from acme_crm.storage import (
    assign_lead,
    close_deal,
    close_lead,
    count_open_leads,
    deal_of,
    find_deal,
    find_lead,
    insert_deal,
    insert_lead,
    lead_of,
    list_deals,
    list_leads,
    list_totals,
    lock_deal,
    lock_lead,
    write_deal,
    write_lead,
)

T = TypeVar("T")


class CrmOperations:
    """The capability `acme.crm`."""

    def __init__(self, settings: Settings, iam: Iam) -> None:
        self._settings = settings
        self._iam = iam

    # -- leads

    @operation("POST /leads", permission="lead.create", status=201)
    async def create_lead(self, call: Call, request: NewLead) -> Lead:
        """Create a lead. 409 `leads_full` when the tenant has as many open ones as it may."""
        tx = await call.tx()
        if await count_open_leads(tx) >= self._settings.leads_max:
            limit = self._settings.leads_max
            raise errors.Conflict(f"a tenant has at most {limit} open leads; close some first", code="leads_full")
        lead_id = uuid7()
        await insert_lead(tx, lead_id, request.name, request.company, request.email)
        lead = _present(await find_lead(tx, lead_id), "lead")
        tx.emit(lead_created(lead))
        return lead

    @operation("GET /leads/{lead_id}", permission="lead.read")
    async def get_lead(self, call: Call, request: LeadRef) -> Lead:
        """Answer one lead."""
        return _present(await find_lead(await call.tx(), request.lead_id), "lead")

    @operation("GET /leads", permission="lead.read")
    async def list_leads(self, call: Call, request: LeadList) -> Page[Lead]:
        """List leads in the order in which they were created; all, or those of a state or a person."""
        place = keyset(call, request)
        rows = await list_leads(await call.tx(), request, place, request.limit + 1)
        return place.page(call, rows, request.limit, lead_of)

    @operation("PATCH /leads/{lead_id}", permission="lead.update")
    async def update_lead(self, call: Call, request: LeadPatch) -> Lead:
        """Change an open lead in the version that the caller has read (`If-Match`). 409 `lead_closed`."""
        tx = await call.tx()
        lead = await _open_lead(tx, request.lead_id)
        call.need_version(lead.version)
        name, company = _given(request.name, lead.name), _given(request.company, lead.company)
        await write_lead(tx, lead.id, name, company, _given(request.email, lead.email))
        return _present(await find_lead(tx, lead.id), "lead")

    @operation("POST /leads/{lead_id}/assign", permission="lead.update")
    async def assign_lead(self, call: Call, request: Assignment) -> Lead:
        """Give a lead to somebody of the tenant. The caller needs `iam.user.read` too. 409 `lead_closed`.

        422 `unknown_user` when there is no such person, or they are suspended.
        """
        await self._require_active(call, request.user_id)  # before our transaction: iam has one of its own
        tx = await call.tx()
        lead = await _open_lead(tx, request.lead_id)
        call.expect_version(lead.version)
        await assign_lead(tx, lead.id, request.user_id)
        return _present(await find_lead(tx, lead.id), "lead")

    @operation("POST /leads/{lead_id}/close", permission="lead.close")
    async def close_lead(self, call: Call, request: Closing) -> Lead:
        """End a lead and, in the same way, its open deals. 409 `lead_closed` when it has ended before."""
        tx = await call.tx()
        lead = await _open_lead(tx, request.lead_id)
        call.expect_version(lead.version)
        for deal in await close_lead(tx, lead.id, request.outcome):
            tx.emit(deal_closed(deal, request.outcome))
        return _present(await find_lead(tx, lead.id), "lead")

    # -- deals

    @operation("POST /deals", permission="deal.create", status=201)
    async def create_deal(self, call: Call, request: NewDeal) -> Deal:
        """Create a deal of an open lead. 409 `lead_closed`."""
        tx = await call.tx()
        lead = await _open_lead(tx, request.lead_id)
        deal_id, currency = uuid7(), request.currency or self._settings.currency
        await insert_deal(tx, deal_id, lead.id, request.title, request.amount_minor, currency)
        return _present(await find_deal(tx, deal_id), "deal")

    @operation("GET /deals/{deal_id}", permission="deal.read")
    async def get_deal(self, call: Call, request: DealRef) -> Deal:
        """Answer one deal."""
        return _present(await find_deal(await call.tx(), request.deal_id), "deal")

    @operation("GET /deals", permission="deal.read")
    async def list_deals(self, call: Call, request: DealList) -> Page[Deal]:
        """List deals in the order in which they were created; all, or those of a lead or a state."""
        place = keyset(call, request)
        rows = await list_deals(await call.tx(), request, place, request.limit + 1)
        return place.page(call, rows, request.limit, deal_of)

    @operation("PATCH /deals/{deal_id}", permission="deal.update")
    async def update_deal(self, call: Call, request: DealPatch) -> Deal:
        """Change an open deal in the version that the caller has read (`If-Match`). 409 `deal_closed`."""
        tx = await call.tx()
        deal = await _open_deal(tx, request.deal_id)
        call.need_version(deal.version)
        title, amount_minor = _given(request.title, deal.title), _given(request.amount_minor, deal.amount_minor)
        await write_deal(tx, deal.id, title, amount_minor)
        return _present(await find_deal(tx, deal.id), "deal")

    @operation("POST /deals/{deal_id}/close", permission="deal.update")
    async def close_deal(self, call: Call, request: DealClosing) -> Deal:
        """End a deal. 409 `deal_closed` when it has ended before."""
        tx = await call.tx()
        deal = await _open_deal(tx, request.deal_id)
        call.expect_version(deal.version)
        await close_deal(tx, deal.id, request.outcome)
        tx.emit(deal_closed(deal, request.outcome))
        return _present(await find_deal(tx, deal.id), "deal")

    # -- totals

    @operation("GET /totals", permission="deal.read")
    async def list_totals(self, call: Call, request: NoRequest) -> Totals:
        """What was won, by currency. Follows the deals within moments: it is kept from what they tell."""
        return Totals(await list_totals(await call.tx()))

    # -- steps

    async def _require_active(self, call: Call, user_id: UUID) -> None:
        said = "there is no such active person in this tenant"
        refused = errors.InvalidRequest(said, violations=[errors.Violation("/user_id", "unknown_user", said)])
        try:
            user = await self._iam.get_user(call, UserRef(user_id))
        except errors.NotFound:
            raise refused from None
        if user.status != "active":
            raise refused


async def _open_lead(tx: Tx, lead_id: UUID) -> Lead:
    lead = _present(await lock_lead(tx, lead_id), "lead")
    require_open("lead", lead.state)
    return lead


async def _open_deal(tx: Tx, deal_id: UUID) -> Deal:
    deal = _present(await lock_deal(tx, deal_id), "deal")
    require_open("deal", deal.state)
    return deal


def _present(found: T | None, what: str) -> T:
    if found is None:
        raise errors.NotFound(f"there is no such {what} in this tenant")
    return found


def _given(value: T | UnsetType, before: T) -> T:
    """What a merge patch says, or what was before."""
    return before if isinstance(value, UnsetType) else value
