"""The parent of a kernel with real servers: started, watched, killed, started over what a kill left, stopped."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import stat
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import asyncpg
import pytest

from host.last_frames import frames_file
from host.processes import Identity, identify, is_running

if TYPE_CHECKING:
    from tests.host.processes.conftest import Kernel

NO_SERVERS: dict[str, Any] = {"servers": ()}
STOP_LIMIT_S = 15.0


class MakeKernel(Protocol):
    def __call__(self, **given: Any) -> Kernel: ...


def query(kernel: Kernel, sql: str) -> Any:
    """Run one statement as a worker would; its first value."""
    dsn = kernel.get("control", "/settings")[1]["arguments"]["servers"]["postgres"]

    async def ask() -> Any:
        connection = await asyncpg.connect(dsn, timeout=10)
        try:
            return await connection.fetchval(sql)
        finally:
            await connection.close()

    return asyncio.run(ask())


def do(kernel: Kernel, what: str) -> None:
    """Tell the worker to misbehave."""
    assert kernel.get("control", "/demo", "POST", {"do": what})[0] == 200


def is_ready(kernel: Kernel) -> bool:
    return kernel.get("management", "/readyz")[0] == 200


class Requests:
    """Asks the kernel's main door all the time, each time on a new connection."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._halt = threading.Event()
        self.failures: list[str] = []
        self.answered_by: list[int] = []
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self._halt.is_set():
            try:
                self.answered_by.append(self._kernel.worker_pid())
            except OSError as error:
                self.failures.append(repr(error))

    def __enter__(self) -> Requests:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._halt.set()
        self._thread.join()


# ------------------------------------------------------------------------------------------------ start and stop


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_kernel_starts_tells_and_stops_without_a_trace(make_kernel: MakeKernel, number: signal.Signals) -> None:
    kernel = make_kernel(workers=2).start()
    places = kernel.run_file()

    assert sorted(places) == ["grpc", "http", "management", "pid", "servers", "workers"]
    assert (len(places["workers"]), sorted(places["servers"])) == (2, ["postgres", "valkey"])
    assert places["grpc"].startswith("127.0.0.1:")
    assert len({places["http"], places["grpc"], places["management"]}) == 3
    assert kernel.worker_pid() in places["workers"]
    assert kernel.stdout() == f"Platform-Kernel is ready: http://{places['http']} (pid {places['pid']}, 2 workers)\n"
    assert {places["pid"], *places["workers"], *places["servers"].values()} <= {
        process.pid for process in kernel.remember()
    } | {places["pid"]}
    begun = time.monotonic()
    assert kernel.stop(number) == 0
    assert time.monotonic() - begun < STOP_LIMIT_S
    assert kernel.left() == []
    assert not (kernel.data / "run" / "kernel.json").exists()
    assert [line for line in kernel.stderr().splitlines() if "error" in line] == []


def test_nothing_of_it_is_open_to_other_accounts(make_kernel: MakeKernel) -> None:
    kernel = make_kernel().start()
    control = (kernel.data / "run" / "control.sock").lstat()
    open_files = [path for path in kernel.data.rglob("*") if path.is_file() and path.stat().st_mode & 0o007]

    assert (stat.S_ISSOCK(control.st_mode), stat.S_IMODE(control.st_mode)) == (True, 0o600)
    assert stat.S_IMODE(kernel.data.stat().st_mode) == 0o700
    assert open_files == []


@pytest.mark.parametrize("without", [(), ("mapped",)], ids=["mapped", "dropped"])
def test_servers_of_root_are_not_root(make_kernel: MakeKernel, nobody: int, without: tuple[str, ...]) -> None:
    kernel = make_kernel(without=without).start()
    for pid in kernel.run_file()["servers"].values():
        status = Path("/proc", str(pid), "status").read_text()
        capabilities = re.search(r"CapEff:\s*(\w+)", status)
        assert capabilities is not None
        assert int(capabilities[1], 16) == 0
        mapping = Path("/proc", str(pid), "uid_map").read_text().split()
        is_nobody = re.search(r"Uid:\s*(\d+)", status)
        assert is_nobody is not None
        assert is_nobody[1] == str(nobody) if without else mapping == [str(nobody), "0", "1"]
    assert query(kernel, "select 1") == 1
    assert kernel.stop() == 0
    assert kernel.left() == []


def test_a_plain_user_runs_a_kernel(make_kernel: MakeKernel, place: Path, nobody: int) -> None:
    home = place / "home"
    home.mkdir(mode=0o700)
    os.chown(home, nobody, nobody)
    kernel = make_kernel(data=home / "pk", uid=nobody).start()

    assert query(kernel, "select 1") == 1
    assert {path.lstat().st_uid for path in (home / "pk").rglob("*")} == {nobody}
    assert kernel.stop() == 0
    assert kernel.start().stop() == 0
    assert kernel.left() == []


def test_a_second_start_keeps_what_was_written(make_kernel: MakeKernel) -> None:
    kernel = make_kernel().start()
    query(kernel, "create table kept as select 7 as n")
    kernel.stop()

    assert query(kernel.start(), "select n from kept") == 7


def test_a_deep_folder_works_like_any_other(make_kernel: MakeKernel, place: Path) -> None:
    data = place / ("a" * 60) / ("b" * 60) / "pk"
    data.parent.mkdir(parents=True)
    kernel = make_kernel(data=data).start()
    dsn = kernel.get("control", "/settings")[1]["arguments"]["servers"]["postgres"]

    assert (kernel.data / "run" / "control.sock").is_socket()
    assert query(kernel, "select 1") == 1
    assert kernel.stop() == 0
    alias = re.search(r"host=(/tmp/pk-[^/]+)/", dsn)
    assert alias is not None
    assert not Path(alias[1]).exists()


def test_workers_get_what_they_need(make_kernel: MakeKernel) -> None:
    settings = {"host.stall_limit_s": 5, "gateway.tenant_rate": 7}
    kernel = make_kernel(**NO_SERVERS, settings=settings, options={"only": ["iam"], "demo": False}).start()
    given = kernel.get("control", "/settings")[1]["arguments"]

    assert given["overrides"] == settings
    assert (given["data_dir"], given["worker"], given["only"], given["demo"]) == (str(kernel.data), 0, ["iam"], False)
    assert given["http"] == kernel.run_file()["http"]


def test_what_a_worker_announces_is_printed_and_in_no_log(make_kernel: MakeKernel) -> None:
    kernel = make_kernel(**NO_SERVERS).start()
    do(kernel, "tell")
    kernel.wait_for(lambda: "a-password-told-once" in kernel.stdout(), "the announcement")
    logs = [path.read_text() for path in (kernel.data / "logs").rglob("*") if path.is_file()]

    assert kernel.stdout().count("a-password-told-once") == 1
    assert not any("a-password-told-once" in text for text in (kernel.stderr(), *logs))


# ------------------------------------------------------------------------------------------------------ refusals


def test_a_second_kernel_is_refused_and_the_first_serves_on(make_kernel: MakeKernel) -> None:
    first = make_kernel(**NO_SERVERS).start()
    before = first.run_file()
    told = make_kernel(**NO_SERVERS).refused()

    assert str(first.data) in told
    assert f"pid {before['pid']}" in told
    assert first.run_file() == before
    assert first.worker_pid() in before["workers"]


@pytest.mark.parametrize("option", ["http_port", "grpc_port", "management_port"])
def test_a_taken_port_is_refused_before_anything_runs(make_kernel: MakeKernel, option: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        kernel = make_kernel(options={option: port})
        told = kernel.refused()

    assert str(port) in told
    assert f"--{option.replace('_', '-')}" in told
    assert not (kernel.data / "postgres" / "data").exists()


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"host.grpc_host": "0.0.0.0"}, "host.grpc_host is 0.0.0.0; set host.grpc_tls_cert and host.grpc_tls_key"),
        ({"host.grpc_tls_key": "key.pem"}, "host.grpc_tls_cert is not set"),
        ({"host.grpc_tls_cert": "none.pem", "host.grpc_tls_key": "none.pem"}, "are no certificate with its key"),
    ],
    ids=["open", "half", "missing"],
)
def test_grpc_that_others_could_read_is_refused(make_kernel: MakeKernel, settings: dict[str, str], told: str) -> None:
    kernel = make_kernel(settings=settings)

    assert told in kernel.refused()
    assert not (kernel.data / "postgres" / "data").exists()


def test_a_file_for_a_folder_is_refused(make_kernel: MakeKernel, place: Path) -> None:
    (place / "blocked").write_text("not a folder")

    assert "blocked" in make_kernel(data=place / "blocked").refused()
    assert (place / "blocked").read_text() == "not a folder"


def test_another_major_is_refused_and_nothing_is_left(make_kernel: MakeKernel) -> None:
    kernel = make_kernel().start()
    kernel.stop()
    (kernel.data / "postgres" / "data" / "PG_VERSION").write_text("17\n")

    assert "PostgreSQL 17" in kernel.refused()
    assert kernel.left() == []


@pytest.mark.parametrize(
    ("mode", "told"), [("fail", "told to fail"), ("die", "exit status 3"), ("silent", "not ready after 1 s")]
)
def test_a_worker_that_cannot_start_ends_the_start(make_kernel: MakeKernel, mode: str, told: str) -> None:
    kernel = make_kernel(settings={"test.mode": mode, "host.start_limit_s": 1.0})

    assert told in kernel.refused()
    assert not (kernel.data / "run" / "kernel.json").exists()
    assert json.loads((kernel.data / "run" / "children.json").read_text()) == []


def test_a_signal_during_the_start_ends_it_cleanly(make_kernel: MakeKernel) -> None:
    kernel = make_kernel()
    begun = kernel.begin()
    kernel.wait_for((kernel.data / "postgres" / "data.new" / "base").exists, "initdb at work")

    assert kernel.stop() == 0
    assert begun.returncode == 0
    assert kernel.left() == []
    assert not (kernel.data / "postgres" / "data").exists()


# ------------------------------------------------------------------------------------------------- killed parents


def test_a_killed_kernel_is_started_over_what_it_left(make_kernel: MakeKernel) -> None:
    kernel = make_kernel(workers=2).start()
    port = int(kernel.run_file()["http"].rsplit(":")[1])
    query(kernel, "create table kept as select 7 as n")
    old = kernel.kill()
    assert len(old) >= 2, "its servers stay behind"
    kernel.options["http_port"] = port  # the port that stale workers may still hold
    kernel.family = set()
    kernel.start()

    assert query(kernel, "select n from kept") == 7
    assert [process for process in old if is_running(process)] == []
    assert kernel.stop() == 0


def test_workers_end_with_their_parent(make_kernel: MakeKernel) -> None:
    kernel = make_kernel(**NO_SERVERS, workers=2).start()
    kernel.kill()

    kernel.wait_for(lambda: not kernel.left(), "the workers' end")


def test_a_hanging_worker_ends_with_its_parent(make_kernel: MakeKernel) -> None:
    kernel = make_kernel(**NO_SERVERS).start()
    do(kernel, "hang")
    time.sleep(0.2)  # it hangs a tenth of a second after it has answered
    kernel.kill()

    kernel.wait_for(lambda: not kernel.left(), "the hanging worker's end", limit_s=10)


def test_a_kernel_killed_during_initdb_is_started_again(make_kernel: MakeKernel) -> None:
    kernel = make_kernel()
    kernel.begin()
    kernel.wait_for((kernel.data / "postgres" / "data.new" / "base").exists, "initdb at work")
    kernel.kill()
    kernel.start()

    assert query(kernel, "select 1") == 1
    assert not (kernel.data / "postgres" / "data.new").exists()


def test_a_kernel_is_killed_again_and_again(make_kernel: MakeKernel) -> None:
    kernel = make_kernel().start()
    query(kernel, "create table turns (n int)")
    for turn in range(4):
        query(kernel, f"insert into turns values ({turn})")
        kernel.kill()
        kernel.start()

    assert query(kernel, "select count(*) from turns") == 4


# ------------------------------------------------------------------------------------------------ killed children


@pytest.mark.parametrize("name", ["postgres", "valkey"])
def test_a_killed_server_is_started_again(make_kernel: MakeKernel, name: str) -> None:
    kernel = make_kernel().start()
    before = kernel.run_file()
    query(kernel, "create table kept as select 7 as n")
    os.kill(before["servers"][name], signal.SIGKILL)
    kernel.wait_for(lambda: kernel.run_file()["servers"][name] != before["servers"][name], "another one in kernel.json")

    assert query(kernel, "select n from kept") == 7
    assert kernel.run_file() == {**before, "servers": {**before["servers"], name: kernel.run_file()["servers"][name]}}
    kernel.wait_for(lambda: is_ready(kernel), "readiness")
    (server,) = [one for one in kernel.get("control", "/doctor")[1]["processes"]["servers"] if one["name"] == name]
    assert server["restarts"] == 1
    assert "pk_server_restarts_total 1" in kernel.get("management", "/metrics")[1]


def test_a_busy_session_does_not_outlive_a_killed_postgres(make_kernel: MakeKernel) -> None:
    kernel = make_kernel().start()
    dsn = kernel.get("control", "/settings")[1]["arguments"]["servers"]["postgres"]
    before = kernel.run_file()["servers"]["postgres"]

    async def keep_busy() -> Identity:
        connection = await asyncpg.connect(dsn, timeout=10)
        busy = identify(connection.get_server_pid())
        assert busy is not None
        loop = "do $$ begin loop perform 1; end loop; end $$"
        working = asyncio.ensure_future(connection.execute(loop))
        await asyncio.sleep(0.1)
        os.kill(before, signal.SIGKILL)
        with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
            await asyncio.wait_for(working, 20)
        connection.terminate()
        return busy

    busy = asyncio.run(keep_busy())
    kernel.wait_for(lambda: not is_running(busy), "its end")
    kernel.wait_for(lambda: kernel.run_file()["servers"]["postgres"] != before, "another one in kernel.json")
    assert query(kernel, "select 1") == 1


def test_readiness_tells_while_a_server_is_away(make_kernel: MakeKernel) -> None:
    kernel = make_kernel().start()
    data = kernel.data / "postgres" / "data"
    data.rename(data.with_name("hidden"))
    data.write_text("in the way")
    os.kill(kernel.run_file()["servers"]["postgres"], signal.SIGKILL)
    kernel.wait_for(lambda: not is_ready(kernel), "unreadiness")
    status, told = kernel.get("management", "/readyz")

    assert (status, told["code"]) == (503, "unavailable")
    assert {one["name"]: one["state"] for one in told["servers"]} == {"postgres": "restarting", "valkey": "ready"}
    assert kernel.get("management", "/livez")[0] == 200
    data.unlink()
    data.with_name("hidden").rename(data)
    kernel.wait_for(lambda: is_ready(kernel), "readiness")


def test_a_killed_worker_is_replaced_and_every_stamp_changes(make_kernel: MakeKernel) -> None:
    kernel = make_kernel(**NO_SERVERS, workers=2).start()
    before, stamps = kernel.run_file()["workers"], (kernel.data / "run" / "stamps").read_bytes()
    os.kill(before[0], signal.SIGKILL)
    kernel.wait_for(lambda: kernel.run_file()["workers"][0] not in (before[0], before[1]), "another one in kernel.json")
    after = kernel.run_file()["workers"]

    assert (len(after), after[1]) == (2, before[1])
    changed = (kernel.data / "run" / "stamps").read_bytes()
    assert [at for at in range(0, len(stamps), 8) if stamps[at : at + 8] == changed[at : at + 8]] == []
    assert kernel.get("control", "/doctor")[1]["processes"]["workers"][0]["restarts"] == 1


def test_no_request_is_lost_on_a_connection_that_waits_while_a_worker_is_replaced(make_kernel: MakeKernel) -> None:
    kernel = make_kernel(**NO_SERVERS).start()
    before = kernel.worker_pid()
    os.kill(before, signal.SIGKILL)

    assert kernel.worker_pid() != before


@pytest.mark.parametrize(("how", "plugin"), [("hang", "acme.crm"), ("mute", "")])
def test_a_hung_worker_is_replaced_and_the_culprit_named(make_kernel: MakeKernel, how: str, plugin: str) -> None:
    kernel = make_kernel(**NO_SERVERS, settings={"host.stall_limit_s": 1.0}).start()
    (before,) = kernel.run_file()["workers"]
    do(kernel, how)
    kernel.wait_for(lambda: kernel.run_file()["workers"] not in ([], [before]), "another one in kernel.json")
    lines = [json.loads(line) for line in kernel.stderr().splitlines() if '"a worker hung' in line]

    assert [line["hung_in"] for line in lines] == [plugin]
    answer = kernel.get("control", "/doctor")[1]
    assert answer["processes"]["workers"][0]["stalls"] == 1
    assert [stall["plugin"] for stall in answer["arguments"]["quarantined"]] == ([plugin] if plugin else [])
    assert "pk_worker_stalls_total 1" in kernel.get("management", "/metrics")[1]


def test_a_parent_that_was_stopped_for_a_while_kills_nobody(make_kernel: MakeKernel) -> None:
    kernel = make_kernel(**NO_SERVERS, settings={"host.stall_limit_s": 1.0}).start()
    before = kernel.run_file()["workers"]
    kernel.send(signal.SIGSTOP)
    time.sleep(1.5)  # longer than the limit
    kernel.send(signal.SIGCONT)
    kernel.wait_for(lambda: is_ready(kernel), "readiness")
    time.sleep(1.0)  # and it has looked since

    assert kernel.run_file()["workers"] == before


def test_a_plugin_that_ends_every_worker_does_not_keep_the_kernel_from_starting(make_kernel: MakeKernel) -> None:
    kernel = make_kernel(**NO_SERVERS, workers=2, settings={"test.mode": "poisoned"})
    left = frames_file(kernel.data, 1)
    left.parent.mkdir(parents=True)
    left.touch()
    kernel.start()
    (held,) = kernel.get("control", "/doctor")[1]["arguments"]["quarantined"]

    assert (held["plugin"], held["times"]) == ("acme.crm", 1)
    assert held["reason"] == "a worker ended with exit status 3 while it was brought up"
    assert not left.exists()
    assert is_ready(kernel)


def test_a_replacement_that_fails_is_tried_again(make_kernel: MakeKernel) -> None:
    kernel = make_kernel(**NO_SERVERS).start()
    (kernel.data / "mode").write_text("die")
    os.kill(kernel.worker_pid(), signal.SIGKILL)
    kernel.wait_for(lambda: kernel.stderr().count("cannot be replaced") >= 3, "failed tries")
    assert kernel.get("management", "/readyz")[0] == 503
    assert kernel.get("control", "/plugins")[1]["code"] == "unavailable"
    (kernel.data / "mode").unlink()

    kernel.wait_for(lambda: is_ready(kernel), "readiness")


# ---------------------------------------------------------------------------------------- reload, metrics, control


@pytest.mark.parametrize("way", ["control", "hangup"])
def test_a_reload_replaces_every_worker_and_loses_no_request(make_kernel: MakeKernel, way: str) -> None:
    kernel = make_kernel(**NO_SERVERS, workers=2).start()
    before = set(kernel.run_file()["workers"])
    with Requests(kernel) as requests:
        if way == "control":
            status, answer = kernel.get("control", "/reload", "POST")
            assert (status, answer["workers"]) == (200, kernel.run_file()["workers"])
        else:
            kernel.send(signal.SIGHUP)
            kernel.wait_for(lambda: not any(map(identify, before)), "the end of the old workers")
        seen = len(requests.answered_by)
        kernel.wait_for(lambda: len(requests.answered_by) > seen + 20, "more answers")

    assert requests.failures == []
    assert not before & set(requests.answered_by[seen + 5 :])
    assert not before & set(kernel.run_file()["workers"])


def test_a_reload_that_is_asked_for_during_another_replaces_its_new_workers_too(make_kernel: MakeKernel) -> None:
    kernel = make_kernel(**NO_SERVERS, workers=2).start()
    first = set(kernel.run_file()["workers"])
    kernel.send(signal.SIGHUP)
    kernel.wait_for(lambda: set(kernel.run_file()["workers"]) - first, "a new worker")
    second = set(kernel.run_file()["workers"])
    for _ in range(3):
        kernel.send(signal.SIGHUP)
    kernel.wait_for(lambda: not any(map(identify, first | second)), "the end of the workers of both reloads")
    kernel.wait_for(lambda: is_ready(kernel), "readiness")

    assert kernel.stderr().count("all workers were replaced") <= 2


def test_a_reload_that_fails_keeps_the_old_workers(make_kernel: MakeKernel) -> None:
    kernel = make_kernel(**NO_SERVERS).start()
    before = kernel.run_file()
    (kernel.data / "mode").write_text("fail")
    status, told = kernel.get("control", "/reload", "POST")

    assert (status, told["code"]) == (503, "reload_failed")
    assert "told to fail" in told["detail"]
    assert (kernel.run_file(), kernel.worker_pid()) == (before, before["workers"][0])


def test_counts_are_summed_and_do_not_fall_when_a_worker_goes(make_kernel: MakeKernel) -> None:
    kernel = make_kernel(**NO_SERVERS, workers=2).start()
    for _ in range(20):
        kernel.worker_pid()
    told = 'test_requests_total{door="rest"} 20'
    assert told in kernel.get("management", "/metrics")[1]
    kernel.get("control", "/reload", "POST")
    assert told in kernel.get("management", "/metrics")[1]
    before = kernel.run_file()["workers"]
    os.kill(before[1], signal.SIGKILL)
    kernel.wait_for(lambda: kernel.run_file()["workers"] not in (before, before[:1]), "another worker")

    assert told in kernel.get("management", "/metrics")[1]


def test_pages_that_are_not_there_are_problems(make_kernel: MakeKernel) -> None:
    kernel = make_kernel(**NO_SERVERS).start()

    assert [kernel.get("management", path)[1]["code"] for path in ("/", "/nowhere")] == ["not_found", "not_found"]
    assert kernel.get("management", "/livez", "POST")[1]["code"] == "method_not_allowed"
    assert kernel.get("control", "/reload")[1]["code"] == "method_not_allowed"
    assert kernel.get("management", "/startupz")[0] == 200


def test_a_question_of_the_command_line_reaches_a_worker_whole(make_kernel: MakeKernel) -> None:
    kernel = make_kernel(**NO_SERVERS).start()
    status, answer = kernel.get("control", "/migrations/up?plugin=money&plan=1", "POST", {"to": 3})

    assert status == 200
    assert answer["asked"] == {
        "method": "POST", "path": "/migrations/up", "query": {"plugin": "money", "plan": "1"}, "body": {"to": 3}
    }  # fmt: skip


# --------------------------------------------------------------------------------------------------- hard to stop


def test_a_stubborn_worker_is_killed_when_its_time_is_up(make_kernel: MakeKernel) -> None:
    kernel = make_kernel(settings={"host.stop_limit_s": 1.0}).start()
    do(kernel, "stubborn")
    begun = time.monotonic()

    assert kernel.stop() == 0
    assert 1.0 <= time.monotonic() - begun < STOP_LIMIT_S
    assert kernel.left() == []


def test_a_second_signal_waits_for_nobody(make_kernel: MakeKernel) -> None:
    kernel = make_kernel().start()
    do(kernel, "stubborn")
    kernel.send(signal.SIGINT)
    kernel.wait_for(lambda: not is_ready(kernel), "unreadiness")
    begun = time.monotonic()

    assert kernel.stop(signal.SIGINT) == 0
    assert time.monotonic() - begun < 5.0
    assert kernel.left() == []


def test_a_terminal_that_closes_ends_the_kernel(make_kernel: MakeKernel) -> None:
    person, screen = os.openpty()
    kernel = make_kernel(terminal=screen).start()
    kernel.send(signal.SIGHUP)  # while it is there, this is a reload
    before = kernel.run_file()["workers"]
    kernel.wait_for(lambda: kernel.run_file()["workers"] not in ([], before), "another worker")
    kernel.remember()
    os.close(screen)
    os.close(person)

    assert kernel.process is not None
    assert kernel.process.wait(STOP_LIMIT_S) == 0
    assert kernel.left() == []
