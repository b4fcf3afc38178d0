"""The OpenAPI document and the pages that the host serves itself."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any, Final

import msgspec

from host.docs_page import docs_page, docs_policy
from host.http import Outgoing, Page
from host.incoming import Incoming
from host.openapi import document
from plugin_api.errors import Unavailable
from plugin_api.manifest import Manifest

if TYPE_CHECKING:
    from host.kernel import Kernel

OPENAPI_PATH: Final = "/api/v1/openapi.json"
NO_STORE: Final = (("Cache-Control", "no-store"),)


def kernel_version() -> str:
    """The version of the installed distribution."""
    try:
        return version("platform-kernel")
    except PackageNotFoundError:
        return "0.0.0"


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


def host_pages(kernel: Kernel) -> dict[str, Page]:
    """Path -> page of everything that the host serves without an operation."""
    page = docs_page(OPENAPI_PATH).encode()
    headers = (
        ("Cache-Control", "no-cache"),
        ("Content-Security-Policy", docs_policy()),
        ("Referrer-Policy", "no-referrer"),
    )

    def livez(incoming: Incoming) -> Outgoing:
        return Outgoing(200, b'{"status":"ok"}', headers=NO_STORE)

    def readyz(incoming: Incoming) -> Outgoing:
        if not kernel.is_ready:
            raise Unavailable("the kernel is starting or stopping; try again")
        return Outgoing(200, b'{"status":"ready"}', headers=NO_STORE)

    def openapi(incoming: Incoming) -> Outgoing:
        return Outgoing(200, kernel.description.encoded(), headers=(("Cache-Control", "no-cache"),))

    def docs(incoming: Incoming) -> Outgoing:
        return Outgoing(200, page, "text/html; charset=utf-8", headers)

    return {"/livez": livez, "/readyz": readyz, OPENAPI_PATH: openapi, "/docs": docs}
