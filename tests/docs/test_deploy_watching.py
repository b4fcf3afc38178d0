"""Board, alerts and the page about watching speak of metrics that a running kernel really shows."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from plugin_api.testing import KernelProcess

ROOT = Path(__file__).parents[2]
BOARD = ROOT / "deploy" / "grafana" / "platform-kernel.json"
RULES = ROOT / "deploy" / "prometheus" / "rules.yaml"
RULES_TEST = RULES.with_name("rules_test.yaml")
PAGE = ROOT / "docs" / "operating" / "watching.md"

NAME = re.compile(r"\bpk_[a-z0-9_]+\b")
_PARTS = re.compile(r"_(bucket|sum|count)$")


def tool(name: str) -> str:
    """Its path; the test is skipped where it cannot be built."""
    built = subprocess.run(
        ["sh", str(ROOT / "tests" / "tools" / "go.sh"), name], capture_output=True, text=True, check=False
    )
    if built.returncode == 3:
        pytest.skip(f"{name}: {built.stderr.strip()}")
    assert built.returncode == 0, built.stderr[-2000:]
    return built.stdout.strip()


def scrape(kernel: KernelProcess) -> str:
    """What Prometheus gets."""
    with urllib.request.urlopen(f"{kernel.management_url}/metrics", timeout=30) as answer:
        return str(answer.read().decode())


def shown(text: str) -> set[str]:
    """The names of all metrics of a scrape."""
    return set(re.findall(r"^# TYPE (\w+)", text, re.MULTILINE))


def expressions(board: dict[str, Any]) -> Iterator[str]:
    """Every query of a board."""
    for panel in board["panels"]:
        yield from (target["expr"] for target in panel.get("targets", ()))
    for variable in board["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["query"]["query"]


def unknown(texts: Iterator[str] | list[str], known: set[str]) -> set[str]:
    """Metrics that are spoken of and are not there."""
    named = {name for text in texts for name in NAME.findall(re.sub(r'__name__=~"[^"]*"', "", text))}
    return {name for name in named if not {name, _PARTS.sub("", name)} & known}


def rules() -> list[str]:
    """The expressions of all alerts."""
    return re.findall(r"expr: (?:>-\n)?((?:.|\n(?= {10}))*)", RULES.read_text())


def test_every_metric_of_the_board_is_there(kernel: KernelProcess) -> None:
    board = json.loads(BOARD.read_text())

    known = shown(scrape(kernel))

    assert len(list(expressions(board))) > 40
    assert set() == unknown(expressions(board), known)
    assert {"pk_reqests_total"} == unknown(["sum(rate(pk_reqests_total[5m])) / pk_request_seconds_bucket"], known)


def test_every_metric_of_the_alerts_is_there(kernel: KernelProcess) -> None:
    known = shown(scrape(kernel))

    assert RULES.read_text().count("- alert:") == len(rules()) > 15
    assert set() == unknown(rules(), known)
    assert {"pk_eventbus_outbox_age"} == unknown([RULES.read_text().replace("outbox_seconds", "outbox_age")], known)


def test_the_page_has_every_metric_and_no_other(kernel: KernelProcess) -> None:
    known, page = shown(scrape(kernel)), PAGE.read_text()
    ours = {name for name in known if not name.startswith("pk_acme")}
    table = {name for row in re.findall(r"^\| (`pk_.*?) \|", page, re.MULTILINE) for name in NAME.findall(row)}

    assert (set(), set()) == (ours - table, table - ours)


def test_every_metric_says_what_it_is(kernel: KernelProcess) -> None:
    text = scrape(kernel)
    told = dict(re.findall(r"^# HELP (\w+) (.*)$", text, re.MULTILINE))

    assert set(told) == shown(text)
    assert [] == [name for name, words in told.items() if not words.endswith(".")]


def test_labels_name_nobody_and_are_few(kernel: KernelProcess, tenant: Any) -> None:
    text = scrape(kernel)
    names = set(re.findall(r'[{,](\w+)="', text))

    assert names <= {
        "door", "operation", "route", "status", "le", "process", "generation", "reason", "plugin", "consumer", "topic", "queue",
        "tier", "service", "version", "python", "profile", "side",
    }  # fmt: skip
    assert tenant.id not in text and tenant.slug not in text


def test_prometheus_own_tool_finds_nothing_to_say(kernel: KernelProcess) -> None:
    checked = subprocess.run(
        [tool("promtool"), "check", "metrics"], input=scrape(kernel), capture_output=True, text=True, check=False
    )

    assert (0, "", "") == (checked.returncode, checked.stdout, checked.stderr)


def test_the_alerts_fire_when_they_should() -> None:
    for what, file in (("check", RULES), ("test", RULES_TEST)):
        ran = subprocess.run([tool("promtool"), what, "rules", file], capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stdout + ran.stderr


def test_every_alert_is_tested_and_leads_to_a_section() -> None:
    text, page = RULES.read_text(), PAGE.read_text()
    alerts = re.findall(r"- alert: (\w+)", text)
    sections = {
        re.sub(r"[^a-z0-9 -]", "", line.lower()).replace(" ", "-")
        for line in re.findall(r"^#+ (.*)$", page, re.MULTILINE)
    }
    runbooks = re.findall(r"runbook: (\S+)#(\S+)", text)

    assert len(alerts) == len(set(alerts)) == len(runbooks)
    assert [] == [
        name
        for name in alerts
        if f'alertname="{name}"' not in RULES_TEST.read_text() and f"alertname: {name}" not in RULES_TEST.read_text()
    ]
    assert [] == [place for page_path, place in runbooks if not (ROOT / page_path).is_file() or place not in sections]


def test_panels_do_not_overlap_and_say_what_they_show() -> None:
    board = json.loads(BOARD.read_text())
    cells = [
        (panel["gridPos"]["x"] + x, panel["gridPos"]["y"] + y)
        for panel in board["panels"]
        for x, y in itertools.product(range(panel["gridPos"]["w"]), range(panel["gridPos"]["h"]))
    ]

    assert len(cells) == len(set(cells)) and max(x for x, _ in cells) < 24
    assert len(board["panels"]) == len({panel["id"] for panel in board["panels"]})
    assert [] == [p["title"] for p in board["panels"] if p["type"] != "row" and not p["description"]]
