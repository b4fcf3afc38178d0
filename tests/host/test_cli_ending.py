"""How a command ends that is refused, has a bug, or is interrupted."""

from __future__ import annotations

from pathlib import Path

import pytest

from host.cli import ending, main, questions
from host.control_client import Refused
from host.settings import sources


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What the commands of this process see as their environment; a test may add to it."""
    seen: dict[str, str] = {}
    monkeypatch.setattr(sources, "_environment", seen)
    return seen


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """`pk version` has a bug."""

    def fail(*, as_json: bool) -> None:
        raise RuntimeError("inner-detail")

    monkeypatch.setattr(questions, "print_version", fail)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)


@pytest.mark.usefixtures("broken")
def test_a_bug_asks_for_a_report_and_keeps_its_traceback_in_a_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status = main(["version"])

    told = capsys.readouterr().err
    (log,) = tmp_path.glob("pk-bug-*.log")
    assert status == 1
    assert told.startswith("pk: this is a bug of Platform-Kernel (RuntimeError at test_cli_ending.py:")
    assert told.endswith(f"please report it, with the log {log}\n")
    assert "inner-detail" in log.read_text()
    assert log.stat().st_mode & 0o077 == 0


@pytest.mark.usefixtures("broken")
def test_a_bug_shows_its_traceback_to_those_who_ask(environment: dict[str, str]) -> None:
    environment["PK_DEBUG"] = "1"

    with pytest.raises(RuntimeError, match="inner-detail"):
        main(["version"])


def test_an_interrupt_ends_quietly(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt(*, as_json: bool) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(questions, "print_version", interrupt)

    assert main(["version"]) == ending.INTERRUPTED
    assert capsys.readouterr() == ("", "")


def test_a_refusal_says_each_thing_once() -> None:
    """Its detail often holds a violation's text, with the plugin's name before it."""
    errors = [{"detail": "x.py:1: wrong"}, {"detail": "y.py:2: wrong too"}]
    refused = Refused(422, {"detail": "acme.crm: x.py:1: wrong", "errors": errors})

    assert ["acme.crm: x.py:1: wrong", "  y.py:2: wrong too"] == str(refused).splitlines()
