"""Loading one generation of a plugin's code under a root package of its own, and forgetting it again.

A folder that looks like a small site-packages (the plugin's packages, dependencies of its own, their `*.dist-info`) is
imported below `_pk_{id with underscores}_{number}`, so that old and new code, and two versions of one dependency, live
side by side. Absolute imports of the folder's own names are mapped to that root, late ones inside functions too.

What works as usual: relative imports, `importlib.resources.files(__package__)`, `importlib.metadata.version("dep")` and
`version(__name__)`, `importlib.import_module(".x", __package__)`; and for the dependencies in the folder, whose authors
know nothing of us, `import_module("dep.x")` and `files("dep")` too. What does not: `importlib.import_module("own_package.x")`
(it fails and says how), and pickles by name, which hold the private name and are of no use to another generation or
process. Compiled extensions load but never unload; they are listed in `LoadedCode.compiled`.
"""

from __future__ import annotations

import atexit
import builtins
import importlib
import importlib.resources
import linecache
import logging
import os
import sys
import typing
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import (
    EXTENSION_SUFFIXES,
    SOURCE_SUFFIXES,
    ExtensionFileLoader,
    FileFinder,
    ModuleSpec,
    SourceFileLoader,
)
from importlib.metadata import Distribution, DistributionFinder, MetadataPathFinder
from importlib.util import find_spec, module_from_spec
from pathlib import Path
from types import CodeType, FrameType, ModuleType
from typing import Any, Final
from weakref import ref

import importlib_metadata

from host.discovery import PluginLoadError, _where_and_why
from host.leaks.belonging import PRIVATE_PREFIX, Belonging
from host.leaks.remains import OwnAtexit, Remains, Sentinel

SENTINEL_NAME: Final = "__pk_alive__"
KERNELS_NAMES: Final = frozenset({"plugin_api", "host", "core_plugins", "marketplace", "pluggy", "msgspec"})
"""Always the kernel's own, whatever lies in the folder: their types cross between plugin and kernel."""
_HOST: Final = __name__.partition(".")[0]
_BY_NAME: Final = ["files", "path", "open_binary", "open_text", "read_binary", "read_text", "contents", "is_resource"]
"""Functions of `importlib.resources` that take a package or its name first."""
_ANCHORS: Final = ("package", "anchor")
_RESOURCES: Final = importlib.resources


def load(folder: Path, target: str, plugin_id: str, number: int, names: Collection[str] | None = None) -> LoadedCode:
    """Import `target` (`package:attribute`) out of `folder` as generation `number` of a plugin.

    `names` are the top-level names that belong to the generation; None stands for everything importable in the folder.
    Names of the standard library and KERNELS_NAMES never do. Nothing is written to the folder, and no `.pyc` is read.

    Raises:
        PluginLoadError: whatever the import raised, SystemExit and KeyboardInterrupt included, with file, line and
            reason; nothing of it stays in `sys.modules`.
        ValueError: this generation is loaded already.
    """
    code = LoadedCode(folder.resolve(), target.replace(":", ".").partition(".")[0], plugin_id, number, names)
    _finder.add(code)
    try:
        code.plugin = code.find_target(target)
    except PluginLoadError:
        code.unload()
        raise
    except BaseException as error:
        reason = code.explain(error)
        code.unload()
        raise PluginLoadError(plugin_id, reason) from error
    return code


class LoadedCode:
    """The code of one generation; owns everything that unloading has to undo."""

    def __init__(self, folder: Path, own: str, plugin_id: str, number: int, names: Collection[str] | None) -> None:
        self.root = f"{PRIVATE_PREFIX}{plugin_id.replace('.', '_')}_{number}"
        self.folder = folder
        self.plugin_id = plugin_id
        self.plugin: object = None
        """What the target names; None after unloading."""
        self.compiled: list[str] = []
        """Files of the compiled extensions that were imported; the process keeps them until it ends."""
        chosen = _importable(folder) if names is None else set(names)
        self.names = frozenset(chosen - sys.stdlib_module_names - KERNELS_NAMES)
        self.open_names = frozenset(name for name in self.names if _is_namespace(folder / name))
        """Packages without `__init__.py`: the environment may have another part of them."""
        self._own = own
        self._belonging = Belonging(self.root, folder)
        self._atexit = OwnAtexit(atexit.register, atexit.unregister)
        self._resources = _resources_of(self.private)
        self._importlib = _stand_in(importlib, import_module=self._import_module, resources=self._resources)
        self._builtins = {**vars(builtins), "__import__": self._import}
        self._sentinels: dict[str, ref[Sentinel]] = {}
        self._finders: dict[str, FileFinder] = {}
        self._remains: Remains | None = None

    def modules(self) -> dict[str, ModuleType]:
        """Public name -> module, of all that is imported now."""
        below = f"{self.root}."
        return {self.show(name): module for name, module in sys.modules.copy().items() if name.startswith(below)}

    def module(self, name: str) -> ModuleType | None:
        """A module by its public name, imported if need be; None when there is no such module.

        Raises:
            PluginLoadError: it, or a package above it, cannot be imported.
        """
        private = f"{self.root}.{name}"
        try:
            if private not in sys.modules and not self._exists(private):
                return None
            return importlib.import_module(private)  # noqa: TID251 - this is the host's loader
        except BaseException as error:
            raise PluginLoadError(self.plugin_id, self.explain(error)) from error

    def explain(self, error: BaseException) -> str:
        """Where in the folder something was raised, and what, in the author's own names."""
        said = self.show(_where_and_why(error, self.folder))
        if said.startswith(f"{__file__}:"):  # no code of the folder took part: what was asked for is not there
            return f"{self.folder}: {said.partition(': ')[2]}"
        return said

    def _exists(self, private: str) -> bool:
        try:
            return find_spec(private) is not None
        except ModuleNotFoundError as error:
            if error.name is not None and f"{private}.".startswith(f"{error.name}."):
                return False
            raise

    def find_target(self, target: str) -> object:
        """Import what `package:attribute` names.

        Raises:
            PluginLoadError: the package has no such attribute.
            BaseException: whatever the import raises.
        """
        package, _, attribute = target.partition(":")
        found: Any = importlib.import_module(f"{self.root}.{package.strip()}")  # noqa: TID251 - this is the host's loader
        for name in filter(None, attribute.strip().split(".")):
            if not hasattr(found, name):
                where = getattr(found, "__file__", None) or self.folder
                said = f"{where}: there is no `{name}`, which the entry point {target} names; define or export it"
                raise PluginLoadError(self.plugin_id, said)
            found = getattr(found, name)
        return found

    def show(self, text: str) -> str:
        """A text without the private root."""
        return text.replace(f"{self.root}.", "")

    def private(self, name: str) -> str:
        """The name in this process of one of the generation's modules; any other name as it is."""
        top = name.partition(".")[0]
        return f"{self.root}.{name}" if top in self.names - self.open_names else name

    # --------------------------------------------------------------------- what its imports reach

    def prepare(self, module: ModuleType) -> None:
        """Give a module its builtins and its sentinel, before its code runs."""
        sentinel = Sentinel()
        self._sentinels[module.__name__] = ref(sentinel)
        vars(module).update({"__builtins__": self._builtins, SENTINEL_NAME: sentinel})

    def find(self, fullname: str, path: Sequence[str]) -> ModuleSpec | None:
        """The spec of one of the generation's modules, looked for in `path` only."""
        portions: list[str] = []
        for entry in path:
            spec = self._in_folder(entry).find_spec(fullname)
            if spec is not None and spec.loader is not None:
                return spec
            portions += spec.submodule_search_locations or [] if spec is not None else []
        if not portions:
            return None
        open_package = ModuleSpec(fullname, None, is_package=True)
        open_package.submodule_search_locations = portions
        return open_package

    def find_by_own(self, fullname: str, path: Sequence[str], target: ModuleType | None) -> ModuleSpec | None:
        """The spec that a finder of the generation itself gives: `six.moves` exists only so."""
        own = [finder for finder in sys.meta_path if self._belonging.is_name(type(finder).__module__)]
        return next((spec for finder in own if (spec := finder.find_spec(fullname, path, target)) is not None), None)

    def _in_folder(self, folder: str) -> FileFinder:
        if folder not in self._finders:
            source = (partial(_SourceLoader, self), SOURCE_SUFFIXES)
            compiled = (partial(_CompiledLoader, self), EXTENSION_SUFFIXES)
            self._finders[folder] = FileFinder(folder, typing.cast("Any", compiled), typing.cast("Any", source))
        return self._finders[folder]

    def _import(
        self,
        name: str,
        globals: Mapping[str, object] | None = None,
        locals: Mapping[str, object] | None = None,
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> ModuleType:
        """`__import__` of this generation's modules."""
        try:
            if level == 0 and name.partition(".")[0] in self.names:
                return self._import_own(name, fromlist or ())
            if level == 0 and name == "atexit":
                return self._atexit.module
            module = builtins.__import__(name, globals, locals, fromlist or (), level)
            return self._importlib if module is importlib else self._resources if module is _RESOURCES else module
        except ModuleNotFoundError as error:
            self._show_public(error)
            raise

    def _import_module(self, name: str, package: str | None = None) -> ModuleType:
        """`importlib.import_module`; the plugin's own modules by a text are left to be refused."""
        wanted = name if name.partition(".")[0] == self._own else self.private(name)
        try:
            return importlib.import_module(wanted, package)  # noqa: TID251 - stands for that very function
        except ModuleNotFoundError as error:
            self._show_public(error)
            raise

    def _import_own(self, name: str, fromlist: Sequence[str]) -> ModuleType:
        if self._remains is not None:
            raise ImportError(f"{name} is not imported: {self.plugin_id}, whose code this is, has been unloaded")
        private, top = f"{self.root}.{name}", name.partition(".")[0]
        try:
            module = builtins.__import__(private, None, None, fromlist, 0)
        except ModuleNotFoundError as error:
            if top in self.open_names and error.name is not None and f"{private}.".startswith(f"{error.name}."):
                return builtins.__import__(name, None, None, fromlist, 0)
            raise
        if top in self.open_names:
            _complete(module, name, fromlist)
        return module if fromlist else sys.modules[f"{self.root}.{top}"]

    def _show_public(self, error: ModuleNotFoundError) -> None:
        if error.name is not None and error.name.startswith(f"{self.root}."):
            error.msg = self.show(error.msg)
            error.name = self.show(error.name)
            error.args = (error.msg,)

    # ----------------------------------------------------------------------------------- metadata

    def distributions(self, name: str | None) -> Iterable[Distribution]:
        """The distributions in the generation's folder, all or those of one name (also a private one)."""
        wanted = None if name is None else self.show(name)
        context = DistributionFinder.Context(name=wanted, path=[str(self.folder)])
        return MetadataPathFinder.find_distributions(context)

    # ----------------------------------------------------------------------------------- unloading

    def unload(self) -> Remains:
        """Forget the code: modules, finder, caches, loggers. A second call gives the same remains.

        The caller must let go of everything it had of the plugin; `Remains.alive()` then tells what did not.
        """
        if self._remains is not None:
            return self._remains
        belonging = self._belonging
        at_exit = [belonging.find(function) or repr(function) for function in self._atexit.withdraw()]
        self._remains = Remains(self.plugin_id, self.root, self.folder, self._sentinels, at_exit, self.compiled)
        self.plugin = None
        self._finders.clear()
        _finder.remove(self)
        for name in [name for name in sys.modules.copy() if belonging.is_name(name)]:
            sys.modules.pop(name, None)
        _forget_finders(belonging)
        _forget_files(belonging)
        _forget_loggers(belonging)
        _forget_types(belonging)
        return self._remains


def _forget_types(belonging: Belonging) -> None:
    """Clear what `typing` remembers: `Optional[Own]` in its caches, and every `@overload` by its module's name."""
    hidden = typing.cast("Any", typing)
    for clear in hidden._cleanups:  # noqa: SLF001 - nothing public clears them
        clear()
    overloads: dict[str, Any] = hidden._overload_registry  # noqa: SLF001 - `clear_overloads` would take everybody's
    for name in [name for name in overloads.copy() if belonging.is_name(name)]:
        overloads.pop(name, None)


def _stand_in(real: ModuleType, **own: object) -> ModuleType:
    """A module that is `real` but for what is given."""
    module = ModuleType(real.__name__, real.__doc__)
    vars(module).update(own, __getattr__=partial(getattr, real))
    return module


def _resources_of(private: Callable[[str], str]) -> ModuleType:
    """`importlib.resources` that takes public names of a generation's packages."""

    def mapped(real: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        if not arguments and not named:  # the caller's package, which it would look for in our frame
            arguments = (sys._getframe(1).f_globals["__name__"],)  # noqa: SLF001 - as it does itself
        first = tuple(private(one) if isinstance(one, str) else one for one in arguments[:1])
        others = {key: private(one) if key in _ANCHORS and isinstance(one, str) else one for key, one in named.items()}
        return real(*first, *arguments[1:], **others)

    known = [name for name in _BY_NAME if hasattr(_RESOURCES, name)]
    return _stand_in(_RESOURCES, **{name: partial(mapped, getattr(_RESOURCES, name)) for name in known})


def _forget_finders(belonging: Belonging) -> None:
    for finders in (sys.meta_path, sys.path_hooks):
        for finder in [finder for finder in finders if belonging.find(finder) is not None]:
            typing.cast("list[object]", finders).remove(finder)


def _forget_files(belonging: Belonging) -> None:
    for name in [name for name in linecache.cache.copy() if belonging.is_file(name)]:
        linecache.cache.pop(name, None)
    for entry in [entry for entry in sys.path_importer_cache.copy() if belonging.is_file(f"{entry}{os.sep}")]:
        sys.path_importer_cache.pop(entry, None)
    for finder in (MetadataPathFinder(), importlib_metadata.MetadataPathFinder()):
        finder.invalidate_caches()  # they remember the last 128 folders in which somebody looked for distributions


def _forget_loggers(belonging: Belonging) -> None:
    known = logging.Logger.manager.loggerDict
    for name in [name for name in known.copy() if belonging.is_name(name)]:
        known.pop(name, None)


def _complete(module: ModuleType, name: str, fromlist: Sequence[str]) -> None:
    """Let `from open_package import x` find an `x` that only the environment's part of the package has."""
    for one in fromlist:
        if one != "*" and not hasattr(module, one):
            with suppress(ModuleNotFoundError):
                found = importlib.import_module(f"{name}.{one}")  # noqa: TID251 - this is the host's loader
                setattr(module, one, found)


def _importable(folder: Path) -> set[str]:
    """The top-level names that can be imported out of a folder."""
    found: set[str] = set()
    for entry in folder.iterdir():
        name = entry.name.partition(".")[0]
        is_module = entry.name.endswith((*SOURCE_SUFFIXES, *EXTENSION_SUFFIXES))
        if name.isidentifier() and (is_module if entry.is_file() else entry.name == name and _has_code(entry)):
            found.add(name)
    return found


def _has_code(folder: Path) -> bool:
    endings = (*SOURCE_SUFFIXES, *EXTENSION_SUFFIXES)
    return any(name.endswith(endings) for _, _, files in os.walk(folder) for name in files)


def _is_namespace(folder: Path) -> bool:
    return folder.is_dir() and not (folder / "__init__.py").exists()


class _SourceLoader(SourceFileLoader):
    """Compiles from source, always: a `.pyc` in the folder is not to be trusted, and none is to be left there."""

    def __init__(self, code: LoadedCode, fullname: str, path: str) -> None:
        super().__init__(fullname, path)
        self._code = code

    def get_code(self, fullname: str) -> CodeType | None:
        path = self.get_filename(fullname)
        compiled: CodeType = self.source_to_code(self.get_data(path), path)
        return compiled

    def exec_module(self, module: ModuleType) -> None:
        self._code.prepare(module)
        super().exec_module(module)


class _CompiledLoader(ExtensionFileLoader):
    def __init__(self, code: LoadedCode, fullname: str, path: str) -> None:
        super().__init__(fullname, path)
        self._code = code

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        self._code.compiled.append(self.path)
        return super().create_module(spec)


class _Refusal(Loader):
    """Stands for a generation's module that was asked for by its public name, past the mapped `__import__`."""

    def __init__(self, code: LoadedCode) -> None:
        self._code = code

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        raise ModuleNotFoundError(
            f"{spec.name} belongs to {self._code.plugin_id}, whose code has a private name in this process: it cannot be "
            f'imported by a text. Use `import {spec.name}`, or `importlib.import_module(".module", __package__)`; a '
            "compiled extension that imports its own package works only where it is installed beside the kernel",
            name=spec.name,
        )

    def exec_module(self, module: ModuleType) -> None:
        """Never reached."""


class GenerationFinder(MetaPathFinder):
    """The one finder of all generations: it answers for names below their roots, and for nobody else's."""

    def __init__(self) -> None:
        self._codes: dict[str, LoadedCode] = {}
        self._guarded: frozenset[str] = frozenset()

    def add(self, code: LoadedCode) -> None:
        """Answer for a generation from now on. ValueError when there is one of this root."""
        if code.root in self._codes:
            raise ValueError(f"{code.root} is loaded already; a generation needs a number of its own")
        if self not in sys.meta_path:
            sys.meta_path.insert(0, self)
        self._set({**self._codes, code.root: code})
        spec = ModuleSpec(code.root, None, is_package=True)
        spec.submodule_search_locations = [str(code.folder)]
        sys.modules[code.root] = module_from_spec(spec)

    def remove(self, code: LoadedCode) -> None:
        """Answer no longer."""
        self._set({root: other for root, other in self._codes.items() if other is not code})

    def _set(self, codes: dict[str, LoadedCode]) -> None:
        self._codes = codes  # replaced whole: other threads import meanwhile
        self._guarded = frozenset[str]().union(*(code.names - code.open_names for code in codes.values()))

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """A generation's module; ModuleNotFoundError below a known root, so that no other finder is asked."""
        root, _, rest = fullname.partition(".")
        code = self._codes.get(root)
        if code is None:
            return self._refuse_public(fullname) if fullname in self._guarded else None
        if rest.partition(".")[0] in code.names and path is not None:
            spec = code.find(fullname, path) or code.find_by_own(fullname, path, target)
            if spec is not None:
                return spec
        raise ModuleNotFoundError(f"No module named {fullname!r}", name=fullname)

    def _refuse_public(self, fullname: str) -> ModuleSpec | None:
        """Without this, a generation would silently get the environment's copy of itself."""
        code = self._calling()
        return ModuleSpec(fullname, _Refusal(code)) if code is not None and fullname in code.names else None

    def find_distributions(self, context: DistributionFinder.Context) -> Iterable[Distribution]:
        """The distributions of the calling generation; other finders are asked after this one."""
        name: str | None = context.name
        if "path" in vars(context):
            return ()
        code = self._codes.get(name.partition(".")[0]) if name is not None else None
        code = code or self._calling()
        return () if code is None else code.distributions(name)

    def _calling(self) -> LoadedCode | None:
        """The generation whose code is nearest on the stack; what the host asks for itself is no generation's."""
        for module in _modules_on_stack(sys._getframe(2)):  # noqa: SLF001 - importlib gives no caller
            root = module.partition(".")[0]
            if root == _HOST:
                return None
            if root in self._codes:
                return self._codes[root]
        return None


def _modules_on_stack(frame: FrameType | None) -> Iterator[str]:
    while frame is not None:
        name = frame.f_globals.get("__name__")
        if isinstance(name, str) and name != __name__:
            yield name
        frame = frame.f_back


_finder: Final = GenerationFinder()
