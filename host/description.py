"""The OpenAPI document and the pages that the host serves itself."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any, Final

import msgspec

from host.docs_page import docs_page
from host.http import Outgoing, Page
from host.incoming import Incoming
from host.openapi import document
from plugin_api.errors import Unavailable

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
                [o.registered for o in table.operations], title="Platform-Kernel", version=kernel_version()
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

    def livez(incoming: Incoming) -> Outgoing:
        return Outgoing(200, b'{"status":"ok"}', headers=NO_STORE)

    def readyz(incoming: Incoming) -> Outgoing:
        if not kernel.is_ready:
            raise Unavailable("the kernel is starting or stopping; try again")
        return Outgoing(200, b'{"status":"ready"}', headers=NO_STORE)

    def openapi(incoming: Incoming) -> Outgoing:
        return Outgoing(200, kernel.description.encoded(), headers=(("Cache-Control", "no-cache"),))

    def docs(incoming: Incoming) -> Outgoing:
        return Outgoing(200, page, "text/html; charset=utf-8", (("Cache-Control", "no-cache"), *SECURE_PAGE))

    return {"/livez": livez, "/readyz": readyz, OPENAPI_PATH: openapi, "/docs": docs}


SECURE_PAGE: Final = (
    (
        "Content-Security-Policy",
        "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; img-src data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    ("Referrer-Policy", "no-referrer"),
)
