"""Commands that ask the running kernel."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from host.cli.ending import CommandFailed
from host.cli.output import print_json, print_table, print_text, seconds, working
from host.control_client import LONG_ANSWER_LIMIT_S, NoAnswer, Remote, ask
from host.settings import environment

Document = Mapping[str, Any]


def ask_kernel(data_dir: Path, method: str, path: str, body: Any = None, *, doing: str, is_long: bool = False) -> Any:
    """What the kernel on a data folder answers.

    Raises:
        CommandFailed: none runs there, or it says no.
    """
    limits = {"limit_s": LONG_ANSWER_LIMIT_S} if is_long else {}
    try:
        with working(doing):
            return ask(data_dir.absolute(), method, path, body, **limits)
    except NoAnswer as error:
        raise CommandFailed(str(error)) from error


def _remote(url: str) -> Remote:
    return Remote(url, environment().get("PK_API_KEY"))


def remote_of(url: str) -> Remote:
    """A kernel elsewhere, asked with the key of PK_API_KEY.

    Raises:
        CommandFailed: there is no key, or the address is none.
    """
    if not environment().get("PK_API_KEY"):
        raise CommandFailed(
            "PK_API_KEY is not set; put an API key of an operator into it (`POST /api/v1/iam/api-keys`)"
        )
    try:
        return _remote(url)
    except NoAnswer as error:
        raise CommandFailed(str(error)) from error


# ------------------------------------------------------------------------------------------ plugins, settings


def list_plugins(data_dir: Path, url: str | None, *, as_json: bool) -> None:
    """`pk plugins list`."""
    items = _remote_plugins(url) if url else _items(ask_kernel(data_dir, "GET", "/plugins", doing="asking the kernel"))
    if as_json:
        print_json({"items": items})
        return
    print_table(("PLUGIN", "VERSION", "STATE", "GENERATION", "SINCE", "ABOUT"), [_plugin_row(one) for one in items])
    for one in items:
        for line in _plugin_remarks(one):
            print_text(f"{one['id']}: {line}")


def _plugin_row(one: Document) -> tuple[str, ...]:
    return (
        str(one["id"]),
        str(one["version"]),
        str(one["state"]),
        "/".join(str(each["generation"]) for each in one.get("workers") or (one,)) if one["generation"] else "-",
        seconds(one.get("uptime_s")) if one["state"] in ("active", "half_open") else "-",
        str(one.get("reason") or one.get("summary") or ""),
    )


def _plugin_remarks(one: Document) -> Iterator[str]:
    """What a table has no room for."""
    if one.get("last_error"):
        yield f"what was tried last failed: {one['last_error']}"
    if one.get("stalls"):
        yield f"held up an event loop {one['stalls']} times, the last time in {one['stalled_in']}"
    for each in one.get("workers") or ():
        if each["leaks"]:
            yield f"left behind in worker {each['worker']}: {', '.join(each['leaks'])}"


def _remote_plugins(url: str) -> list[Document]:
    remote = remote_of(url)
    try:
        with working(f"asking {url}"):
            return remote.items("/api/v1/plugins")
    except NoAnswer as error:
        raise CommandFailed(str(error)) from error


def _items(answer: Any) -> list[Document]:
    items = answer.get("items") if isinstance(answer, dict) else None
    if not isinstance(items, list):
        raise CommandFailed("the kernel answered with something else than a list; is it of another version than `pk`?")
    return items


def list_settings(data_dir: Path, wanted: str | None, *, as_json: bool) -> None:
    """`pk settings`."""
    answer = ask_kernel(data_dir, "GET", "/settings", doing="asking the kernel")
    items = [one for one in _items(answer) if _is_wanted(one, wanted)]
    if wanted and not items:
        known = ", ".join(dict.fromkeys(str(one["section"]) for one in _items(answer)))
        raise CommandFailed(f"there is no setting and no section {wanted} here; sections: {known}")
    if as_json:
        print_json({"items": items, "problems": answer.get("problems", [])})
        return
    rows = [(f"{one['section']}.{one['name']}", _shown(one), str(one["source"])) for one in items]
    print_table(("SETTING", "VALUE", "SOURCE"), rows)
    if wanted:
        for one in items:
            print_text(f"\n{one['section']}.{one['name']}: {one['description']}")
            print_text(f"  takes {one['type']}; {_default(one)}; set by {', '.join(one['environment'])}")
    for problem in answer.get("problems", ()):
        print_text(f"\n{problem}")


def _is_wanted(one: Document, wanted: str | None) -> bool:
    full_name = f"{one['section']}.{one['name']}"
    return wanted is None or wanted in (one["section"], full_name) or one["section"] == wanted.removeprefix("kernel.")


def _shown(one: Document) -> str:
    return "(not set)" if one["value"] is None else _compact(one["value"])


def _default(one: Document) -> str:
    return "no default" if one["default"] is None else f"default {_compact(one['default'])}"


def _compact(value: Any) -> str:
    import msgspec  # noqa: PLC0415 - only for people

    return value if isinstance(value, str) and value else msgspec.json.encode(value).decode()


# ------------------------------------------------------------------------------------------------- migrations


def migration_status(data_dir: Path, plugin: str | None, *, as_json: bool) -> None:
    """`pk migrate status`."""
    from urllib.parse import urlencode  # noqa: PLC0415 - only here

    path = f"/migrations?{urlencode({'plugin': plugin})}" if plugin else "/migrations"
    items = _items(ask_kernel(data_dir, "GET", path, doing="reading the migrations"))
    if as_json:
        print_json({"items": items})
        return
    rows = [
        (str(one["plugin"]), str(each["file"]), str(each["phase"]), str(each["state"]), str(each["applied_at"] or "-"))
        for one in items
        for each in one["migrations"]
    ]
    print_table(("PLUGIN", "MIGRATION", "PHASE", "STATE", "APPLIED"), rows)


def migrate_up(data_dir: Path, plugin: str | None, *, dry_run: bool, as_json: bool) -> None:
    """`pk migrate up`."""
    body = {"dry_run": dry_run, **({"plugin": plugin} if plugin else {})}
    answer = ask_kernel(data_dir, "POST", "/migrations/up", body, doing="running migrations", is_long=True)
    _show_migrated(_items(answer), "would run" if dry_run else "ran", "nothing is pending", answer, as_json=as_json)


def migrate_down(data_dir: Path, plugin: str, count: int, *, dry_run: bool, as_json: bool) -> None:
    """`pk migrate down`."""
    body = {"plugin": plugin, "count": count, "dry_run": dry_run}
    answer = ask_kernel(data_dir, "POST", "/migrations/down", body, doing="taking migrations back", is_long=True)
    done = "would take back" if dry_run else "took back"
    _show_migrated(_items(answer), done, "nothing has run that could be taken back", answer, as_json=as_json)


def _show_migrated(items: Sequence[Document], done: str, nothing: str, answer: Document, *, as_json: bool) -> None:
    if as_json:
        print_json(answer)
    elif any(one["files"] for one in items):
        for one in items:
            for file in one["files"]:
                print_text(f"{one['plugin']}: {done} {file}")
    elif not any(one["problem"] for one in items):
        print_text(nothing)
    _fail_with([str(one["problem"]) for one in items if one["problem"]])


def _fail_with(problems: Sequence[str]) -> None:
    if problems:
        raise CommandFailed("\n".join(problems))


# ------------------------------------------------------------------------------------------- API, demo, reload


def print_openapi(data_dir: Path, url: str | None) -> None:
    """`pk openapi`."""
    if url is None:
        print_json(ask_kernel(data_dir, "GET", "/openapi", doing="asking the kernel"))
        return
    try:
        with working(f"asking {url}"):
            document = _remote(url).get("/api/v1/openapi.json")
    except NoAnswer as error:
        raise CommandFailed(str(error)) from error
    print_json(document)


def fill_demo(data_dir: Path, *, as_json: bool) -> None:
    """`pk demo`."""
    answer = ask_kernel(data_dir, "POST", "/demo", doing="filling the tenant demo")
    items = _items(answer)
    if as_json:
        print_json(answer)
    else:
        made = [(str(one["plugin"]), line) for one in items for line in one["made"]]
        for plugin, line in made:
            print_text(f"{plugin}: {line}")
        print_text("" if made else "the tenant demo has everything already")
        print_text(
            "log in: tenant demo, owner@demo.localhost, the password that the first start printed (or PK_DEMO_PASSWORD)"
        )
    _fail_with([f"{one['plugin']}: {one['problem']}" for one in items if one["problem"]])


def reload_workers(data_dir: Path, *, as_json: bool) -> None:
    """`pk reload`."""
    answer = ask_kernel(data_dir, "POST", "/reload", doing="replacing the workers one by one", is_long=True)
    if as_json:
        print_json(answer)
    else:
        pids = ", ".join(str(pid) for pid in answer.get("workers", ()))
        print_text(f"every worker is new: pid {pids}")


def print_version(*, as_json: bool) -> None:
    """`pk version`."""
    import platform  # noqa: PLC0415 - only here

    from host.version import kernel_version  # noqa: PLC0415 - only here
    from plugin_api import API_VERSION  # noqa: PLC0415 - only here

    found = {"version": kernel_version(), "plugin_api": API_VERSION, "python": platform.python_version()}
    if as_json:
        print_json(found)
    else:
        print_text(f"platform-kernel {found['version']} (plugin API {found['plugin_api']}, Python {found['python']})")
