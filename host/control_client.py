"""Asking a running kernel: through the control door of its data folder, or over REST when it runs elsewhere."""

from __future__ import annotations

import http.client
import os
import socket
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode, urlsplit

import msgspec

from host.datafolder import short_run

ANSWER_BYTES_MAX: Final = 64 * 1_048_576
CONNECT_LIMIT_S: Final = 5.0
ANSWER_LIMIT_S: Final = 70.0
"""A little more than the kernel's own limit for a question."""
LONG_ANSWER_LIMIT_S: Final = 660.0
CHANGE_LIMIT_S: Final = 960.0
"""Plugins may have to be built and fetched."""
PAGES_MAX: Final = 1_000
_LOOPBACK: Final = frozenset({"127.0.0.1", "localhost", "::1"})


class NoAnswer(Exception):
    """The kernel was not reached, or what it said cannot be read; the text is for the operator."""


class NoKernel(NoAnswer):
    """No kernel runs on the data folder."""


class Refused(NoAnswer):
    """The kernel answered with a problem document."""

    def __init__(self, status: int, problem: Mapping[str, Any]) -> None:
        text = str(problem.get("detail") or problem.get("title") or f"the kernel answered {status}")
        errors = problem.get("errors")
        listed = [str(one.get("detail")) for one in errors if isinstance(one, dict)] if isinstance(errors, list) else []
        told = [line.strip() for line in text.splitlines()]
        more = [f"  {line}" for line in listed if not any(one.endswith(line) for one in told)]
        super().__init__("\n".join([text, *more]))
        self.status = status
        self.problem = dict(problem)


# ------------------------------------------------------------------------------------------- on this machine


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path, limit_s: float) -> None:
        super().__init__("localhost", timeout=limit_s)
        self._path = path

    def connect(self) -> None:
        """Connect."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(CONNECT_LIMIT_S)
        self.sock.connect(str(self._path))
        self.sock.settimeout(self.timeout)


def ask(data_dir: Path, method: str, path: str, body: Any = None, *, limit_s: float = ANSWER_LIMIT_S) -> Any:
    """What the kernel on a data folder answers; its JSON, decoded.

    Raises:
        NoKernel: none runs there.
        Refused: it says no.
        NoAnswer: it does not answer in time, or is another account's.
    """
    connection = _UnixConnection(_socket_of(data_dir), limit_s)
    try:
        return _exchange(connection, method, path, body, {})
    except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError):
        raise NoKernel(_no_kernel(data_dir)) from None
    except PermissionError as error:
        raise NoAnswer(_not_ours(data_dir, error)) from None
    except TimeoutError:
        raise NoAnswer(
            f"the kernel on {data_dir} did not answer {path} within {limit_s:g} s; see `pk doctor` and its log"
        ) from None
    except OSError as error:
        raise NoAnswer(
            f"the kernel on {data_dir} hung up ({error.strerror or error}); see its log, and try again"
        ) from None
    finally:
        connection.close()


def _socket_of(data_dir: Path) -> Path:
    if not data_dir.is_dir():
        raise NoKernel(_no_kernel(data_dir))
    try:
        return short_run(data_dir) / "control.sock"
    except OSError as error:
        raise NoAnswer(f"the control socket of {data_dir} cannot be reached: {error}") from None


def _no_kernel(data_dir: Path) -> str:
    """Nobody answers; whether somebody is about to is told apart by the pid beside the lock."""
    pid = _holder(data_dir)
    if pid is not None:
        return f"the kernel on {data_dir} (pid {pid}) is starting or stopping; try again in a moment"
    return f"no kernel runs on {data_dir}; start one with `pk up --data-dir {data_dir}`"


def _holder(data_dir: Path) -> int | None:
    try:
        pid = int((data_dir / "run" / "kernel.lock").read_text())
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except (OSError, ValueError):
        return None
    return pid if b"up" in command.split(b"\0") else None


def _not_ours(data_dir: Path, error: OSError) -> str:
    try:
        owner = f"uid {data_dir.stat().st_uid}"
    except OSError:
        owner = "another account"
    return (
        f"data folder {data_dir} belongs to {owner} and this is uid {os.geteuid()} ({error.strerror}); "
        "run the command as the account that started the kernel"
    )


# ------------------------------------------------------------------------------------------------ elsewhere


class Remote:
    """A kernel that is reached over REST."""

    def __init__(self, url: str, api_key: str | None) -> None:
        """Take its base address.

        Raises:
            NoAnswer: the address is none, or the key would travel readable for everybody on the way.
        """
        parts = urlsplit(url if "://" in url else f"https://{url}")
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.password:
            raise NoAnswer("the address of --url is not usable; write it like https://kernel.example.com")
        if api_key and parts.scheme == "http" and parts.hostname not in _LOOPBACK:
            raise NoAnswer(
                f"the key in PK_API_KEY would travel unencrypted to {parts.hostname}; use https://{parts.netloc}"
            )
        try:
            self._port = parts.port
        except ValueError:
            raise NoAnswer("the port in --url is no port; write it like https://kernel.example.com:8443") from None
        self._parts = parts
        self._key = api_key

    def get(self, path: str, query: Mapping[str, str] | None = None) -> Any:
        """What it answers; its JSON, decoded. Redirects are not followed: they would carry the key elsewhere.

        Raises:
            Refused: it says no.
            NoAnswer: it cannot be reached.
        """
        return self.send("GET", path, query=query)

    def send(self, method: str, path: str, body: Any = None, query: Mapping[str, str] | None = None) -> Any:
        """`get` with another method. Bytes go as application/octet-stream, anything else as JSON."""
        target = f"{self._parts.path.rstrip('/')}{path}{f'?{urlencode(query)}' if query else ''}"
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        connection = self._connect(ANSWER_LIMIT_S if method == "GET" else CHANGE_LIMIT_S)
        try:
            return _exchange(connection, method, target, body, headers)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or type(error).__name__
            raise NoAnswer(f"{self._parts.scheme}://{self._parts.netloc} cannot be reached: {reason}") from None
        finally:
            connection.close()

    def items(self, path: str) -> list[Any]:
        """Every entry of a list, page by page. Raises as `get` does."""
        found: list[Any] = []
        query = {"limit": "200"}
        for _ in range(PAGES_MAX):
            page = self.get(path, query)
            if not isinstance(page, dict) or not isinstance(page.get("items"), list):
                raise NoAnswer(f"{self._parts.netloc} answered {path} with something else than a list; is it a kernel?")
            found += page["items"]
            if not page.get("next_cursor"):
                break
            query["cursor"] = str(page["next_cursor"])
        return found

    def _connect(self, limit_s: float) -> http.client.HTTPConnection:
        host, port = self._parts.hostname or "", self._port
        if self._parts.scheme == "http":
            return http.client.HTTPConnection(host, port, timeout=limit_s)
        return http.client.HTTPSConnection(host, port, timeout=limit_s, context=ssl.create_default_context())


# ------------------------------------------------------------------------------------------------- exchange


def _exchange(
    connection: http.client.HTTPConnection, method: str, target: str, body: Any, headers: Mapping[str, str]
) -> Any:
    is_raw = isinstance(body, bytes)
    sent = body if body is None or is_raw else msgspec.json.encode(body)
    kind = {} if sent is None else {"Content-Type": "application/octet-stream" if is_raw else "application/json"}
    try:
        connection.request(method, target, sent, {"Accept": "application/json", **kind, **headers})
        response = connection.getresponse()
        raw = response.read(ANSWER_BYTES_MAX + 1)
    except http.client.RemoteDisconnected:
        raise
    except http.client.HTTPException as error:
        raise NoAnswer(
            f"what answered {method} {target.partition('?')[0]} does not speak HTTP ({type(error).__name__})"
        ) from None
    if len(raw) > ANSWER_BYTES_MAX:
        raise NoAnswer(f"the answer to {method} {target.partition('?')[0]} is larger than {ANSWER_BYTES_MAX} bytes")
    return _decoded(response.status, raw, target.partition("?")[0])


def _decoded(status: int, raw: bytes, path: str) -> Any:
    try:
        document = msgspec.json.decode(raw) if raw else None
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise NoAnswer(f"{path} answered {status} with something else than JSON; is it a kernel?") from None
    if status >= 300:
        raise Refused(status, document if isinstance(document, dict) else {})
    return document
