"""Wiring."""

from __future__ import annotations

from bench_invoice.operations import InvoiceOperations
from plugin_api import Registrar, hookimpl


class InvoicePlugin:
    """`bench.invoice`."""

    @hookimpl
    def pk_register(self, registrar: Registrar) -> None:
        """Register the operations."""
        registrar.operations(InvoiceOperations(registrar.services))


plugin = InvoicePlugin()
