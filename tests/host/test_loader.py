"""Code of one generation lives under a root of its own: versions side by side, nothing left in the process or the folder."""

from __future__ import annotations

import gc
import importlib
import importlib.metadata
import importlib.util
import linecache
import logging
import pickle
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent

import importlib_metadata
import pytest

from host.discovery import PluginLoadError, discover
from host.loader import LoadedCode, load

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write packages (`name`) and modules of them (`package__name`) into a folder; the folder."""

    def files(folder: str = "site", /, **texts: str) -> Path:
        for name, text in texts.items():
            inner = name.replace("__", "/") if "__" in name else f"{name}/__init__"
            file = tmp_path / folder / f"{inner}.py"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(dedent(text))
        return tmp_path / folder

    return files


@pytest.fixture
def loaded() -> Iterator[Callable[..., LoadedCode]]:
    """Load, and unload after the test."""
    codes: list[LoadedCode] = []

    def loading(folder: Path, number: int = 1, target: str = "acme_crm:plugin", **more: object) -> LoadedCode:
        codes.append(load(folder, target, "acme.crm", number, **more))  # type: ignore[arg-type]
        return codes[-1]

    yield loading
    for code in codes:
        code.unload()


Load = Callable[..., LoadedCode]


def package(folder: Path, name: str, text: str = "") -> None:
    (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / name / "__init__.py").write_text(dedent(text))


def distribution(folder: Path, name: str, version: str) -> None:
    info = folder / f"{name}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


def below(root: str) -> list[str]:
    return [name for name in sys.modules if name.startswith(root)]


# ------------------------------------------------------------------------- what imports reach

WAYS = {
    "import a.b": ("import acme_crm.model", "acme_crm.model.NAME"),
    "import a.b as c": ("import acme_crm.model as m", "m.NAME"),
    "import a.b.c": ("import acme_crm.deep.er", "acme_crm.deep.er.NAME"),
    "from a import b": ("from acme_crm import model", "model.NAME"),
    "from a.b import x": ("from acme_crm.model import NAME", "NAME"),
    "from a.b import *": ("from acme_crm.model import *", "NAME"),
    "from . import x": ("from . import model", "model.NAME"),
    "from .x import y": ("from .model import NAME", "NAME"),
    "from .. import x": ("from acme_crm.deep import up", "up"),
    "__import__": ("m = __import__('acme_crm.model')", "m.model.NAME"),
    "exec": ("space = {}\nexec('import acme_crm.model as m', space)", "space['m'].NAME"),
    "import_module relative": ("import importlib\nm = importlib.import_module('.model', __package__)", "m.NAME"),
}


@pytest.mark.parametrize("way", WAYS)
def test_every_way_of_importing_itself_reaches_the_same_generation(write: Write, loaded: Load, way: str) -> None:
    statement, value = WAYS[way]
    for version in ("v1", "v2"):
        folder = write(version, acme_crm__model=f"NAME = '{version}'", acme_crm__deep__er=f"NAME = '{version}'")
        package(folder, "acme_crm/deep", "from ..model import NAME as up")
        package(folder, "acme_crm", f"{statement}\nplugin = {value}")

    first, second = loaded(folder.parent / "v1", 1), loaded(folder.parent / "v2", 2)

    assert ("v1", "v2") == (first.plugin, second.plugin)


def test_a_late_import_inside_a_function_reaches_its_own_generation(write: Write, loaded: Load) -> None:
    late = "def plugin():\n    import acme_crm.late\n    from acme_crm.late import NAME\n    return acme_crm.late.NAME, NAME"
    codes = []
    for number, version in enumerate(("v1", "v2"), 1):
        folder = write(version, acme_crm=late, acme_crm__late=f"NAME = '{version}'")
        codes.append(loaded(folder, number))

    assert [("v1", "v1"), ("v2", "v2")] == [code.plugin() for code in codes]  # type: ignore[operator]


def test_two_plugins_carry_two_versions_of_one_dependency(write: Write) -> None:
    codes = []
    for plugin_id, version in (("acme.one", "1.0"), ("acme.two", "2.0")):
        folder = write(plugin_id, acme__plugin="import humanizer\nplugin = humanizer.VERSION", acme="")
        package(folder, "humanizer", f"VERSION = '{version}'")
        codes.append(load(folder, "acme.plugin:plugin", plugin_id, 1))

    assert ["1.0", "2.0"] == [code.plugin for code in codes]
    assert "humanizer" not in sys.modules
    for code in codes:
        code.unload()


def test_names_are_private_and_files_are_real(write: Write, loaded: Load) -> None:
    folder = write(acme_crm="def plugin(): raise ValueError('seen')")

    code = loaded(folder, 3)

    assert "_pk_acme_crm_3" == code.root
    assert "_pk_acme_crm_3.acme_crm" == code.plugin.__module__
    assert ["acme_crm"] == list(code.modules())
    with pytest.raises(ValueError, match="seen") as caught:
        code.plugin()  # type: ignore[operator]
    assert str(folder / "acme_crm/__init__.py") == traceback.extract_tb(caught.value.__traceback__)[-1].filename


def test_what_is_not_in_the_folder_comes_from_the_environment(write: Write, loaded: Load) -> None:
    code = loaded(write(acme_crm="import json, pluggy, plugin_api\nplugin = json, pluggy, plugin_api"))

    assert (sys.modules["json"], sys.modules["pluggy"], sys.modules["plugin_api"]) == code.plugin


@pytest.mark.parametrize("name", ["json", "pluggy", "plugin_api"])
def test_the_kernels_names_and_the_standard_library_stay_theirs(write: Write, loaded: Load, name: str) -> None:
    folder = write(acme_crm=f"import {name} as plugin")
    package(folder, name, "raise RuntimeError('a copy')")

    assert importlib.import_module(name) is loaded(folder).plugin


def test_only_the_given_names_belong_to_a_checkout(write: Write, loaded: Load) -> None:
    folder = write(acme_crm="import acme_crm.a as plugin", acme_crm__a="", stranger="")
    package(folder, "acme_crm", "try:\n    import stranger\nexcept ImportError as e:\n    plugin = e.name")

    assert "stranger" == loaded(folder, 1, names=["acme_crm"]).plugin
    package(folder, "acme_crm", "import stranger\nplugin = stranger.__name__")
    assert "_pk_acme_crm_2.stranger" == loaded(folder, 2).plugin


def test_an_open_package_may_lie_in_the_folder_and_in_the_environment(
    write: Write, loaded: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("environment", opened__outer="NAME = 'outer'")
    folder = write(opened__inner="NAME = 'inner'")
    package(
        folder,
        "acme_crm",
        "from opened import inner, outer\nimport opened.outer as o\nplugin = inner.NAME, outer.NAME, o.NAME",
    )
    monkeypatch.syspath_prepend(str(tmp_path / "environment"))

    try:
        assert ("inner", "outer", "outer") == loaded(folder).plugin
    finally:
        for name in below("opened"):
            del sys.modules[name]


def test_a_module_that_is_missing_is_named_as_the_author_names_it(write: Write, loaded: Load) -> None:
    text = """
        names = []
        for how in ("import acme_crm.fast", "from . import fast", "from .fast import x", "import humanizer.fast"):
            try:
                exec(how)
            except ImportError as error:
                names.append((type(error).__name__, error.name))
        plugin = names
        """
    folder = write(humanizer="")
    package(folder, "acme_crm", text)

    missing = "ModuleNotFoundError"
    assert [
        (missing, "acme_crm.fast"),
        ("ImportError", "_pk_acme_crm_1.acme_crm"),
        (missing, "acme_crm.fast"),
        (missing, "humanizer.fast"),
    ] == loaded(folder).plugin


def test_an_import_by_a_text_is_refused_and_says_how(
    write: Write, loaded: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the environment has a copy: another version of itself is the last thing a plugin wants."""
    write("environment", acme_crm="plugin = 'a copy'")
    monkeypatch.syspath_prepend(str(tmp_path / "environment"))
    folder = write(acme_crm="def plugin():\n    import importlib\n    importlib.import_module('acme_crm.x')")
    code = loaded(folder)

    with pytest.raises(
        ModuleNotFoundError, match=r"acme_crm belongs to acme\.crm.*use `import acme_crm`".replace("use", "Use")
    ):
        code.plugin()  # type: ignore[operator]

    assert "a copy" == importlib.import_module("acme_crm").plugin  # the test is no code of the generation
    del sys.modules["acme_crm"]


@pytest.mark.parametrize(
    "text",
    [
        "import importlib\nplugin = importlib.import_module('humanizer.deep').NAME",
        "from importlib import import_module\nplugin = import_module('humanizer.deep').NAME",
        "from importlib import import_module\nplugin = import_module('.deep', __package__).NAME",
        "from importlib.resources import files\nplugin = files('humanizer').joinpath('a.txt').read_text()",
        "from importlib import resources\nplugin = resources.files('humanizer').joinpath('a.txt').read_text()",
        "import importlib.resources as r\nplugin = r.files('humanizer').joinpath('a.txt').read_text()",
        "import importlib.resources\nplugin = importlib.resources.files(__name__).joinpath('a.txt').read_text()",
        "import importlib.util as u\nimport importlib\nplugin = importlib.util is u and 'here'",
    ],
)
def test_a_dependency_that_names_itself_by_a_text_is_found(write: Write, loaded: Load, text: str) -> None:
    """Many do, and their authors know nothing of private names."""
    folder = write(acme_crm="from humanizer import plugin", humanizer=text, humanizer__deep="NAME = 'here'")
    (folder / "humanizer" / "a.txt").write_text("here")

    assert "here" == loaded(folder).plugin
    assert "humanizer" not in sys.modules


def test_a_dependency_may_bring_a_finder_for_itself(write: Write) -> None:
    """As six does for `six.moves`; it goes with its generation."""
    text = """
        import sys
        from importlib.machinery import ModuleSpec
        class Finder:
            def find_spec(self, fullname, path, target=None):
                return ModuleSpec(fullname, self, is_package=True) if fullname == __name__ + ".moves" else None
            def create_module(self, spec): return None
            def exec_module(self, module): module.NAME = "moved"
        sys.meta_path.append(Finder())
        """
    folder = write(acme_crm="from humanizer.moves import NAME as plugin", humanizer=text)
    finders = list(sys.meta_path)

    code = load(folder, "acme_crm:plugin", "acme.crm", 1)

    assert "moved" == code.plugin
    assert [] == code.unload().alive()
    assert finders == [finder for finder in sys.meta_path if finder in finders]
    assert len(sys.meta_path) - len(finders) in (0, 1)  # the loader's own is put in by the first load


def test_a_compiled_extension_is_loaded_and_listed(write: Write, loaded: Load) -> None:
    built = Path(str(importlib.import_module("_elementtree").__file__))
    folder = write(acme_crm="from acme_crm._elementtree import Element as plugin")
    (folder / "acme_crm" / built.name).write_bytes(built.read_bytes())

    code = loaded(folder)

    assert callable(code.plugin)
    assert [str(folder / "acme_crm" / built.name)] == code.compiled


def test_a_dependency_asks_in_vain_for_what_is_not_there(write: Write, loaded: Load) -> None:
    text = "import importlib\ntry: importlib.import_module('humanizer.fast')\nexcept ImportError as e: plugin = e.name"
    folder = write(acme_crm="from humanizer import plugin", humanizer=text)

    assert "humanizer.fast" == loaded(folder).plugin


def test_a_plugin_may_ask_whether_a_module_is_there(write: Write, loaded: Load) -> None:
    text = "from importlib.util import find_spec\nplugin = [bool(find_spec(n)) for n in ('humanizer', 'nosuchthing', 'json')]"
    folder = write(humanizer="")
    package(folder, "acme_crm", text)

    assert [True, False, True] == loaded(folder).plugin


def test_pickles_hold_the_private_name(write: Write, loaded: Load) -> None:
    code = loaded(write(acme_crm="class Lead: pass\nplugin = Lead()"))

    raw = pickle.dumps(code.plugin)

    assert type(code.plugin) is type(pickle.loads(raw))
    assert b"_pk_acme_crm_1.acme_crm" in raw


# -------------------------------------------------------------------------------- metadata and resources


def test_a_dependency_finds_its_own_version(write: Write, loaded: Load) -> None:
    codes = []
    for number, version in enumerate(("4.1", "4.2"), 1):
        folder = write(
            f"s{number}",
            humanizer="from importlib.metadata import version\nVERSION = version('Human.izer'), version('human-izer')",
        )
        distribution(folder, "human_izer", version)
        distribution(folder, "acme_crm", f"{number}.0")
        package(
            folder,
            "acme_crm",
            "import humanizer\nfrom importlib import metadata\nplugin = *humanizer.VERSION, metadata.version(__name__), metadata.version('pluggy')",
        )
        codes.append(loaded(folder, number))

    pluggy = importlib.metadata.version("pluggy")
    assert [("4.1", "4.1", "1.0", pluggy), ("4.2", "4.2", "2.0", pluggy)] == [code.plugin for code in codes]


def test_the_backport_finds_it_too(write: Write, loaded: Load) -> None:
    folder = write(acme_crm="import importlib_metadata as m\nplugin = m.version('human-izer'), m.version(__name__)")
    distribution(folder, "human_izer", "4.1")
    distribution(folder, "acme_crm", "1.0")

    assert ("4.1", "1.0") == loaded(folder).plugin


def test_nobody_else_sees_a_generations_distributions(write: Write, loaded: Load) -> None:
    folder = write(acme_crm="plugin = object()")
    distribution(folder, "acme_crm", "1.0")
    (folder / "acme_crm-1.0.dist-info" / "entry_points.txt").write_text(
        "[platform_kernel.plugins]\nacme.crm = acme_crm:plugin\n"
    )
    loaded(folder)

    assert "acme.crm" not in {found.id for found in discover()}
    for metadata in (importlib.metadata, importlib_metadata):
        with pytest.raises(metadata.PackageNotFoundError):
            metadata.version("acme-crm")
    assert "1.0" == importlib.metadata.version("_pk_acme_crm_1.acme_crm")
    assert ["acme.crm"] == [found.id for found in discover([str(folder)])]


def test_what_the_host_asks_for_a_plugin_is_the_environments(write: Write, loaded: Load) -> None:
    folder = write(acme_crm="def plugin(ask): return ask()")
    distribution(folder, "acme_crm", "1.0")
    (folder / "acme_crm-1.0.dist-info" / "entry_points.txt").write_text(
        "[platform_kernel.plugins]\nacme.crm = acme_crm:plugin\n"
    )

    found = loaded(folder).plugin(discover)  # type: ignore[operator]

    assert "acme.crm" not in {one.id for one in found}


def test_resources_are_read_beside_the_code(write: Write, loaded: Load) -> None:
    folder = write(
        acme_crm="from importlib.resources import files\nplugin = files(__package__).joinpath('a.txt').read_text()"
    )
    (folder / "acme_crm" / "a.txt").write_text("beside")

    assert "beside" == loaded(folder).plugin


# --------------------------------------------------------------------------------------------- no .pyc


def test_no_compiled_file_is_written_or_read(write: Write, loaded: Load) -> None:
    folder = write(acme_crm="from acme_crm import model\nplugin = model.NAME", acme_crm__model="NAME = 'good'")
    model = folder / "acme_crm" / "model.py"
    planted = folder / "acme_crm" / "planted.py"
    planted.write_text("NAME = 'evil'")
    compile_it = f"import py_compile; py_compile.compile({str(planted)!r}, importlib.util.cache_from_source({str(model)!r}), invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)"
    subprocess.run([sys.executable, "-c", f"import importlib.util; {compile_it}"], check=True)
    planted.rename(folder / "acme_crm" / "gone.txt")
    before = {file: file.stat().st_mtime_ns for file in folder.rglob("*")}

    assert "good" == loaded(folder).plugin
    assert before == {file: file.stat().st_mtime_ns for file in folder.rglob("*")}


def test_a_compiled_file_without_its_source_is_no_module(write: Write, loaded: Load) -> None:
    folder = write(acme_crm="import acme_crm.ghost", acme_crm__ghost="")
    ghost = folder / "acme_crm" / "ghost.py"
    subprocess.run(
        [sys.executable, "-c", f"import py_compile; py_compile.compile({str(ghost)!r}, {str(ghost)!r} + 'c')"],
        check=True,
    )
    ghost.unlink()

    with pytest.raises(PluginLoadError, match=r"No module named 'acme_crm\.ghost'"):
        loaded(folder)


# --------------------------------------------------------------------------------------------- failures

BROKEN = {
    "raises": ("x = 1\nraise ValueError('nope')", r"model\.py:2: ValueError: nope"),
    "no sense": ("x = = 1", r"model\.py:1: SyntaxError: invalid syntax"),
    "leaves": ("import sys\nsys.exit(3)", r"model\.py:2: SystemExit: 3"),
    "interrupts": ("raise KeyboardInterrupt", r"model\.py:1: KeyboardInterrupt"),
    "lacks": ("\n\nimport acme_crm.nosuch", r"model\.py:3: ModuleNotFoundError: No module named 'acme_crm\.nosuch'"),
    "lacks a name": (
        "from acme_crm import nosuch",
        r"model\.py:1: ImportError: cannot import name 'nosuch' from .*'acme_crm'",
    ),
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_failed_import_names_the_line_and_leaves_nothing(write: Write, how: str) -> None:
    text, reason = BROKEN[how]
    folder = write(acme_crm="import acme_crm.model", acme_crm__model=text)
    path = list(sys.meta_path)

    with pytest.raises(PluginLoadError, match=r"^acme\.crm cannot be imported: .*" + reason) as caught:
        load(folder, "acme_crm:plugin", "acme.crm", 1)

    assert str(folder / "acme_crm" / "model.py") in str(caught.value)
    assert [] == below("_pk_")
    assert [] == below("acme_crm")
    assert set(sys.meta_path) >= set(path)


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        (
            "acme_crm:nosuch",
            r"acme_crm/__init__\.py: there is no `nosuch`, which the entry point acme_crm:nosuch names",
        ),
        ("acme_crm.nosuch:plugin", r"/site: ModuleNotFoundError: No module named 'acme_crm\.nosuch'"),
        ("nosuch:plugin", r"/site: ModuleNotFoundError: No module named 'nosuch'"),
    ],
)
def test_a_target_that_is_not_there_is_named(write: Write, target: str, reason: str) -> None:
    with pytest.raises(PluginLoadError, match=reason):
        load(write(acme_crm="plugin = 1"), target, "acme.crm", 1)

    assert [] == below("_pk_")


def test_a_generation_is_loaded_once(write: Write, loaded: Load) -> None:
    folder = write(acme_crm="plugin = 1")
    loaded(folder, 1)

    with pytest.raises(ValueError, match="needs a number of its own"):
        loaded(folder, 1)


def test_modules_are_had_by_their_public_names(write: Write, loaded: Load) -> None:
    folder = write(acme_crm="plugin = 1", acme_crm__settings="NAME = 's'", acme_crm__broken="\nraise OSError('x')")
    code = loaded(folder)

    settings = code.module("acme_crm.settings")

    assert settings is not None
    assert "s" == settings.NAME
    assert [None, None, None] == [code.module(name) for name in ("acme_crm.nosuch", "nosuch", "json")]
    with pytest.raises(PluginLoadError, match=r"broken\.py:2: OSError: x"):
        code.module("acme_crm.broken")


# --------------------------------------------------------------------------------------------- unloading


def test_unloading_forgets_everything(write: Write, tmp_path: Path) -> None:
    text = "import logging\nlogging.getLogger(__name__)\nlogging.getLogger(__name__ + '.deep')\ndef plugin(): raise ValueError('seen')"
    folder = write(acme_crm=text)
    code = load(folder, "acme_crm:plugin", "acme.crm", 1)
    with pytest.raises(ValueError, match="seen"):
        code.plugin()  # type: ignore[operator]
    linecache.getline(str(folder / "acme_crm/__init__.py"), 1)
    importlib.util.find_spec(code.root)
    assert discover([str(folder)]) == list(code.distributions(None)) == []

    remains = code.unload()

    assert [] == below("_pk_")
    assert [] == [name for name in logging.Logger.manager.loggerDict if name.startswith("_pk_")]
    assert [] == [name for name in linecache.cache if name.startswith(str(tmp_path))]
    assert [] == [name for name in sys.path_importer_cache if name.startswith(str(tmp_path))]
    assert code.plugin is None
    assert remains is code.unload()
    assert [] == remains.alive()
    assert [] == [one for one in gc.get_objects() if type(one).__name__ == "FastPath" and one.root == str(folder)]


def test_an_import_after_unloading_says_why_it_fails(write: Write) -> None:
    folder = write(acme_crm="def plugin(): import acme_crm.late", acme_crm__late="")
    code = load(folder, "acme_crm:plugin", "acme.crm", 1)
    late = code.plugin
    code.unload()

    with pytest.raises(
        ImportError, match=r"acme_crm\.late is not imported: acme\.crm, whose code this is, has been unloaded"
    ):
        late()  # type: ignore[operator]


def test_a_generations_atexit_is_its_own_and_is_withdrawn(tmp_path: Path) -> None:
    """In a process of its own, because only its end shows what is called."""
    script = dedent(
        """
        import sys
        from pathlib import Path
        from host.loader import load
        kept = load(Path(sys.argv[1]), "acme_crm:plugin", "acme.kept", 1)
        gone = load(Path(sys.argv[1]), "acme_crm:plugin", "acme.gone", 1)
        remains = gone.unload()
        print(remains.at_exit, remains.alive())
        """
    )
    package(
        tmp_path,
        "acme_crm",
        """
        import atexit
        from atexit import register
        def plugin(text): print(__name__, text)
        def never(): print("never")
        atexit.register(plugin, "one")
        register(plugin, text="two")
        atexit.register(never)
        atexit.unregister(never)
        """,
    )

    ran = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True)

    assert [
        "['acme_crm.plugin', 'acme_crm.plugin'] []",
        "_pk_acme_kept_1.acme_crm two",
        "_pk_acme_kept_1.acme_crm one",
    ] == ran.stdout.splitlines()
