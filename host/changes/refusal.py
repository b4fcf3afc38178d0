"""Refusals that cross from one process to another: as a document there, as the same error here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec
from msgspec import Struct

from plugin_api import errors
from plugin_api.errors import KernelBug, KernelError, Violation

REFUSAL: Final = "refusal"
_CLASSES: Final[Mapping[int, type[KernelError]]] = {
    one.status: one
    for one in (
        errors.Unreadable,
        errors.NotAllowed,
        errors.NotFound,
        errors.Conflict,
        errors.PayloadTooLarge,
        errors.InvalidRequest,
        errors.LimitReached,
        errors.Unavailable,
        errors.DeadlinePassed,
    )
}


class _Refusal(Struct, frozen=True):
    status: int
    detail: str
    code: str
    violations: list[Violation] = []
    retry_after_s: int | None = None


def refused(error: Exception) -> dict[str, Any]:
    """The document of a refusal, to be sent as a reply. What is no KernelError is our bug."""
    known = error if isinstance(error, KernelError) else KernelBug(f"{type(error).__name__}: {error}")
    document = _Refusal(known.status, known.detail, known.code, list(known.violations), known.retry_after_s)
    return {REFUSAL: msgspec.to_builtins(document)}


def accepted(reply: Mapping[str, Any]) -> Mapping[str, Any]:
    """The reply, unless it is a refusal: that is raised as the error that it was."""
    if REFUSAL not in reply:
        return reply
    told = msgspec.convert(reply[REFUSAL], _Refusal)
    kind = _CLASSES.get(told.status, KernelBug)
    error = kind(told.detail, code=told.code)
    error.violations, error.retry_after_s = tuple(told.violations), told.retry_after_s
    raise error
