"""Rules about what a plugin imports, and how."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import Final

from host.authoring.package import Package, Place, Rule
from host.authoring.source import Source, origin_of, text_of

_KERNEL: Final = frozenset({"host", "core_plugins", "marketplace", "ui_shell"})
_PICKLERS: Final = frozenset({"pickle", "cloudpickle", "dill", "shelve", "marshal", "joblib"})
_LOADERS: Final = frozenset(
    {
        "importlib.import_module",
        "importlib.reload",
        "importlib.util.find_spec",
        "builtins.__import__",
        "runpy.run_module",
    }
)


def imported(source: Source) -> Iterator[tuple[str, int]]:
    """Every dotted name that is imported, with its line; `from a import b` is `a.b`."""
    is_package = source.file.endswith("__init__.py")
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            origin = origin_of(node, source.module, is_package=is_package)
            yield from ((f"{origin}.{alias.name}", node.lineno) for alias in node.names)


def _kernel(package: Package) -> Iterator[Place]:
    for source in package.sources:
        for name, line in imported(source):
            if name.partition(".")[0] in _KERNEL - {package.name.partition(".")[0]}:
                yield Place(f"it imports {name}", source.file, line)


def _private(package: Package) -> Iterator[Place]:
    for source in package.sources:
        for name, line in imported(source):
            top, *rest = name.split(".")
            if top == "plugin_api" and any(part.startswith("_") and part != "__version__" for part in rest):
                yield Place(f"it imports {name}, which is private", source.file, line)


def _itself(package: Package) -> Iterator[Place]:
    for source in package.sources:
        for call, name in source.calls():
            wanted = text_of(call.args[0]) if call.args else None
            if name in _LOADERS and wanted is not None and _is_own(wanted, package, call):
                yield Place(f"it loads {wanted!r} by {name.removeprefix('builtins.')}", source.file, call.lineno)
        for node in ast.walk(source.tree):
            if isinstance(node, ast.Subscript) and source.resolve(node.value) == "sys.modules":
                wanted = text_of(node.slice)
                if wanted is not None and _is_own(wanted, package, None):
                    yield Place(f"it looks up {wanted!r} in sys.modules", source.file, node.lineno)


def _is_own(wanted: str, package: Package, call: ast.Call | None) -> bool:
    if wanted.startswith(".") and call is not None:
        within = [*call.args[1:2], *(one.value for one in call.keywords if one.arg == "package")]
        return any(text_of(one) is not None for one in within)
    return wanted == package.name or wanted.startswith(f"{package.name}.")


def _pickles(package: Package) -> Iterator[Place]:
    for source in package.sources:
        for name, line in imported(source):
            if name.partition(".")[0] in _PICKLERS:
                yield Place(f"it imports {name}", source.file, line)


def _processes(package: Package) -> Iterator[Place]:
    for source in package.sources:
        for name, line in imported(source):
            if name.partition(".")[0] == "multiprocessing" or name.endswith(".ProcessPoolExecutor"):
                yield Place(f"it imports {name}", source.file, line)
        for node in ast.walk(source.tree):
            if isinstance(node, ast.Attribute) and node.attr == "ProcessPoolExecutor" and source.resolve(node):
                yield Place(f"it uses {source.resolve(node)}", source.file, node.lineno)


RULES: Final = (
    Rule(
        "import_kernel",
        "error",
        "Only `plugin_api` keeps its promises from one version to the next; the kernel's own code changes as it likes.",
        "Import from `plugin_api`; call other capabilities with `registrar.services.get(KEY)`.",
        _kernel,
    ),
    Rule(
        "import_private",
        "error",
        "Names that begin with an underscore change without notice.",
        "Use what `plugin_api` shows; ask for what is missing.",
        _private,
    ),
    Rule(
        "import_itself",
        "error",
        "Each generation of a plugin lives under a private name; a module looked up by its public name is missing, or "
        "another generation's.",
        "Import with `import` and `from ... import`, also inside functions: those reach the same generation.",
        _itself,
    ),
    Rule(
        "pickle",
        "warning",
        "A pickled object names its class's module, which is another one after every upgrade; and reading a pickle from "
        "elsewhere runs code.",
        "Keep data as JSON or msgpack: `msgspec.json.encode` and `decode` know your Structs.",
        _pickles,
    ),
    Rule(
        "process_pool",
        "error",
        "A spawned process imports the plugin anew by its public name, and outlives the generation that started it.",
        "Use `asyncio.to_thread` for what blocks, a child server or a service of its own for what computes.",
        _processes,
    ),
)
