"""What a generation leaves behind is named by kind and owner; a clean one leaves nothing."""

from __future__ import annotations

import asyncio
import functools
import gc
import logging
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent
from types import ModuleType
from typing import Any

import pytest

from host.leaks import Leak, Surroundings, find_leaks
from host.loader import load

CLEAN = """
import asyncio, functools, logging, threading

log = logging.getLogger(__name__)
stop = threading.Event()

class Plugin:
    def work(self): log.debug("done")
    def wait(self): stop.wait()
    async def sleep(self): await asyncio.sleep(3600)

plugin = Plugin()
plugin.stop = stop
"""

LEAKS = {
    "thread": (
        "threading.Thread(target=plugin.wait, name='acme-sync', daemon=True).start()",
        r"the thread 'acme-sync' runs acme_crm\.Plugin\.wait; end and join it in pk_disable",
    ),
    "atexit": (
        "import atexit\natexit.register(plugin.work)",
        r"acme_crm\.Plugin\.work was registered with atexit and has been withdrawn; call it in pk_disable instead",
    ),
    "logging_handler": (
        "class Own(logging.Handler): pass\nlogging.getLogger('leaks.shared').addHandler(Own())",
        r"the logger 'leaks\.shared' has acme_crm\.Own in it; remove it in pk_disable",
    ),
    "signal_handler": (
        "import signal\nsignal.signal(signal.SIGUSR2, lambda number, frame: None)",
        r"SIGUSR2 is handled by acme_crm\.<lambda>; a plugin .* handles no signals",
    ),
    "monkeypatch": (
        "import leaks_shared\nleaks_shared.Thing.method = lambda self: 1",
        r"leaks_shared\.Thing\.method is acme_crm\.<lambda>; undo it in pk_disable",
    ),
    "singledispatch": (
        "import leaks_shared\nleaks_shared.show.register(Plugin, str)",
        r"leaks_shared\.show\.register holds acme_crm\.Plugin; a registration cannot be undone",
    ),
    "module_reference": (
        "import leaks_shared\nleaks_shared.kept.append({'deep': [plugin]})",
        r"acme_crm cannot be freed: held by dict of module leaks_shared key kept; let go of it in pk_disable",
    ),
    "sys_path": (
        "import sys, os\nsys.path.append(os.path.dirname(__file__))",
        r"sys\.path holds .*/acme_crm; remove it",
    ),
}


@pytest.fixture(autouse=True)
def shared() -> Iterator[ModuleType]:
    """A module of somebody else; what is planted in it and beside it is gone after the test."""

    class Thing:
        pass

    module = ModuleType("leaks_shared")
    Thing.__module__, Thing.__qualname__ = module.__name__, "Thing"
    vars(module).update(Thing=Thing, kept=[], show=functools.singledispatch(lambda thing: "?"))
    sys.modules[module.__name__] = module
    path, handler = list(sys.path), signal.getsignal(signal.SIGUSR2)
    yield module
    del sys.modules[module.__name__]
    sys.path[:] = path
    signal.signal(signal.SIGUSR2, handler)
    logging.Logger.manager.loggerDict.pop("leaks.shared", None)


def write(folder: Path, text: str) -> Path:
    (folder / "acme_crm").mkdir(exist_ok=True)
    (folder / "acme_crm" / "__init__.py").write_text(CLEAN + dedent(text))
    return folder


def leaks_of(folder: Path, number: int = 1, use: Callable[[Any], None] = lambda plugin: None) -> list[Leak]:
    """Load, use and unload a plugin; what it left."""
    code = load(folder, "acme_crm:plugin", "acme.crm", number)
    use(code.plugin)
    return find_leaks(code.unload())


# ------------------------------------------------------------------------------- a leak and its clean twin


@pytest.mark.parametrize("kind", LEAKS)
def test_a_leak_is_named(tmp_path: Path, kind: str) -> None:
    text, said = LEAKS[kind]
    ends: list[Callable[[], None]] = []

    leaks = leaks_of(write(tmp_path, text), use=lambda plugin: ends.append(plugin.stop.set))
    ends.pop()()
    for thread in threading.enumerate():
        if thread.name == "acme-sync":
            thread.join(10)  # the next test looks at all threads

    assert [(kind, "acme.crm")] == [(leak.kind, leak.owner) for leak in leaks]
    assert re.match(said, leaks[0].detail), leaks[0].detail


def test_a_clean_one_leaves_nothing(tmp_path: Path) -> None:
    assert [] == leaks_of(write(tmp_path, ""), use=lambda plugin: plugin.work())


async def test_a_task_is_named_and_a_finished_one_is_none(tmp_path: Path) -> None:
    async def somebody_elses(work: Any) -> None:
        await work

    code = load(write(tmp_path, ""), "acme_crm:plugin", "acme.crm", 1)
    plugin: Any = code.plugin
    task = asyncio.create_task(somebody_elses(plugin.sleep()), name="poll")
    await asyncio.sleep(0)
    del plugin
    remains = code.unload()

    leaks = find_leaks(remains)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    del task
    await asyncio.sleep(0)  # until then the loop holds the result

    assert [("task", "acme.crm")] == [(leak.kind, leak.owner) for leak in leaks]
    assert "the task 'poll' runs acme_crm.Plugin.sleep; register it with registrar.task" in leaks[0].detail
    assert [] == find_leaks(remains)


def test_what_a_frame_holds_is_named_with_its_line(tmp_path: Path) -> None:
    code = load(write(tmp_path, ""), "acme_crm:plugin", "acme.crm", 1)
    plugin = code.plugin

    leaks = find_leaks(code.unload())

    assert plugin is not None
    assert ["module_reference"] == [leak.kind for leak in leaks]
    assert (
        "held by the variable plugin in a frame of test_what_a_frame_holds_is_named_with_its_line at" in leaks[0].detail
    )
    assert f"{__file__}:" in leaks[0].detail


def test_what_a_class_or_a_function_of_somebody_else_holds_is_named(tmp_path: Path, shared: ModuleType) -> None:
    shared.Thing.registry = {}
    leaks = leaks_of(write(tmp_path, "import leaks_shared\nleaks_shared.Thing.registry['crm'] = [Plugin()]"))

    assert "held by class leaks_shared.Thing attribute registry;" in leaks[0].detail


def test_another_generation_of_the_same_folder_is_no_leak(tmp_path: Path) -> None:
    folder = write(tmp_path, "threading.Thread(target=plugin.wait, daemon=True).start()")
    running: Any = load(folder, "acme_crm:plugin", "acme.crm", 1)
    write(tmp_path, "")

    assert [] == leaks_of(folder, 2)

    running.plugin.stop.set()
    running.unload()


def test_a_generation_that_was_frozen_is_proven_gone_and_a_leak_of_it_found(tmp_path: Path, shared: ModuleType) -> None:
    """Workers freeze what start-up made, and the collector never looks at that again."""
    code = load(write(tmp_path, ""), "acme_crm:plugin", "acme.crm", 1)
    gc.freeze()
    try:
        assert [] == find_leaks(code.unload())
        assert gc.get_freeze_count() > 0

        kept = load(write(tmp_path, LEAKS["module_reference"][0]), "acme_crm:plugin", "acme.crm", 2)
        gc.freeze()
        assert "leaks_shared key kept" in find_leaks(kept.unload())[0].detail
        assert gc.get_freeze_count() > 0
    finally:
        gc.unfreeze()


RICH = """
from __future__ import annotations
import abc, dataclasses, enum, functools, logging, typing
from collections.abc import Mapping
from typing import Annotated, Generic, NamedTuple, Optional, Protocol, TypedDict, TypeVar, Union
import msgspec
from plugin_api import Meta, Struct, hookimpl, operation, Call

T = TypeVar("T")
class Lead(Struct, frozen=True):
    name: Annotated[str, Meta(min_length=1)]
    parent: Optional["Lead"] = None
MaybeLead = Optional[Lead]
Either = Union[Lead, int, None]
Many = typing.List[Lead]
class Page(Struct, Generic[T]):
    items: list[T]
@dataclasses.dataclass
class Deal:
    lead: Lead | None = None
class State(enum.Enum):
    NEW = "new"
class Base(abc.ABC):
    @abc.abstractmethod
    def run(self): ...
class Mine(Mapping):
    def __getitem__(self, key): return 1
    def __iter__(self): return iter(())
    def __len__(self): return 0
@typing.runtime_checkable
class Shape(Protocol):
    x: int
    @typing.overload
    def f(self, x: int) -> int: ...
    @typing.overload
    def f(self, x: str) -> str: ...
    def f(self, x): return x
@typing.overload
def chosen(x: int) -> int: ...
@typing.overload
def chosen(x: str) -> str: ...
def chosen(x): return x
@functools.singledispatch
def shown(x): return x
@shown.register
def _(x: Lead): return x
class Row(NamedTuple):
    x: Lead
class Table(TypedDict):
    lead: Lead
@functools.cache
def remembered(lead): return lead
@functools.lru_cache(maxsize=5)
def remembered_too(lead): return lead
log = logging.getLogger(__name__)
class Operations:
    @operation("POST /leads", permission="lead.create")
    async def create(self, call: Call, request: Lead) -> Page[Lead]:
        \"\"\"Create.\"\"\"
class Plugin:
    @hookimpl
    def pk_register(self, registrar): registrar.operations(Operations())
plugin = Plugin()
one = Lead("x")
remembered(one); remembered_too(one); Deal(one); isinstance(Mine(), Mapping); isinstance(one, Shape); shown(one); isinstance({}, Base)
msgspec.json.decode(b'{"items": [{"name": "x"}]}', type=Page[Lead]); msgspec.json.encode(one)
msgspec.convert({"name": "x"}, MaybeLead); msgspec.json.schema(Page[Lead]); typing.get_type_hints(Deal)
log.debug("loaded"); log.getChild("deep").debug("loaded")
"""


def test_thirty_rounds_of_a_rich_plugin_leave_nothing_alive(tmp_path: Path) -> None:
    folder = write(tmp_path, "")
    (folder / "acme_crm" / "rich.py").write_text(RICH)
    gc.freeze()  # as a worker does; a collection then takes no time
    try:
        remains = [load(folder, "acme_crm.rich:plugin", "acme.crm", number).unload() for number in range(1, 31)]

        assert [] == [name for one in remains for name in one.alive()]
    finally:
        gc.unfreeze()


# ------------------------------------------------------------------------------------- the surroundings

CHANGES = {
    "sys_path": ("import sys; sys.path.insert(0, '/nowhere')", "sys.path has gained /nowhere"),
    "monkeypatch": ("import json\njson.dumps = lambda *a: '{}'", "json.dumps is __main__.<lambda>, was json.dumps"),
    "monkeypatch of a class": (
        "import json\njson.JSONEncoder.default = lambda *a: '{}'",
        "json.encoder.JSONEncoder.default is __main__.<lambda>, was json.encoder.JSONEncoder.default",
    ),
    "monkeypatch of a builtin": (
        "import builtins\nbuiltins.open = print",
        "builtins.open is builtins.print, was ",
    ),
    "thread": (
        "import threading\nthreading.Thread(target=threading.Event().wait, name='t', daemon=True).start()",
        "the thread 't' runs threading.Event.wait",
    ),
    "signal_handler": (
        "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)",
        "SIGTERM is handled by signal.Handlers",
    ),
    "logging_handler": ("import logging\nlogging.basicConfig()", "the root logger has a new logging.StreamHandler"),
    "logging_handler by its level": (
        "import logging\nlogging.getLogger().setLevel('DEBUG')",
        "the level of the root logger is DEBUG, was WARNING",
    ),
    "sys_path by a finder": (
        "import sys\nclass Finder: pass\nFinder.__module__ = '_pk_acme_crm_1.acme_crm'\nsys.meta_path.append(Finder())",
        "the import system has a new finder acme_crm.Finder; every import",
    ),
    "module": (
        "import sys, types\nsys.modules['fork'] = m = types.ModuleType('fork')\nm.__file__ = '/nowhere/fork.py'",
        "sys.modules has fork (/nowhere/fork.py), which no installed distribution brought",
    ),
    "warnings_filter": ("import warnings\nwarnings.simplefilter('ignore')", "warnings.filters has changed"),
    "exception_hook": ("import sys\nsys.excepthook = print", "sys.excepthook is builtins.print"),
    "gc": ("import gc\ngc.disable()", "the garbage collector has other settings"),
    "environment": ("import os\nos.environ['ACME_KEY'] = 'hidden'", "os.environ has changed: ACME_KEY;"),
    "working_folder": ("import os\nos.chdir('/')", "the working folder is /"),
}


def changes_after(text: str) -> list[str]:
    """`kind: detail` of what a text changes in a process of its own, printed by it."""
    script = (
        "from host.leaks import Surroundings\nbefore = Surroundings.snapshot()\n"
        + text
        + "\nfor leak in Surroundings.changes(before, 'acme.crm'): print(leak.kind, leak.owner, leak.detail, sep='|')"
    )
    command = [sys.executable, "-P", "-c", script]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


@pytest.mark.parametrize("case", CHANGES)
def test_a_change_of_the_surroundings_is_named(case: str) -> None:
    text, said = CHANGES[case]

    (line,) = changes_after(text)

    kind, owner, detail = line.split("|")
    assert (case.split(" ", maxsplit=1)[0], "acme.crm") == (kind, owner)
    assert detail.startswith(said), detail


def test_ordinary_imports_and_work_change_nothing() -> None:
    text = """
import sqlite3, xml.dom.minidom, aiohttp, asyncpg, jwt, concurrent.futures, msgspec.json
import asyncio, threading, logging, tempfile
asyncio.run(asyncio.sleep(0))
thread = threading.Thread(target=print, args=("",), kwargs={"end": ""}); thread.start(); thread.join()
logging.getLogger("mine").addHandler(logging.NullHandler())
with tempfile.TemporaryDirectory(): pass
"""
    assert [] == changes_after(text)


def test_nothing_changes_by_looking() -> None:
    before = Surroundings.snapshot()

    assert [] == Surroundings.changes(before)
