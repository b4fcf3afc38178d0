"""Where the parent listens, who may ask, and which servers it is told to run."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from host import declared
from host.declared import declared_servers
from host.sockets import listen, listen_unix, reserve, show_address
from plugin_api import hookimpl
from plugin_api.servers import StartRefused

if TYPE_CHECKING:
    from tests.host.processes.conftest import Kernel

ASK = """
import socket, sys
asked = socket.socket(socket.AF_UNIX)
asked.connect(sys.argv[1])
asked.sendall(b"POST /reload HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\n\\r\\n")
print(asked.recv(65536).decode())
"""


# ------------------------------------------------------------------------------------------------------- sockets


def test_any_free_port_is_found_and_shown() -> None:
    with listen("127.0.0.1", 0, "--http-port") as found:
        host, port = show_address(found).split(":")
        socket.create_connection((host, int(port)), 5).close()

        assert (host, int(port)) == found.getsockname()


@pytest.mark.parametrize("mode", ["listening", "bound"])
def test_a_taken_port_is_refused_with_the_option_to_change(mode: str) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        if mode == "listening":
            other.listen()
        port = other.getsockname()[1]
        with pytest.raises(StartRefused, match=rf"port {port} .* taken; .*--http-port"):
            listen("127.0.0.1", port, "--http-port")


@pytest.mark.parametrize(("host", "port", "told"), [("127.0.0.1", 65_536, "0 to 65535"), ("192.0.2.1", 0, "192.0.2.1")])
def test_an_address_that_is_not_ours_is_refused(host: str, port: int, told: str) -> None:
    with pytest.raises(StartRefused, match=told):
        listen(host, port, "--http-port")


def test_a_name_that_nobody_knows_is_refused() -> None:
    with pytest.raises(StartRefused, match=r"no-such-host\.invalid"):
        listen("no-such-host.invalid", 0, "--http-port")


def test_a_port_can_be_taken_again_at_once() -> None:
    with listen("127.0.0.1", 0, "--http-port") as first:
        port = first.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port), 5):
            first.setblocking(True)
            first.accept()[0].close()  # our end closes first, so the connection lingers
    listen("127.0.0.1", port, "--http-port").close()


def worker_listens(port: int) -> socket.socket:
    """As the library of gRPC does it."""
    found = socket.socket()
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    found.bind(("127.0.0.1", port))
    found.listen()
    return found


def test_a_reserved_port_is_for_the_workers_alone() -> None:
    with reserve("127.0.0.1", 0, "--grpc-port") as held:
        port = held.getsockname()[1]
        with pytest.raises(StartRefused, match=rf"port {port} .* taken; .*--grpc-port"):
            reserve("127.0.0.1", port, "--grpc-port")  # no worker listens yet
        with worker_listens(port) as first, worker_listens(port):
            with pytest.raises(StartRefused, match=rf"port {port} .* taken"):
                reserve("127.0.0.1", port, "--grpc-port")
            with socket.create_connection(("127.0.0.1", port), 5) as client:
                client.settimeout(5)
            first.close()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), 5)  # nobody waits where nobody answers


def test_a_reserved_port_can_be_taken_again_at_once() -> None:
    with reserve("127.0.0.1", 0, "--grpc-port") as held:
        port = held.getsockname()[1]
        with worker_listens(port) as worker, socket.create_connection(("127.0.0.1", port), 5):
            worker.accept()[0].close()  # our end closes first, so the connection lingers
    reserve("127.0.0.1", port, "--grpc-port").close()


def test_a_stale_unix_socket_is_replaced(tmp_path: Path) -> None:
    listen_unix(tmp_path / "x.sock").close()
    with listen_unix(tmp_path / "x.sock"):
        assert (tmp_path / "x.sock").stat().st_mode & 0o777 == 0o600


def test_other_accounts_are_refused_even_where_the_socket_lets_them_in(
    make_kernel: Callable[..., Kernel], nobody: int, find_interpreter: Callable[[int], str]
) -> None:
    kernel = make_kernel(servers=()).start()
    before = kernel.run_file()
    path = kernel.data / "run" / "control.sock"
    path.chmod(0o666)
    for folder in (kernel.data, kernel.data / "run"):
        folder.chmod(0o755)
    words = [find_interpreter(nobody), "-c", ASK, str(path)]
    asked = subprocess.run(words, user=nobody, extra_groups=[], capture_output=True, text=True, check=True)

    assert asked.stdout.startswith("HTTP/1.1 403")
    assert f"uid {nobody} is not the account of this kernel" in asked.stdout
    assert kernel.run_file() == before


# ------------------------------------------------------------------------------------------------------ declared


@dataclass
class Plugin:
    """A kernel plugin with servers of these names."""

    names: tuple[str, ...]

    @hookimpl
    def pk_servers(self) -> list[Any]:
        return [SimpleNamespace(name=name) for name in self.names]


@dataclass
class FoundPlugin:
    """As discovery finds one."""

    plugin: object
    manifest_names: list[str]
    id: str = "kernel.data"
    problem: str | None = None
    loads: list[str] = field(default_factory=list)

    @property
    def is_kernel(self) -> bool:
        return self.id.startswith("kernel.")

    @property
    def manifest(self) -> Any:
        return SimpleNamespace(servers=self.manifest_names)

    def load(self) -> object:
        self.loads.append(self.id)
        return self.plugin


def names_of(monkeypatch: pytest.MonkeyPatch, *found: FoundPlugin) -> list[str]:
    monkeypatch.setattr(declared, "discover", lambda: list(found))
    return [server.name for server in declared_servers()]


def test_our_own_plugins_declare_both_servers() -> None:
    assert sorted(server.name for server in declared_servers()) == ["postgres", "valkey"]


def test_only_kernel_plugins_with_servers_are_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = FoundPlugin(Plugin(("postgres",)), ["postgres"])
    others = [
        FoundPlugin(Plugin(("mine",)), ["mine"], "acme.crm"),
        FoundPlugin(Plugin(()), [], "kernel.iam"),
        FoundPlugin(Plugin(("x",)), ["x"], "kernel.broken", problem="no manifest"),
    ]

    assert names_of(monkeypatch, ours, *others) == ["postgres"]
    assert [other.loads for other in others] == [[], [], []]


@pytest.mark.parametrize("plugin", [Plugin(("valkey",)), Plugin(()), object()])
def test_a_manifest_that_says_something_else_is_refused(monkeypatch: pytest.MonkeyPatch, plugin: object) -> None:
    with pytest.raises(StartRefused, match=r"kernel\.data declares"):
        names_of(monkeypatch, FoundPlugin(plugin, ["postgres"]))
