"""What checks found in a package: errors refuse it, warnings are told."""

from __future__ import annotations

from collections.abc import Sequence

from host.finding import Finding
from plugin_api.errors import InvalidRequest, Violation


def warnings_of(plugin_id: str, findings: Sequence[Finding]) -> list[str]:
    """What an author should look at, a line each.

    Raises:
        InvalidRequest: `plugin_failed`: there are errors; `violations` lists them by rule.
    """
    errors = [finding for finding in findings if finding.severity == "error"]
    if errors:
        told = "\n".join(_line(finding) for finding in errors)
        violations = [Violation(f"/{one.file}", one.id, _line(one)) for one in errors]
        said = told if plugin_id in told else f"{plugin_id}: {told}"
        raise InvalidRequest(said, code="plugin_failed", violations=violations)
    return [_line(finding) for finding in findings if finding.severity == "warning"]


def _line(finding: Finding) -> str:
    place = f"{finding.file}:{finding.line}: " if finding.line else f"{finding.file}: " if finding.file else ""
    shown = "" if finding.file and finding.file in finding.message else place
    return f"{shown}{finding.message.rstrip('.')}; {finding.remedy} [{finding.id}]"
