"""Which version of the kernel runs."""

from __future__ import annotations

from functools import cache
from importlib.metadata import PackageNotFoundError, version


@cache
def kernel_version() -> str:
    """The version of the installed distribution."""
    try:
        return version("platform-kernel")
    except PackageNotFoundError:
        return "0.0.0"
