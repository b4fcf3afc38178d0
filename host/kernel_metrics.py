"""What the parent shows of the whole kernel, beside what its workers count."""

from __future__ import annotations

import platform
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from host.process_metrics import RubbishClock, process_families
from host.totals import Family, Sample, single
from host.version import kernel_version
from host.workers import Stalls


@dataclass(frozen=True)
class KernelState:
    """How the kernel is now."""

    data_folder: Path
    profile: str
    begun: float
    """Monotonic seconds at its start."""
    workers_ready: int
    workers_wanted: int
    worker_restarts: int
    worker_stalls: int
    server_restarts: int
    stalls: Mapping[str, Stalls]
    """By plugin; empty for a stall in nobody's code."""


def kernel_families(state: KernelState, rubbish: RubbishClock) -> list[Family]:
    """The metrics of the kernel and of the parent itself."""
    uptime = time.monotonic() - state.begun
    return [
        _build_info(state.profile),
        single("pk_workers", "gauge", "Workers that are wanted.", state.workers_wanted),
        single("pk_workers_ready", "gauge", "Workers that serve.", state.workers_ready),
        single("pk_uptime_seconds", "gauge", "Seconds since the kernel was started.", uptime),
        single("pk_start_time_seconds", "gauge", "When the kernel was started, as Unix time.", time.time() - uptime),
        single("pk_worker_restarts_total", "counter", "Workers replaced after a death.", state.worker_restarts),
        single("pk_worker_stalls_total", "counter", "Workers that hung and were killed.", state.worker_stalls),
        single("pk_server_restarts_total", "counter", "Child servers restarted.", state.server_restarts),
        _plugin_stalls(state.stalls),
        *_disk(state.data_folder),
        *process_families("parent", rubbish),
    ]


def _build_info(profile: str) -> Family:
    labels = {"version": kernel_version(), "python": platform.python_version(), "profile": profile}
    return Family(
        "pk_build_info", "gauge", "Always 1; what runs is in the labels.", [Sample("pk_build_info", labels, 1)]
    )


def _plugin_stalls(stalls: Mapping[str, Stalls]) -> Family:
    name = "pk_plugin_stalls_total"
    samples = [Sample(name, {"plugin": plugin}, one.count) for plugin, one in stalls.items()]
    return Family(name, "counter", "Times that a plugin held up a worker's event loop.", samples)


def _disk(folder: Path) -> list[Family]:
    try:
        usage = shutil.disk_usage(folder)
    except OSError:
        return []
    return [
        single("pk_disk_free_bytes", "gauge", "Free space where the data folder is.", usage.free),
        single("pk_disk_bytes", "gauge", "Space where the data folder is.", usage.total),
    ]
