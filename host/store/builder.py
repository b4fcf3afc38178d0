"""A build backend's own hook (PEP 517) in a process of its own: what `pip wheel --no-build-isolation` ends with, after a
second of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from host.settings import environment

LIFELINE: Final = """
import os, runpy, sys, threading

lifeline = os.dup(0)
os.dup2(os.open(os.devnull, os.O_RDONLY), 0)

def end_with_parent():
    os.read(lifeline, 1)
    os.killpg(0, 9)

threading.Thread(target=end_with_parent, daemon=True).start()
"""
"""A process that ends with everything that it started when we do, a kill included: nobody would stop it then."""
_WAIT: Final = """
import importlib, json, os, sys

try:
    import setuptools.build_meta
    from setuptools.command import bdist_wheel, build, build_py, egg_info, install, install_lib, install_scripts
except Exception:
    pass  # it is wanted when the backend is known
asked = b""
while not asked.endswith(b"\\n"):
    part = os.read(0, 65536)
    if not part:
        os._exit(0)
    asked += part
(source, into, backend), output, environment = json.loads(asked)
stream = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
os.dup2(stream, 1)
os.dup2(stream, 2)
os.environ.clear()
os.environ.update(environment)
"""
_BUILD: Final = """
os.chdir(source)
sys.argv[:] = ["setup.py"]
module, _, path = backend.partition(":")
hooks = importlib.import_module(module)
for name in filter(None, path.split(".")):
    hooks = getattr(hooks, name)
hooks.build_wheel(into)
"""


class Builder:
    """Builds one wheel. Its process begins at once, and loads setuptools while it waits for what to build."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [
                sys.executable,
                "-B",
                "-P",
                "-c",
                _WAIT + LIFELINE + _BUILD,
            ],  # nothing is compiled into the kernel's environment
            env=environment(),
            stdin=subprocess.PIPE,  # its end tells that we have ended
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def build(
        self, words: tuple[str, str, str], output: Path, environment: Mapping[str, str], limit_s: float
    ) -> int | None:
        """Build from and into a folder, with a backend; its exit status, or None when it had to be killed.

        What it prints goes to the file `output`.
        """
        stdin = self._process.stdin
        assert stdin is not None, "it is a pipe"
        with suppress(BrokenPipeError):  # its exit status tells
            stdin.write(msgspec.json.encode((words, str(output), dict(environment))) + b"\n")
            stdin.flush()
        return wait(self._process, limit_s)

    def close(self) -> None:
        """End it, whether it has built something or not."""
        end_group(self._process)


def wait(process: subprocess.Popen[bytes], limit_s: float) -> int | None:
    """Its exit status, or None when it had to be killed. Whatever it started ends too; it leads a session of its own."""
    try:
        return process.wait(limit_s)
    except subprocess.TimeoutExpired:
        return None
    finally:
        end_group(process)


def end_group(process: subprocess.Popen[bytes]) -> None:
    """Kill it with everything that it started; it leads a session of its own."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if process.stdin is not None:
        process.stdin.close()
