"""The whole examination of a plugin's source folder: what its text tells, then what a trial shows."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from host.authoring.rules import NOT_TRIED, Tryable, check_project, in_order, tryable
from host.finding import Finding
from host.trial import try_out

TRIAL_LIMIT_S: Final = 20.0


async def examine(folder: Path, limit_s: float = TRIAL_LIMIT_S) -> list[Finding]:
    """Everything found in a source folder, errors first.

    The trial runs the plugin's own code, in a process of its own, for at most `limit_s`; not when the text has errors
    already, for it would tell the same less clearly, nor when a library is missing here.
    """
    found = check_project(folder)
    place = tryable(folder)
    if place is None or any(one.severity == "error" for one in found):
        return found
    if place.missing:
        said = f"no trial was made: {', '.join(place.missing)} is not installed here"
        return in_order([*found, NOT_TRIED.finding(said)])
    own = place.target.partition(":")[0].strip().partition(".")[0]
    trial = await try_out(place.top, place.target, place.plugin_id, limit_s, [own])
    return in_order([*found, *_untold(found, [_shown(one, folder, place) for one in trial.findings])])


def _shown(tried: Finding, folder: Path, place: Tryable) -> Finding:
    """A trial's finding with its file as the others name theirs."""
    file, root = tried.file, folder.resolve()
    if file and Path(file).is_relative_to(root):
        file = Path(file).relative_to(root).as_posix()
    message = tried.message.removeprefix(f"{place.plugin_id}: ").replace(f"{root}/", "")
    return Finding(tried.id, tried.severity, message, tried.why, tried.remedy, file, tried.line)


def _untold(found: list[Finding], tried: list[Finding]) -> list[Finding]:
    told = {(one.id, one.file) for one in found}
    return [one for one in tried if (one.id, one.file) not in told]
