"""Child servers that a kernel plugin declares."""

from __future__ import annotations

from typing import Protocol


class ServerPlace(Protocol):
    """Where a child server lives."""


class ChildServer(Protocol):
    """A server that the parent runs."""

    name: str
