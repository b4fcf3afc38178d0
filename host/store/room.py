"""Room on the disk: what is needed, what is free, and the refusal when it does not fit."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from plugin_api.errors import Unavailable

MARGIN_BYTES: Final = 8 * 1_048_576
"""Beside the files themselves: folders, lists, and what others write meanwhile."""
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def disk_full(place: Path, needed: int | None) -> Unavailable:
    """The refusal: how much is free where `place` is, and how many bytes are needed when that is known."""
    free = shutil.disk_usage(place).free
    asked = f"at least {MARGIN_BYTES}" if needed is None else str(needed + MARGIN_BYTES)
    return Unavailable(
        f"the disk of the package store is full: {free} bytes are free and {asked} are needed, or a limit on the size "
        "of files or a quota was met; free some space, then install it again",
        code="disk_full",
        retry_after_s=60,
    )


def check_room(place: Path, needed: int) -> None:
    """Refuse before writing what cannot fit.

    Raises:
        Unavailable: `disk_full`.
    """
    if shutil.disk_usage(place).free < needed + MARGIN_BYTES:
        raise disk_full(place, needed)


@contextmanager
def room(place: Path, needed: int | None = None) -> Iterator[None]:
    """Turn the system's refusals to write more into `disk_full`."""
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise disk_full(place, needed) from error
