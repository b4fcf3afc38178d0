"""The job that the frameworks are compared by: a typed request of five bounded fields, a typed answer, no I/O."""

from __future__ import annotations

from typing import Annotated, Any

from plugin_api import Call, Meta, ServiceKey, Struct, operation
from plugin_api.services import Services


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


class Spin(Struct, frozen=True, forbid_unknown_fields=True):
    """How often to call in-process."""

    count: Annotated[int, Meta(ge=1, le=100_000)]


class Spun(Struct, frozen=True):
    """How often it was called."""

    count: int


class Echo(Struct, frozen=True, forbid_unknown_fields=True):
    """A text, to be handed back."""

    text: Annotated[str, Meta(min_length=1, max_length=120)]


class Echoed(Struct, frozen=True):
    """The same text."""

    text: str


INVOICES: ServiceKey[Any] = ServiceKey("bench.invoice")


class InvoiceOperations:
    """What the load calls."""

    def __init__(self, services: Services) -> None:
        self._services = services

    @operation("POST /spins", permission="invoice.create", status=201)
    async def spin(self, call: Call, request: Spin) -> Spun:
        """Make invoices in-process, the way that one plugin calls another."""
        invoices = self._services.get(INVOICES)
        invoice = Invoice("Consulting", "acme", 125_000, "EUR", 30)
        for _ in range(request.count):
            await invoices.create_invoice(call, invoice)
        return Spun(request.count)

    @operation("POST /invoices", permission="invoice.create", status=201)
    async def create_invoice(self, call: Call, request: Invoice) -> Made:
        """Make an invoice."""
        return Made("2026-0001", request.title, request.amount_minor, request.currency, request.amount_minor > 100_000)

    @operation("GET /echoes", permission="invoice.read")
    async def echo(self, call: Call, request: Echo) -> Echoed:
        """Hand a text back; a GET has no record, and so no database behind it."""
        return Echoed(request.text)

    @operation("GET /echo_spins", permission="invoice.read")
    async def spin_echo(self, call: Call, request: Spin) -> Spun:
        """Hand texts back in-process."""
        invoices = self._services.get(INVOICES)
        asked = Echo("Consulting in November, thirty days net")
        for _ in range(request.count):
            await invoices.echo(call, asked)
        return Spun(request.count)
