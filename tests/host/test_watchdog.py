"""Whoever holds up the event loop is named, by a thread that looks on and by the system past Python."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import CodeType
from typing import Any

import pytest

from host.last_frames import ASKED_BY, frames_file, read_frames
from host.store.packages import package_folder, stored_place
from host.watchdog import LOOK_EVERY_S, Stall, Watchdog
from plugin_api.testing import until

LIMIT_S = 0.05
LOOK_S = LOOK_EVERY_S + LIMIT_S
SPIN = "end = now() + seconds\nwhile now() < end:\n    inner and inner()\n"


def code_of(plugin_id: str) -> Callable[..., None]:
    """A function in the code of a plugin that runs for `seconds`, or calls `inner` meanwhile."""
    code: CodeType = compile(SPIN, f"/plugins/{plugin_id}/spin.py", "exec")

    def run(seconds: float, inner: Callable[[], None] | None = None) -> None:
        exec(code, {"now": time.monotonic, "seconds": seconds, "inner": inner})

    return run


def owner_of(file: str) -> str:
    """The plugin of a file of `code_of`."""
    return file.split("/")[2] if file.startswith("/plugins/") else ""


class Looking:
    """A watchdog over this thread; what it reported."""

    def __init__(self) -> None:
        self.reported: list[Stall] = []
        self.dog = Watchdog(LIMIT_S, owner_of, self.reported.append)

    def __enter__(self) -> Looking:
        self.dog.beat()
        self.dog.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.dog.stop()

    def culprits(self) -> list[str]:
        """Whom it named."""
        return [stall.plugin_id for stall in self.reported]


def test_a_plugin_is_named_once_with_its_place() -> None:
    with Looking() as looking:
        code_of("acme.spin")(5 * LOOK_S)

    (stall,) = looking.reported
    assert stall.plugin_id == "acme.spin"
    assert stall.frame.startswith("/plugins/acme.spin/spin.py:")
    assert stall.seconds > LIMIT_S


def test_who_holds_it_up_for_longer_is_named_and_not_who_was_first() -> None:
    with Looking() as looking:
        code_of("acme.first")(2 * LOOK_S)
        code_of("acme.second")(8 * LOOK_S)

    assert looking.culprits() == ["acme.first", "acme.second"]


def test_who_is_seen_for_a_moment_after_a_long_stall_is_not_blamed() -> None:
    with Looking() as looking:
        code_of("acme.long")(8 * LOOK_S)
        code_of("acme.short")(2 * LOOK_S)

    assert looking.culprits() == ["acme.long"]


def test_what_the_kernel_does_for_a_plugin_is_that_plugins_doing() -> None:
    def for_a_plugin() -> None:
        code_of("kernel.data")(5 * LOOK_S)

    with Looking() as looking:
        code_of("acme.caller")(0.001, for_a_plugin)
    with Looking() as alone:
        for_a_plugin()

    assert (looking.culprits(), alone.culprits()) == (["acme.caller"], ["kernel.data"])


def test_two_stalls_are_told_apart() -> None:
    with Looking() as looking:
        for _ in range(2):
            code_of("acme.spin")(3 * LOOK_S)
            looking.dog.beat()
            code_of("acme.beats")(0.001)

    assert looking.culprits() == ["acme.spin", "acme.spin"]


# ------------------------------------------------------------------------------------------------- past Python

PROGRAM = """
import sys
from pathlib import Path
from host.last_frames import keep_frames
keep_frames(Path(sys.argv[1]))
print("ready", flush=True)
exec(compile(sys.argv[3], sys.argv[2], "exec"))
"""
SEARCH = "import re\nre.match('(a+)+$', 'a' * 60 + 'b')\n"
CRASH = "import ctypes\nctypes.string_at(0)\n"


def start(file: Path, source: str, place: str) -> subprocess.Popen[str]:
    """A process that keeps its frames and runs this as the code of a place."""
    words = [sys.executable, "-c", PROGRAM, str(file), place, source]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize("source", [SEARCH, CRASH])
async def test_c_code_that_keeps_the_lock_or_crashes_is_found(tmp_path: Path, source: str) -> None:
    file, store = frames_file(tmp_path, 7), tmp_path / "plugins"
    file.parent.mkdir()
    name = package_folder("1.0.0", "ab" * 32)
    process = start(file, source, f"{store}/acme.search/{name}/acme_search/find.py")
    try:
        if source == SEARCH:

            def is_written() -> bool:
                process.send_signal(ASKED_BY)  # it may not be in there yet
                return any("find.py" in frame for frame in read_frames(file))

            await until(is_written, "the frames are written")
        else:
            process.wait(20)
    finally:
        process.kill()
        process.communicate()

    places = [stored_place(store, frame) for frame in read_frames(file)]
    assert ("acme.search", name) in places


def test_what_lies_elsewhere_is_of_no_plugin(tmp_path: Path) -> None:
    store = tmp_path / "plugins"

    assert stored_place(store, f"{store}/acme.x/1.0-abc/x/y.py:3 f") == ("acme.x", "1.0-abc")
    for place in (f"{store}/.drafts/1/x.py", f"{store}-old/acme.x/1.0/y.py", f"{tmp_path}/x.py", ""):
        assert stored_place(store, place) == ("", "")


def test_frames_that_nobody_wrote_are_none(tmp_path: Path) -> None:
    (tmp_path / "damaged").write_bytes(os.urandom(200))

    assert read_frames(tmp_path / "never") == read_frames(tmp_path / "damaged") == []
