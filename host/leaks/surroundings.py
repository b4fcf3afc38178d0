"""What a plugin shares with everybody in its process, noted before and compared after its code ran.

What it registered with `atexit` is not here: the loader knows it (`Remains.at_exit`), and the libraries that a plugin is
the first to import register there too.
"""

from __future__ import annotations

import asyncio
import builtins
import gc
import json
import logging
import os
import signal
import socket
import ssl
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from host.leaks.belonging import PRIVATE_PREFIX
from host.leaks.finding import Kind, Leak

_ALWAYS: Final = (asyncio, builtins, json, logging, os, socket, ssl, sys, threading, time)
WATCHED: Final = frozenset({"plugin_api", "host", "msgspec", "pluggy", "aiohttp", *(one.__name__ for one in _ALWAYS)})
"""Packages whose functions and classes everybody relies on; those that are not imported are not looked at."""
_HOOKS: Final = (
    (sys, "excepthook"),
    (sys, "unraisablehook"),
    (sys, "displayhook"),
    (sys, "breakpointhook"),
    (threading, "excepthook"),
)
_LOOPS_THREADS: Final = "asyncio_"
"""Names of the event loop's own, which `asyncio.to_thread` uses and the loop ends."""
_SIX: Final = "_SixMetaPathImporter"
"""The finder of the library that half of all distributions carry; it answers for `six.moves` alone."""
_Members = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Surroundings:
    """One look at the process; `changes` compares the process with it."""

    path: tuple[str, ...]
    finders: tuple[object, ...]
    modules: frozenset[str]
    threads: frozenset[int]
    signals: dict[int, Any]
    handlers: tuple[object, ...]
    level: int
    members: _Members
    filters: tuple[object, ...]
    hooks: dict[str, Any]
    collector: tuple[object, ...]
    environment: dict[str, str]
    folder: str

    @staticmethod
    def snapshot() -> Surroundings:
        """Note the process as it is; nothing in it is changed."""
        root = logging.getLogger()
        return Surroundings(
            tuple(sys.path),
            (*sys.meta_path, *sys.path_hooks),
            frozenset(sys.modules.copy()),
            frozenset(thread.ident or 0 for thread in threading.enumerate()),
            {int(number): signal.getsignal(number) for number in signal.valid_signals()},
            (*root.handlers, *root.filters),
            root.level,
            _members(),
            tuple(warnings.filters),
            {f"{place.__name__}.{name}": getattr(place, name) for place, name in _HOOKS},
            (gc.isenabled(), gc.get_threshold(), gc.get_debug(), *gc.callbacks),
            dict(os.environ),  # noqa: TID251 - compared with itself, and its values never shown
            _working_folder(),
        )

    @staticmethod
    def changes(before: Surroundings, owner: str = "") -> list[Leak]:
        """What differs from `before`, each with what it is and what to do; `owner` is who is told to have done it."""
        now = Surroundings.snapshot()
        return [Leak(kind, owner, text) for kind, compare in _COMPARED for text in compare(before, now)]


def _working_folder() -> str:
    try:
        return str(Path.cwd())
    except FileNotFoundError:
        return ""


# ------------------------------------------------------------------------------------------- members


def _members() -> _Members:
    """Module or class -> name -> function or class, of everything watched."""
    found: _Members = {}
    for name, module in sys.modules.copy().items():
        if isinstance(module, ModuleType) and name.partition(".")[0] in WATCHED and name != "__main__":
            found[name] = _callables(vars(module))
            for attribute, value in found[name].items():
                if isinstance(value, type) and value.__module__ == name:
                    found[f"{name}.{attribute}"] = _callables(vars(value))
    return found


def _callables(namespace: Any) -> dict[str, Any]:
    """Names of a module or class whose values are code."""
    return {name: value for name, value in list(namespace.items()) if _is_code(value)}


def _is_code(value: object) -> bool:
    return callable(value) or isinstance(value, staticmethod | classmethod | property)


def _changed_members(before: Surroundings, now: Surroundings) -> Iterator[str]:
    for place, names in before.members.items():
        later = now.members.get(place, {})
        for name, value in names.items():
            if later.get(name) is not value and f"{place}.{name}" not in before.hooks:
                seen = "is gone" if name not in later else f"is {_show(later[name])}, was {_show(value)}"
                yield f"{place}.{name} {seen}; everybody in the process uses it: do not change it"
        for name in later.keys() - names.keys():
            if _home(later[name]).startswith(PRIVATE_PREFIX):
                yield f"{place}.{name} is new and is {_show(later[name])}; keep it in a module of your own"


def _home(value: Any) -> str:
    return str(getattr(value, "__module__", "") or "")


def _show(value: Any) -> str:
    home, name = _home(value), getattr(value, "__qualname__", None) or type(value).__name__
    if home.startswith(PRIVATE_PREFIX):
        home = home.partition(".")[2]
    return f"{home}.{name}" if home else str(name)


# ------------------------------------------------------------------------------------------- the rest


def _changed_path(before: Surroundings, now: Surroundings) -> Iterator[str]:
    if before.path != now.path:
        added = [entry for entry in now.path if entry not in before.path]
        gone = [entry for entry in before.path if entry not in now.path]
        words = [f"has gained {', '.join(added)}"] * bool(added) + [f"has lost {', '.join(gone)}"] * bool(gone)
        said = " and ".join(words) or "has another order"
        yield f"sys.path {said}; imports of your own packages work without"
    for finder in now.finders:
        kind = finder if _is_code(finder) else type(finder)
        is_new = all(finder is not known for known in before.finders)
        if is_new and _home(kind).startswith(PRIVATE_PREFIX) and not _show(kind).endswith(f".{_SIX}"):
            yield f"the import system has a new finder {_show(kind)}; every import of the process would ask it"


def _new_modules(before: Surroundings, now: Surroundings) -> Iterator[str]:
    homes = tuple(f"{Path(entry).resolve()}{os.sep}" for entry in before.path if entry)
    for name in sorted(now.modules - before.modules):
        top = name.partition(".")[0]
        if top in sys.stdlib_module_names or top.startswith(PRIVATE_PREFIX):
            continue
        places = _places(sys.modules.get(name))  # compiled code makes up modules that have none
        if places and not any(place.startswith(homes) for place in places):
            said = "which no installed distribution brought; import it by its own name"
            yield f"sys.modules has {name} ({places[0]}), {said}"


def _places(module: object) -> list[str]:
    """Real paths of a module's file, or of its folders when it has none."""
    file = getattr(module, "__file__", None)
    found = [file] if file else list(getattr(module, "__path__", ()))
    return [os.path.realpath(place) for place in found]


def _new_threads(before: Surroundings, now: Surroundings) -> Iterator[str]:
    for thread in threading.enumerate():
        if thread.ident not in before.threads and not thread.name.startswith(_LOOPS_THREADS):
            target = vars(thread).get("_target")
            runs = _show(target) if target is not None else _show(type(thread))
            yield f"the thread {thread.name!r} runs {runs}; start it in pk_enable, and end and join it in pk_disable"


def _changed_signals(before: Surroundings, now: Surroundings) -> Iterator[str]:
    for number, handler in now.signals.items():
        if before.signals.get(number) is not handler:
            name = signal.Signals(number).name if number in set(signal.Signals) else str(number)
            yield f"{name} is handled by {_show(handler)}; a plugin shares its process and handles no signals"


def _changed_logging(before: Surroundings, now: Surroundings) -> Iterator[str]:
    for handler in now.handlers:
        if all(handler is not known for known in before.handlers):
            yield f"the root logger has a new {_show(type(handler))}; use registrar.log, the host decides where it goes"
    for handler in before.handlers:
        if all(handler is not known for known in now.handlers):
            yield f"the root logger has lost its {_show(type(handler))}; leave the host's logging alone"
    if before.level != now.level:
        was, seen = logging.getLevelName(before.level), logging.getLevelName(now.level)
        yield f"the level of the root logger is {seen}, was {was}; set that of your own logger"


def _changed_filters(before: Surroundings, now: Surroundings) -> Iterator[str]:
    if before.filters != now.filters:
        yield "warnings.filters has changed; use warnings.catch_warnings"


def _changed_hooks(before: Surroundings, now: Surroundings) -> Iterator[str]:
    for name, hook in now.hooks.items():
        if before.hooks[name] is not hook:
            yield f"{name} is {_show(hook)}; it is the host's"


def _changed_collector(before: Surroundings, now: Surroundings) -> Iterator[str]:
    if before.collector != now.collector:
        yield "the garbage collector has other settings or callbacks; they are the host's"


def _changed_environment(before: Surroundings, now: Surroundings) -> Iterator[str]:
    names = before.environment.keys() | now.environment.keys()
    changed = sorted(name for name in names if before.environment.get(name) != now.environment.get(name))
    if changed:
        yield f"os.environ has changed: {', '.join(changed)}; declare settings instead"


def _changed_folder(before: Surroundings, now: Surroundings) -> Iterator[str]:
    if before.folder != now.folder:
        yield f"the working folder is {now.folder}; use absolute paths"


_COMPARED: Final[list[tuple[Kind, Callable[[Surroundings, Surroundings], Iterator[str]]]]] = [
    ("sys_path", _changed_path),
    ("monkeypatch", _changed_members),
    ("thread", _new_threads),
    ("signal_handler", _changed_signals),
    ("logging_handler", _changed_logging),
    ("module", _new_modules),
    ("warnings_filter", _changed_filters),
    ("exception_hook", _changed_hooks),
    ("gc", _changed_collector),
    ("environment", _changed_environment),
    ("working_folder", _changed_folder),
]
