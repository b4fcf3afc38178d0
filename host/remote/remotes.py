"""The other kernels that this one may call, by capability."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from host.checks import Check
from host.remote.capability import RemoteCapability, RemoteProxy
from host.remote.identity import RemoteIdentities
from host.remote.link import ClientFiles, Link
from host.services import HANDLED, HOST_ONLY
from host.settings.host_section import HostSettings
from host.settings.remote_section import DEFAULT_PORTS, RemoteSettings
from plugin_api.servers import StartRefused
from plugin_api.services import ServiceKey

if TYPE_CHECKING:
    from host.kernel import Kernel

PORTS: Final = HANDLED | HOST_ONLY | {"auth_providers", "cache", "data", "files", "vault"}
"""Capabilities that are no operations: what is behind them is reached by this process itself."""
IDENTITIES: Final = "iam"
"""The capability that fills `identify` and `authorize` where nothing here does."""


class Remotes:
    """What another kernel serves for this one."""

    def __init__(self, kernel: Kernel, addresses: Mapping[str, str], files: ClientFiles) -> None:
        self._kernel = kernel
        self._links = {address: Link(address, files) for address in sorted(set(addresses.values()))}
        self._capabilities = {
            name: RemoteCapability(kernel, name, self._links[address]) for name, address in addresses.items()
        }
        self.identities = (
            RemoteIdentities(kernel, self._capabilities[IDENTITIES].link) if IDENTITIES in addresses else None
        )

    @property
    def links(self) -> list[Link]:
        """One for each kernel."""
        return list(self._links.values())

    @property
    def names(self) -> list[str]:
        """The capabilities that settings name."""
        return list(self._capabilities)

    def __contains__(self, capability: str) -> bool:
        return capability in self._capabilities

    def proxy(self, key: ServiceKey[Any], local: Any, is_local: Callable[[], bool]) -> RemoteProxy:
        """Whatever provides `key`: here, or there."""
        return RemoteProxy(self._capabilities[key.name], local, is_local, key.contract)

    def states(self) -> list[tuple[str, str, str, str]]:
        """(capability, address, state of its breaker, what went wrong last) of each that nothing here provides."""
        here = self._kernel.table.services
        return [
            (name, one.link.address, one.link.breaker.state.value, one.link.last_error)
            for name, one in sorted(self._capabilities.items())
            if name not in here
        ]

    async def close(self) -> None:
        """Hang up."""
        for link in self._links.values():
            await link.close()


def remote_checks(kernel: Kernel) -> Iterator[Check]:
    """How the way to each capability is that another kernel serves; for `pk doctor`."""
    for name, address, state, last_error in kernel.remotes.states() if kernel.remotes is not None else ():
        told = f"served by {address}, breaker {state}"
        if state == "closed":
            yield Check(f"remote {name}", "ok", told)
        else:
            remedy = (
                "look whether that kernel runs and whether it takes this one's certificate; it is tried again by itself"
            )
            yield Check(f"remote {name}", "warn", f"{told}: {last_error}", remedy)


def make_remotes(kernel: Kernel, settings: RemoteSettings, host: HostSettings) -> Remotes | None:
    """Those that settings name; None when they name none.

    Raises:
        StartRefused: one cannot be remote, or a certificate is missing.
    """
    if not settings.addresses:
        return None
    wrong = sorted(PORTS & settings.addresses.keys())
    if wrong:
        raise StartRefused(
            f"remote.addresses names {', '.join(wrong)}, which every kernel reaches by itself; leave it out"
        )
    addresses = {name: _with_port(name, address) for name, address in settings.addresses.items()}
    return Remotes(kernel, addresses, client_files(settings, host))


def client_files(settings: RemoteSettings, host: HostSettings) -> ClientFiles:
    """With what this kernel shows itself. StartRefused when one is missing."""
    given = {
        "remote.tls_cert": settings.tls_cert or host.grpc_tls_cert,
        "remote.tls_key": settings.tls_key or host.grpc_tls_key,
        "remote.tls_ca": settings.tls_ca or host.grpc_tls_client_ca,
    }
    for name, value in given.items():
        if value is None:
            raise StartRefused(f"{name} is not set, and other kernels are called with TLS only; name a file in PEM")
        if not Path(value).is_file():
            raise StartRefused(f"{name} ({value}) is no file; name one in PEM")
    return ClientFiles(*(str(Path(str(value)).absolute()) for value in given.values()))


def _with_port(capability: str, address: str) -> str:
    has_port = address.rpartition(":")[2].isdigit() and not address.endswith("]")
    if has_port:
        return address
    port = DEFAULT_PORTS.get(capability)
    if port is None:
        raise StartRefused(f"remote.addresses.{capability} is {address}; name its port too, like {address}:50051")
    return f"{address}:{port}"
