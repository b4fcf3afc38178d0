"""Kills, full disks, neighbours at the same time: nothing is half there, and the kernel's environment stays as it is."""

from __future__ import annotations

import fcntl
import hashlib
import os
import select
import shutil
import subprocess
import sys
import venv
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest

from host.store import Package, Store
from plugin_api.errors import Conflict, Unavailable

if TYPE_CHECKING:
    from tests.host.store.conftest import Shelf, Workshop

ROOT = Path(__file__).parents[3]

PREPARE = """
import sys
import msgspec
from pathlib import Path
from host.store import Sources, Store
from plugin_api.errors import KernelError

def store():
    return Store(Path(sys.argv[1]), Sources(find_links=(sys.argv[2],), offline=True))

def prepare():
    try:
        return msgspec.json.encode(store().prepare(sys.argv[3], lambda step: None)).decode()
    except KernelError as error:
        return f"{error.code}: {error.detail}"
"""

ONCE = PREPARE + "print(prepare())\n"

OPERATED = PREPARE.replace("Sources(find_links=(sys.argv[2],), offline=True)", "Sources()") + "print(prepare())\n"

LIMITED = (
    PREPARE
    + """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[4]),) * 2)
print(prepare())
"""
)

# Every change of the file system is one event; the n-th of them is the last thing that a process of its own does.
KILLED = (
    PREPARE
    + """
import hashlib, os, signal
CHANGES = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree"}

def is_change(event, arguments):
    return event in CHANGES or (event == "open" and isinstance(arguments[2], int) and arguments[2] & os.O_CREAT)

def run(last):
    count = 0
    def watch(event, arguments):
        nonlocal count
        if is_change(event, arguments):
            count += 1
            if count == last:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(watch)
    prepare()
    os._exit(0)

def ended_by_signal(last):
    child = os.fork()
    if child == 0:
        run(last)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])

last = 0
while True:
    last += int(sys.argv[4])
    if not ended_by_signal(last):
        break
    for folder in Path(sys.argv[1]).glob("[a-z]*/*-*"):
        listed = (folder / ".files.json").read_bytes()
        store().verify(folder.parent.name, folder.name.rpartition("-")[0], hashlib.sha256(listed).hexdigest())
    store().sweep([])
    left = [path for path in Path(sys.argv[1]).rglob("*") if path.name not in (".lock", ".drafts", ".wheels", ".packages")]
    assert not left, (last, left)
print(last)
print(prepare())
"""
)


def run(
    program: str, shelf: Shelf, what: Path, *more: str, python: str = sys.executable, **environment: str
) -> subprocess.Popen[str]:
    """Start a program that uses the store in a process of its own."""
    arguments = [str(shelf.folder), shelf.sources.find_links[0], str(what), *more]
    return subprocess.Popen(
        [python, "-B", "-c", program, *arguments],
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def printed(process: subprocess.Popen[str]) -> str:
    """What it printed; it has to end well."""
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err[-3000:]
    return out.strip()


def test_a_kill_at_any_change_of_the_disk_leaves_only_what_a_sweep_removes(shelf: Shelf, workshop: Workshop) -> None:
    what = workshop.plugin(files={"acme_hello/deep/er/x.py": ""})

    changes, package = printed(run(KILLED, shelf, what, "1")).splitlines()

    assert int(changes) > 25
    shelf.store.verify(*msgspec.json.decode(package, type=Package).key)


def test_a_kill_while_pip_runs_ends_all_that_it_started(shelf: Shelf, workshop: Workshop, tmp_path: Path) -> None:
    """Nobody would stop it afterwards."""
    home = workshop.folder()
    told = tmp_path / "told"
    os.mkfifo(told)
    (home / "setup.py").write_text(
        f"import os, time\nopen({str(told)!r}, 'w').write(f'{{os.getppid()}} {{os.getpid()}}')\ntime.sleep(1000)\n"
    )
    process = run(ONCE, shelf, home)
    handles = [os.pidfd_open(int(pid)) for pid in told.read_text().split()]

    process.kill()
    process.communicate()

    for handle in handles:
        assert [handle] == select.select([handle], [], [], 60.0)[0]
        os.close(handle)
    assert [f".drafts/{path.name}" for path in (shelf.folder / ".drafts").iterdir()] == shelf.store.sweep([])
    assert [] == shelf.left()


@pytest.mark.parametrize("limit", [2_000, 40_000, 70_000])
def test_a_full_disk_leaves_nothing(shelf: Shelf, workshop: Workshop, limit: int) -> None:
    """The system refuses to write past the limit: in the copy of the wheel, while unpacking, in the wheel that is kept."""
    noise = b"".join(hashlib.sha256(str(number).encode()).digest() for number in range(1_500))
    what = workshop.plugin(files={"acme_hello/zeros.bin": bytes(90_000), "acme_hello/noise.bin": noise})

    told = printed(run(LIMITED, shelf, what, str(limit)))

    assert told.startswith("disk_full: ")
    assert "bytes are free and" in told and "are needed" in told
    assert [] == shelf.left()


def test_a_full_disk_while_pip_runs(shelf: Shelf, workshop: Workshop) -> None:
    workshop.wheel("acme-lib", files={"acme_lib.bin": os.urandom(60_000)})

    told = printed(run(LIMITED, shelf, workshop.plugin(requires=["acme-lib"]), "50000"))

    assert told.startswith("disk_full: ")
    assert [] == shelf.left()


def test_more_than_the_disk_holds_is_refused_before(tmp_path: Path) -> None:
    from host.store.room import check_room

    with pytest.raises(Unavailable) as caught:
        check_room(tmp_path, 2**60)

    assert "disk_full" == caught.value.code and str(shutil.disk_usage(tmp_path).free)[:3] in caught.value.detail
    check_room(tmp_path, 0)


def test_two_at_once_make_one_package(shelf: Shelf, workshop: Workshop) -> None:
    workshop.wheel("acme-lib")
    what = workshop.plugin(requires=["acme-lib"])
    other = workshop.plugin("acme.other", requires=["acme-lib"])

    processes = [run(ONCE, shelf, one) for one in (what, what, other)]
    first, second, third = (msgspec.json.decode(printed(one), type=Package) for one in processes)

    assert first == second
    assert "acme.other" == third.plugin_id
    for package in (first, third):
        shelf.store.verify(*package.key)
    assert [] == shelf.store.sweep([first.key, third.key])


def test_a_sweep_leaves_the_draft_of_a_neighbour(shelf: Shelf, workshop: Workshop) -> None:
    """It is called from inside the neighbour's work."""
    swept: list[list[str]] = []
    neighbour = Store(shelf.folder)

    package = shelf.store.prepare(str(workshop.plugin()), lambda step: swept.append(neighbour.sweep([])))

    assert len(swept) >= 2 and not any(swept)
    shelf.store.verify(*package.key)


def test_a_store_that_stays_held(shelf: Shelf, workshop: Workshop) -> None:
    shelf.folder.mkdir()
    impatient = Store(shelf.folder, lock_wait_s=0.1)
    with (shelf.folder / ".lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)

        for use in (lambda: impatient.prepare(str(workshop.plugin()), print), lambda: impatient.sweep([])):
            with pytest.raises(Conflict) as caught:
                use()
            assert "busy" == caught.value.code


def contents(folder: Path) -> dict[str, str]:
    """Every file below a folder with the hash of its contents."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_the_environment_stays_byte_for_byte(shelf: Shelf, workshop: Workshop, tmp_path: Path) -> None:
    """An environment of its own, where a part of pip was not compiled yet: even a cached compilation would show."""
    home = tmp_path / "environment"
    venv.create(home, with_pip=False, symlinks=True)
    (site,) = home.glob("lib/python*/site-packages")
    real = Path(msgspec.__file__).parents[1]
    shutil.copytree(real / "setuptools", site / "setuptools", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(real / "pip", site / "pip")
    shutil.rmtree(site / "pip" / "_internal" / "commands" / "__pycache__", ignore_errors=True)
    (site / "kernel.pth").write_text(f"{real}\n{ROOT}\n")
    before = contents(home)
    workshop.wheel("acme-lib")
    python = str(home / "bin" / "python")

    built = printed(run(ONCE, shelf, workshop.folder("acme.built"), python=python))
    resolved = printed(run(ONCE, shelf, workshop.plugin(requires=["acme-lib"]), python=python))

    assert "acme.built" == msgspec.json.decode(built, type=Package).plugin_id
    assert 2 == len(msgspec.json.decode(resolved, type=Package).wheels)
    assert before == contents(home)


@pytest.mark.parametrize(("program", "is_honoured"), [(OPERATED, True), (ONCE, False)])
def test_the_operators_index_is_used_unless_offline(
    shelf: Shelf, workshop: Workshop, tmp_path: Path, program: str, is_honoured: bool
) -> None:
    """And what would install elsewhere is not."""
    workshop.wheel("acme-lib", place=tmp_path / "operator")
    what = workshop.plugin(requires=["acme-lib"])
    given = {"PIP_FIND_LINKS": str(tmp_path / "operator"), "PIP_NO_INDEX": "1", "PIP_TARGET": str(tmp_path / "target")}

    told = printed(run(program, shelf, what, **given))

    assert told.startswith("{") if is_honoured else told.startswith("requirement_not_found")
    assert not (tmp_path / "target").exists()
