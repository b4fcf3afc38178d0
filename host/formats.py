"""The formats of text that our schemas name, each checked in the one way that schema and msgspec agree on."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Annotated, Any, Final
from uuid import UUID

import msgspec
from msgspec import Meta


def _format_check(type_: Any, form: str) -> Callable[[str], bool]:
    """A check that agrees with msgspec, and with RFC 3339 where msgspec takes more."""
    matches = re.compile(form, re.ASCII).match

    def holds(text: str) -> bool:
        if matches(text) is None:
            return False
        try:
            msgspec.convert(text, type_)
        except msgspec.ValidationError:
            return False
        return True

    return holds


_DATE: Final = r"\d{4}-\d\d-\d\d"
_TIME: Final = r"\d\d:\d\d:\d\d(\.\d+)?"
_OFFSET: Final = r"([Zz]|[+-]\d\d:\d\d)"
FORMATS: Final[dict[str, Callable[[str], bool]]] = {
    "uuid": _format_check(UUID, r"[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}\Z"),
    "date-time": _format_check(Annotated[datetime, Meta(tz=True)], rf"{_DATE}[Tt]{_TIME}{_OFFSET}\Z"),
    "date-time-local": _format_check(Annotated[datetime, Meta(tz=False)], rf"{_DATE}[Tt]{_TIME}\Z"),
    "date": _format_check(date, rf"{_DATE}\Z"),
    "time": _format_check(Annotated[time, Meta(tz=True)], rf"{_TIME}{_OFFSET}\Z"),
    "time-local": _format_check(Annotated[time, Meta(tz=False)], rf"{_TIME}\Z"),
    "duration": _format_check(timedelta, r"-?P[0-9A-Z.]+\Z"),
    "decimal": _format_check(Decimal, r"-?\d+(\.\d+)?([eE][+-]?\d+)?\Z"),
}
