"""Settings of capabilities that another kernel serves, section `remote`."""

from __future__ import annotations

from typing import Annotated, Final

from msgspec import Meta, Struct

from plugin_api.settings import setting

REMOTE: Final = "remote"
REMOTES_MAX: Final = 64
DEFAULT_PORTS: Final = {
    "iam": 8081, "notify": 8084, "money": 8086, "audit": 8087, "marketplace": 8088, "billing": 8089,
    "integration_hub": 8090, "feature_flags": 8091,
}  # fmt: skip
"""Where an address names no port."""

Address = Annotated[str, Meta(pattern=r"^(\[[0-9a-fA-F:.]+\]|[^\s/@:\[\]]+)(:[0-9]{1,5})?\Z", max_length=260)]


class RemoteSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """Operator's settings, section `remote`."""

    addresses: Annotated[
        Annotated[dict[str, Address], Meta(max_length=REMOTES_MAX)],
        setting(
            'Kernels that serve what this one does not, by capability: `{ iam = "iam.internal:8081" }`. Without a port the '
            "usual one of the capability."
        ),
    ] = {}
    tls_cert: Annotated[
        str | None,
        setting("File with this kernel's certificate towards those (PEM); by default host.grpc_tls_cert."),
    ] = None
    tls_key: Annotated[
        str | None, setting("File with the private key of that certificate (PEM); by default host.grpc_tls_key.")
    ] = None
    tls_ca: Annotated[
        str | None,
        setting("File with the authorities that sign those kernels (PEM); by default host.grpc_tls_client_ca."),
    ] = None
