"""The whole examination of a plugin's source folder: what its text tells."""

from __future__ import annotations

from pathlib import Path

from host.authoring.finding import Finding
from host.authoring.rules import check_project


def examine(folder: Path) -> list[Finding]:
    """Everything found in a source folder, errors first."""
    return check_project(folder)
