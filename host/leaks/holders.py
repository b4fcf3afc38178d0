"""The search for what holds an object: from the object outwards over the collector's referrers, to something with a name."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterable, Iterator, Mapping
from inspect import CO_OPTIMIZED
from types import FrameType, FunctionType, ModuleType
from typing import Any, Final

from host.leaks.belonging import Belonging
from host.leaks.remains import Sentinel

STEPS_MAX: Final = 12
AT_ONCE: Final = 60
"""Objects whose referrers one pass over all objects looks for."""
LOOKED_AT_MAX: Final = 6_000
HOLDERS_MAX: Final = 3


def find_holders(sentinels: Mapping[str, Sentinel], belonging: Belonging) -> list[str]:
    """In words, the nearest things outside a generation that hold it: at most HOLDERS_MAX; [] when none is found.

    Frozen objects are not seen: thaw them first.
    """
    search = _Search(belonging)
    waiting: list[object] = list(sentinels.values())
    search.ignore(sentinels, sentinels.values(), waiting)
    for _ in range(STEPS_MAX):
        waiting = search.step(waiting)
        if not waiting or len(search.seen) > LOOKED_AT_MAX or len(search.found) >= HOLDERS_MAX:
            break
    return search.found[:HOLDERS_MAX]


class _Search:
    def __init__(self, belonging: Belonging) -> None:
        self._belonging = belonging
        self._modules = {id(vars(m)): n for n, m in sys.modules.copy().items() if isinstance(m, ModuleType)}
        self._variables = dict(_variables(belonging))
        self.seen: set[int] = set()
        self.found: list[str] = []
        self.ignore(self._modules, self._variables, self.seen, self.found, vars(self), self)

    def ignore(self, *ours: object) -> None:
        """Never look at these."""
        self.seen.update(map(id, ours))

    def step(self, inner: list[object]) -> list[object]:
        """Look at the referrers of `inner`: name those that are outside, give back those to search on from."""
        outer: list[object] = []
        self.ignore(inner, outer)
        for start in range(0, len(inner), AT_ONCE):
            some = inner[start : start + AT_ONCE]
            self.ignore(some)
            for referrer in gc.get_referrers(*some):
                if id(referrer) in self.seen or isinstance(referrer, FrameType):
                    continue
                self.seen.add(id(referrer))
                self._judge(referrer, some, outer)
        return outer

    def _judge(self, referrer: object, held: list[object], outer: list[object]) -> None:
        name = self._variables.get(id(referrer)) or self._name(referrer, held)
        if name is None:
            outer.append(referrer)
        elif name not in self.found:
            self.found.append(name)

    def _name(self, holder: object, held: list[object]) -> str | None:
        """A holder in words; None when it is the generation's own, or one of those whose own holder says more."""
        if isinstance(holder, dict):
            module = self._modules.get(id(holder))
            return f"dict of module {module} key {self._key(holder, held)}" if module is not None else None
        if isinstance(holder, ModuleType) or self._belonging.find(holder) is not None:
            return None
        if isinstance(holder, type):
            return f"class {holder.__module__}.{holder.__qualname__} attribute {self._key(vars(holder), held)}"
        if isinstance(holder, FunctionType) and _is_defined(holder):
            return f"function {holder.__module__}.{holder.__qualname__}"
        return None

    def _key(self, holder: Mapping[Any, Any], held: Iterable[object]) -> str:
        """The key of what is held directly, or of what was looked at on the way to it."""
        near = set(map(id, held))
        ids = {key: id(value) for key, value in holder.items()}
        keys = [key for key, one in ids.items() if one in near] or [key for key, one in ids.items() if one in self.seen]
        return str(keys[0]) if keys else "?"


def _is_defined(function: FunctionType) -> bool:
    """Whether it is what its name says; a closure that somebody's decorator made belongs to whoever holds it."""
    found: object = sys.modules.get(function.__module__ or "")
    for name in function.__qualname__.split("."):
        found = vars(found).get(name) if isinstance(found, ModuleType | type) else None
    return found is function


def _variables(belonging: Belonging) -> Iterator[tuple[int, str]]:
    """The id of every object that a running function holds in a variable, and where; the collector does not see them."""
    for frame in sys._current_frames().values():  # noqa: SLF001 - the only way to the other threads' frames
        outer: FrameType | None = frame
        while outer is not None:
            if not belonging.is_frame(outer) and not str(outer.f_globals.get("__name__")).startswith("host.leaks"):
                yield from _locals(outer)
            outer = outer.f_back


def _locals(frame: FrameType) -> list[tuple[int, str]]:
    if not frame.f_code.co_flags & CO_OPTIMIZED:
        return []  # the variables of a module or class, which have names of their own
    where = f"in a frame of {frame.f_code.co_qualname} at {frame.f_code.co_filename}:{frame.f_lineno}"
    values = frame.f_locals
    found = [(id(value), f"the variable {name} {where}") for name, value in values.items()]
    if isinstance(values, dict):  # before Python 3.13 a copy, which would hold the values until the function ends
        values.clear()
    return found
