"""One thing that a check has found in a plugin."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

Severity = Literal["info", "warning", "error"]


class Finding(Struct, frozen=True):
    """What is wrong, where, why it matters and what to do about it."""

    id: str
    """The rule, as docs/reference/checks.md lists it: `permission_undeclared`."""
    severity: Severity
    """An `error` is refused at install."""
    message: str
    why: str
    remedy: str
    file: str = ""
    """Relative to the folder that was checked, or a whole path; empty when it is about the whole."""
    line: int = 0
    """From 1; 0 when it is about the whole file."""
