"""The OpenAPI document of the current table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from host.openapi import document
from host.version import kernel_version
from plugin_api.manifest import Manifest

if TYPE_CHECKING:
    from host.kernel import Kernel


def summary_of(manifest: Manifest) -> str:
    """A plugin's summary in one language: its only one, English, or the first."""
    summary = manifest.summary
    return summary if isinstance(summary, str) else summary.get("en") or next(iter(summary.values()), "")


class Description:
    """The document of one table, made once for each."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._table_version = -1
        self._document: dict[str, Any] = {}
        self._encoded = b""

    def document(self) -> dict[str, Any]:
        """The OpenAPI 3.1 document of the current table."""
        table = self._kernel.table
        if table.version != self._table_version:
            self._document = document(
                [o.registered for o in table.operations],
                title="Platform-Kernel",
                version=kernel_version(),
                tags={g.names.area: summary_of(g.manifest) for g in table.generations.values()},
            )
            self._encoded = msgspec.json.encode(self._document)
            self._table_version = table.version
        return self._document

    def encoded(self) -> bytes:
        """The same as JSON."""
        self.document()
        return self._encoded
