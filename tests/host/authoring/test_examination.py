"""The end of `pk check`: the plugin is tried in a process of its own, when that can tell more than its text did."""

from __future__ import annotations

from pathlib import Path

import pytest

from host.authoring.examination import examine
from host.authoring.scaffold import new_project

ROOT = Path(__file__).parents[3]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A plugin without fault."""
    return Path(new_project("acme.crm", tmp_path).folder)


def change(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))


async def test_a_good_plugin_passes_its_trial(project: Path) -> None:
    assert [] == await examine(project)


@pytest.mark.parametrize("name", ["acme_crm", "acme-notes"])
async def test_the_examples_pass_their_trials(name: str) -> None:
    assert [] == await examine(ROOT / "docs" / "examples" / name)


async def test_what_shows_only_when_it_runs_is_found_with_its_place(project: Path) -> None:
    change(
        project / "acme_crm" / "plugin.py",
        '"""Register the operations and the events. No I/O here."""',
        "registrar.nonsense()",
    )

    found = await examine(project)

    assert ("register_fails", "error", "acme_crm/plugin.py") == (found[0].id, found[0].severity, found[0].file)
    assert found[0].line > 1
    assert "nonsense" in found[0].message
    assert str(project) not in found[0].message


async def test_a_plugin_below_src_is_tried(project: Path) -> None:
    (project / "src").mkdir()
    (project / "acme_crm").rename(project / "src" / "acme_crm")
    change(project / "src" / "acme_crm" / "plugin.py", "plugin = ", "1 / 0\nplugin = ")

    assert ("import_fails", "src/acme_crm/plugin.py") == ((found := (await examine(project))[0]).id, found.file)


async def test_one_that_hangs_is_found(project: Path) -> None:
    change(project / "acme_crm" / "plugin.py", "plugin = ", "while True: ...\nplugin = ")

    assert "hangs" in {one.id for one in await examine(project, limit_s=0.5)}


async def test_an_error_in_the_text_spares_the_trial(project: Path, tmp_path: Path) -> None:
    witness = tmp_path / "ran"
    change(project / "acme_crm" / "plugin.py", "plugin = ", f"import host\nopen({str(witness)!r}, 'w')\nplugin = ")

    assert ["import_kernel"] == [one.id for one in await examine(project) if one.severity == "error"]
    assert not witness.exists()


async def test_a_library_that_is_missing_here_is_told_instead(project: Path) -> None:
    change(project / "pyproject.toml", "dependencies = []", 'dependencies = ["msgspec", "no-such-thing>=2", "msgspec>=9999", "a; python_version < \'3\'", "?"]')  # fmt: skip

    found = await examine(project)

    assert ["not_tried"] == [one.id for one in found]
    assert "no trial was made: no-such-thing>=2, msgspec>=9999 is not installed here" == found[0].message


async def test_what_the_text_told_is_not_told_again(project: Path) -> None:
    (project / "acme_crm" / "fast.so").write_bytes(b"")

    assert 1 == len([one for one in await examine(project) if one.id == "compiled_extension"])
