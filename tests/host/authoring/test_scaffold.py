"""`pk new plugin`: the project works at once, is typed and tidy, and is written whole or not at all."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from host.authoring.scaffold import TEMPLATES, BadId, NoPlace, filled, new_project
from host.cli import main

ROOT = Path(__file__).parents[3]
LONGEST = "acme." + "x" * 55


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project as it comes."""
    return Path(new_project("acme.crm", tmp_path_factory.mktemp("new")).folder)


@pytest.fixture(scope="module")
def unpacked(project: Path, site: Callable[[Path], Path]) -> Path:
    """What its wheel installs."""
    return site(project)


def test_its_wheel_holds_what_is_read_at_run_time(project: Path, unpacked: Path) -> None:
    package = {str(file.relative_to(project)) for file in (project / "acme_crm").rglob("*") if file.is_file()}

    files = {str(file.relative_to(unpacked)) for file in unpacked.rglob("*") if file.is_file()}

    assert len(package) > 8
    assert package == {name for name in files if ".dist-info/" not in name}


def test_it_works_in_a_kernel(project: Path, own_tests: Callable[[Path], subprocess.CompletedProcess[str]]) -> None:
    """Its own tests install it into a running kernel and pass."""
    ran = own_tests(project)

    assert ran.returncode == 0, ran.stdout[-4000:] + ran.stderr[-1000:]
    assert "4 passed" in ran.stdout


MYPY = ("mypy", "--strict", "--no-incremental", "acme_crm", "tests")


@pytest.mark.parametrize(
    ("plugin_id", "checker"),
    [
        (
            "acme.crm",
            ("ruff", "check", "--no-cache", "--extend-select", "I,UP,B,ANN,S,RUF,SIM,PT", "--ignore", "S101,S603,S608"),
        ),
        ("acme.crm", ("ruff", "format", "--check", "--no-cache")),
        ("acme.crm", ("pyright", "--pythonpath", sys.executable)),
        ("acme.crm", MYPY),
        (LONGEST, MYPY),
    ],
)
def test_it_is_tidy_and_typed(
    run: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path, plugin_id: str, checker: tuple[str, ...]
) -> None:
    made = new_project(plugin_id, tmp_path)
    strict = '{"typeCheckingMode": "strict", "extraPaths": ["%s"], "pythonVersion": "3.11"}' % ROOT  # noqa: UP031
    (Path(made.folder) / "pyrightconfig.json").write_text(strict)

    ran = run(
        *(made.package if word == "acme_crm" else word for word in checker), cwd=Path(made.folder), MYPYPATH=str(ROOT)
    )

    assert ran.returncode == 0, ran.stdout[-3000:] + ran.stderr[-1000:]


def test_everything_is_named_after_the_id(tmp_path: Path) -> None:
    made = new_project("dev.someone.stock", tmp_path)
    folder = Path(made.folder)

    manifest = tomllib.loads((folder / made.package / "manifest.toml").read_text())
    declared = tomllib.loads((folder / "pyproject.toml").read_text())["project"]

    assert ("dev_someone_stock", tmp_path / "dev-someone-stock") == (made.package, folder)
    assert "dev.someone.stock" == manifest["id"]
    assert {"dev.someone.stock": "dev_someone_stock:plugin"} == declared["entry-points"]["platform_kernel.plugins"]
    assert manifest["version"] == declared["version"]
    assert "class StockPlugin:" in (folder / made.package / "plugin.py").read_text()
    assert [] == [file for file in made.files if "{{" in (folder / file).read_text() or "acme" in file]


def test_a_template_with_an_unknown_name_is_no_file() -> None:
    with pytest.raises(KeyError):
        filled("{{package}} {{nothing}}", {"package": "a"})


def test_every_template_is_used(project: Path) -> None:
    templates = [file for file in TEMPLATES.rglob("*") if file.is_file()]

    assert len(templates) == len([file for file in project.rglob("*") if file.is_file()])


@pytest.mark.parametrize(
    ("plugin_id", "said"),
    [
        ("acme", '"acme" is no id of a plugin; write two or more words'),
        ("Acme.crm", "is no id of a plugin"),
        ("acme.my_crm", "is no id of a plugin"),
        ("acme..crm", "is no id of a plugin"),
        ("../acme.crm", "is no id of a plugin"),
        ("acme.crm\n", '"acme.crm\\n" is no id of a plugin'),
        ("", '"" is no id of a plugin'),
        ("kernel.crm", "`kernel.` is the kernel's own"),
        (LONGEST + "x", "at most 60 characters"),
        ("plugin.api", "would be imported as plugin_api"),
        ("core.plugins", "would be imported as core_plugins"),
    ],
)
def test_a_bad_id_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], plugin_id: str, said: str) -> None:
    with pytest.raises(BadId) as refused:
        new_project(plugin_id, tmp_path)

    assert said in str(refused.value)
    assert 2 == main(["new", "plugin", plugin_id, "--dir", str(tmp_path)])
    assert said[:20] in capsys.readouterr().err
    assert [] == list(tmp_path.iterdir())


def test_what_is_there_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "acme-crm").mkdir()
    (tmp_path / "acme-crm" / "mine.txt").write_text("precious")

    assert 1 == main(["new", "plugin", "acme.crm", "--dir", str(tmp_path)])

    assert f"{tmp_path}/acme-crm is there already and not empty; give another folder" in capsys.readouterr().err
    assert ["mine.txt"] == [file.name for file in (tmp_path / "acme-crm").iterdir()]
    assert ["acme-crm"] == [entry.name for entry in tmp_path.iterdir()]


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    (tmp_path / "acme-crm").mkdir()

    assert "pyproject.toml" in new_project("acme.crm", tmp_path).files


def test_a_link_in_its_place_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "acme-crm").symlink_to(tmp_path / "elsewhere")

    with pytest.raises(NoPlace):
        new_project("acme.crm", tmp_path)

    assert [] == list((tmp_path / "elsewhere").iterdir())


def test_a_place_that_cannot_be_written_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("no folder")

    assert 1 == main(["new", "plugin", "acme.crm", "--dir", str(tmp_path / "file")])

    assert "cannot be written" in capsys.readouterr().err
    assert ["file"] == [entry.name for entry in tmp_path.iterdir()]


def test_a_failure_half_way_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that is full at the third file."""
    written = []
    write = Path.write_text

    def write_two(self: Path, text: str, encoding: str | None = None) -> int:
        if len(written) == 2:
            raise OSError(28, "No space left on device")
        written.append(self)
        return write(self, text, encoding)

    monkeypatch.setattr(Path, "write_text", write_two)

    with pytest.raises(NoPlace, match="No space left on device"):
        new_project("acme.crm", tmp_path)

    assert [] == list(tmp_path.iterdir())


def test_programs_are_told_as_json(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    assert 0 == main(["new", "plugin", "acme.crm", "--dir", str(tmp_path), "--json"])

    told = json.loads(capfdbinary.readouterr().out)
    assert ("acme.crm", "acme_crm", str(tmp_path / "acme-crm")) == (told["id"], told["package"], told["folder"])
    assert {"acme_crm/manifest.toml", "pyproject.toml", "tests/conftest.py", ".gitignore"} <= set(told["files"])


def test_people_are_told_what_to_do_next(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert 0 == main(["new", "plugin", "acme.crm", "--dir", str(tmp_path)])

    assert "pk check ." in capsys.readouterr().out
