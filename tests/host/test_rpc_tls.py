"""TLS of the gRPC door: only clients with a certificate of ours get in, and new certificates need no restart."""

from __future__ import annotations

import datetime
from collections.abc import AsyncIterator
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from host.kernel import Kernel
from host.lifecycle import Lifecycle
from host.rpc import RpcDoor
from host.rpc_address import TlsFiles, check_address, tls_files
from host.rpc_tls import make_credentials
from host.settings import HostSettings
from host.sockets import reserve, show_address
from plugin_api.servers import StartRefused
from tests.host.conftest import MANIFEST, FoundNotes, NotesPlugin, no_migrations

HELLO = "/pk.x.acme_notes.v1.Note/Hello"
NOW = datetime.datetime.now(datetime.UTC)
DAY = datetime.timedelta(days=1)


@dataclass
class Signed:
    """A certificate with its key, both in PEM."""

    certificate: bytes
    key: bytes


class Authority:
    """Signs certificates."""

    def __init__(self, name: str) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self._cert = self._build(self._name, self._key, NOW + DAY, is_authority=True)
        self.pem = self._cert.public_bytes(serialization.Encoding.PEM)

    def _build(
        self, subject: Any, key: Any, until: datetime.datetime, *, uri: str = "", is_authority: bool = False
    ) -> x509.Certificate:
        named: list[x509.GeneralName] = [x509.DNSName("localhost"), x509.IPAddress(ip_address("127.0.0.1"))]
        names = x509.SubjectAlternativeName([*named, *([x509.UniformResourceIdentifier(uri)] if uri else [])])
        return (
            x509.CertificateBuilder()
            .subject_name(subject).issuer_name(self._name).public_key(key.public_key())
            .serial_number(x509.random_serial_number()).not_valid_before(NOW - 10 * DAY).not_valid_after(until)
            .add_extension(names, critical=False)
            .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
            .sign(self._key, hashes.SHA256())
        )  # fmt: skip

    def sign(self, name: str, until: datetime.datetime = NOW + DAY, uri: str = "") -> Signed:
        """A certificate of somebody; `uri` is one of its alternative names."""
        key = ec.generate_private_key(ec.SECP256R1())
        made = self._build(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]), key, until, uri=uri)
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return Signed(made.public_bytes(serialization.Encoding.PEM), private)


@dataclass
class Secured:
    """A door with TLS, and who signed what it believes."""

    port: int
    files: TlsFiles
    servers: Authority
    clients: Authority

    async def hello(self, shown: Signed | None, believed: bytes | None = None) -> str:
        """How a call ends for somebody who shows this."""
        pair = (shown.key, shown.certificate) if shown is not None else (None, None)
        credentials = grpc.ssl_channel_credentials(believed or self.servers.pem, *pair)
        options = [("grpc.enable_http_proxy", 0), ("grpc.use_local_subchannel_pool", 1)]
        async with grpc.aio.secure_channel(f"localhost:{self.port}", credentials, options=options) as channel:
            try:
                await channel.unary_unary(HELLO)(b"", timeout=10)
            except grpc.aio.AioRpcError as error:
                return str(error.code().name)
        return "OK"


@pytest.fixture
async def secured(bare_kernel: Kernel, tmp_path: Path) -> AsyncIterator[Secured]:
    found: Any = FoundNotes(MANIFEST, tmp_path)
    await Lifecycle(bare_kernel, no_migrations).activate(found, NotesPlugin(), None)
    servers, clients = Authority("servers"), Authority("clients")
    files = TlsFiles(*(str(tmp_path / name) for name in ("cert.pem", "key.pem", "clients.pem")))
    write(files, servers.sign("kernel"), clients)
    door = RpcDoor(bare_kernel)
    with reserve("127.0.0.1", 0, "--grpc-port") as held:
        await door.start(show_address(held), make_credentials(files))
        yield Secured(held.getsockname()[1], files, servers, clients)
        await door.close(1.0)
    bare_kernel.stamps.close()  # type: ignore[attr-defined]


def write(files: TlsFiles, own: Signed, clients: Authority) -> None:
    assert files.client_authority is not None
    Path(files.certificate).write_bytes(own.certificate)
    Path(files.key).write_bytes(own.key)
    Path(files.client_authority).write_bytes(clients.pem)


async def test_only_clients_with_a_certificate_of_ours_get_in(secured: Secured) -> None:
    assert await secured.hello(secured.clients.sign("client")) == "OK"
    assert await secured.hello(None) == "UNAVAILABLE"
    assert await secured.hello(Authority("strangers").sign("client")) == "UNAVAILABLE"
    assert await secured.hello(secured.clients.sign("client", NOW - DAY)) == "UNAVAILABLE"


async def test_plaintext_is_not_understood(secured: Secured) -> None:
    async with grpc.aio.insecure_channel(
        f"127.0.0.1:{secured.port}", options=[("grpc.enable_http_proxy", 0)]
    ) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary(HELLO)(b"", timeout=10)
    assert caught.value.code().name == "UNAVAILABLE"


async def test_new_certificates_need_no_restart(secured: Secured) -> None:
    others, clients = Authority("other servers"), Authority("other clients")
    before = secured.clients.sign("client")
    Path(secured.files.certificate).write_text("half a file")
    assert await secured.hello(before) == "OK"  # what does not hold changes nothing

    write(secured.files, others.sign("kernel"), clients)
    assert await secured.hello(before) == "UNAVAILABLE"
    assert await secured.hello(clients.sign("client"), believed=others.pem) == "OK"


def settings(folder: Path, **names: str) -> HostSettings:
    return HostSettings(**{f"grpc_{name}": str(folder / value) for name, value in names.items()})


def test_files_that_do_not_hold_are_refused(tmp_path: Path) -> None:
    authority = Authority("one")
    first, second = authority.sign("a"), authority.sign("b")
    for name, content in (("a", first.certificate), ("a.key", first.key), ("b.key", second.key), ("none", b"")):
        (tmp_path / name).write_bytes(content)

    assert tls_files(HostSettings()) is None
    assert tls_files(settings(tmp_path, tls_cert="a", tls_key="a.key")) is not None
    for wrong, told in (
        ({"tls_cert": "a"}, "grpc_tls_key is not set"),
        ({"tls_cert": "a", "tls_key": "b.key"}, "no certificate with its key"),
        ({"tls_cert": "a", "tls_key": "a.key", "tls_client_ca": "none"}, "grpc_tls_client_ca .* holds no certificates"),
    ):
        with pytest.raises(StartRefused, match=told):
            tls_files(settings(tmp_path, **wrong))


@pytest.mark.parametrize(
    ("host", "is_allowed"),
    [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("::", False), ("box", False)],
)
def test_plaintext_is_for_this_machine_alone(host: str, is_allowed: bool) -> None:
    if is_allowed:
        check_address(HostSettings(grpc_host=host))
        return
    with pytest.raises(StartRefused, match=r"set host\.grpc_tls_cert"):
        check_address(HostSettings(grpc_host=host))
    check_address(HostSettings(grpc_host=host, grpc_tls_cert="cert.pem"))
