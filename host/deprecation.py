"""What answers say of an operation that is going: `Deprecation` (RFC 9745), `Sunset` (RFC 8594), and where to read why."""

from __future__ import annotations

from datetime import UTC, date, datetime
from email.utils import format_datetime

from plugin_api.operation import OperationSpec


def notices_of(spec: OperationSpec) -> tuple[tuple[str, str], ...]:
    """The header fields of each of its answers; none when nobody has said when or why."""
    found: list[tuple[str, str]] = []
    if spec.deprecated_since is not None:
        found.append(("Deprecation", f"@{int(_midnight(spec.deprecated_since).timestamp())}"))
    if spec.sunset is not None:
        found.append(("Sunset", format_datetime(_midnight(spec.sunset), usegmt=True)))
    if spec.deprecation_page is not None:
        relation = "deprecation" if spec.sunset is None else "deprecation sunset"
        found.append(("Link", f'<{spec.deprecation_page}>; rel="{relation}"; type="text/html"'))
    return tuple(found)


def _midnight(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC)
