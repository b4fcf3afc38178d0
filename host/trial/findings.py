"""What a trial finds, each with a stable id, and the messages between the trial's process and the one that started it."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from msgspec import Struct

from host.finding import Finding, Severity
from host.wire.model import Contract
from plugin_api.event_schemas import Schema

PHASES: Final = {
    "start": "starting the process",
    "import": "importing the package",
    "settings": "reading its settings",
    "configure": "pk_configure",
    "register": "pk_register",
    "pipeline": "pk_pipeline",
    "publish": "compiling its operations",
    "disable": "pk_disable",
    "unload": "unloading",
}
"""Phase -> what the process was doing, in words."""

FRAMES_NAME: Final = "frames"
"""File in the trial's folder: what ran when it crashed, or shortly before its time was over."""


class TriedOperation(Struct, frozen=True):
    """An operation as the package registered it."""

    method: str
    path: str
    permission: str | None
    """Its full name."""


class Trial(Struct, frozen=True):
    """The outcome; `ok` when no finding is an error."""

    ok: bool
    findings: list[Finding]
    operations: list[TriedOperation] = []
    provides: list[str] = []
    """Capabilities for which something was registered."""
    events: dict[str, Schema] | None = None
    """What the data of the events holds for which it has declared a Struct, by type relative to its area; None when it did not
    come to register anything."""
    compiled: list[str] = []
    """Files of compiled extensions that its import loaded."""
    wire: Contract | None = None
    """What gRPC has of it; None when it did not come to register anything."""


class Request(Struct, frozen=True):
    """What the trial's process is told on its standard input."""

    folder: str
    target: str
    plugin_id: str
    names: list[str] | None = None
    limit_s: float = 20.0
    settings: dict[str, Any] = {}
    """Values of the plugin's section, over those of the environment."""
    data_dir: str | None = None
    """A kernel's data folder: its `pk.toml`, and that of the folder the kernel was started in, count as they do for it."""
    cwd: str | None = None


class Report(Struct, frozen=True, omit_defaults=True):
    """A line that the trial's process writes: the phase that begins, or the outcome."""

    phase: str = ""
    trial: Trial | None = None


class Rule(NamedTuple):
    """Why something is a finding, and what its author does about it."""

    severity: Severity
    why: str
    remedy: str


_SHARED: Final = "every plugin of the process would get the change, and it would stay after the plugin is gone"
_STAYS: Final = "what outlives its generation keeps the old code in memory, and may act beside the new one"
_AT_START: Final = "a worker could not load it either"

RULES: Final[dict[str, Rule]] = {
    "manifest_invalid": Rule(
        "error", "everything that a plugin owns derives from its manifest", "correct manifest.toml"
    ),
    "import_fails": Rule("error", _AT_START, "make the package importable: check its files and its dependencies"),
    "import_exits": Rule("error", "importing a plugin must not end the process", "raise an exception instead"),
    "settings_invalid": Rule("error", _AT_START, "make `Settings` a frozen msgspec Struct, importable on its own"),
    "settings_unset": Rule(
        "warning", "the rest of the trial needs its settings", "set them before it is installed, or give them defaults"
    ),
    "hook_signature": Rule(
        "error",
        "hooks are called by name with the arguments of their specification",
        "correct the name or the arguments; plugin_api/hooks.py lists them",
    ),
    "configure_fails": Rule("error", _AT_START, "refuse only settings that contradict each other"),
    "register_fails": Rule("error", _AT_START, "register declarations only in pk_register; do I/O in pk_enable"),
    "pipeline_fails": Rule("error", _AT_START, "fill only slots that no other plugin holds"),
    "operation_invalid": Rule("error", "an operation is typed, named and described", "correct the declaration"),
    "foreign_path": Rule(
        "error",
        "a path shows who answers; absolute ones belong to the kernel's own plugins",
        "write the path relative to the plugin's own prefix",
    ),
    "permission_unlisted": Rule(
        "error",
        "only permissions of the manifest can be granted, so nobody could call it",
        "list the permission under [permissions] in manifest.toml",
    ),
    "route_conflict": Rule("error", "a request has one answerer", "give the operations different paths or methods"),
    "publish_fails": Rule("error", _AT_START, "correct the types of the operation"),
    "provides_lacking": Rule(
        "error",
        "others rely on what the manifest's `provides` lists",
        "register an implementation with registrar.service or registrar.operations, or take the entry out",
    ),
    "event_undeclared": Rule(
        "warning",
        "readers of the event cannot know what its data holds, and nobody notices when a field goes",
        'write a frozen Struct of its data and declare it in pk_register: registrar.events({"note.written.v1": NoteWritten})',
    ),
    "events_lock_missing": Rule(
        "warning",
        "without the file nobody notices when a field of an event goes",
        "run `pk contract lock DIR`, commit the file, and list it below `[tool.setuptools.package-data]`",
    ),
    "events_lock_behind": Rule(
        "warning",
        "a field that events.lock does not have may go again, and nobody notices",
        "run `pk contract lock DIR` and commit the file",
    ),
    "events_lock_unreadable": Rule(
        "error",
        "what was promised of events cannot be compared with what the code tells",
        "bring back the file of the last commit; `pk contract lock` alone writes it",
    ),
    "event_schema_broken": Rule(
        "error",
        "whoever reads the event was promised that its data only gains fields inside a version",
        "keep the field as events.lock has it, or tell a new version of the type beside it",
    ),
    "no_grpc": Rule(
        "info",
        "clients of gRPC do not find the operation",
        "nothing, if REST is enough; else give it types and names that protobuf has too",
    ),
    "wire_lock_behind": Rule(
        "warning",
        "what wire.lock does not have is numbered by each kernel for itself, and clients of two may not understand both",
        "run `pk contract lock DIR` and commit the file",
    ),
    "wire_lock_unreadable": Rule(
        "error",
        "the numbers that gRPC's clients were built with are not known",
        "bring back the file of the last commit; `pk contract lock` alone writes it",
    ),
    "wire_changed": Rule(
        "error",
        "a client that was built before would read or send one thing for another",
        "keep the type as wire.lock has it, and put what is new beside it under another name",
    ),
    "disable_fails": Rule(
        "warning", "a plugin is stopped this way", "let pk_disable cope with whatever was not enabled"
    ),
    "changes_sys_path": Rule("error", _SHARED, "remove the change; absolute imports of the own packages work without"),
    "monkeypatches": Rule("error", _SHARED, "subclass or wrap it in a module of your own"),
    "changes_signals": Rule("error", _SHARED, "leave signals to the host; pk_drain and pk_disable tell of the end"),
    "changes_logging": Rule("error", _SHARED, "use registrar.log, or a logger of your own name"),
    "changes_exception_hook": Rule("error", _SHARED, "leave the hook to the host"),
    "changes_gc": Rule("error", _SHARED, "leave the collector to the host"),
    "changes_working_folder": Rule("error", _SHARED, "use absolute paths"),
    "changes_environment": Rule("warning", _SHARED, "declare settings instead"),
    "changes_warnings": Rule("warning", _SHARED, "use warnings.catch_warnings around the call"),
    "adds_modules": Rule("warning", _SHARED, "import modules by their own names"),
    "starts_thread": Rule("error", _STAYS, "start threads in pk_enable, and end and join them in pk_disable"),
    "leaves_task": Rule("error", _STAYS, "use registrar.task, which the host ends"),
    "leaves_atexit": Rule("warning", _STAYS, "do it in pk_disable; the host has withdrawn the call"),
    "registers_dispatch": Rule("warning", _STAYS, "dispatch on a function of your own"),
    "leaks_modules": Rule("warning", _STAYS, "let go of it in pk_disable"),
    "compiled_extension": Rule(
        "warning",
        "compiled code cannot be unloaded; a process keeps each version until it ends",
        "expect a rolling restart with each new version, or depend on the distribution instead of carrying it",
    ),
    "hangs": Rule("error", "a worker that waits for it serves nobody", "do no I/O while importing or registering"),
    "crashes": Rule(
        "error", "it would take a worker, and every call in it, with it", "find the fault in the place named"
    ),
}

LEAK_RULES: Final = {
    "thread": "starts_thread",
    "task": "leaves_task",
    "atexit": "leaves_atexit",
    "logging_handler": "changes_logging",
    "signal_handler": "changes_signals",
    "monkeypatch": "monkeypatches",
    "singledispatch": "registers_dispatch",
    "module_reference": "leaks_modules",
    "sys_path": "changes_sys_path",
    "module": "adds_modules",
    "warnings_filter": "changes_warnings",
    "exception_hook": "changes_exception_hook",
    "gc": "changes_gc",
    "environment": "changes_environment",
    "working_folder": "changes_working_folder",
}
"""Kind of a leak -> its rule."""


def finding(rule_id: str, message: str, file: str = "", line: int = 0) -> Finding:
    """A finding of one of RULES."""
    rule = RULES[rule_id]
    return Finding(rule_id, rule.severity, message, rule.why, rule.remedy, file, line)


def has_passed(findings: list[Finding]) -> bool:
    """Whether none of them is an error."""
    return all(one.severity != "error" for one in findings)
