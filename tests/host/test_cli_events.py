"""`pk events` and `pk jobs` without a kernel, or with a door that answers what the test says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from host.cli import main
from host.settings import sources
from tests.host.test_cli import control, remote


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What the commands of this process see as their environment; a test may add to it."""
    seen: dict[str, str] = {}
    monkeypatch.setattr(sources, "_environment", seen)
    return seen


@pytest.mark.parametrize(
    "words",
    [
        "events frobnicate",
        "events tail --from yesterday",
        "events tail --from 2026-03-01T12:00:00",
        "events tail --tenant acme",
        "events dlq --limit 0",
        "events replay",
        "events replay --all --consumer acme.crm.hear",
        "events replay --letter 7",
        "events replay --consumer acme.crm.hear --since noon",
        "events replay --consumer acme.crm.hear --offset platform.money.events/12/0",
        "events replay --offset platform.money.events/3/0",
        "events replay --all --since 2026-03-01T12:00:00Z",
        "jobs replay",
        "jobs replay --all --queue notify.send.email",
        "jobs cancel 7",
        "jobs cancel",
    ],
)
def test_usage_errors_end_with_2_and_a_hint(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words.split()) == 2
    seen = capsys.readouterr()
    assert "Usage: pk" in seen.err
    assert not seen.out


@pytest.mark.parametrize(
    "words", ["events tail", "events dlq", "events replay", "jobs list", "jobs dead", "jobs replay", "jobs cancel"]
)
def test_help_teaches_in_plain_text(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*words.split(), "--help"]) == 0
    text = capsys.readouterr().out
    assert text.isascii()
    assert f"Examples:\n    pk {words}" in text


@pytest.mark.parametrize("words", ["events tail", "events dlq", "events replay --all", "jobs list", "jobs dead"])
def test_without_a_kernel_the_folder_and_the_remedy_are_named(
    words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words.split(), "--data-dir", str(tmp_path)]) == 1
    seen = capsys.readouterr()
    assert seen.err == f"pk: no kernel runs on {tmp_path}; start one with `pk up --data-dir {tmp_path}`\n"
    assert not seen.out


def part(next_position: int, tip: int, *subjects: str) -> dict[str, Any]:
    """A part of the log."""
    event = {
        "specversion": "1.0",
        "time": "t",
        "type": "a.b.c.v1",
        "sequence": "1",
        "tenantid": "t",
        "data": {"x": 1},
        "actor": "",
    }
    items = [
        {
            "position": number,
            "topic": "platform.module.events",
            "partition": 3,
            "offset": 7,
            "event": {**event, "subject": one},
        }
        for number, one in enumerate(subjects, next_position - len(subjects))
    ]
    return {"items": items, "next_position": next_position, "tip": tip}


def test_a_log_without_following_is_read_to_its_end_and_a_line_cannot_steer_the_terminal(
    tmp_path: Path, environment: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    environment["PK_API_KEY"] = "pkk_1_x"
    events = "GET /api/v1/eventbus/events?"
    answers = {
        f"{events}begin=beginning&limit=200": part(3, 3, "one", "two\x1b[31m"),
        f"{events}begin=3&limit=200": part(5, 9, "three", "four"),
    }
    with remote(answers) as (url, script):
        assert main(["events", "tail", "--no-follow", "--from", "beginning", "--url", url]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert main(["events", "tail", "--no-follow", "--from", "beginning", "--url", url, "--json"]) == 0
        documents = [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    assert [line.split("  ")[3] for line in lines] == ["one", "two\\x1b[31m", "three", "four"]
    assert lines[0].endswith('at=platform.module.events/3/7  {"x":1}')
    assert [one["subject"] for one in documents] == ["one", "two\x1b[31m", "three", "four"]
    assert "actor" not in documents[0], "an attribute of a CloudEvent is never empty"
    assert len(script.asked) == 4, "what came after the beginning is not waited for"


def test_a_refusal_ends_a_follower_with_its_reason(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with control(tmp_path, {"POST /operation": (422, {"detail": "the log ends at position 3"})}) as script:
        assert main(["events", "tail", "--from", "9", "--data-dir", str(tmp_path)]) == 1

    assert capsys.readouterr().err == "pk: the log ends at position 3\n"
    [(_, asked, _)] = script.asked
    assert (asked["path"], asked["query"]) == ("/api/v1/eventbus/events", {"begin": "9", "limit": "200"})


def test_a_list_has_as_many_entries_as_were_asked_for(
    tmp_path: Path, environment: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    environment["PK_API_KEY"] = "pkk_1_x"
    letters = "GET /api/v1/eventbus/dead-letters?"
    answers = {
        f"{letters}limit=200": {"items": [{"id": n} for n in range(200)], "next_cursor": "c"},
        f"{letters}cursor=c&limit=50": {"items": [{"id": n} for n in range(50)], "next_cursor": "d"},
    }
    with remote(answers) as (url, _):
        assert main(["events", "dlq", "--limit", "250", "--url", url, "--json"]) == 0

    told = json.loads(capsys.readouterr().out)
    assert (len(told["items"]), told["has_more"]) == (250, True)
