"""The sockets that the parent listens on; workers inherit the one for requests."""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path
from typing import Final

from plugin_api.servers import StartRefused

BACKLOG: Final = 1_024


def listen(host: str, port: int, option: str) -> socket.socket:
    """Listen on a TCP port, 0 for any free one. `option` is what the operator changes to get another.

    It listens at once: two sockets may be bound to one port for as long as neither does.

    Raises:
        StartRefused: the port is taken, or not to be had by us, or the address is not this machine's.
    """
    found = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections of an earlier kernel may linger
        found.bind((host, port))
        found.listen(BACKLOG)
    except (OSError, OverflowError) as error:
        found.close()
        raise StartRefused(_explain(error, host, port, option)) from error
    found.setblocking(False)
    return found


def reserve(host: str, port: int, option: str) -> socket.socket:
    """Take a TCP port, 0 for any free one, on which the workers listen, each by itself: nobody else can.

    Raises:
        StartRefused: as `listen`.
    """
    with listen(host, port, option) as probe:  # alone: two kernels would share a port without noticing
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        found = socket.socket(probe.family, socket.SOCK_STREAM)
        try:
            # No SO_REUSEADDR: with it, another kernel could take the port before the first worker listens.
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            found.bind(probe.getsockname()[:2])
        except OSError as error:
            found.close()
            raise StartRefused(_explain(error, host, port, option)) from error
    return found


def _explain(error: OSError | OverflowError, host: str, port: int, option: str) -> str:
    if isinstance(error, OverflowError):
        return f"port {port} does not exist; {option} takes 0 to 65535"
    if error.errno == errno.EADDRINUSE:
        return (
            f"port {port} of {host} is taken; stop what listens there, or choose another {option} (0 for any free one)"
        )
    if error.errno == errno.EACCES:
        return f"port {port} of {host} is not for this account; choose another {option} (0 for any free one)"
    return f"cannot listen on {host} port {port} ({error.strerror}); choose another {option}"


def show_address(listener: socket.socket) -> str:
    """`127.0.0.1:8080`; IPv6 addresses in brackets."""
    host, port = listener.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def listen_unix(path: Path) -> socket.socket:
    """Listen on a Unix socket, 0600, in place of whatever an earlier kernel left there.

    Raises:
        OSError: the folder cannot be written.
    """
    path.unlink(missing_ok=True)
    found = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)  # the mode from the first moment on, not a little later
    try:
        found.bind(str(path))
        found.listen(BACKLOG)
    except OSError:
        found.close()
        raise
    finally:
        os.umask(before)
    found.setblocking(False)
    return found
