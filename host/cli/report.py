"""`pk doctor`: everything that can be told about an installation, its data folder and the kernel that runs there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from host.checks import Check, local_checks
from host.cli.ending import CommandFailed
from host.cli.output import print_json, print_table, print_text, seconds, working
from host.control_client import NoAnswer, NoKernel, ask
from host.settings import ANY_SECTION, SECTION, HostSettings, LoadedSettings, read

_GOOD_STATES: Final = frozenset({"ready"})
_PASSING_STATES: Final = frozenset({"starting", "draining", "restarting"})


def examine(data_dir: Path, *, as_json: bool) -> None:
    """Print the report.

    Raises:
        CommandFailed: something failed; the text counts it.
    """
    data_dir = data_dir.absolute()
    with working("examining"):
        answer, kernel_checks = _ask(data_dir)
        is_running = answer is not None
        settings = read({SECTION: HostSettings}, data_dir=data_dir, others=ANY_SECTION)
        checks = [
            *local_checks(
                data_dir, settings.find(SECTION) if not settings.problems else HostSettings(), is_running=is_running
            )
        ]
    checks += kernel_checks + ([] if is_running else list(_settings_checks(settings)))
    failed = sum(check.status == "fail" for check in checks)
    if as_json:
        print_json(_document(data_dir, answer, checks, ok=not failed))
    else:
        _print(answer or {}, checks)
    if failed:
        raise CommandFailed(f"{failed} of {len(checks)} checks failed")


def _ask(data_dir: Path) -> tuple[Mapping[str, Any] | None, list[Check]]:
    """What the kernel says about itself; nothing when none runs, which is no fault."""
    try:
        answer: Mapping[str, Any] = ask(data_dir, "GET", "/doctor")
    except NoKernel as error:
        told, _, remedy = str(error).rpartition("; ")
        return None, [Check("kernel", "warn", told, remedy)]
    except NoAnswer as error:
        told, _, remedy = str(error).rpartition("; ")
        return None, [Check("kernel", "fail", told or remedy, remedy if told else "")]
    return answer, [*_process_checks(answer.get("processes", {})), *_worker_checks(answer)]


def _process_checks(processes: Mapping[str, Any]) -> Iterator[Check]:
    parent = processes.get("parent", {})
    yield Check("kernel", "ok", f"runs as pid {parent.get('pid')} for {seconds(parent.get('uptime_s'))}")
    for one in processes.get("servers", ()):
        yield _process_check(f"server {one.get('name')}", one)
    for one in processes.get("workers", ()):
        yield _process_check(f"worker {one.get('worker')}", one)


def _process_check(name: str, one: Mapping[str, Any]) -> Check:
    state, restarts = str(one.get("state")), one.get("restarts") or 0
    again = f", replaced {restarts} times since the kernel started" if restarts else ""
    told = f"{state}, pid {one.get('pid')}, for {seconds(one.get('uptime_s'))}{again}"
    if state in _GOOD_STATES:
        return Check(name, "ok", told)
    return Check(name, "warn" if state in _PASSING_STATES else "fail", told, "see the kernel's log if it stays so")


def _worker_checks(answer: Mapping[str, Any]) -> list[Check]:
    """What a worker found out about plugins and settings; without a worker that is told, and why."""
    if "checks" not in answer:
        return [Check("plugins", "fail", str(answer.get("detail") or "no worker answers"), "see the kernel's log")]
    return msgspec.convert(answer["checks"], list[Check])


def _settings_checks(settings: LoadedSettings) -> Iterator[Check]:
    for problem in settings.problems:
        told, _, remedy = problem.text.rpartition("; ")
        yield Check("settings", "fail", told or remedy, remedy if told else "")
    if not settings.problems:
        yield Check("settings", "ok", "those of the host hold; plugins check theirs at the start")


def _document(data_dir: Path, answer: Mapping[str, Any] | None, checks: Sequence[Check], *, ok: bool) -> dict[str, Any]:
    known = answer or {}
    return {
        "ok": ok,
        "running": answer is not None,
        "data_dir": str(data_dir),
        "version": known.get("version"),
        "profile": known.get("profile"),
        "processes": known.get("processes"),
        "plugins": known.get("plugins", []),
        "vitals": known.get("vitals"),
        "checks": checks,
    }


def _print(answer: Mapping[str, Any], checks: Sequence[Check]) -> None:
    if "version" in answer:
        print_text(
            f"platform-kernel {answer['version']}, profile {answer.get('profile')}, Python {answer.get('python')}\n"
        )
    print_table(("", "CHECK", "FOUND"), [(check.status, check.name, check.detail) for check in checks])
    for check in checks:
        if check.status != "ok" and check.remedy:
            print_text(f"{check.status}: {check.name}: {check.detail}\n      {check.remedy}")
