"""What still holds an unloaded generation, by kind: cheap looks always, the dear search only when one found something."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import CoroutineType, FrameType, FunctionType, MappingProxyType, ModuleType
from typing import Any, Final, Literal

from msgspec import Struct

from host.leaks.belonging import Belonging
from host.leaks.holders import find_holders
from host.leaks.remains import Remains

Kind = Literal[
    "thread",
    "task",
    "atexit",
    "logging_handler",
    "signal_handler",
    "monkeypatch",
    "singledispatch",
    "module_reference",
    "sys_path",
    "module",
    "warnings_filter",
    "exception_hook",
    "gc",
    "environment",
    "working_folder",
]
AWAITED_MAX: Final = 50
_HOLDS_NOTHING: Final = ("atexit", "sys_path")
"""Kinds that do not explain why code is still alive: withdrawn by then, or only text."""


class Leak(Struct, frozen=True):
    """One thing that outlives its generation, or that code changed outside itself."""

    kind: Kind
    owner: str
    """The plugin's id."""
    detail: str
    """What it is, where, and what its author does about it."""


def find_leaks(remains: Remains, loop: asyncio.AbstractEventLoop | None = None) -> list[Leak]:
    """Everything that a generation left behind; [] when it is gone.

    Looks at the tasks of `loop`, or of the running loop. Call it when nothing of the plugin is held any more: its
    generation, hooks and objects forgotten, its `LoadedCode` unloaded, and the loop turned once (`asyncio.sleep(0)`)
    since its last task ended, or the loop itself still holds that one's result. A clean generation costs one young collection and
    a look at threads, tasks and handlers; a leaking one a walk over all objects, which takes a second or so.
    """
    belonging = Belonging(remains.root, remains.folder)
    told: list[tuple[Kind, str]] = [(kind, text) for kind, look in _CHEAP for text in look(belonging, loop)]
    told.extend(("atexit", _at_exit(name)) for name in remains.at_exit)
    alive = remains.alive()
    if alive or told:
        told.extend(_dear(belonging))
    if alive and all(kind in _HOLDS_NOTHING for kind, _ in told):
        told.extend(("module_reference", text) for text in _references(remains, belonging, alive))
    return [Leak(kind, remains.plugin_id, text) for kind, text in dict.fromkeys(told)]


def _at_exit(name: str) -> str:
    return f"{name} was registered with atexit and has been withdrawn; call it in pk_disable instead"


# ------------------------------------------------------------------------------------------- cheap looks

_Loop = asyncio.AbstractEventLoop | None


def _threads(belonging: Belonging, loop: _Loop) -> Iterator[str]:
    frames = sys._current_frames()  # noqa: SLF001 - the only way to see what a thread runs
    known = {thread.ident: thread for thread in threading.enumerate()}
    for ident, frame in frames.items():
        if ident == threading.get_ident():
            continue
        thread = known.get(ident)
        code = _code_of_thread(belonging, thread) or _code_on_stack(belonging, frame)
        if code is not None:
            name = thread.name if thread is not None else str(ident)
            yield f"the thread {name!r} runs {code}; end and join it in pk_disable"


def _code_of_thread(belonging: Belonging, thread: threading.Thread | None) -> str | None:
    if thread is None:
        return None
    return belonging.find(thread) or belonging.find(vars(thread).get("_target"))


def _code_on_stack(belonging: Belonging, frame: FrameType | None) -> str | None:
    while frame is not None:
        if belonging.is_frame(frame):
            return f"{frame.f_code.co_filename}:{frame.f_lineno} {frame.f_code.co_qualname}"
        frame = frame.f_back
    return None


def _tasks(belonging: Belonging, loop: _Loop) -> Iterator[str]:
    if loop is None:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return
    for task in asyncio.all_tasks(loop):
        code = next((name for step in _awaited(task.get_coro()) if (name := belonging.find(step))), None)
        if code is not None:
            said = "register it with registrar.task, or cancel and await it in pk_disable"
            yield f"the task {task.get_name()!r} runs {code}; {said}"


def _awaited(coroutine: object) -> Iterator[object]:
    """A coroutine and what it awaits, inwards."""
    for _ in range(AWAITED_MAX):
        if coroutine is None:
            return
        yield coroutine
        coroutine = coroutine.cr_await if isinstance(coroutine, CoroutineType) else None


def _logging_handlers(belonging: Belonging, loop: _Loop) -> Iterator[str]:
    loggers = [logging.getLogger(), *logging.Logger.manager.loggerDict.copy().values()]
    for logger in loggers:
        if not isinstance(logger, logging.Logger) or belonging.is_name(logger.name):
            continue
        for part in [*logger.handlers, *logger.filters]:
            code = next((name for one in _logging_parts(part) if (name := belonging.find(one))), None)
            if code is not None:
                yield f"the logger {logger.name!r} has {code} in it; remove it in pk_disable"


def _logging_parts(part: Any) -> list[Any]:
    if not isinstance(part, logging.Handler):
        return [part]
    return [part, part.formatter, *part.filters, vars(part).get("stream")]


def _signal_handlers(belonging: Belonging, loop: _Loop) -> Iterator[str]:
    for number in signal.valid_signals():
        code = belonging.find(signal.getsignal(number))
        if code is not None:
            name = number.name if isinstance(number, signal.Signals) else str(number)
            yield f"{name} is handled by {code}; a plugin shares its process and handles no signals"


def _sys_path(belonging: Belonging, loop: _Loop) -> Iterator[str]:
    for entry in sys.path:
        if belonging.is_file(f"{entry}/"):
            yield f"sys.path holds {entry}; remove it: absolute imports of the plugin's own packages work without"
    for finder in [*sys.meta_path, *sys.path_hooks]:
        code = belonging.find(finder)
        if code is not None:
            yield f"{code} is among the import system's finders; remove it in pk_disable"


_CHEAP: Final[list[tuple[Kind, Callable[[Belonging, _Loop], Iterator[str]]]]] = [
    ("thread", _threads),
    ("task", _tasks),
    ("logging_handler", _logging_handlers),
    ("signal_handler", _signal_handlers),
    ("sys_path", _sys_path),
]


# ------------------------------------------------------------------------------------------- dear looks


def _dear(belonging: Belonging) -> list[tuple[Kind, str]]:
    """Look at every attribute of every module and class that is not the generation's."""
    found: list[tuple[Kind, str]] = []
    seen: set[int] = set()
    for name, module in sys.modules.copy().items():
        if isinstance(module, ModuleType) and not belonging.is_name(name):
            found += _attributes(belonging, name, module, seen)
    return found


def _attributes(
    belonging: Belonging, path: str, owner: ModuleType | type, seen: set[int]
) -> Iterator[tuple[Kind, str]]:
    """Attributes of one module, or of one class of it, that are code of the generation."""
    if id(owner) in seen:
        return
    seen.add(id(owner))
    for name, value in list(vars(owner).items()):
        where = f"{path}.{name}"
        if isinstance(value, type) and value.__module__ == path:
            yield from _attributes(belonging, where, value, seen)
        code = belonging.find(value)
        if code is not None:
            yield "monkeypatch", f"{where} is {code}; undo it in pk_disable, or do not change other modules at all"
        for text in _dispatched(belonging, where, value):
            yield "singledispatch", text


def _dispatched(belonging: Belonging, where: str, value: object) -> Iterator[str]:
    dispatcher: Any = vars(value).get("dispatcher") if type(value).__name__ == "singledispatchmethod" else value
    registry = vars(dispatcher).get("registry") if isinstance(dispatcher, FunctionType) else None
    if not isinstance(registry, MappingProxyType):
        return
    for kind, function in registry.items():
        code = belonging.find(kind) or belonging.find(function)
        if code is not None:
            yield f"{where}.register holds {code}; a registration cannot be undone, so dispatch on a function of your own"


def _references(remains: Remains, belonging: Belonging, alive: list[str]) -> Iterator[str]:
    names = ", ".join(alive[:3]) + (f" and {len(alive) - 3} more" if len(alive) > 3 else "")
    frozen = gc.get_freeze_count() > 0
    gc.unfreeze()  # frozen objects are holders too, and the collector shows only what it looks at
    try:
        holders = find_holders(remains.living_sentinels(), belonging)
    finally:
        if frozen:
            gc.freeze()
    for holder in holders or [_unseen(remains)]:
        yield f"{names} cannot be freed: held by {holder}; let go of it in pk_disable"


def _unseen(remains: Remains) -> str:
    extensions = ", ".join(remains.compiled) or "somebody's"
    return f"something that the collector does not see, compiled code maybe ({extensions})"
