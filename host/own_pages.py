"""The pages that the host serves itself, without an operation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from host.docs_page import docs_page, docs_policy
from host.http import Outgoing, Page
from host.incoming import Incoming
from plugin_api.errors import Unavailable

if TYPE_CHECKING:
    from host.kernel import Kernel

OPENAPI_PATH: Final = "/api/v1/openapi.json"
NO_STORE: Final = (("Cache-Control", "no-store"),)


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
