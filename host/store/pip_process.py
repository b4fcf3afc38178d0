"""Running pip in a process of its own: bounded in time, ended with us, and its complaints turned into ours."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Final

from msgspec import Struct

from host.settings import environment
from host.store.builder import LIFELINE, Builder, wait
from host.store.room import disk_full
from host.store.wheels import python_mismatch
from plugin_api.errors import Conflict, InvalidRequest, KernelError, Unavailable

CONNECT_S: Final = 10
RETRIES: Final = 2
TOLD_CHARACTERS_MAX: Final = 2_000
_OUTPUT_BYTES_MAX: Final = 262_144

_PIP: Final = LIFELINE + 'runpy.run_module("pip", run_name="__main__", alter_sys=True)'

_ELSEWHERE: Final = frozenset({
    "PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PIP_USER", "PIP_DRY_RUN", "PIP_REPORT", "PIP_QUIET", "PIP_PROGRESS_BAR",
    "PIP_VERBOSE", "PIP_NO_DEPS", "PIP_REQUIREMENT", "PIP_WHEEL_DIR", "PIP_DEST", "PIP_PYTHON", "PIP_LOG", "PIP_IGNORE_INSTALLED",
    "PIP_FORCE_REINSTALL",
})  # fmt: skip
"""Settings of the operator that say where to install or what to print; those that say where from are honoured."""


class Sources(Struct, frozen=True):
    """Where requirements come from, beside what the operator's `PIP_*` environment and configuration say."""

    index_url: str | None = None
    find_links: tuple[str, ...] = ()
    offline: bool = False
    """Only `find_links`: no index, nothing of the operator's configuration."""


@dataclass(frozen=True)
class Pip:
    """How pip is run for one preparation. `place` is a private folder for its working files."""

    place: Path
    sources: Sources
    ends_at: float
    """When all of its runs have to be over, by `monotonic`."""
    builder: Builder | None = None
    """One that has been started already; for one build."""

    def run(self, command: str, *arguments: str, about: str) -> None:
        """Run one command of pip to its end; `about` is what it is for, in messages.

        Raises:
            KernelError: what `explain` makes of a failure; `index_unavailable` when it takes too long.
            OSError: it could not be started or the disk is full.
        """
        isolated = ["--isolated"] if self.sources.offline else []
        status = self._ended([_PIP, *isolated, command, *self._options(), *arguments])
        if status is None:
            raise Unavailable(f"{about}: pip did not end in time and was stopped", code="index_unavailable")
        if status != 0:
            raise explain(_tail(self._output), about, self.place)

    def build(self, source: Path, into: Path, backend: str, about: str) -> None:
        """Let a build backend that is installed here build a wheel; `source` is changed by it.

        Raises:
            InvalidRequest: `build_failed`.
            OSError: it could not be started or the disk is full.
        """
        words = (str(source), str(into), backend)
        status = (self.builder or Builder()).build(words, self._output, self._environment(), self._left_s)
        if status is None:
            raise build_failed(about, "it did not end in time and was stopped")
        if status != 0:
            told = _tail(self._output)
            raise disk_full(self.place, None) if _NO_ROOM.search(told) else build_failed(about, told)

    @property
    def _output(self) -> Path:
        return self.place / "pip.out"

    def _ended(self, words: Sequence[str]) -> int | None:
        with self._output.open("wb") as stream:
            return wait(self._start(words, stream.fileno()), self._left_s)

    def _start(self, words: Sequence[str], output: int) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-P", "-c", *words],
            cwd=self.place,
            env=self._environment(),
            stdin=subprocess.PIPE,  # its end tells that we have ended
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    @property
    def _left_s(self) -> float:
        return max(0.0, self.ends_at - monotonic())

    def _options(self) -> list[str]:
        options = ["--progress-bar", "off", "--no-input", "--disable-pip-version-check", "--no-color"]
        # not --quiet: it leaves out what a conflict is caused by
        options += ["--retries", str(RETRIES), "--timeout", str(CONNECT_S)]
        if self.sources.offline:
            options.append("--no-index")
        return options + [part for link in self.sources.find_links for part in ("--find-links", link)]

    def _environment(self) -> Mapping[str, str]:
        """The operator's, so that his index and his proxy are used, without what would write elsewhere."""
        given = {name: value for name, value in environment().items() if name not in _ELSEWHERE}
        if self.sources.index_url is not None:
            given["PIP_INDEX_URL"] = self.sources.index_url  # not an argument: it may hold a password
        if self.sources.offline:
            given = {name: value for name, value in given.items() if not name.startswith("PIP_")}
            given["PIP_CONFIG_FILE"] = os.devnull
        return given | {
            "PYTHONDONTWRITEBYTECODE": "1",  # not even pip's own, into the kernel's environment
            "PYTHONUNBUFFERED": "1",
            "SOURCE_DATE_EPOCH": "315532800",  # the first moment that a zip file can tell: equal builds are equal
            "TMPDIR": str(self.place),
            "LC_ALL": "C.UTF-8",
        }


def _tail(output: Path) -> str:
    with output.open("rb") as stream:
        stream.seek(max(0, output.stat().st_size - _OUTPUT_BYTES_MAX))
        return without_secrets(stream.read().decode("utf-8", "replace"))


def without_secrets(text: str) -> str:
    """A text without user names and passwords in addresses."""
    return re.sub(r"(://)[^/\s@]*@", r"\1****@", text)


# ------------------------------------------------------------------------------------- what it complained of

_NO_ROOM: Final = re.compile(r"No space left on device|Disk quota exceeded|\[Errno 27\]")
_CONFLICT: Final = re.compile(r"ResolutionImpossible|conflicting dependencies")
_PYTHON: Final = re.compile(r"requires a different Python|require a different python version|Requires-Python")
_NETWORK: Final = re.compile(
    r"Retrying \(|[Cc]onnection (error|refused|reset|broken)|Could not fetch URL|NewConnectionError|name resolution"
    r"|timed out|Timeout|ProxyError|SSLError|Network is unreachable|\b(401|403|407|429|5\d\d) (Client|Server) Error"
    r"|HTTP error"
)
_BROKEN: Final = re.compile(r"Failed to establish a new connection: (?P<why>\[Errno -?\d+\] [^'\")]+)")
_UNKNOWN: Final = re.compile(r"No matching distribution found|Could not find a version")
_HASHES: Final = re.compile(r"DO NOT MATCH THE HASHES|HashMismatch|Hashes are required")
_BUILD: Final = re.compile(
    r"subprocess-exited-with-error|[Ff]ailed to build|Failed building wheel|metadata-generation-failed"
    r"|BackendUnavailable|Backend subprocess|does not appear to be a Python project|inconsistent (name|version)"
)


def explain(output: str, about: str, place: Path) -> KernelError:
    """What pip's output means for whoever asked; its useful lines are in the detail."""
    told = _useful(output)
    if _NO_ROOM.search(output):
        return disk_full(place, None)
    if _CONFLICT.search(output):
        return library_conflict(f"{about}: {_cause(output)}")
    if _PYTHON.search(output) and not _BUILD.search(output):
        return python_mismatch(f"{about}: {told}")
    if _UNKNOWN.search(output) and not _NETWORK.search(output):
        said = f"{about}: {told}; check the name and version, and which index the kernel uses"
        return InvalidRequest(said, code="requirement_not_found")
    if _HASHES.search(output):
        said = f"{about}: what the index sent is not what it had announced: {told}; try again, or tell its owner"
        return InvalidRequest(said, code="package_damaged")
    if _BUILD.search(output):
        return build_failed(about, output)
    causes = {found["why"]: None for found in _BROKEN.finditer(output)}
    said = f"{about}: the index cannot be used: {'; '.join([*causes, told])}"
    remedy = "see that it answers and that host.plugin_index names it, or give the wheel itself"
    return Unavailable(f"{said}; {remedy}", code="index_unavailable", retry_after_s=30)


def build_failed(about: str, output: str) -> InvalidRequest:
    """The refusal of a source that does not build; the end of the output says why."""
    return InvalidRequest(f"{about} does not build; the end of the output:\n{_end(output)}", code="build_failed")


def library_conflict(what: str) -> Conflict:
    """The refusal of what does not go together with the kernel's own libraries; `what` names both sides."""
    return Conflict(
        f"{what}. The kernel keeps its versions: widen the plugin's range, or run that plugin on a kernel of its own "
        "whose environment has a version that fits",
        code="library_conflict",
    )


def _useful(output: str) -> str:
    errors = [line.removeprefix("ERROR: ") for line in output.splitlines() if line.startswith("ERROR: ")]
    return "; ".join(errors)[:TOLD_CHARACTERS_MAX] or _end(output) or "pip said nothing"


def _end(output: str) -> str:
    lines = [line for line in output.splitlines() if line.strip() and not line.startswith("[notice]")]
    return "\n".join(lines[-30:])[-TOLD_CHARACTERS_MAX:]


def _cause(output: str) -> str:
    _, found, rest = output.partition("The conflict is caused by:\n")
    if not found:
        return _useful(output)
    lines = rest.split("\n\n")[0].splitlines()
    return "; ".join(line.strip() for line in lines if line.strip())[:TOLD_CHARACTERS_MAX]
