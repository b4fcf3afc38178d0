"""What every process of the kernel shows of itself: processor, memory, open files, collections of rubbish, its loop's lag."""

from __future__ import annotations

import gc
import os
import resource
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from host.totals import Family, Sample

_PROC: Final = Path("/proc/self")
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")


class RubbishClock:
    """Counts how often and how long Python collects rubbish in this process; nothing else runs meanwhile."""

    def __init__(self) -> None:
        self.collections = {0: 0, 1: 0, 2: 0}
        self.seconds = 0.0
        self._begun = 0.0

    def start(self) -> None:
        """Count from now on."""
        gc.callbacks.append(self._on_collection)

    def _on_collection(self, phase: str, found: Mapping[str, int]) -> None:
        if phase == "start":
            self._begun = time.perf_counter()
        else:
            self.collections[found["generation"]] += 1
            self.seconds += time.perf_counter() - self._begun


def process_families(process: str, rubbish: RubbishClock) -> list[Family]:
    """The metrics of the process that calls; `process` says which: `parent`, `worker 0`."""
    label = {"process": process}
    times = os.times()
    found = [
        _family("pk_process_cpu_seconds_total", "counter", "CPU time used.", label, times.user + times.system),
        _family("pk_process_resident_bytes", "gauge", "Memory in use.", label, _resident_bytes()),
        _family("pk_process_threads", "gauge", "Threads of Python.", label, threading.active_count()),
        _family("pk_process_open_fds", "gauge", "Open files and sockets.", label, _open_fds()),
        _family("pk_process_max_fds", "gauge", "Open files and sockets that it may have.", label, _max_fds()),
        _family("pk_gc_seconds_total", "counter", "Time in which Python collected rubbish.", label, rubbish.seconds),
    ]
    collections = [
        Sample("pk_gc_collections_total", {**label, "generation": str(generation)}, count)
        for generation, count in rubbish.collections.items()
    ]
    found.append(Family("pk_gc_collections_total", "counter", "Collections of rubbish, by generation.", collections))
    return found


def _family(name: str, kind: str, text: str, labels: dict[str, str], value: float) -> Family:
    return Family(name, kind, text, [Sample(name, labels, value)])


def _resident_bytes() -> int:
    try:
        return int((_PROC / "statm").read_text().split()[1]) * _PAGE_BYTES
    except (OSError, ValueError, IndexError):  # no Linux: the most that it ever was
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _open_fds() -> int:
    try:
        return len(os.listdir(_PROC / "fd")) - 1  # that of the folder itself
    except OSError:
        return 0


def _max_fds() -> int:
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]
