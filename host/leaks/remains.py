"""What is left to look at of a generation that was unloaded: weak references, never the code itself."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, Final
from weakref import ref

COLLECTIONS_MAX: Final = 3
"""A finalizer may keep an object for one more round; longer chains of them are a leak."""


class Sentinel:
    """Lies in the globals of one module and lives exactly as long as they do: any function of the module holds them."""

    __slots__ = ("__weakref__",)


class Remains:
    """A generation after its unloading."""

    def __init__(
        self,
        plugin_id: str,
        root: str,
        folder: Path,
        sentinels: Mapping[str, ref[Sentinel]],
        at_exit: Sequence[str] = (),
        compiled: Sequence[str] = (),
    ) -> None:
        self.plugin_id = plugin_id
        self.root = root
        self.folder = folder
        self.at_exit = at_exit
        """What it had asked to be called at exit, by name; already withdrawn."""
        self.compiled = compiled
        """Files of the compiled extensions that it had imported; these stay, with what they were given."""
        self._sentinels = dict(sentinels)

    def public(self, name: str) -> str:
        """A name without the private root: what the author calls it."""
        return name.removeprefix(f"{self.root}.")

    def alive(self) -> list[str]:
        """Public names of the modules that a collection does not free; [] is the proof that nothing holds the code.

        What was there at `gc.freeze()` is never collected, so objects of a generation that was loaded before are thawed
        for one full collection and frozen again; this happens only when the cheap collection left something.
        """
        for _ in range(COLLECTIONS_MAX):
            gc.collect()
            if not self._living():
                return []
        if gc.get_freeze_count():
            gc.unfreeze()
            gc.collect()
            gc.freeze()
        return self._living()

    def _living(self) -> list[str]:
        return sorted(self.public(name) for name, held in self._sentinels.items() if held() is not None)

    def living_sentinels(self) -> dict[str, Sentinel]:
        """Public name -> sentinel of what is still alive, to search from; drop the answer soon."""
        found = {self.public(name): held() for name, held in self._sentinels.items()}
        return {name: sentinel for name, sentinel in found.items() if sentinel is not None}


class OwnAtexit:
    """The `atexit` of one generation: it registers for real, remembers, and can be undone."""

    def __init__(self, register: Callable[..., Any], unregister: Callable[..., Any]) -> None:
        self._register = register
        self._unregister = unregister
        self._calls: list[partial[Any]] = []
        self.module = ModuleType("atexit", "The standard module, for one plugin: the host withdraws what it registers.")
        for function in (self.register, self.unregister, self._clear):
            setattr(self.module, function.__name__, function)

    def register(self, func: Callable[..., Any], /, *arguments: Any, **named: Any) -> Callable[..., Any]:
        """Call `func` when the process ends, or never when the plugin is unloaded before."""
        call = partial(func, *arguments, **named)  # of its own: two partials are never equal, so nobody else's goes
        self._register(call)
        self._calls.append(call)
        return func

    def unregister(self, func: Callable[..., Any], /) -> None:
        """Withdraw what this plugin registered of `func`."""
        for call in [call for call in self._calls if call.func == func]:
            self._unregister(call)
            self._calls.remove(call)

    def _clear(self) -> None:
        self.withdraw()

    def withdraw(self) -> list[Callable[..., Any]]:
        """Undo everything; the functions that would have been called."""
        functions = [call.func for call in self._calls]
        for call in self._calls:
            self._unregister(call)
        self._calls.clear()
        return functions
