"""A package meets a throw-away process first: whatever it does there is a finding, and the kernel goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from host.processes import identify
from host.trial import Finding, Trial, TriedOperation, try_out, trying
from host.trial.findings import RULES

PACKAGE = {
    "manifest.toml": """
        id = "acme.hello"
        version = "1.0.0"
        api = ">=1.0,<2"
        summary = "Greets"
        provides = ["acme.hello 1.0"]
        permissions = { "greeting.read" = "Be greeted" }
        """,
    "__init__.py": "from .plugin import plugin as plugin",
    "operations.py": '''
        from typing import Optional
        from plugin_api import Call, Struct, operation

        class Greet(Struct, frozen=True, forbid_unknown_fields=True):
            name: str

        class Greeting(Struct, frozen=True):
            text: str
            first: Optional[Greet] = None

        class HelloOperations:
            @operation("GET /greetings/{name}", permission="greeting.read")
            async def greet(self, call: Call, request: Greet) -> Greeting:
                """Greet someone by name."""
                return Greeting(text=f"Hello {request.name}")
        ''',
    "plugin.py": """
        from plugin_api import Registrar, hookimpl
        from acme_hello.operations import HelloOperations

        class HelloPlugin:
            @hookimpl
            def pk_register(self, registrar: Registrar) -> None:
                registrar.operations(HelloOperations())

        plugin = HelloPlugin()
        """,
}
HELD_S = 60.0


class Package:
    """A package as the store unpacks it, in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "unpacked"
        self.code = self.folder / "acme_hello"
        self.code.mkdir(parents=True)
        for name, text in PACKAGE.items():
            self.write(name, text)

    def write(self, name: str, text: str) -> None:
        """Replace a file."""
        (self.code / name).write_text(dedent(text))

    def add(self, text: str, name: str = "plugin.py") -> None:
        """Add to the end of a file."""
        with (self.code / name).open("a") as file:
            file.write("\n" + dedent(text))

    def hook(self, body: str, name: str = "pk_register(self, registrar)", *, is_async: bool = False) -> None:
        """Give the plugin one hook instead of its own."""
        head = "async def" if is_async else "def"
        self.write(
            "plugin.py",
            f"import os, sys, time, threading\nfrom plugin_api import hookimpl\nclass HelloPlugin:\n    @hookimpl\n    {head} {name}:\n"
            + "".join(f"        {line}\n" for line in dedent(body).strip().split("\n"))
            + "plugin = HelloPlugin()\n",
        )

    def line_of(self, text: str, name: str = "plugin.py") -> tuple[str, int]:
        """Where a text stands first."""
        file = self.code / name
        lines = file.read_text().split("\n")
        return str(file), next(number for number, line in enumerate(lines, 1) if text in line)

    async def tried(self, limit_s: float = HELD_S, **more: Any) -> Trial:
        """Try it out."""
        return await try_out(self.folder, "acme_hello:plugin", "acme.hello", limit_s, **more)


@pytest.fixture
def package(tmp_path: Path) -> Package:
    """A clean package."""
    return Package(tmp_path)


def ids(trial: Trial) -> list[str]:
    return [one.id for one in trial.findings]


def only(trial: Trial) -> Finding:
    assert 1 == len(trial.findings), trial.findings
    return trial.findings[0]


def place(finding: Finding) -> tuple[str, int]:
    return finding.file, finding.line


# --------------------------------------------------------------------------------------------- a clean one


async def test_a_clean_package_passes_and_shows_what_it_registers(package: Package) -> None:
    before = {file: file.stat().st_mtime_ns for file in package.folder.rglob("*")}

    trial = await package.tried()

    assert [] == trial.findings
    assert trial.ok
    path = "/api/v1/x/acme.hello/greetings/{name}"
    assert [TriedOperation("GET", path, "acme.hello.greeting.read")] == trial.operations
    assert ["acme.hello"] == trial.provides
    assert before == {file: file.stat().st_mtime_ns for file in package.folder.rglob("*")}


async def test_settings_are_read_and_given(package: Package) -> None:
    package.write(
        "settings.py",
        "from plugin_api import Struct\nclass Settings(Struct, frozen=True):\n    key: str\n    size: int = 3\n",
    )
    package.hook("raise ValueError(f'saw {settings.key} {settings.size}')", "pk_configure(self, settings)")

    unset = only(await package.tried())
    given = only(await package.tried(settings={"key": "k", "size": 4}))

    assert ("settings_unset", "warning") == (unset.id, unset.severity)
    assert "acme.hello" in unset.message
    assert "key" in unset.message
    assert "configure_fails" == given.id
    assert "raised ValueError: saw k 4" in given.message


async def test_what_it_prints_disturbs_nothing(package: Package) -> None:
    package.hook(
        "for _ in range(50): print('{\"trial\": {\"ok\": true, \"findings\": []}}' * 1000, flush=True)\nos.write(2, b'x' * 1000000)\nraise ValueError('after all')"
    )

    assert "after all" in only(await package.tried()).message


# --------------------------------------------------------------------------------------------- faults

FAULTS: dict[str, tuple[Callable[[Package], None], str, str, str]] = {
    "import raises": (
        lambda p: p.add("raise OSError('no disk')"),
        "import_fails",
        "OSError: no disk",
        "raise OSError",
    ),
    "import exits": (lambda p: p.add("raise SystemExit(3)"), "import_exits", "SystemExit: 3", "raise SystemExit"),
    "a wrong argument": (
        lambda p: p.hook("pass", "pk_register(self, registrar, database)"),
        "hook_signature",
        "Argument(s) {'database'} are declared in the hookimpl",
        "@hookimpl",
    ),
    "a wrong name": (
        lambda p: p.hook("pass", "pk_registre(self)"),
        "hook_signature",
        "unknown hook 'pk_registre' in plugin",
        "@hookimpl",
    ),
    "register raises": (
        lambda p: p.hook("raise KeyError('x')"),
        "register_fails",
        "pk_register raised KeyError: 'x'",
        "raise KeyError",
    ),
    "pipeline raises": (
        lambda p: p.hook("slots.nosuch(1)", "pk_pipeline(self, slots)"),
        "pipeline_fails",
        "pk_pipeline raised AttributeError",
        "slots.nosuch",
    ),
}


@pytest.mark.parametrize("case", FAULTS)
async def test_a_fault_is_named_with_its_line(package: Package, case: str) -> None:
    plant, rule, said, at = FAULTS[case]
    if case.startswith(("a wrong", "register", "pipeline")):
        package.write("manifest.toml", PACKAGE["manifest.toml"].replace('provides = ["acme.hello 1.0"]', ""))
    plant(package)

    trial = await package.tried()

    found = only(trial)
    assert not trial.ok
    assert (rule, "error") == (found.id, found.severity)
    assert found.message.startswith("acme.hello")
    assert said in found.message
    assert package.line_of(at) == place(found)
    assert (RULES[rule].why, RULES[rule].remedy) == (found.why, found.remedy)


async def test_every_refused_operation_is_told(package: Package) -> None:
    text = PACKAGE["operations.py"]
    for number, (path, permission) in enumerate(
        [("/api/v1/iam/x", "greeting.read"), ("/api/v1/x/acme.other/x", "greeting.read"), ("/x", "greeting.write")]
    ):
        text += f'''
            @operation("POST {path}", permission="{permission}")
            async def other{number}(self, call: Call, request: Greet) -> Greeting:
                """Do."""
        '''
    package.write("operations.py", text)

    trial = await package.tried()

    assert ["foreign_path", "foreign_path", "permission_unlisted"] == ids(trial)
    iam, other, unlisted = trial.findings
    assert "acme.hello: operation other0 has the absolute path /api/v1/iam/x" in iam.message
    assert "/api/v1/iam/x belongs to the area iam of kernel.iam" in iam.message
    assert "/api/v1/x/acme.other/x belongs to the plugin acme.other" in other.message
    assert "needs the permission 'greeting.write'" in unlisted.message
    assert package.line_of("/api/v1/iam/x", "operations.py") == place(iam)
    assert [] == trial.operations


async def test_conflicting_routes_and_a_capability_that_is_not_there_are_told(package: Package) -> None:
    package.write("manifest.toml", PACKAGE["manifest.toml"].replace("acme.hello 1.0", "acme.hello.more 1.0"))
    package.write(
        "operations.py",
        PACKAGE["operations.py"]
        + '''
            @operation("GET /greetings/{name}", permission="greeting.read")
            async def other(self, call: Call, request: Greet) -> Greeting:
                """Do."""
        ''',
    )
    package.write(
        "plugin.py",
        PACKAGE["plugin.py"].replace(
            "registrar.operations(HelloOperations())",
            "registrar.operations(HelloOperations()); registrar._generation.services.clear()",
        ),
    )

    trial = await package.tried()

    assert ["provides_lacking", "route_conflict"] == ids(trial)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("nonsense =", "manifest.toml:1: "),
        (PACKAGE["manifest.toml"].replace("acme.hello", "acme.other"), "`id` is 'acme.other'"),
    ],
)
async def test_an_invalid_manifest_is_told_before_anything_runs(package: Package, text: str, said: str) -> None:
    package.write("manifest.toml", text)
    package.add("raise ValueError")

    found = only(await package.tried())

    assert "manifest_invalid" == found.id
    assert said in found.message


# ------------------------------------------------------------------------------ what everybody shares

CHANGES = {
    "monkeypatches": (
        "import json\njson.dumps = lambda *a: '{}'",
        "json.dumps is acme_hello.plugin.<lambda>, was json.dumps",
    ),
    "starts_thread": (
        "import threading\nthreading.Thread(target=threading.Event().wait, name='t', daemon=True).start()",
        "the thread 't' runs threading.Event.wait",
    ),
    "changes_sys_path": ("import sys\nsys.path.insert(0, '/nowhere')", "sys.path has gained /nowhere"),
    "changes_signals": (
        "import signal\nsignal.signal(signal.SIGTERM, lambda *a: None)",
        "SIGTERM is handled by acme_hello.plugin.<lambda>",
    ),
    "changes_logging": ("import logging\nlogging.basicConfig()", "the root logger has a new logging.StreamHandler"),
    "changes_environment": ("import os\nos.environ['ACME'] = '1'", "os.environ has changed: ACME"),
    "leaves_atexit": ("import atexit\natexit.register(print)", "was registered with atexit and has been withdrawn"),
}


async def test_each_change_of_what_is_shared_is_told(package: Package) -> None:
    for text, _ in CHANGES.values():
        package.add(text)

    trial = await package.tried()

    told = {one.id: one for one in trial.findings}
    assert not trial.ok
    assert sorted(CHANGES) == sorted(ids(trial))
    for rule, (_, said) in CHANGES.items():
        assert told[rule].message.startswith("acme.hello: ")
        assert said in told[rule].message
        assert (RULES[rule].severity, RULES[rule].remedy) == (told[rule].severity, told[rule].remedy)


async def test_what_keeps_its_code_alive_is_a_warning(package: Package) -> None:
    package.add("import plugin_api\nplugin_api.kept_by_acme = [plugin]")

    trial = await package.tried()

    assert "leaks_modules" == only(trial).id
    assert "held by dict of module plugin_api key kept_by_acme" in only(trial).message
    assert trial.ok


# ------------------------------------------------------------------------------ crashes and hangs


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("os._exit(7)", "exit status 7 while pk_register"),
        ("import ctypes; ctypes.string_at(0)", "SIGSEGV while pk_register at "),
        ("sys.stderr.write('last words'); sys.stderr.flush(); os._exit(0)", "the last it wrote was 'last words'"),
    ],
)
async def test_a_crash_is_told_with_its_phase(package: Package, text: str, said: str) -> None:
    package.hook(text)

    found = only(await package.tried())

    assert "crashes" == found.id
    assert found.message.startswith("acme.hello: ")
    assert said in found.message
    if "SIGSEGV" in said:
        assert package.line_of("string_at") == place(found)


@pytest.mark.parametrize("text", ["threading.Event().wait()", "while True: print('busy ' * 1000)"])
async def test_one_that_hangs_is_ended_and_told_with_its_line(package: Package, text: str) -> None:
    package.hook(text)

    found = only(await package.tried(limit_s=1.0))

    assert "hangs" == found.id
    assert found.message.startswith("acme.hello: pk_register did not end within 1 s at ")
    assert package.line_of(text) == place(found)


async def test_all_that_it_started_is_ended_too(package: Package, tmp_path: Path) -> None:
    """Also after a success: what a package starts has no business to live on."""
    package.hook(
        f"""
        import subprocess
        child = subprocess.Popen(["sleep", "600"])
        open({str(tmp_path / "pid")!r}, "w").write(str(child.pid))
        """
    )

    await package.tried()

    assert identify(int((tmp_path / "pid").read_text())) is None


async def test_who_stops_waiting_leaves_no_process(package: Package, tmp_path: Path) -> None:
    package.hook(f"open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()))\nthreading.Event().wait()")
    waiting = asyncio.create_task(package.tried())
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
        await asyncio.sleep(0.01)

    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)

    assert identify(int((tmp_path / "pid").read_text())) is None


async def test_its_process_may_be_there_before_the_package(tmp_path: Path) -> None:
    async with trying() as process:
        package = Package(tmp_path)
        trial = await process.of(package.folder, "acme_hello:plugin", "acme.hello", HELD_S)

        assert trial.ok
        assert identify(process.pid) is None, "it is gone as soon as it has told"


async def test_a_process_that_gets_no_package_is_ended() -> None:
    async with trying() as process:
        assert identify(process.pid) is not None

    assert identify(process.pid) is None
