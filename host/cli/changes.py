"""`pk plugins install|upgrade|rollback|enable|disable|remove`: a change of the running kernel's plugins."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from host.cli.ending import CommandFailed
from host.cli.output import print_json, print_text, progress
from host.cli.questions import remote_of
from host.control_client import NoAnswer, ask

CHANGE_LIMIT_S: Final = 960.0
ASK_EVERY_S: Final = 0.5
_DONE: Final = {
    "install": "is installed",
    "upgrade": "is upgraded",
    "rollback": "is rolled back",
    "enable": "is enabled",
    "disable": "is disabled",
    "remove": "is removed",
}
Document = Mapping[str, Any]


def change(data_dir: Path, url: str | None, asked: Document, *, as_json: bool) -> None:
    """Ask for a change, show what is being done, and tell what came of it."""
    outcome = _change_elsewhere(url, asked) if url else change_here(data_dir, asked)
    if as_json:
        print_json(outcome)
        return
    if asked.get("dry_run"):
        _print_survey(asked["plugin_id"], outcome)
        return
    print_text(_sentence(outcome))
    for plugin_id in outcome.get("disabled") or ():
        print_text(f"{plugin_id} was disabled with it")
    for warning in outcome.get("warnings") or ():
        print_text(f"warning: {warning}")
    if folder := (outcome.get("removed") or {}).get("folder"):
        print_text(f"its data is in {folder}")


def _sentence(outcome: Document) -> str:
    version, former = outcome.get("version") or "", outcome.get("former") or ""
    done = _DONE[outcome["verb"]]
    if not outcome.get("changed", True):
        if outcome["verb"] == "upgrade":
            return f"{outcome['plugin_id']} {version} serves already: there is nothing newer in what was given"
        return f"{outcome['plugin_id']} {version} {done} already"
    moved = f" from {former}" if former and version else ""
    return f"{outcome['plugin_id']} {version or former} {done}{moved}"


def _print_survey(plugin_id: str, outcome: Document) -> None:
    removed = outcome.get("removed") or {}
    print_text(f"removing {plugin_id} with --data {removed.get('data', 'keep')} would take away:")
    print_text(f"  package {removed.get('package')}")
    for route in removed.get("routes") or ():
        print_text(f"  route {route}")
    for permission in removed.get("permissions") or ():
        print_text(f"  permission {permission}")
    verb = "keep" if removed.get("data") == "keep" else "destroy"
    for table, rows in (removed.get("tables") or {}).items():
        print_text(f"  and {verb} table {removed.get('schema')}.{table} (about {rows} rows)")
    for other in outcome.get("disabled") or ():
        print_text(f"  and disable {other}, which needs it")


# ------------------------------------------------------------------------------------------------- this machine


def change_here(data_dir: Path, asked: Document) -> Document:
    """Ask the kernel on a data folder for a change, and show what it does meanwhile.

    Raises:
        CommandFailed: none runs there, or it says no.
    """
    folder = data_dir.absolute()
    try:
        with _watching(folder, _about(asked)):
            outcome: Document = ask(folder, "POST", "/plugins", _with_whole_path(asked), limit_s=CHANGE_LIMIT_S)
    except NoAnswer as error:
        raise CommandFailed(str(error)) from error
    return outcome


def _about(asked: Document) -> str:
    return f"{asked['verb']} {asked.get('what') or asked.get('plugin_id')}"


def _with_whole_path(asked: Document) -> Document:
    """A path is meant from where the command was called; the kernel runs elsewhere."""
    what = str(asked.get("what") or "")
    path = Path(what).expanduser()
    return {**asked, "what": str(path.absolute())} if what and path.exists() else asked


@contextmanager
def _watching(folder: Path, about: str) -> Iterator[None]:
    """Show what the kernel does meanwhile."""
    over = threading.Event()
    with progress(about) as show:

        def look() -> None:
            while not over.wait(ASK_EVERY_S):
                try:
                    doing = ask(folder, "GET", "/plugins/doing", limit_s=5.0).get("doing")
                except NoAnswer:
                    continue  # the change itself says what is wrong
                if doing:
                    show(str(doing))

        watching = threading.Thread(target=look, daemon=True)
        watching.start()
        try:
            yield
        finally:
            over.set()
            watching.join()


# ---------------------------------------------------------------------------------------------------- elsewhere


def _change_elsewhere(url: str, asked: Document) -> Document:
    verb, plugin_id, what = asked["verb"], asked.get("plugin_id", ""), str(asked.get("what") or "")
    remote = remote_of(url)
    body: Any = {"requirement": what} if what else {}
    if what and Path(what).is_dir():
        raise CommandFailed(f"{what} is a folder; build its wheel and give that, or install it on the kernel's machine")
    if what and Path(what).is_file():
        body = Path(what).read_bytes()
    try:
        with progress(f"{_about(asked)} at {url}"):
            if verb == "remove":
                query = {"data": asked["data"], "cascade": _word(asked["cascade"]), "dry_run": _word(asked["dry_run"])}
                told = remote.send("DELETE", f"/api/v1/plugins/{plugin_id}", query=query)
            elif verb == "install":
                told = remote.send("POST", "/api/v1/plugins", body)
            else:
                query = {"cascade": "true"} if asked.get("cascade") else {}
                told = remote.send("POST", f"/api/v1/plugins/{plugin_id}/{verb}", body, query=query)
    except NoAnswer as error:
        raise CommandFailed(str(error)) from error
    return {"plugin_id": told.get("id"), "verb": verb, "version": told.get("version", ""), **told}


def _word(flag: bool) -> str:
    return "true" if flag else "false"
