"""Rules about the process that all plugins share: nothing starts at import, nothing of others is changed, nothing blocks."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from typing import Final

from host.authoring.package import Package, Place, Rule
from host.authoring.source import Source, at_import, in_coroutines

_STARTERS: Final = frozenset(
    {
        "threading.Thread",
        "threading.Timer",
        "concurrent.futures.ThreadPoolExecutor",
        "_thread.start_new_thread",
        "asyncio.run",
        "asyncio.create_task",
        "asyncio.ensure_future",
        "asyncio.new_event_loop",
        "asyncio.get_event_loop",
        "subprocess.Popen",
        "subprocess.run",
        "subprocess.call",
        "subprocess.check_call",
        "subprocess.check_output",
        "os.system",
        "os.fork",
        "socket.create_connection",
        "urllib.request.urlopen",
    }
)
_HOOKED: Final = frozenset(
    {
        "atexit.register",
        "signal.signal",
        "signal.setitimer",
        "signal.alarm",
        "signal.set_wakeup_fd",
        "faulthandler.enable",
        "faulthandler.register",
        "sys.settrace",
        "sys.setprofile",
        "sys.addaudithook",
        "threading.settrace",
        "threading.setprofile",
        "gc.disable",
    }
)
_CHANGERS: Final = frozenset(
    {
        "os.putenv",
        "os.unsetenv",
        "os.chdir",
        "os.umask",
        "os.setuid",
        "os.setgid",
        "locale.setlocale",
        "socket.setdefaulttimeout",
        "sys.setrecursionlimit",
        "sys.setswitchinterval",
        "logging.basicConfig",
        "logging.config.dictConfig",
        "logging.config.fileConfig",
        "logging.disable",
        "logging.captureWarnings",
        "asyncio.set_event_loop_policy",
        "random.seed",
    }
)
_SHARED: Final = ("sys.path", "sys.modules", "sys.meta_path", "sys.path_hooks", "os.environ", "os.environb")
_EVERYBODYS: Final = sys.stdlib_module_names | {
    *(
        "plugin_api",
        "msgspec",
        "pluggy",
        "packaging",
        "importlib_metadata",
        "aiohttp",
        "asyncpg",
        "redis",
        "cryptography",
    ),
    *("jwt", "argon2", "uvloop", "typer", "rich"),
}
"""Libraries that plugins share with the kernel; what a plugin brings along is its own, and may be set up as it likes."""
_MUTATORS: Final = frozenset(
    {
        "append",
        "insert",
        "extend",
        "remove",
        "pop",
        "clear",
        "update",
        "setdefault",
        "popitem",
        "__setitem__",
        "__delitem__",
    }
)
_BLOCKING: Final = frozenset(
    {
        "time.sleep",
        "os.system",
        "os.wait",
        "os.waitpid",
        "subprocess.run",
        "subprocess.call",
        "subprocess.check_call",
        "subprocess.check_output",
        "subprocess.getoutput",
        "subprocess.getstatusoutput",
        "urllib.request.urlopen",
        "urllib.request.urlretrieve",
        "socket.create_connection",
        "socket.getaddrinfo",
        "socket.gethostbyname",
        "http.client.HTTPConnection",
        "http.client.HTTPSConnection",
        "sqlite3.connect",
        "psycopg.connect",
        "psycopg2.connect",
        "builtins.input",
        *(
            f"{library}.{verb}"
            for library in ("requests", "httpx")
            for verb in ("get", "post", "put", "patch", "delete", "head", "options", "request")
        ),
        "requests.Session",
        "requests.session",
        "httpx.Client",
        "urllib3.PoolManager",
        "urllib3.request",
    }
)
_FILES: Final = frozenset({"builtins.open", "io.open", "os.listdir", "os.walk", "os.scandir", "shutil.copyfile"})
_FILE_METHODS: Final = frozenset({"read_text", "read_bytes", "write_text", "write_bytes"})


def _starts(package: Package) -> Iterator[Place]:
    for source in package.sources:
        for node in at_import(source.tree):
            if isinstance(node, ast.Call) and (name := source.resolve(node.func)) in _STARTERS:
                yield Place(f"{name} is called when the module is imported", source.file, node.lineno)


def _hooks_in(package: Package) -> Iterator[Place]:
    for source in package.sources:
        for call, name in source.calls():
            if name in _HOOKED:
                yield Place(f"it calls {name}", source.file, call.lineno)
        for node in ast.walk(source.tree):
            if isinstance(node, ast.Attribute) and node.attr == "add_signal_handler":
                yield Place("it adds a signal handler to the event loop", source.file, node.lineno)


def _changes(package: Package) -> Iterator[Place]:
    for source in package.sources:
        for call, name in source.calls():
            base, _, method = name.rpartition(".")
            if name in _CHANGERS or (base in _SHARED and method in _MUTATORS):
                yield Place(f"it calls {name}", source.file, call.lineno)
        for target in _targets(source):
            name = source.resolve(target)
            if isinstance(target, ast.Subscript) and name in _SHARED:
                yield Place(f"it writes into {name}", source.file, target.lineno)


def _patches(package: Package) -> Iterator[Place]:
    for source in package.sources:
        for target in _targets(source):
            if isinstance(target, ast.Attribute) and _is_shared(source, target.value):
                yield Place(f"it sets {source.resolve(target)}", source.file, target.lineno)
        for call, name in source.calls():
            is_set = name in ("builtins.setattr", "builtins.delattr") and call.args
            if is_set and _is_shared(source, call.args[0]):
                yield Place(f"it sets an attribute of {source.resolve(call.args[0])}", source.file, call.lineno)


def _targets(source: Source) -> Iterator[ast.expr]:
    """Everything that is assigned to or deleted."""
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Attribute | ast.Subscript) and isinstance(node.ctx, ast.Store | ast.Del):
            yield node


def _is_shared(source: Source, node: ast.expr) -> bool:
    """Whether it is a module, or an object out of one, that every plugin uses."""
    return source.resolve(node).partition(".")[0] in _EVERYBODYS


def _blocks(package: Package) -> Iterator[Place]:
    for source in package.sources:
        for node in in_coroutines(source.tree):
            if isinstance(node, ast.Call) and (name := source.resolve(node.func)) in _BLOCKING:
                said = f"{name.removeprefix('builtins.')} is called inside `async def`"
                yield Place(said, source.file, node.lineno)


def _opens(package: Package) -> Iterator[Place]:
    for source in package.sources:
        for node in in_coroutines(source.tree):
            if not isinstance(node, ast.Call):
                continue
            name = source.resolve(node.func)
            method = node.func.attr if isinstance(node.func, ast.Attribute) else ""
            if name in _FILES or method in _FILE_METHODS:
                said = f"{name.removeprefix('builtins.') or method} is called inside `async def`"
                yield Place(said, source.file, node.lineno)


def _prints(package: Package) -> Iterator[Place]:
    for source in package.sources:
        for call, name in source.calls():
            if name == "builtins.print":
                yield Place("it prints", source.file, call.lineno)


def _reads_environment(package: Package) -> Iterator[Place]:
    for source in package.sources:
        for node in ast.walk(source.tree):
            name = source.resolve(node) if isinstance(node, ast.Attribute | ast.Name) else ""
            if name in ("os.environ", "os.getenv", "os.environb"):
                yield Place(f"it uses {name}", source.file, getattr(node, "lineno", 0))


RULES: Final = (
    Rule(
        "starts_at_import",
        "error",
        "An import happens in trial runs and in every worker, before anything is registered; what it starts is owned by no "
        "generation and never stops.",
        "Start work in `pk_enable`, or register it: `registrar.task(name, run)`; the host stops it in time.",
        _starts,
    ),
    Rule(
        "process_hook",
        "error",
        "Signals, exit handlers and traces belong to the whole process and keep the plugin's code alive after it has left.",
        "Use `pk_drain` and `pk_disable` to finish; they are called whenever the generation stops.",
        _hooks_in,
    ),
    Rule(
        "changes_process",
        "error",
        "It changes the process for every plugin and every tenant, and nobody takes it back when the plugin leaves.",
        "Keep it in objects of your own; what an operator may set is a field of `Settings`.",
        _changes,
    ),
    Rule(
        "patches_others",
        "error",
        "A patched library is patched for every plugin and the kernel, and stays so after the plugin has left.",
        "Wrap or subclass it, or set what you need on an object of your own.",
        _patches,
    ),
    Rule(
        "blocking_call",
        "error",
        "It stops the worker for every tenant until it returns; one that takes too long has its plugin quarantined.",
        "Await an asynchronous library, or wrap it: `await asyncio.to_thread(function, ...)`.",
        _blocks,
    ),
    Rule(
        "blocking_file",
        "info",
        "Files are quick until the disk is not; meanwhile the worker serves nobody.",
        "Read small files at start; wrap larger work: `await asyncio.to_thread(path.read_bytes)`.",
        _opens,
    ),
    Rule(
        "print",
        "info",
        "What is printed has no plugin, no request and no level in the log.",
        'Use `registrar.log.info("message", field=value)`.',
        _prints,
    ),
    Rule(
        "reads_environment",
        "info",
        "What is read there is in no `pk settings`, is not checked, and may be another plugin's secret.",
        "Make it a field of `Settings`; `setting(..., environment=[...])` names further variables.",
        _reads_environment,
    ),
)
