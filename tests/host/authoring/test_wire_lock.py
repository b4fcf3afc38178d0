"""What `pk check` says of a plugin's `wire.lock` and of what has no form in gRPC; `pk contract lock` mends what can be mended."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from host.authoring.examination import examine
from host.authoring.scaffold import MESSAGES, new_project
from host.cli import main
from host.finding import Finding

LOCK = "acme_crm/wire.lock"
STREAMED = '''
    @operation("GET /notes/{note_id}/picture", permission="note.read", stream=True)
    async def get_picture(self, call: Call, request: NoteRef) -> Stream:
        """The picture of a note, as bytes."""
        raise errors.NotFound("no note has a picture")

'''


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A plugin without fault, whose lock has what its code has."""
    return Path(new_project("acme.crm", tmp_path).folder)


def change(project: Path, old: str, new: str) -> None:
    file = project / "acme_crm" / "operations.py"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))


async def lock(project: Path) -> int:
    """The exit status of `pk contract lock`, which has an event loop of its own."""
    return await asyncio.to_thread(main, ["contract", "lock", str(project)])


async def only(project: Path) -> Finding:
    (found,) = await examine(project)
    return found


@pytest.mark.parametrize("word", ["crm", *sorted(one.lower() for one in MESSAGES)])
async def test_a_new_plugin_has_a_lock_that_fits(tmp_path: Path, word: str) -> None:
    project = Path(new_project(f"acme.{word}", tmp_path).folder)
    file = project / f"acme_{word}" / "wire.lock"
    before = file.read_text()

    assert [] == await examine(project)
    assert 0 == await lock(project)
    assert before == file.read_text()
    file.unlink()
    assert 0 == await lock(project)
    assert before == file.read_text(), "the template is what would be written"


async def test_what_the_lock_lacks_is_a_warning_until_it_is_locked(project: Path) -> None:
    change(project, "    text: str\n", '    text: str\n    colour: str = ""\n')

    found = await only(project)
    assert ("wire_lock_behind", "warning", LOCK) == (found.id, found.severity, found.file)
    assert "gains colour" in found.message

    assert 0 == await lock(project)
    assert [] == await examine(project)


async def test_another_type_is_an_error_and_is_not_locked(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (project / LOCK).read_text()
    change(project, "    version: int\n", "    version: str\n")

    found = next(one for one in await examine(project) if one.id == "wire_changed")
    assert ("error", LOCK) == (found.severity, found.file)
    assert "Note.version was int64" in found.message

    assert 1 == await lock(project)
    assert "Note.version was int64" in capsys.readouterr().err
    assert before == (project / LOCK).read_text()


@pytest.mark.parametrize(
    "text", ["<<<<<<< HEAD", "[]", '{"format": 2, "messages": {}}'], ids=["conflict", "array", "format"]
)
async def test_a_lock_that_is_none_is_an_error(project: Path, text: str) -> None:
    (project / LOCK).write_text(text)

    found = await only(project)
    assert ("wire_lock_unreadable", "error", LOCK) == (found.id, found.severity, found.file)
    assert 1 == await lock(project)
    assert text == (project / LOCK).read_text()


async def test_what_has_no_method_is_told(project: Path) -> None:
    change(
        project,
        '    @operation("GET /notes/{note_id}"',
        STREAMED.lstrip("\n") + '    @operation("GET /notes/{note_id}"',
    )
    change(project, "from uuid import UUID\n", "from uuid import UUID\n\nfrom plugin_api.streams import Stream\n")

    found = await only(project)
    assert ("no_grpc", "info") == (found.id, found.severity)
    assert "acme.crm.get_picture has no method in gRPC: its body or answer is a stream of bytes" in found.message
