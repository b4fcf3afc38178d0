"""Calling plugins' hooks one by one: pluggy checks and orders them, but its own call loop lets one raising hook lose
every other result, so the loop is ours."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from typing import Any

import pluggy

from plugin_api import hooks as specs


class HookFailed(Exception):
    """A hook raised or did not end in time; `__cause__` has the reason."""

    def __init__(self, plugin_id: str, hook: str, why: str) -> None:
        super().__init__(f"{plugin_id}: {hook} {why}")
        self.plugin_id = plugin_id
        self.hook = hook


class HookTable:
    """The hooks of every registered generation. Names and arguments are checked when one is registered."""

    def __init__(self) -> None:
        self._manager = pluggy.PluginManager(specs.PROJECT)
        self._manager.add_hookspecs(specs)

    def add(self, name: str, plugin: object) -> None:
        """Register a generation's plugin object under `id@generation`.

        Raises:
            pluggy.PluginValidationError: a hook has a name or an argument that no specification has; nothing stays.
        """
        self._manager.register(plugin, name)
        try:
            self._manager.check_pending()
        except BaseException:
            self._manager.unregister(name=name)
            raise

    def remove(self, name: str) -> None:
        """Forget a generation. Unknown names are no error."""
        if self._manager.has_plugin(name):
            self._manager.unregister(name=name)

    def names_used(self, name: str) -> list[str]:
        """The hooks that a generation implements, and `hook.argument` for each argument that it takes."""
        plugin = self._manager.get_plugin(name)
        found: list[str] = []
        for caller in self._manager.get_hookcallers(plugin) or ():
            for implementation in caller.get_hookimpls():
                if implementation.plugin is plugin:
                    found += [caller.name, *(f"{caller.name}.{argument}" for argument in implementation.argnames)]
        return found

    def find(self, name: str, hook: str) -> Callable[..., Any] | None:
        """The implementation of one hook by one generation, taking keyword arguments; those it does not name are dropped."""
        plugin = self._manager.get_plugin(name)
        caller = getattr(self._manager.hook, hook)
        for implementation in caller.get_hookimpls():
            if implementation.plugin is plugin:
                return _narrowed(implementation.function, implementation.argnames)
        return None

    async def call(self, name: str, plugin_id: str, hook: str, deadline_s: float, **arguments: Any) -> Any:
        """Call one hook of one generation and await it if it is async; None when it has none.

        Raises:
            HookFailed: it raised (SystemExit, KeyboardInterrupt and a cancellation of its own too) or an async one did
                not end within `deadline_s`.
        """
        function = self.find(name, hook)
        if function is None:
            return None
        try:
            result = function(**arguments)
            if inspect.isawaitable(result):
                async with asyncio.timeout(deadline_s):
                    result = await result
        except TimeoutError as error:
            raise HookFailed(plugin_id, hook, f"did not end within {deadline_s:g} s") from error
        except BaseException as error:
            if isinstance(error, asyncio.CancelledError) and _is_cancelled():
                raise
            raise HookFailed(plugin_id, hook, f"raised {type(error).__name__}: {error}") from error
        return result


def _is_cancelled() -> bool:
    """Whether somebody wants this task to end."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _narrowed(function: Callable[..., Any], names: tuple[str, ...]) -> Callable[..., Any]:
    def call(**arguments: Any) -> Any:
        return function(**{name: arguments[name] for name in names})

    return call
