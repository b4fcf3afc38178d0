"""One list of plugins out of what each worker says, with what the parent has seen of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from host.checks import Check
from host.workers import Stalls

_OF_WORKERS: Final = ("state", "version", "generation", "uptime_s", "leaks")
Plugin = dict[str, Any]


def overview(views: Mapping[int, Sequence[Plugin]], stalls: Mapping[str, Stalls]) -> list[Plugin]:
    """Every plugin as the first worker that knows it says, with `workers` (how it is in each) and `stalls`."""
    known: dict[str, Plugin] = {}
    for worker, plugins in sorted(views.items()):
        for plugin in plugins:
            one = known.setdefault(plugin["id"], {**plugin, "workers": [], **_stalls_of(plugin["id"], stalls)})
            one["workers"].append({"worker": worker, **{name: plugin[name] for name in _OF_WORKERS}})
            one["last_error"] = one["last_error"] or plugin["last_error"]
    return list(known.values())


def _stalls_of(plugin_id: str, stalls: Mapping[str, Stalls]) -> Plugin:
    seen = stalls.get(plugin_id)
    return {"stalls": seen.count if seen else 0, "stalled_in": seen.frame if seen else ""}


def remarks_on(plugin: Plugin) -> Iterator[Check]:
    """What an operator should know of a plugin that serves all the same."""
    name = f"plugin {plugin['id']}"
    if len({(one["state"], one["version"]) for one in plugin["workers"]}) > 1:
        seen = ", ".join(f"worker {one['worker']}: {one['version']} {one['state']}" for one in plugin["workers"])
        yield Check(name, "fail", f"the workers differ ({seen})", "pk reload")
    if plugin["stalls"]:
        told = f"it held up an event loop {plugin['stalls']} times, the last time in {plugin['stalled_in']}"
        yield Check(name, "warn", told, "tell its author; a plugin that stops a worker is quarantined")
    for one in plugin["workers"]:
        if one["leaks"]:
            told = f"worker {one['worker']}: a stopped generation left behind {', '.join(one['leaks'])}"
            yield Check(name, "warn", told, "tell its author; `pk reload` gives the memory back")
    if plugin["last_error"] and plugin["state"] == "active":
        yield Check(name, "warn", f"what was tried last failed: {plugin['last_error']}", "see the kernel's log")
