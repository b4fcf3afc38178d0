"""What the gateway itself refused or answered: that says nothing about the service."""

from __future__ import annotations

from typing import Final

REPLAYED: Final = ("Idempotency-Replayed", "true")
"""The header field of an answer that was given before."""
_EXCLUDED: Final = "__pk_excluded__"


def mark_excluded(error: BaseException) -> None:
    """Let no breaker count this error (again)."""
    setattr(error, _EXCLUDED, True)


def is_excluded(error: BaseException) -> bool:
    """Whether no breaker is to count this error."""
    return getattr(error, _EXCLUDED, False) is True
