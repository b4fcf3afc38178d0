"""Each rule of `pk check` finds its broken twin, and nothing in the good one. The twins are the scaffold with one change."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from host.authoring.rules import RULES, check_package, check_project, rules_page, tryable
from host.authoring.scaffold import new_project
from host.finding import Finding
from host.trial.findings import RULES as TRIAL_RULES

ROOT = Path(__file__).parents[3]
HEAD = """
from __future__ import annotations
import plugin_api
from plugin_api import Call, Struct, hookimpl, operation
from plugin_api.pages import PageRequest
class Ask(Struct, frozen=True, forbid_unknown_fields=True):
    name: str
"""
MIGRATION = """-- phase: expand
-- up
create table leads (
  tenant_id uuid not null default pk.tenant_id(), id uuid not null, check (id <> tenant_id), primary key (tenant_id, id));
select pk.protect('leads');
-- down
drop table leads;
"""


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(new_project("acme.crm", tmp_path_factory.mktemp("new")).folder)


@pytest.fixture
def project(template: Path, tmp_path: Path) -> Path:
    """A plugin without fault, to be broken."""
    shutil.copytree(template, tmp_path / "acme-crm")
    return tmp_path / "acme-crm"


def ids(found: Sequence[Finding]) -> set[str]:
    return {finding.id for finding in found}


def of(rule: str, found: Sequence[Finding]) -> list[Finding]:
    return [finding for finding in found if finding.id == rule]


# ----------------------------------------------------------------------------------------------------- code

CODE = [
    # rule, broken, good: each stands in a module of its own, after HEAD
    ("unreadable", "def f(:\n    pass", "def f():\n    pass"),
    ("unreadable", "x = '\0'", "x = 1"),
    ("unreadable", "x = " + "-" * 20_000 + "1", "x = -1"),
    ("invisible_characters", "x = 'a\u202eb'", "x = 'a\\u202eb'"),
    ("invisible_characters", "admin\u200b = 1", "admin = 'ä → 日本 👍'"),
    ("hook_unknown", "class P:\n    @hookimpl\n    def pk_registr(self): ...", "class P:\n    @hookimpl\n    def pk_register(self): ..."),
    ("hook_unknown", "class P:\n    @hookimpl(specname='pk_go')\n    def go(self): ...", "class P:\n    @hookimpl(specname='pk_ready')\n    def go(self): ..."),
    ("hook_arguments", "class P:\n    @hookimpl\n    def pk_register(self, host): ...", "class P:\n    @hookimpl\n    def pk_register(self, registrar, more=None): ..."),
    ("hook_arguments", "class P:\n    @plugin_api.hookimpl\n    async def pk_ready(self, x): ...", "class P:\n    @plugin_api.hookimpl\n    async def pk_ready(self): ..."),
    ("hook_unmarked", "class P:\n    def pk_ready(self): ...", "class P:\n    @hookimpl\n    def pk_ready(self): ..."),
    ("operation_shape", "class O:\n    @operation('GET /a')\n    def a(self, call: Call, request: Ask) -> None:\n        '''A.'''", "class O:\n    @operation('GET /a')\n    async def a(self, call: Call, request: Ask) -> None:\n        '''A.'''"),
    ("operation_shape", "class O:\n    @operation('GET /a')\n    async def a(self, call: Call) -> None:\n        '''A.'''", "class O:\n    async def a(self, call: Call) -> None: ..."),
    ("operation_shape", "class O:\n    @operation('GET /a')\n    async def a(self, call, request: Ask):\n        '''A.'''", "class O:\n    @operation('GET /a')\n    async def a(self, call, request: Ask) -> Ask:\n        '''A.'''"),
    ("operation_route", "class O:\n    @operation('/a')\n    async def a(self, call: Call, request: Ask) -> None:\n        '''A.'''", "class O:\n    @operation('GET /{name}')\n    async def a(self, call: Call, request: Ask) -> None:\n        '''A.'''"),
    ("operation_route", "class O:\n    @operation('GET /{id}')\n    async def a(self, call: Call, request: Ask) -> None:\n        '''A.'''", "class O:\n    @operation('GET /{limit}')\n    async def a(self, call: Call, request: PageRequest) -> None:\n        '''A.'''"),
    ("operation_absolute", "class O:\n    @operation('GET /api/v1/a')\n    async def a(self, call: Call, request: Ask) -> None:\n        '''A.'''", "class O:\n    @operation('GET /apiary')\n    async def a(self, call: Call, request: Ask) -> None:\n        '''A.'''"),
    ("operation_undocumented", "class O:\n    @operation('GET /a')\n    async def a(self, call: Call, request: Ask) -> None: ...", "class O:\n    @operation('GET /a')\n    async def a(self, call: Call, request: Ask) -> None:\n        '''A.'''"),
    ("operation_open", "class O:\n    @operation('GET /a')\n    async def a(self, call: Call, request: Ask) -> None:\n        '''A.'''", "class O:\n    @operation('GET /a', permission='note.read')\n    async def a(self, call: Call, request: Ask) -> None:\n        '''A.'''"),
    ("operation_public", "class O:\n    @operation('GET /a', public=True)\n    async def a(self, call: Call, request: Ask) -> None:\n        '''A.'''", "class O:\n    @operation('GET /a', public=False)\n    async def a(self, call: Call, request: Ask) -> None:\n        '''A.'''"),
    ("permission_undeclared", "class O:\n    @operation('GET /a', permission='note.burn')\n    async def a(self, call: Call, request: Ask) -> None:\n        '''A.'''", "class O:\n    @operation('GET /a', permission='note.read')\n    async def a(self, call: Call, request: Ask) -> None:\n        '''A.'''"),
    ("request_lenient", "class L(Struct): ...\nclass O:\n    @operation('GET /a')\n    async def a(self, call: Call, request: L) -> None:\n        '''A.'''", "class L(Ask): ...\nclass O:\n    @operation('GET /a')\n    async def a(self, call: Call, request: L) -> None:\n        '''A.'''"),
    ("request_lenient", "class L(Ask, forbid_unknown_fields=False): ...\nclass O:\n    @operation('GET /a')\n    async def a(self, call: Call, request: 'L') -> None:\n        '''A.'''", "from acme_crm import NewNote\nclass O:\n    @operation('GET /a')\n    async def a(self, call: Call, request: NewNote) -> None:\n        '''A.'''"),
    ("import_kernel", "import host.http", "import hostile"),
    ("import_kernel", "def f():\n    from core_plugins.iam import plugin", "def f():\n    from .core_plugins import plugin"),
    ("import_private", "from plugin_api.call import _denies", "from plugin_api.call import Actor"),
    ("import_private", "import plugin_api._secret", "from acme_crm._mine import x"),
    ("import_itself", "import importlib\nm = importlib.import_module('acme_crm.storage')", "import importlib\nm = importlib.import_module('json')"),
    ("import_itself", "from importlib import import_module as load\ndef f(x):\n    return load(f'acme_crm.drivers.{x}')", "from acme_crm import storage"),
    ("import_itself", "m = __import__('acme_crm')", "m = __import__('acme_crm_more')"),
    ("import_itself", "import importlib\nm = importlib.import_module('.storage', package='acme_crm')", "import importlib\nm = importlib.import_module('.storage', package=__package__)"),
    ("import_itself", "import sys\nm = sys.modules['acme_crm.storage']", "import sys\nm = sys.modules['json']"),
    ("pickle", "import pickle", "import json"),
    ("process_pool", "import multiprocessing", "import threading"),
    ("process_pool", "from concurrent.futures import ProcessPoolExecutor", "from concurrent.futures import ThreadPoolExecutor"),
    ("process_pool", "import concurrent.futures\ndef f():\n    return concurrent.futures.ProcessPoolExecutor()", "import concurrent.futures\ndef f():\n    return concurrent.futures.ThreadPoolExecutor()"),
    ("starts_at_import", "import threading\nthreading.Thread(target=print).start()", "import threading\ndef f():\n    threading.Thread(target=print).start()"),
    ("starts_at_import", "import asyncio\nclass A:\n    if True:\n        x = asyncio.run(f())", "import asyncio\nif __name__ == '__main__':\n    asyncio.run(f())"),
    ("starts_at_import", "import subprocess\ndef f(x=subprocess.run(['ls'])): ...", "import subprocess\nf = lambda: subprocess.run(['ls'])"),
    ("process_hook", "import atexit\natexit.register(print)", "import atexit"),
    ("process_hook", "from signal import SIGTERM, signal\ndef f():\n    signal(SIGTERM, None)", "def signal(a): ...\nsignal(1)"),
    ("process_hook", "def f(loop):\n    loop.add_signal_handler(15, None)", "def f(loop):\n    loop.call_soon(None)"),
    ("changes_process", "import os\nos.environ['A'] = 'b'", "import os\nx = {**os.environ}"),
    ("changes_process", "import sys\ndef f():\n    sys.path.insert(0, '.')", "import sys\nx = list(sys.path)"),
    ("changes_process", "import os\nos.chdir('/')", "import os\nos.getcwd()"),
    ("changes_process", "import logging\nlogging.basicConfig()", "import warnings\nwith warnings.catch_warnings():\n    warnings.simplefilter('ignore')"),
    ("patches_others", "import time\ntime.sleep = None", "import time\ndef f(time):\n    time.sleep = None"),
    ("patches_others", "import time\ntime.sleep = None", "class Clock: ...\nClock.sleep = None"),
    ("patches_others", "import msgspec\nmsgspec.json = None", "import stripe\nstripe.api_key = None"),
    ("patches_others", "from json import JSONEncoder\nJSONEncoder.default = None", "def f(encoder):\n    encoder.default = None"),
    ("patches_others", "import json\nsetattr(json, 'dumps', None)", "class A: ...\nsetattr(A, 'dumps', None)"),
    ("blocking_call", "import time\nasync def f():\n    time.sleep(1)", "import asyncio, time\nasync def f():\n    await asyncio.to_thread(time.sleep, 1)"),
    ("blocking_call", "import requests\nasync def f():\n    return requests.get('x')", "import requests\nasync def f():\n    def g():\n        return requests.get('x')"),
    ("blocking_call", "from urllib.request import urlopen\nasync def f():\n    return urlopen('x')", "from urllib.request import urlopen\ndef f():\n    return urlopen('x')"),
    ("blocking_call", "import subprocess\nasync def f():\n    subprocess.run(['ls'])", "import asyncio\nasync def f():\n    await asyncio.create_subprocess_exec('ls')"),
    ("blocking_file", "async def f():\n    return open('x')", "def f():\n    return open('x')"),
    ("blocking_file", "async def f(path):\n    return path.read_text()", "async def f(path):\n    return path.name"),
    ("print", "def f():\n    print('x')", "def f(print):\n    print('x')"),
    ("reads_environment", "import os\nx = os.environ.get('A')", "import os\nx = os.sep"),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "broken", "good"), CODE)
def test_a_rule_about_code_finds_its_broken_twin(project: Path, rule: str, broken: str, good: str) -> None:
    file = project / "acme_crm" / "extra.py"
    (project / "acme_crm" / "__init__.py").write_text("from acme_crm.operations import NewNote as NewNote\n")

    file.write_text(HEAD + good)
    assert [] == of(rule, check_project(project))
    file.write_text(HEAD + broken)
    found = of(rule, check_project(project))

    assert len(found) == 1
    assert "acme_crm/extra.py" == found[0].file
    assert found[0].line > HEAD.count("\n") or "\0" in broken or "--" in broken


# ----------------------------------------------------------------------------------------------------- files

FILES = [
    # rule, file, what stands there, what is written instead, the place that is told
    ("manifest_invalid", "acme_crm/manifest.toml", 'provides = ["acme.', 'provides = ["', ("acme_crm/manifest.toml", 8)),
    ("manifest_invalid", "acme_crm/manifest.toml", 'id = "', "id = ", ("acme_crm/manifest.toml", 2)),
    ("api_pinned", "acme_crm/manifest.toml", ">=1.0,<2", "==1.0", ("acme_crm/manifest.toml", 4)),
    ("api_unbounded", "acme_crm/manifest.toml", ">=1.0,<2", ">=1.0", ("acme_crm/manifest.toml", 4)),
    ("api_mismatch", "acme_crm/manifest.toml", ">=1.0,<2", ">=2.0,<3", ("acme_crm/manifest.toml", 4)),
    ("license_missing", "acme_crm/manifest.toml", 'license = "Apache-2.0"', "", ("acme_crm/manifest.toml", 0)),
    ("permission_unused", "acme_crm/manifest.toml", "[permissions]", '[permissions]\n"note.burn" = "Burn"', ("acme_crm/manifest.toml", 0)),
    ("kernel_id", "acme_crm/manifest.toml", 'id = "acme.crm"', 'id = "kernel.crm"', ("acme_crm/manifest.toml", 0)),
    ("entry_point_mismatch", "pyproject.toml", '"acme.crm" =', '"acme.crn" =', ("pyproject.toml", 0)),
    ("version_mismatch", "pyproject.toml", 'version = "1.0.0"', 'version = "1.0.1"', ("pyproject.toml", 0)),
    ("project_unreadable", "pyproject.toml", "[project]", "[project", ("pyproject.toml", 0)),
    ("project_unreadable", "pyproject.toml", '"acme.crm" =', "# ", ("pyproject.toml", 0)),
    ("project_unreadable", "pyproject.toml", "acme_crm:plugin", "acme_crn:plugin", ("pyproject.toml", 0)),
    ("file_left_out", "pyproject.toml", '"manifest.toml", ', "", ("pyproject.toml", 0)),
    ("file_left_out", "pyproject.toml", "migrations/*.sql", "*.sql", ("pyproject.toml", 0)),
    ("migration_invalid", "acme_crm/migrations/0001_notes.sql", "-- phase: expand", "", ("acme_crm/migrations/0001_notes.sql", 0)),
    ("table_unprotected", "acme_crm/migrations/0001_notes.sql", "select pk.protect", "-- select pk.protect", ("acme_crm/migrations/0001_notes.sql", 3)),
    ("primary_key", "acme_crm/migrations/0001_notes.sql", "(tenant_id, id))", "(id))", ("acme_crm/migrations/0001_notes.sql", 3)),
    ("primary_key", "acme_crm/migrations/0001_notes.sql", ",\n  primary key (tenant_id, id))", ")", ("acme_crm/migrations/0001_notes.sql", 3)),
    ("contract_first", "acme_crm/migrations/0001_notes.sql", "phase: expand", "phase: contract", ("acme_crm/migrations/0001_notes.sql", 1)),
    ("expand_destroys", "acme_crm/migrations/0001_notes.sql", "create index", "alter table notes drop column text;\ncreate index", ("acme_crm/migrations/0001_notes.sql", 11)),
    ("migration_one_way", "acme_crm/migrations/0001_notes.sql", "drop table notes;", "", ("acme_crm/migrations/0001_notes.sql", 0)),
    ("invisible_characters", "acme_crm/migrations/0001_notes.sql", "-- phase: expand\n", "-- phase: expand\n-- \u2066\n", ("acme_crm/migrations/0001_notes.sql", 2)),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "name", "old", "new", "place"), FILES)
def test_a_rule_about_files_finds_its_broken_twin(
    project: Path, rule: str, name: str, old: str, new: str, place: tuple[str, int]
) -> None:
    assert set() == ids(check_project(project))
    text = (project / name).read_text()
    assert old in text

    (project / name).write_text(text.replace(old, new, 1))
    found = of(rule, check_project(project))

    assert [place] == [(one.file, one.line) for one in found]


ABSENT = [
    ("manifest_missing", "acme_crm/manifest.toml"),
    ("project_unreadable", "pyproject.toml"),
    ("readme_missing", "acme_crm/README.md"),
    ("tests_missing", "tests/test_notes.py"),
]
PRESENT = [
    ("reserved_name", "host/__init__.py", "host"),
    ("reserved_name", "marketplace.py", "marketplace.py"),
    (
        "compiled_extension",
        "acme_crm/fast.cpython-311-x86_64-linux-gnu.so",
        "acme_crm/fast.cpython-311-x86_64-linux-gnu.so",
    ),
    ("migration_invalid", "acme_crm/migrations/0003_late.sql", "acme_crm/migrations"),
]


@pytest.mark.parametrize(("rule", "name"), ABSENT)
def test_what_is_missing_is_found(project: Path, rule: str, name: str) -> None:
    assert [] == of(rule, check_project(project))

    (project / name).unlink()

    assert 1 == len(of(rule, check_project(project)))


@pytest.mark.parametrize(("rule", "name", "place"), PRESENT)
def test_what_should_not_be_there_is_found(project: Path, rule: str, name: str, place: str) -> None:
    (project / name).parent.mkdir(exist_ok=True)
    (project / name).write_text(MIGRATION if name.endswith(".sql") else "")

    assert [place] == [one.file for one in of(rule, check_project(project))]


def test_a_committed_lock_is_seen(project: Path) -> None:
    assert [] == of("wire_lock_missing", check_project(project))

    (project / "acme_crm" / "wire.lock").unlink()

    assert 1 == len(of("wire_lock_missing", check_project(project)))


@pytest.mark.parametrize(
    "sql",
    [
        MIGRATION,
        MIGRATION.replace("leads", '"leads"'),
        MIGRATION.replace("create table leads", "CREATE TABLE IF NOT EXISTS leads"),
        MIGRATION.replace("-- up", "-- up\n-- create table old (id uuid);\n/* create table older (id uuid); */"),
        MIGRATION.replace("-- up", "-- up\ncomment on schema x is 'create table old (id uuid)';"),
        MIGRATION.replace("-- up", "-- up\ndo $$ begin execute 'create table old (id uuid)'; end $$;"),
        MIGRATION.replace(", primary key (tenant_id, id)", "").replace("select", "alter table leads add primary key (tenant_id, id);\nselect"),
    ],
)  # fmt: skip
def test_sound_sql_in_other_words_is_left_alone(project: Path, sql: str) -> None:
    (project / "acme_crm" / "migrations" / "0002_leads.sql").write_text(sql)

    assert set() == ids(check_project(project))


def test_a_key_in_a_column_is_seen(project: Path) -> None:
    sql = MIGRATION.replace("id uuid not null, check", "id uuid not null default gen_random_uuid() primary key, check")
    sql = sql.replace(", primary key (tenant_id, id)", "")
    (project / "acme_crm" / "migrations" / "0002_leads.sql").write_text(sql)

    assert ["the primary key of leads begins with id"] == [
        one.message for one in of("primary_key", check_project(project))
    ]


# ------------------------------------------------------------------------------------------- every rule, every place


def test_every_rule_has_a_broken_twin() -> None:
    elsewhere = {"wire_lock_missing", "not_tried", "deprecated"}  # the last one in test_deprecated.py
    shown = {case[0] for case in [*CODE, *FILES, *ABSENT, *PRESENT]} | elsewhere

    assert {rule.id for rule in RULES} == shown


def test_no_two_rules_have_one_name() -> None:
    assert len(RULES) == len({rule.id for rule in RULES})


def test_the_page_lists_every_rule() -> None:
    rows = [line for line in rules_page().splitlines() if line.startswith("| `")]

    assert [*(rule.id for rule in RULES), *TRIAL_RULES] == [row.split("`")[1] for row in rows]
    assert all(len(row.split(" | ")) == 4 for row in rows)


@pytest.mark.parametrize("name", ["cache", "data", "iam", "vault"])
def test_the_kernels_own_plugins_pass(name: str, tmp_path: Path) -> None:
    """They are checked as an installation would check them, alone in a folder."""
    shutil.copytree(ROOT / "core_plugins" / name, tmp_path / "core_plugins" / name)

    found = check_package(tmp_path, f"core_plugins.{name}")

    assert [] == [one for one in found if one.severity != "info"]


def test_an_example_passes() -> None:
    assert set() == ids(check_project(ROOT / "docs" / "examples" / "acme-notes"))


def unpacked(project: Path, folder: Path, entry: str = "acme.crm", version: str = "1.0.0") -> Path:
    """What an installed wheel looks like, with a dependency beside it."""
    shutil.copytree(project / "acme_crm", folder / "acme_crm")
    told = folder / "acme_crm-1.0.0.dist-info"
    told.mkdir()
    (told / "METADATA").write_text(f"Metadata-Version: 2.1\nName: acme-crm\nVersion: {version}\n")
    (told / "entry_points.txt").write_text(f"[platform_kernel.plugins]\n{entry} = acme_crm:plugin\n")
    (folder / "dependency").mkdir()
    (folder / "dependency" / "__init__.py").write_text("import multiprocessing, host\n")
    return folder


def test_an_unpacked_wheel_is_checked_like_its_project(project: Path, tmp_path: Path) -> None:
    assert set() == ids(check_package(unpacked(project, tmp_path / "site"), "acme_crm"))


def test_what_an_unpacked_wheel_says_about_itself_is_compared(project: Path, tmp_path: Path) -> None:
    site = unpacked(project, tmp_path / "site", entry="acme.crn", version="1.0.1")

    found = check_package(site, "acme_crm")

    assert {"entry_point_mismatch", "version_mismatch"} == ids(found)
    assert all(finding.severity == "error" for finding in found)


def test_versions_are_equal_in_both_spellings(project: Path) -> None:
    for name, version in (("pyproject.toml", "1.1.0rc1"), ("acme_crm/manifest.toml", "1.1.0-rc.1")):
        file = project / name
        file.write_text(file.read_text().replace('version = "1.0.0"', f'version = "{version}"'))

    assert set() == ids(check_project(project))


def test_a_package_below_src_is_found(project: Path) -> None:
    (project / "src").mkdir()
    (project / "acme_crm").rename(project / "src" / "acme_crm")
    (project / "src" / "acme_crm" / "README.md").unlink()

    found = of("readme_missing", check_project(project))

    assert ["there is no src/acme_crm/README.md"] == [one.message for one in found]
    place = tryable(project)
    assert place
    assert (project / "src", "acme_crm:plugin", "acme.crm") == (place.top, place.target, place.plugin_id)


def test_errors_come_first(project: Path) -> None:
    (project / "acme_crm" / "README.md").unlink()
    (project / "acme_crm" / "extra.py").write_text("import host\nprint(1)\n")

    found = check_project(project)

    assert ["error", "warning", "info"] == [one.severity for one in found]


def test_nothing_of_the_plugin_runs(project: Path, tmp_path: Path) -> None:
    witness = tmp_path / "ran"
    (project / "acme_crm" / "__init__.py").write_text(f"open({str(witness)!r}, 'w')\n")

    check_project(project)

    assert not witness.exists()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("acme_crm/manifest.toml", b"\xff"),
        ("acme_crm/manifest.toml", b"# " + b"x" * 300_000),
        ("acme_crm/operations.py", b"\xff"),
        ("acme_crm/operations.py", b"#" * 2_100_000),
        ("acme_crm/operations.py", b"(" * 5_000),
        ("acme_crm/migrations/0001_notes.sql", b"\xff"),
        ("pyproject.toml", b"\xff"),
        ("pyproject.toml", b"project = 1"),
        ("pyproject.toml", b"[project]\nentry-points = 1"),
        ("pyproject.toml", b'[project.entry-points]\n"platform_kernel.plugins" = 1'),
        ("pyproject.toml", b'[project.entry-points."platform_kernel.plugins"]\n"acme.crm" = 1'),
        ("pyproject.toml", b'[project.entry-points."platform_kernel.plugins"]\n"acme.crm" = "../x"'),
        ("pyproject.toml", b'[project.entry-points."platform_kernel.plugins"]\n"acme.crm" = ""'),
        ("pyproject.toml", b'tool = 1\nbuild-system = 2\n[project.entry-points."platform_kernel.plugins"]\n"acme.crm" = "acme_crm"'),
    ],
)  # fmt: skip
def test_rubbish_is_an_error_and_no_failure(project: Path, name: str, content: bytes) -> None:
    (project / name).write_bytes(content)

    assert "error" == check_project(project)[0].severity


def test_a_folder_without_the_package_is_told(tmp_path: Path) -> None:
    assert "manifest_missing" in ids(check_package(tmp_path, "acme_crm"))
