"""Plugins are found in wheels and in editable checkouts without importing them, and a broken one hides no other."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from host.discovery import Found, PluginLoadError, discover

ROOT = Path(__file__).parents[2]
MANIFEST = 'id = "{id}"\nversion = "1.0.0"\napi = ">=1.0,<2"\nsummary = "Test"\n'


class Site:
    """A folder of installed distributions."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def distribution(self, name: str, entries: str, version: str = "1.0") -> Path:
        """Install the metadata of a distribution."""
        info = self.folder / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        (info / "entry_points.txt").write_text(f"[platform_kernel.plugins]\n{entries}\n")
        return info

    def package(self, path: str, manifest: str, code: str = "plugin = object()\n") -> Path:
        """Write a package whose import leaves a trace."""
        package = self.folder / path
        package.mkdir(parents=True)
        (package / "__init__.py").write_text(code)
        (package / "manifest.toml").write_text(manifest)
        return package

    def plugin(
        self, plugin_id: str, distribution: str = "", code: str = "plugin = object()\n", manifest: str = ""
    ) -> Path:
        """Install a whole plugin."""
        package = plugin_id.replace(".", "_")
        self.distribution(distribution or plugin_id.replace(".", "-"), f"{plugin_id} = {package}:plugin")
        return self.package(package, manifest or MANIFEST.format(id=plugin_id), code)

    def found(self) -> dict[str, Found]:
        """What is discovered here."""
        return {one.id: one for one in discover([str(self.folder)])}


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """An empty site, importable; what is imported from it is forgotten again."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield Site(tmp_path / "site")
    for name in set(sys.modules) - before:
        if name.startswith(("acme", "core_")):
            del sys.modules[name]


def test_a_wheels_plugin_is_found_without_importing_it(site: Site) -> None:
    package = site.plugin("acme.crm", code="raise SystemExit('imported')\n")

    found = site.found()["acme.crm"]

    assert (found.problem, found.folder, found.package) == (None, package, "acme_crm")
    assert (found.distribution, found.distribution_version, found.target) == ("acme-crm", "1.0", "acme_crm:plugin")
    assert (found.manifest.version, found.names.rest_prefix, found.is_kernel) == ("1.0.0", "/api/v1/x/acme.crm", False)
    assert "acme_crm" not in sys.modules


def test_an_editable_checkout_is_found_through_the_import_system(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.distribution("acme-crm", "acme.crm = acme_tree.crm.inner:plugin")
    checkout = Site(tmp_path / "checkout")
    package = checkout.package("acme_tree/crm/inner", MANIFEST.format(id="acme.crm"), "raise RuntimeError\n")
    for parent in (package.parent, package.parents[1]):
        (parent / "__init__.py").write_text("raise RuntimeError('a parent was imported')\n")
    monkeypatch.syspath_prepend(str(checkout.folder))

    found = site.found()["acme.crm"]

    assert (found.problem, found.folder) == (None, package)
    assert not [name for name in sys.modules if name.startswith("acme_tree")]


def test_our_own_are_found_in_this_checkout_without_importing_them() -> None:
    script = (
        "import sys\nfrom host.discovery import discover\nfound = {f.id: f for f in discover()}\n"
        "assert found['kernel.iam'].problem is None, found['kernel.iam'].problem\n"
        "assert not [m for m in sys.modules if m.startswith('core_plugins')]\nprint(found['kernel.iam'].folder)"
    )

    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd=ROOT)

    assert (ran.returncode, ran.stdout.strip()) == (0, str(ROOT / "core_plugins" / "iam")), ran.stderr


def test_broken_ones_hide_no_other(site: Site) -> None:
    site.plugin("acme.good")
    site.plugin("acme.broken", manifest="id = \nversion")
    site.plugin("acme.binary").joinpath("manifest.toml").write_bytes(b"\xff\xfe")
    site.plugin("acme.large").joinpath("manifest.toml").write_bytes(b"#" * 300_000)
    site.plugin("acme.gone").joinpath("manifest.toml").unlink()
    site.plugin("acme.other", manifest=MANIFEST.format(id="acme.another"))
    site.distribution("acme-odd", "acme.odd = not a module:x")
    site.distribution("acme-damaged", "").joinpath("entry_points.txt").write_bytes(
        b"[platform_kernel.plugins]\n\xff = x:y\n"
    )
    site.distribution("acme-nameless", "").joinpath("METADATA").unlink()

    found = site.found()

    assert found["acme.good"].problem is None
    for plugin_id, said in {
        "acme.broken": "manifest.toml:1: this is no TOML",
        "acme.binary": "cannot be read",
        "acme.large": "larger than 262144 bytes",
        "acme.gone": "no manifest.toml lies beside it",
        "acme.other": "`id` is 'acme.another'",
        "acme.odd": "no manifest.toml",
    }.items():
        assert said in (found[plugin_id].problem or ""), plugin_id
        assert found[plugin_id].manifest.id == plugin_id


def test_kernel_ids_belong_to_our_distribution(site: Site) -> None:
    site.distribution("evil", "kernel.evil = acme_evil:plugin")
    site.distribution("platform-kernel", "kernel.money = acme_money:plugin")
    site.package("acme_evil", MANIFEST.format(id="kernel.evil"))
    site.package("acme_money", MANIFEST.format(id="kernel.money"))

    found = site.found()

    assert found["kernel.money"].problem is None
    assert "kernel.evil belongs to platform-kernel, and evil 1.0 claims it" in (found["kernel.evil"].problem or "")


def test_an_id_of_two_distributions_is_refused_naming_both(site: Site) -> None:
    site.plugin("acme.crm", "acme-crm")
    site.distribution("other-crm", "acme.crm = acme_crm:plugin", "2.0")

    problems = [one.problem for one in discover([str(site.folder)])]

    assert problems == ["the id acme.crm is claimed by acme-crm 1.0 and by other-crm 2.0; uninstall all but one"] * 2


def test_a_stranger_does_not_shut_out_one_of_ours(site: Site) -> None:
    site.distribution("platform-kernel", "kernel.money = acme_money:plugin")
    site.package("acme_money", MANIFEST.format(id="kernel.money"))
    site.distribution("evil", "kernel.money = acme_money:plugin")

    assert [(one.distribution, one.problem is None) for one in discover([str(site.folder)])] == [
        ("evil", False),
        ("platform-kernel", True),
    ]


def test_the_newer_metadata_of_one_distribution_is_not_a_second_one(site: Site, tmp_path: Path) -> None:
    site.plugin("acme.crm")
    behind = Site(tmp_path / "behind")
    behind.plugin("acme.crm")

    [found] = discover([str(site.folder), str(behind.folder)])

    assert (found.problem, found.folder) == (None, site.folder / "acme_crm")


# ----------------------------------------------------------------------------------------------- loading


def test_loading_gives_the_plugin(site: Site) -> None:
    site.plugin("acme.crm", code="plugin = 'the plugin'\n")

    assert site.found()["acme.crm"].load() == "the plugin"


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("x = 1\nraise RuntimeError('on purpose')\n", "__init__.py:2: RuntimeError: on purpose"),
        ("def broken(:\n", "__init__.py:1: SyntaxError: invalid syntax"),
        ("import acme_no_such_module\n", "__init__.py:1: ModuleNotFoundError: No module named 'acme_no_such_module'"),
        ("raise SystemExit(3)\n", "__init__.py:1: SystemExit: 3"),
        ("raise KeyboardInterrupt\n", "__init__.py:1: KeyboardInterrupt"),
        ("import json\njson.loads('{')\n", "__init__.py:2: JSONDecodeError"),
        ("other = 1\n", "AttributeError: module 'acme_crm' has no attribute 'plugin'"),
    ],
)
def test_whatever_an_import_raises_names_plugin_file_and_line(site: Site, code: str, said: str) -> None:
    package = site.plugin("acme.crm", code=code)

    with pytest.raises(PluginLoadError) as caught:
        site.found()["acme.crm"].load()

    assert str(caught.value).startswith("acme.crm cannot be imported: ")
    assert said in str(caught.value)
    assert "AttributeError" in said or str(package) in str(caught.value)


def test_one_with_a_problem_is_not_imported(site: Site) -> None:
    site.plugin("acme.crm", code="raise SystemExit\n", manifest="id = 5")

    with pytest.raises(PluginLoadError, match=r"manifest\.toml:1"):
        site.found()["acme.crm"].load()
    assert "acme_crm" not in sys.modules
