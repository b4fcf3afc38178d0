"""The command line without a kernel, or with a door that answers what the test says: exit statuses, reasons, documents."""

from __future__ import annotations

import json
import os
import pty
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingTCPServer, ThreadingUnixStreamServer
from typing import Any, cast

import pytest

from host.cli import main
from host.datafolder import short_run
from host.settings import sources

PK = Path(sys.executable).parent / "pk"
LIMIT_S = 60.0
PLUGIN = {
    "id": "acme.crm",
    "version": "1.0.0",
    "state": "failed",
    "generation": 1,
    "reason": "acme.crm failed to register: no\nluck \x1b[31m; reinstall it",
    "uptime_s": 5,
    "summary": "Leads",
}


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What the commands of this process see as their environment; a test may add to it."""
    seen: dict[str, str] = {}
    monkeypatch.setattr(sources, "_environment", seen)
    return seen


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def pk(*words: str, env: Mapping[str, str] | None = None, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run the real program."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PK_")}
    return subprocess.run(
        [PK, *words], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=LIMIT_S, env={**kept, **(env or {})},
        cwd=cwd, check=False,
    )  # fmt: skip


# ----------------------------------------------------------------------------------- a door with given answers


@dataclass
class Script:
    """What a door answers, and what it was asked."""

    answers: dict[str, Any]
    """`GET /plugins` -> a document, (status, document), raw bytes, or None: hang up."""
    asked: list[tuple[str, Any, str | None]] = field(default_factory=list)


class Handler(BaseHTTPRequestHandler):
    """Answers from the script of its server."""

    def address_string(self) -> str:
        """The peer of a Unix socket has none."""
        return ""

    def log_message(self, *words: Any) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        self._answer("GET")

    def do_POST(self) -> None:
        self._answer("POST")

    def _answer(self, method: str) -> None:
        script = cast("Any", self.server).script
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        script.asked.append(
            (f"{method} {self.path}", json.loads(body) if body else None, self.headers.get("Authorization"))
        )
        given = script.answers.get(f"{method} {self.path}", (404, {"detail": "no such page"}))
        if given is None:
            self.close_connection = True
            return
        status, document = given if isinstance(given, tuple) else (200, given)
        raw = document if isinstance(document, bytes) else json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)


@contextmanager
def serving(server: Any, script: Script) -> Iterator[Script]:
    server.script, server.daemon_threads = script, True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield script
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def control(data_dir: Path, answers: dict[str, Any]) -> Iterator[Script]:
    """A control door on a data folder."""
    (data_dir / "run").mkdir(parents=True, exist_ok=True)
    place = short_run(data_dir)
    if place != data_dir / "run":  # a running kernel keeps this link for folders that lie too deep for a socket
        place.parent.mkdir(mode=0o700)
        place.symlink_to(data_dir / "run")
    with serving(ThreadingUnixStreamServer(str(place / "control.sock"), Handler), Script(answers)) as script:
        yield script
    if place != data_dir / "run":
        place.unlink()
        place.parent.rmdir()


@contextmanager
def remote(answers: dict[str, Any]) -> Iterator[tuple[str, Script]]:
    """A kernel elsewhere."""
    server = ThreadingTCPServer(("127.0.0.1", 0), Handler)
    with serving(server, Script(answers)) as script:
        yield f"http://127.0.0.1:{server.server_address[1]}", script


# ------------------------------------------------------------------------------------------------- usage


@pytest.mark.parametrize(
    "words",
    [
        ("frobnicate",),
        ("plugins", "frobnicate"),
        ("migrate", "down"),
        ("migrate", "down", "iam"),
        ("up", "--http-port", "many"),
        ("up", "--http-port", "65536"),
        ("up", "--workers", "0"),
        ("up", "--profile", "cloud"),
        ("up", "--set", "iam.signup"),
        ("up", "--frobnicate"),
    ],
)
def test_usage_errors_end_with_2_and_a_hint(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    status = main(words)

    seen = capsys.readouterr()
    assert status == 2
    assert "Usage: pk" in seen.err
    assert not seen.out


def test_what_stands_in_a_malformed_assignment_is_not_repeated(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["up", "--set", "hunter2hunter2"]) == 2
    assert "hunter2" not in "".join(capsys.readouterr())


def test_the_program_itself_ends_like_that() -> None:
    assert pk("frobnicate").returncode == 2
    assert pk("version").returncode == 0
    assert pk("--version").stdout.startswith("platform-kernel ")


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("up",),
        ("doctor",),
        ("plugins",),
        ("plugins", "list"),
        ("settings",),
        ("openapi",),
        ("version",),
        ("migrate",),
        *[("migrate", "status"), ("migrate", "up"), ("migrate", "down"), ("demo",), ("reload",)],
    ],
)
def test_help_teaches_in_plain_text(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    status = main([*words, "--help"])

    text = capsys.readouterr().out
    assert status == 0
    assert text.isascii()
    assert words in {(), ("plugins",), ("migrate",), ("version",)} or "Examples:\n    pk " in text
    assert words or "A tour:\n    pk up " in text


def test_on_a_terminal_help_is_framed_and_grouped() -> None:
    text = on_a_terminal(PK, "--help")

    assert "╭" in text
    assert all(panel in text for panel in ("Start", "Look", "Change"))
    assert "\x08" not in text


def on_a_terminal(*words: Any) -> str:
    """What a program prints on a terminal."""
    ours, theirs = pty.openpty()
    kept = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    environ = {**kept, "TERM": "xterm", "COLUMNS": "100"}
    process = subprocess.Popen(words, stdin=theirs, stdout=theirs, stderr=theirs, env=environ)
    os.close(theirs)
    text = b""
    with suppress(OSError):  # Linux says EIO when the program has closed its end
        while part := os.read(ours, 65_536):
            text += part
    os.close(ours)
    assert process.wait(LIMIT_S) == 0
    return text.decode()


def test_help_loads_no_kernel_and_no_terminal_library() -> None:
    program = "import sys; from host.cli import main; main(['--help']); print(*sorted(sys.modules), file=sys.stderr)"

    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=LIMIT_S, check=True)

    loaded = set(ran.stderr.split())
    assert not loaded & {"rich", "asyncio", "aiohttp", "msgspec", "host.kernel", "host.parent", "http.client"}


# --------------------------------------------------------------------------------------------- no kernel


@pytest.mark.parametrize(
    "words",
    [
        ("plugins", "list"),
        ("settings",),
        ("openapi",),
        ("migrate", "status"),
        ("migrate", "up"),
        ("demo",),
        ("reload",),
    ],
)
@pytest.mark.parametrize("exists", [True, False])
def test_without_a_kernel_the_folder_and_the_remedy_are_named(
    words: tuple[str, ...], exists: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "no-kernel-here"
    if exists:
        folder.mkdir()

    status = main([*words, "--data-dir", str(folder)])

    seen = capsys.readouterr()
    assert (status, seen.out) == (1, "")
    assert seen.err == f"pk: no kernel runs on {folder}; start one with `pk up --data-dir {folder}`\n"
    assert folder.exists() is exists


def test_a_socket_that_nobody_listens_on_is_no_kernel(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run").mkdir()
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(tmp_path / "run" / "control.sock"))

    assert main(["plugins", "list", "--data-dir", str(tmp_path)]) == 1
    assert "no kernel runs on" in capsys.readouterr().err


def test_a_kernel_that_is_about_to_listen_is_told_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run").mkdir()
    with subprocess.Popen([sys.executable, "-c", "input()", "up"], stdin=subprocess.PIPE) as starting:
        (tmp_path / "run" / "kernel.lock").write_text(f"{starting.pid}\n")

        status = main(["plugins", "list", "--data-dir", str(tmp_path)])

        starting.kill()
    assert status == 1
    assert f"(pid {starting.pid}) is starting or stopping; try again" in capsys.readouterr().err


def test_a_folder_too_deep_for_a_socket_is_reached(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    deep = tmp_path.joinpath(*["a-folder-with-a-long-name"] * 5)

    with control(deep, {"GET /plugins": {"items": []}}):
        status = main(["plugins", "list", "--json", "--data-dir", str(deep)])

    assert status == 0
    assert json.loads(capsys.readouterr().out) == {"items": []}


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (None, "hung up"),
        (b"<html>", "something else than JSON"),
        ({"no": "list"}, "something else than a list"),
        ((503, {"detail": "no worker serves now; try again"}), "pk: no worker serves now; try again\n"),
        (
            (422, {"detail": "two faults", "errors": [{"detail": "one"}, {"detail": "two"}]}),
            "two faults\n  one\n  two\n",
        ),
        ((500, []), "the kernel answered 500"),
    ],
)
def test_what_cannot_be_used_is_a_reason_not_a_traceback(
    answer: Any, expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with control(tmp_path, {"GET /plugins": answer}):
        status = main(["plugins", "list", "--data-dir", str(tmp_path)])

    seen = capsys.readouterr()
    assert (status, seen.out) == (1, "")
    assert expected in seen.err
    assert "Traceback" not in seen.err


# ------------------------------------------------------------------------------------------ what is printed


def test_a_table_has_one_plain_line_for_each_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = {**PLUGIN, "id": "kernel.iam", "state": "active", "reason": "", "uptime_s": 3_700}
    with control(tmp_path, {"GET /plugins": {"items": [good, PLUGIN]}}):
        status = main(["plugins", "list", "--data-dir", str(tmp_path)])

    header, first, second = capsys.readouterr().out.splitlines()
    assert status == 0
    assert header.split() == ["PLUGIN", "VERSION", "STATE", "GENERATION", "SINCE", "ABOUT"]
    assert first.split() == ["kernel.iam", "1.0.0", "active", "1", "1", "h", "1", "min", "Leads"]
    assert second.endswith(r"acme.crm failed to register: no luck \x1b[31m; reinstall it")


def test_settings_can_be_narrowed_to_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    entry = {
        "section": "iam",
        "value": None,
        "source": "default",
        "type": "a text",
        "default": None,
        "description": "It.",
    }
    items = [{**entry, "name": name, "environment": [f"PK_IAM__{name.upper()}"]} for name in ("one", "two")]
    with control(tmp_path, {"GET /settings": {"items": items, "problems": []}}):
        assert main(["settings", "iam.two", "--data-dir", str(tmp_path)]) == 0
        shown = capsys.readouterr().out
        assert main(["settings", "kernel.iam", "--json", "--data-dir", str(tmp_path)]) == 0
        both = json.loads(capsys.readouterr().out)
        assert main(["settings", "nothing", "--data-dir", str(tmp_path)]) == 1
        refused = capsys.readouterr().err

    assert "iam.two" in shown
    assert "takes a text; no default; set by PK_IAM__TWO" in shown
    assert "iam.one" not in shown
    assert both == {"items": items, "problems": []}
    assert refused == "pk: there is no setting and no section nothing here; sections: iam\n"


def test_migrations_that_fail_fail_the_command_after_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    items = [
        {"plugin": "kernel.iam", "schema": "iam", "files": ["0002_x.sql"], "problem": None},
        {"plugin": "acme.crm", "schema": "x_acme_crm", "files": [], "problem": "acme.crm: 0001_leads.sql was edited"},
    ]
    with control(tmp_path, {"POST /migrations/up": {"items": items, "dry_run": False}}) as script:
        status = main(["migrate", "up", "--data-dir", str(tmp_path)])

    seen = capsys.readouterr()
    assert status == 1
    assert seen.out == "kernel.iam: ran 0002_x.sql\n"
    assert seen.err == "pk: acme.crm: 0001_leads.sql was edited\n"
    assert script.asked == [("POST /migrations/up", {"dry_run": False}, None)]


def test_taking_back_asks_for_consent(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    items = [{"plugin": "kernel.iam", "schema": "iam", "files": ["0002_x.sql", "0001_y.sql"], "problem": None}]
    with control(tmp_path, {"POST /migrations/down": {"items": items, "dry_run": False}}) as script:
        refused = main(["migrate", "down", "iam", "--data-dir", str(tmp_path)])
        done = main(["migrate", "down", "iam", "--count", "2", "--yes", "--data-dir", str(tmp_path)])

    assert (refused, done) == (2, 0)
    assert capsys.readouterr().out == "kernel.iam: took back 0002_x.sql\nkernel.iam: took back 0001_y.sql\n"
    assert script.asked == [("POST /migrations/down", {"plugin": "iam", "count": 2, "dry_run": False}, None)]


def test_the_demo_tells_what_was_made_and_what_failed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    items = [
        {"plugin": "kernel.iam", "made": ["user ada"], "problem": None},
        {"plugin": "acme.crm", "made": [], "problem": "no"},
    ]
    with control(tmp_path, {"POST /demo": {"tenant": {"slug": "demo"}, "items": items}}):
        status = main(["demo", "--data-dir", str(tmp_path)])

    seen = capsys.readouterr()
    assert status == 1
    assert "kernel.iam: user ada\n" in seen.out
    assert seen.err == "pk: acme.crm: no\n"


def test_a_pipe_that_is_closed_early_is_no_fault(tmp_path: Path) -> None:
    with control(tmp_path, {"GET /openapi": {"paths": {f"/{number}": {} for number in range(50_000)}}}):
        process = subprocess.Popen(
            [PK, "openapi", "--data-dir", str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        assert process.stdout is not None
        process.stdout.read(10)
        process.stdout.close()
        _, said = process.communicate(timeout=LIMIT_S)

    assert b"Traceback" not in said
    assert b"bug" not in said


# ------------------------------------------------------------------------------------------------ elsewhere


def test_a_remote_kernel_is_asked_page_by_page_with_the_key(
    environment: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    environment["PK_API_KEY"] = "pkk_1_secret"
    first = {"items": [PLUGIN], "next_cursor": "c/1"}
    second = {"items": [{**PLUGIN, "id": "acme.erp"}], "next_cursor": None}
    pages = {"GET /kernel/api/v1/plugins?limit=200": first, "GET /kernel/api/v1/plugins?limit=200&cursor=c%2F1": second}

    with remote(pages) as (url, script):
        status = main(["plugins", "list", "--json", "--url", f"{url}/kernel/"])

    seen = capsys.readouterr()
    assert status == 0
    assert [one["id"] for one in json.loads(seen.out)["items"]] == ["acme.crm", "acme.erp"]
    assert {authorization for _, _, authorization in script.asked} == {"Bearer pkk_1_secret"}
    assert "secret" not in seen.out + seen.err


def test_the_document_of_a_remote_kernel_needs_no_key(capsys: pytest.CaptureFixture[str]) -> None:
    with remote({"GET /api/v1/openapi.json": {"openapi": "3.1.0"}}) as (url, script):
        status = main(["openapi", "--url", url])

    assert status == 0
    assert json.loads(capsys.readouterr().out) == {"openapi": "3.1.0"}
    assert script.asked == [("GET /api/v1/openapi.json", None, None)]


@pytest.mark.parametrize(
    ("url", "key", "expected"),
    [
        ("https://kernel.example", "", "PK_API_KEY is not set"),
        (
            "http://kernel.example",
            "pkk_1_secret",
            "would travel unencrypted to kernel.example; use https://kernel.example",
        ),
        ("ftp://kernel.example", "pkk_1_secret", "not usable; write it like https://"),
        ("https://ann:word@kernel.example", "pkk_1_secret", "not usable; write it like https://"),
        ("https://kernel.example:port", "pkk_1_secret", "no port"),
        ("http://127.0.0.1:1", "pkk_1_secret", "http://127.0.0.1:1 cannot be reached: Connection refused"),
    ],
)
def test_a_remote_kernel_that_cannot_be_asked_is_a_reason(
    url: str, key: str, expected: str, environment: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    environment["PK_API_KEY"] = key

    status = main(["plugins", "list", "--url", url])

    told = capsys.readouterr().err
    assert status == 1
    assert expected in told
    assert "secret" not in told
    assert "word" not in told


def test_a_redirect_does_not_carry_the_key_on(environment: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    environment["PK_API_KEY"] = "pkk_1_secret"

    with remote({"GET /api/v1/plugins?limit=200": (302, {"detail": "moved"})}) as (url, script):
        assert main(["plugins", "list", "--url", url]) == 1

    assert 1 == len(script.asked)
    assert capsys.readouterr().err == "pk: moved\n"


# --------------------------------------------------------------------------------------------------- doctor


def test_the_doctor_works_without_a_kernel(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status = main(["doctor", "--json", "--data-dir", str(tmp_path / "none")])

    report = json.loads(capsys.readouterr().out)
    checks = {check["name"]: check for check in report["checks"]}
    assert (status, report["ok"], report["running"]) == (0, True, False)
    assert checks["kernel"]["status"] == "warn"
    assert checks["kernel"]["remedy"] == f"start one with `pk up --data-dir {tmp_path / 'none'}`"
    assert {"python", "package host", "disk", "data folder", "settings", "port 9000"} <= checks.keys()


def test_the_doctor_fails_for_what_would_stop_a_start(
    here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "pk.toml").write_text("[host]\nworkers = 0\n")
    file = tmp_path / "file"
    file.write_text("")

    status = main(["doctor", "--data-dir", str(file)])

    seen = capsys.readouterr()
    assert status == 1
    assert f"fail: data folder: {file} is not a folder\n      move it away" in seen.out
    assert f"fail: settings: {here}/pk.toml:2: host.workers takes a whole number from 1" in seen.out
    assert seen.err.startswith("pk: 2 of ")


def test_the_doctor_tells_of_a_taken_port(here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        (here / "pk.toml").write_text(f"[host]\nmanagement_port = {port}\n")

        status = main(["doctor", "--json", "--data-dir", str(tmp_path)])

    check = next(one for one in json.loads(capsys.readouterr().out)["checks"] if one["name"] == f"port {port}")
    assert status == 0
    assert check["status"] == "warn"
    assert check["remedy"] == "stop it, or choose another with `pk up --management-port`"


def test_the_doctor_tells_of_processes_and_plugins(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tmp_path.chmod(0o700)
    process = {"pid": 7, "uptime_s": 61, "restarts": 0}
    processes = {
        "parent": {"pid": 5, "uptime_s": 90_000},
        "servers": [{**process, "name": "postgres", "state": "ready", "restarts": 2}],
        "workers": [{**process, "worker": 0, "state": "hung"}, {**process, "worker": 1, "state": "starting"}],
    }
    answer = {
        "processes": processes,
        "version": "1.2.3",
        "plugins": [PLUGIN],
        "checks": [{"name": "plugin acme.crm", "status": "fail", "detail": "failed: it", "remedy": "reinstall it"}],
    }
    with control(tmp_path, {"GET /doctor": answer}):
        status = main(["doctor", "--json", "--data-dir", str(tmp_path)])

    report = json.loads(capsys.readouterr().out)
    checks = {check["name"]: check for check in report["checks"]}
    assert (status, report["ok"], report["running"], report["version"]) == (1, False, True, "1.2.3")
    assert checks["kernel"]["detail"] == "runs as pid 5 for 1 d 1 h"
    assert checks["server postgres"]["detail"] == "ready, pid 7, for 1 min, replaced 2 times since the kernel started"
    assert [checks[name]["status"] for name in ("worker 0", "worker 1", "plugin acme.crm")] == ["fail", "warn", "fail"]
    assert report["processes"] == processes


def test_the_doctor_tells_that_no_worker_serves(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with control(tmp_path, {"GET /doctor": {"ok": False, "detail": "no worker serves now", "processes": {}}}):
        status = main(["doctor", "--data-dir", str(tmp_path)])

    assert status == 1
    assert "fail: plugins: no worker serves now\n      see the kernel's log" in capsys.readouterr().out


# ------------------------------------------------------------------------------------------------------- up


def test_settings_of_the_host_are_checked_before_anything_is_started(
    here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "pk.toml").write_text("[host]\nstall_limit_s = 0\nwrokers = 2\n[anybody]\nx = 1\n")

    status = main(["up", "--data-dir", str(tmp_path / "data")])

    lines = capsys.readouterr().err.splitlines()
    assert status == 1
    assert [line.split(":")[-2][-1:] for line in lines] != []
    assert f"pk: {here}/pk.toml:3: host has no setting wrokers; did you mean workers?" in lines
    assert f"{here}/pk.toml:2: host.stall_limit_s takes a number from 1 to 600, saw 0" in "\n".join(lines)
    assert not (tmp_path / "data").exists()


def test_a_data_folder_that_cannot_be_one_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "blocked-by-a-file"
    file.write_text("not a folder")

    ran = pk("up", "--data-dir", str(file), "--http-port", "0", "--management-port", "0", cwd=tmp_path)

    assert ran.returncode == 1
    assert ran.stderr.startswith("pk up: ")
    assert "blocked-by-a-file" in ran.stderr
    assert "Traceback" not in ran.stderr
