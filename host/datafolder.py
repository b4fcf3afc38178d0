"""The data folder: laid out, locked for one kernel, and where that kernel tells others how to reach it."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
import stat
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec import Struct

from plugin_api.servers import StartRefused

FOLDERS: Final = ("postgres", "valkey", "blobs", "plugins", "secrets", "logs", "run")
DISK_FREE_BYTES_MIN: Final = 128 * 1_048_576
"""Less than this does not hold a new database and its log."""
SOCKET_PATH_BYTES_MAX: Final = 107
"""What `sockaddr_un` holds without its final NUL."""
RUN_SUFFIX_BYTES_MAX: Final = 48
"""The longest path of a socket below the run folder: `/postgres/.s.PGSQL.5432`, with room for longer names."""

_MARK: Final = "kernel.lock"
_MAY_BE_THERE: Final = frozenset({*FOLDERS, "pk.toml", "lost+found"})
"""What a new data folder may hold: settings written beforehand, and what file systems put at their top."""


class KernelFile(Struct, frozen=True):
    """`DIR/run/kernel.json`: the running kernel. Addresses are `127.0.0.1:PORT`; a door that is not there is null."""

    pid: int
    http: str | None
    grpc: str | None
    management: str | None
    workers: list[int]
    servers: dict[str, int]


class DataFolder:
    """A data folder that this process holds. `open` takes it, `close` (or the end of the process) gives it back."""

    def __init__(self, path: Path, lock: int) -> None:
        self.path = path
        self._lock = lock

    @classmethod
    def open(cls, path: Path) -> DataFolder:
        """Create and lay out the folder, 0700, and take its lock.

        Raises:
            StartRefused: it is no folder, another account's, something else's, not writable, on a full disk, or held by
                another kernel.
        """
        place = Path(os.path.abspath(path))  # not `resolve`: it takes a broken link for a folder to make
        try:
            place = _lay_out(place)
            lock = _take_lock(place)
        except OSError as error:
            raise StartRefused(_explain(place, error)) from error
        folder = cls(place, lock)
        folder.kernel_file.unlink(missing_ok=True)  # of a kernel that was killed
        return folder

    @property
    def run(self) -> Path:
        """`DIR/run`."""
        return self.path / "run"

    @property
    def kernel_file(self) -> Path:
        """`DIR/run/kernel.json`; there from the first readiness to the end."""
        return self.run / "kernel.json"

    def short_run(self) -> Path:
        """`DIR/run` by a path that is short enough for the sockets in it.

        Raises:
            StartRefused: it needs an alias and somebody else sits on its name.
        """
        try:
            place = short_run(self.path)
            if place != self.run:
                _make_alias(self.run, place)
            return place
        except OSError as error:
            raise StartRefused(f"{error}; choose a --data-dir with a shorter path") from error

    def make(self, *parts: str) -> Path:
        """A 0700 folder below the data folder, with those above it.

        Raises:
            StartRefused: it cannot be made.
        """
        folder = self.path
        try:
            for part in parts:
                folder = folder / part
                _make_private(folder)
        except OSError as error:
            raise StartRefused(_explain(folder, error)) from error
        return folder

    def tell(self, content: KernelFile) -> None:
        """Replace `kernel.json` in one step, 0600."""
        write_whole(self.kernel_file, msgspec.structs.asdict(content))

    def close(self) -> None:
        """Take away what tells of this kernel, and give the lock back."""
        self.kernel_file.unlink(missing_ok=True)
        with suppress(OSError):
            alias = short_run(self.path)
            if alias != self.run:
                alias.unlink()
                alias.parent.rmdir()
        os.close(self._lock)


def short_run(data_dir: Path) -> Path:
    """`DIR/run`, or where its path is too long for Unix sockets, the link to it that a running kernel keeps below /tmp.

    The same for every process of this account; what connects to `control.sock` finds it this way too.

    Raises:
        PermissionError: somebody else has taken the link's name.
    """
    run = Path(os.path.realpath(data_dir)) / "run"
    if len(os.fsencode(run)) + RUN_SUFFIX_BYTES_MAX <= SOCKET_PATH_BYTES_MAX:
        return run
    digest = hashlib.sha256(os.fsencode(run)).hexdigest()[:16]
    folder = _temporary() / f"pk-{os.geteuid()}-{digest}"
    _check_own(folder)
    return folder / "run"


def _make_alias(run: Path, link: Path) -> None:
    with suppress(FileExistsError):
        link.parent.mkdir(mode=0o700)
    _check_own(link.parent)
    link.parent.chmod(0o700)
    if not link.is_symlink() or os.readlink(link) != str(run):
        fresh = link.with_name(f"run.{os.getpid()}")
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(run)
        fresh.replace(link)


def _check_own(folder: Path) -> None:
    """Refuse what somebody else made in a place that is open to all; through a link it would be another's folder."""
    with suppress(FileNotFoundError):
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
            raise PermissionError(errno.EPERM, "somebody else has taken the name", str(folder))


def _temporary() -> Path:
    """Not TMPDIR: it may be long itself, and differ between the kernel and those who look for it."""
    place = Path("/tmp")  # noqa: S108 - the folder in it is checked
    return place if os.access(place, os.W_OK | os.X_OK) else Path(tempfile.gettempdir())


def write_whole(path: Path, content: Mapping[str, Any] | list[Any]) -> None:
    """Replace a JSON file in one step: a reader sees the old or the new one, never a part. Mode 0600."""
    fresh = path.with_name(f"{path.name}.{os.getpid()}.new")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(msgspec.json.format(msgspec.json.encode(content), indent=2) + b"\n")
    fresh.replace(path)


# ------------------------------------------------------------------------------------------------- taking it


def _lay_out(place: Path) -> Path:
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    place = place.resolve()
    _check(place)
    _make_private(place)
    for name in FOLDERS:
        _make_private(place / name)
    free = shutil.disk_usage(place).free
    if free < DISK_FREE_BYTES_MIN:
        raise OSError(
            errno.ENOSPC, f"{free // 1_048_576} MiB are free, {DISK_FREE_BYTES_MIN // 1_048_576} MiB are needed"
        )
    return place


def _check(place: Path) -> None:
    owner = place.stat().st_uid
    if owner != os.geteuid():
        raise StartRefused(
            f"data folder {place} belongs to uid {owner} and this is uid {os.geteuid()}; "
            "start as its owner, or choose another --data-dir"
        )
    if (place / "run" / _MARK).exists():
        return
    others = sorted(entry.name for entry in place.iterdir() if entry.name not in _MAY_BE_THERE)
    if others:
        raise StartRefused(
            f"folder {place} holds something else ({', '.join(others[:3])}) and would be closed to other accounts; "
            "choose a --data-dir of its own for the kernel"
        )


def _make_private(folder: Path) -> None:
    folder.mkdir(mode=0o700, exist_ok=True)
    if stat.S_IMODE(folder.stat().st_mode) != 0o700:
        folder.chmod(0o700)


def _take_lock(place: Path) -> int:
    descriptor = os.open(place / "run" / _MARK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(descriptor, 0)
        os.write(descriptor, b"%d\n" % os.getpid())
    except BlockingIOError:
        holder = os.read(descriptor, 32).decode(errors="replace").strip() or "unknown"
        os.close(descriptor)
        raise StartRefused(
            f"data folder {place} is in use by the kernel with pid {holder}; stop that one, or choose another --data-dir"
        ) from None
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _explain(place: Path, error: OSError) -> str:
    reason = error.strerror or str(error)
    where = error.filename or str(place)
    if error.errno in (errno.EEXIST, errno.ENOTDIR):
        return f"data folder {place}: {where} is not a folder; move it away, or choose another --data-dir"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"data folder {place}: the disk is full ({reason}); free some space, or choose another --data-dir"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return (
            f"data folder {place} cannot be written ({where}: {reason}); change its owner or choose another --data-dir"
        )
    return f"data folder {place} cannot be used ({where}: {reason}); choose another --data-dir"
