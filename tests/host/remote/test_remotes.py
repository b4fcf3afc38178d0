"""What settings say of other kernels, and what is refused at the start."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from host.kernel import Kernel
from host.remote.remotes import make_remotes, remote_checks
from host.settings import HostSettings, RemoteSettings
from plugin_api import ServiceKey
from plugin_api.breaker import FAILURE
from plugin_api.errors import KernelBug
from plugin_api.servers import StartRefused


@pytest.fixture
def host(tmp_path: Path) -> HostSettings:
    """A kernel with certificates."""
    paths = [tmp_path / name for name in ("cert", "key", "ca")]
    for path in paths:
        path.write_text("PEM")
    return HostSettings(grpc_tls_cert=str(paths[0]), grpc_tls_key=str(paths[1]), grpc_tls_client_ca=str(paths[2]))


def settings(**addresses: str) -> RemoteSettings:
    """Addresses by capability, checked as settings are."""
    return msgspec.convert({"addresses": addresses}, RemoteSettings)


@pytest.mark.parametrize(
    ("capability", "address", "whole"),
    [
        ("iam", "iam.internal", "iam.internal:8081"),
        ("feature_flags", "10.0.0.7", "10.0.0.7:8091"),
        ("money", "[::1]", "[::1]:8086"),
        ("money", "[::1]:9", "[::1]:9"),
        ("acme.crm", "crm:50051", "crm:50051"),
    ],
    ids=["a name", "an address", "IPv6", "IPv6 with port", "third party"],
)
def test_a_port_is_the_usual_one_unless_it_is_named(
    bare_kernel: Kernel, host: HostSettings, capability: str, address: str, whole: str
) -> None:
    remotes = make_remotes(bare_kernel, settings(**{capability: address}), host)

    assert remotes is not None
    assert [(capability, whole, "closed", "")] == remotes.states()


@pytest.mark.parametrize(
    ("addresses", "told"),
    [
        ({"data": "db:1"}, "names data, which every kernel reaches by itself"),
        ({"migrations": "db:1"}, "names migrations"),
        ({"acme.crm": "crm"}, r"remote\.addresses\.acme\.crm is crm; name its port"),
    ],
    ids=["a port of the kernel", "the host's own", "no port"],
)
def test_what_cannot_be_elsewhere_is_refused(
    bare_kernel: Kernel, host: HostSettings, addresses: dict[str, str], told: str
) -> None:
    with pytest.raises(StartRefused, match=told):
        make_remotes(bare_kernel, settings(**addresses), host)


@pytest.mark.parametrize("address", ["", "a b:1", "user@iam:1", "http://iam:1", "iam:123456"])
def test_what_is_no_address_is_no_setting(address: str) -> None:
    with pytest.raises(msgspec.ValidationError):
        settings(iam=address)


def test_without_certificates_no_other_kernel_is_called(
    bare_kernel: Kernel, host: HostSettings, tmp_path: Path
) -> None:
    missing = RemoteSettings({"iam": "iam:1"}, tls_key=str(tmp_path / "none"))

    with pytest.raises(StartRefused, match=r"remote\.tls_cert is not set"):
        make_remotes(bare_kernel, settings(iam="iam:1"), HostSettings())
    with pytest.raises(StartRefused, match=r"remote\.tls_key .* is no file"):
        make_remotes(bare_kernel, missing, host)
    assert make_remotes(bare_kernel, RemoteSettings(), HostSettings()) is None


def test_the_report_warns_of_one_that_is_left_alone(bare_kernel: Kernel, host: HostSettings) -> None:
    bare_kernel.remotes = make_remotes(bare_kernel, settings(iam="iam:1", money="money:2"), host)
    assert bare_kernel.remotes is not None
    (link,) = [one for one in bare_kernel.remotes.links if one.address == "iam:1"]
    for _ in range(5):
        link.breaker.leave(link.breaker.enter(0.0, 1.0), FAILURE, 0.0)

    found = [(check.name, check.status) for check in remote_checks(bare_kernel)]

    assert [("remote iam", "warn"), ("remote money", "ok")] == found


def test_a_key_without_its_protocol_says_what_to_do(bare_kernel: Kernel, host: HostSettings) -> None:
    remotes = make_remotes(bare_kernel, settings(**{"acme.crm": "crm:1"}), host)
    assert remotes is not None
    key: ServiceKey[Any] = ServiceKey("acme.crm")
    proxy = remotes.proxy(key, object(), lambda: False)

    with pytest.raises(KernelBug, match=r'give it: ServiceKey\("acme.crm", YourProtocol\)'):
        _ = proxy.find_lead
