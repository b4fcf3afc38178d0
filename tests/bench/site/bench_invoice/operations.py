"""The job that the frameworks are compared by: a typed request of five bounded fields, a typed answer, no I/O."""

from __future__ import annotations

from typing import Annotated

from plugin_api import Call, Meta, Struct, operation


class Invoice(Struct, frozen=True, forbid_unknown_fields=True):
    """An invoice to make."""

    title: Annotated[str, Meta(min_length=1, max_length=120)]
    customer: Annotated[str, Meta(min_length=1, max_length=64)]
    amount_minor: Annotated[int, Meta(gt=0, le=10**12)]
    currency: Annotated[str, Meta(pattern=r"^[A-Z]{3}\Z")]
    due_in_days: Annotated[int, Meta(ge=0, le=365)]


class Made(Struct, frozen=True):
    """The invoice as made."""

    number: str
    title: str
    amount_minor: int
    currency: str
    is_large: bool


class InvoiceOperations:
    """What the load calls."""

    @operation("POST /invoices", permission="invoice.create", status=201)
    async def create_invoice(self, call: Call, request: Invoice) -> Made:
        """Make an invoice."""
        return Made("2026-0001", request.title, request.amount_minor, request.currency, request.amount_minor > 100_000)
