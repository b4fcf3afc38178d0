"""`pk contract lock` and `pk contract export` for gRPC: a plugin's numbers are written down, and its `.proto` out of them."""

from __future__ import annotations

from pathlib import Path

from msgspec import Struct

from host.wire.lock import NAME, Lock, WireLockUnreadable, breaks, gains, grown, read_lock, write_text
from host.wire.model import Contract


class WireRefused(Exception):
    """The lock was left as it is; says why and what to do."""


class WireLocked(Struct, frozen=True):
    """What became of `wire.lock`."""

    file: str
    """Absolute."""
    gained: list[str]
    """A sentence for each message, field, word or method that was added; none when it had everything."""
    methods: list[str]
    """All that it holds now, with their services."""


def lock_of(package: Path) -> Lock:
    """The lock of a package; an empty one where there is none.

    Raises:
        WireRefused: it cannot be read.
    """
    try:
        return read_lock(package / NAME) or Lock()
    except WireLockUnreadable as error:
        raise WireRefused(f"{error}; bring back {package / NAME} of the last commit") from error


def grow_wire_lock(package: Path, contract: Contract) -> WireLocked:
    """Add to the lock of a package what its code has and the lock has not; nothing leaves it.

    Raises:
        WireRefused: the code gives another type to something that the lock has, or there is no place for the file.
    """
    file, before = package / NAME, lock_of(package)
    broken = list(breaks(before, contract))
    if broken:
        raise WireRefused(f"{file} was left as it is:\n  " + "\n  ".join(broken))
    after, gained = grown(before, contract), gains(before, contract)
    try:
        if after != before:
            write_text(file, after.text())
    except OSError as error:
        raise WireRefused(f"{file} cannot be written: {error.strerror}; make the folder writable") from error
    return WireLocked(str(file), gained, [f"{name}.{method}" for name, of in after.services.items() for method in of])


def proto_of(package: Path, contract: Contract) -> str:
    """The text of a contract's `.proto` file, with the numbers of the package's lock.

    Raises:
        WireRefused: as `lock_of`.
    """
    from host.wire.descriptors import file_of  # noqa: PLC0415 - nothing else here needs protobuf
    from host.wire.proto_text import proto_text  # noqa: PLC0415 - as above

    return proto_text(file_of(contract, grown(lock_of(package), contract)))
