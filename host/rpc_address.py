"""Where gRPC may listen, and with which certificates: checked before anything is started."""

from __future__ import annotations

import ipaddress
import ssl
from pathlib import Path

from msgspec import Struct

from host.settings import HostSettings
from plugin_api.servers import StartRefused


class TlsFiles(Struct, frozen=True):
    """Files in PEM; absolute."""

    certificate: str
    key: str
    client_authority: str | None = None
    """Whose certificates clients must show; None: they need show none."""


def is_loopback(host: str) -> bool:
    """Whether an address is reached from this machine alone. A name is not, except `localhost`: it may lead anywhere."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def check_address(host: HostSettings) -> None:
    """Refuse plaintext where others could listen in.

    Raises:
        StartRefused: says what to set.
    """
    if host.grpc_tls_cert is None and not is_loopback(host.grpc_host):
        raise StartRefused(
            f"gRPC without TLS listens on this machine alone, and host.grpc_host is {host.grpc_host}; set "
            "host.grpc_tls_cert and host.grpc_tls_key (and host.grpc_tls_client_ca, so that only your own clients get in), "
            "or leave host.grpc_host at 127.0.0.1"
        )


def tls_files(host: HostSettings) -> TlsFiles | None:
    """The certificates of gRPC; None when it speaks plaintext.

    Raises:
        StartRefused: one is missing, or cannot be read, or is none.
    """
    given = {"host.grpc_tls_cert": host.grpc_tls_cert, "host.grpc_tls_key": host.grpc_tls_key}
    if all(value is None for value in (*given.values(), host.grpc_tls_client_ca)):
        return None
    for name, value in given.items():
        if value is None:
            raise StartRefused(f"{name} is not set, and TLS of gRPC needs it; set it, or none of host.grpc_tls_*")
    files = TlsFiles(*(str(Path(str(value)).absolute()) for value in given.values()))
    if host.grpc_tls_client_ca is not None:
        files = TlsFiles(files.certificate, files.key, str(Path(host.grpc_tls_client_ca).absolute()))
    check_files(files)
    return files


def check_files(files: TlsFiles) -> None:
    """Load them once.

    Raises:
        StartRefused: names the setting.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(files.certificate, files.key, password="")
    except (OSError, ValueError) as error:  # SSLError is an OSError
        where = f"host.grpc_tls_cert ({files.certificate}) and host.grpc_tls_key ({files.key})"
        raise StartRefused(f"{where} are no certificate with its key: {error}; give two files in PEM") from error
    if files.client_authority is not None:
        try:
            context.load_verify_locations(files.client_authority)
        except (OSError, ValueError) as error:
            where = f"host.grpc_tls_client_ca ({files.client_authority})"
            raise StartRefused(f"{where} holds no certificates: {error}; give a file in PEM") from error
