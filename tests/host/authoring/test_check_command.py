"""`pk check`: what people and programs are told, and the exit status."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from host.authoring.scaffold import new_project
from host.cli import main


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A plugin without fault."""
    return Path(new_project("acme.crm", tmp_path).folder)


def test_a_good_plugin_passes(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert 0 == main(["check", str(project)])

    assert capsys.readouterr().out == "nothing to say against it\n"


def test_warnings_do_not_fail(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "acme_crm" / "README.md").unlink()
    (project / "acme_crm" / "wire.lock").unlink()

    assert 0 == main(["check", str(project)])

    assert capsys.readouterr().out.endswith("1 warning, 1 info\n")


def test_an_error_is_told_with_its_place_and_remedy(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "acme_crm" / "extra.py").write_text("import os\n\nimport host\nimport core_plugins\n")

    assert 1 == main(["check", str(project)])

    told = capsys.readouterr().out
    assert told.startswith(
        "error: import_kernel in acme_crm/extra.py:3\n  it imports host\n  why:    Only `plugin_api`"
    )
    assert "\n  remedy: Import from `plugin_api`" in told
    assert told.endswith("\n2 errors\n")


def test_programs_are_told_as_json(project: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    (project / "acme_crm" / "extra.py").write_text("import host\n")

    assert 1 == main(["check", str(project), "--json"])

    told = json.loads(capfdbinary.readouterr().out)
    assert (False, 1, 0, 0) == (told["ok"], told["errors"], told["warnings"], told["infos"])
    first = told["findings"][0]
    assert ("import_kernel", "error", "acme_crm/extra.py", 1) == tuple(
        first[key] for key in ("id", "severity", "file", "line")
    )
    assert first["message"]
    assert first["why"]
    assert first["remedy"]


def test_a_file_with_a_strange_name_cannot_steer_the_terminal(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (project / "acme_crm" / "a\x1b[2Jb.py").write_text("import host\n")

    main(["check", str(project)])

    assert "\x1b" not in capsys.readouterr().out


def test_a_folder_that_is_none_is_a_usage_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert 2 == main(["check", str(tmp_path / "nowhere")])

    assert "does not exist" in capsys.readouterr().err


def test_a_folder_without_a_project_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert 1 == main(["check", str(tmp_path)])

    assert "there is no pyproject.toml in" in capsys.readouterr().out
