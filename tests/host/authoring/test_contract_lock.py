"""`pk contract lock` and what `pk check` says of the lock: it only grows, and what it has the code keeps."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from host.authoring.event_contract import LockRefused, grow_lock
from host.authoring.examination import examine
from host.authoring.scaffold import new_project
from host.cli import main
from host.event_lock import BYTES_MAX, LockUnreadable, read_lock
from plugin_api.event_schemas import Schema

EVENTS = "acme_crm/events.py"
DECLARED = 'EVENTS: Final[dict[str, type[Struct]]] = {"note.written.v1": NoteWritten}'


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A plugin without fault that tells one event."""
    return Path(new_project("acme.crm", tmp_path).folder)


def change(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


async def found_in(project: Path) -> list[tuple[str, str, str]]:
    return [(one.id, one.severity, one.file) for one in await examine(project)]


def test_a_lock_grows_with_the_code(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lock = project / "acme_crm" / "events.lock"
    before = lock.read_text()
    assert 0 == main(["contract", "lock", str(project)])
    assert (lock.read_text(), "up to date" in capsys.readouterr().out) == (before, True)

    change(project / EVENTS, "    length: int\n", '    length: int\n    language: str = "en"\n')
    assert 0 == main(["contract", "lock", str(project)])
    told = capsys.readouterr().out
    assert 'note.written.v1: it gains /language: {"type":"string"}' in told
    assert f"{lock}: written; commit it" in told
    assert {"length", "language"} == set(json.loads(lock.read_text())["events"]["note.written.v1"]["properties"])
    assert [] == [one.name for one in lock.parent.iterdir() if "events.lock." in one.name]


async def test_what_it_lacks_is_a_warning(project: Path) -> None:
    change(project / EVENTS, "    length: int\n", '    length: int\n    language: str = "en"\n')
    assert await found_in(project) == [("events_lock_behind", "warning", "acme_crm/events.lock")]

    (project / "acme_crm" / "events.lock").unlink()
    assert await found_in(project) == [("events_lock_missing", "warning", "")]


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("    length: int\n", "    size: int\n", 'it drops /length, which was {"type":"integer"}'),
        ("    length: int\n", "    length: int | None\n", "it changes /length from"),
        (DECLARED, "EVENTS: Final[dict[str, type[Struct]]] = {}", "no Struct is declared for it any more"),
    ],
    ids=["dropped", "changed", "undeclared"],
)
async def test_what_breaks_the_promise_is_an_error_and_not_locked(
    project: Path, old: str, new: str, words: str
) -> None:
    lock = (project / "acme_crm" / "events.lock").read_text()
    change(project / EVENTS, old, new)

    (error, *_) = await examine(project)
    assert (error.id, error.severity, error.file) == ("event_schema_broken", "error", "acme_crm/events.lock")
    assert words in error.message
    assert "new version of the type" in error.remedy
    assert (project / "acme_crm" / "events.lock").read_text() == lock


def test_a_lock_that_would_lose_something_is_left_alone(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lock = project / "acme_crm" / "events.lock"
    before = lock.read_text()
    change(project / EVENTS, "    length: int\n", "    length: str\n")

    assert 1 == main(["contract", "lock", str(project)])
    told = capsys.readouterr().err
    assert f"{lock} was left as it is" in told
    assert "tell note.written.v2 beside it" in told
    assert lock.read_text() == before


async def test_an_undeclared_event_is_a_warning(project: Path) -> None:
    (project / "acme_crm" / "events.lock").unlink()
    change(project / EVENTS, DECLARED, "EVENTS: Final[dict[str, type[Struct]]] = {}")

    assert await found_in(project) == [("event_undeclared", "warning", "acme_crm/manifest.toml")]


def test_a_type_that_is_told_no_more_stays_in_the_lock(project: Path) -> None:
    change(project / "acme_crm" / "manifest.toml", "note.written.v1", "note.written.v2")
    change(project / EVENTS, '"note.written.v1"', '"note.written.v2"')

    assert 0 == main(["contract", "lock", str(project)])
    assert ["note.written.v1", "note.written.v2"] == sorted(read_lock(project / "acme_crm") or {})


def test_without_events_there_is_nothing_to_lock(project: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    (project / "acme_crm" / "events.lock").unlink()
    change(project / EVENTS, DECLARED, "EVENTS: Final[dict[str, type[Struct]]] = {}")

    assert 0 == main(["contract", "lock", str(project), "--json"])
    told = json.loads(capfdbinary.readouterr().out)
    assert {"file": str(project / "acme_crm" / "events.lock"), "gained": [], "types": []} == {
        name: told[name] for name in ("file", "gained", "types")
    }
    assert told["wire"]["file"] == str(project / "acme_crm" / "wire.lock")
    assert not (project / "acme_crm" / "events.lock").exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("<<<<<<< HEAD", "is no lock"),
        ("[]", "is no lock"),
        ('{"events": {"a.b.v1": 3}}', "is no lock"),
        ('{"events": {}, "more": 1}', "is no lock"),
        ('{"events": {}, "format": 2}', "has the format 2"),
        ("[" * 100_000, "is no lock"),
        ('{"events": {"a": "' + "x" * BYTES_MAX + '"}}', f"more than {BYTES_MAX} bytes"),
        ("\udcff", "is no lock"),
    ],
    ids=["conflict", "array", "no-schema", "unknown", "format", "deep", "long", "no-text"],
)
def test_a_lock_that_is_none_is_told(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "events.lock").write_bytes(text.encode("utf-8", "surrogateescape"))

    with pytest.raises(LockUnreadable, match=words):
        read_lock(tmp_path)
    with pytest.raises(LockRefused, match="of the last commit"):
        grow_lock(tmp_path, {}, [])


async def test_an_unreadable_lock_is_an_error(project: Path) -> None:
    (project / "acme_crm" / "events.lock").write_text("<<<<<<< HEAD")

    assert await found_in(project) == [("events_lock_unreadable", "error", "acme_crm/events.lock")]


@pytest.mark.parametrize(
    "schema",
    [{"properties": 3}, {"type": "object", "properties": {"c": {"type": "string"}}}, {"anyOf": {"a": 1}}, {"x": 1}],
)
def test_what_is_no_schema_is_a_difference(tmp_path: Path, schema: Schema) -> None:
    (tmp_path / "events.lock").write_text(json.dumps({"events": {"a.b.v1": schema}, "format": 1}))
    now = {"type": "object", "properties": {"c": {"type": "string"}}, "required": ["c"]}

    with pytest.raises(LockRefused, match=r"a\.b\.v1"):
        grow_lock(tmp_path, {"a.b.v1": now}, ["a.b.v1"])


@pytest.mark.parametrize(
    ("file", "old", "new", "words"),
    [
        (EVENTS, "class NoteWritten", "1 / 0\nclass NoteWritten", "division by zero"),
        (
            "pyproject.toml",
            "dependencies = []",
            'dependencies = ["no-such-thing"]',
            "no-such-thing is not installed here",
        ),
        ("pyproject.toml", "acme_crm:plugin", "nowhere:plugin", "no such package"),
        ("acme_crm/settings.py", ' = "Hello"', "", "salutation"),
    ],
    ids=["fails", "missing", "no-package", "settings"],
)
def test_what_cannot_be_registered_cannot_be_locked(
    project: Path, capsys: pytest.CaptureFixture[str], file: str, old: str, new: str, words: str
) -> None:
    change(project / file, old, new)
    if words == "salutation":
        change(project / file, "notes_max: Annotated[int, Meta(ge=1, le=1_000_000), setting(\"Notes that one tenant may have.\")] = 1_000", "notes_max: int")  # fmt: skip

    assert 1 == main(["contract", "lock", str(project)])
    assert words in capsys.readouterr().err
