"""What a process shows of itself."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from host.kernel_metrics import KernelState, kernel_families
from host.process_metrics import RubbishClock, process_families
from host.totals import Family
from host.workers import Stalls


@pytest.fixture
def rubbish() -> Iterator[RubbishClock]:
    clock = RubbishClock()
    clock.start()
    yield clock
    gc.callbacks.remove(clock._on_collection)


def values(families: list[Family]) -> dict[str, float]:
    """By name, over all series."""
    return {family.name: sum(sample.value for sample in family.samples) for family in families}


def test_a_process_shows_what_it_uses(rubbish: RubbishClock) -> None:
    before = values(process_families("worker 0", rubbish))
    end = time.process_time() + 0.05
    while time.process_time() < end:
        pass
    held = [os.open(os.devnull, os.O_RDONLY) for _ in range(5)]

    families = process_families("worker 0", rubbish)
    for one in held:
        os.close(one)

    after = values(families)
    assert after["pk_process_cpu_seconds_total"] - before["pk_process_cpu_seconds_total"] >= 0.03
    assert 5 == after["pk_process_open_fds"] - before["pk_process_open_fds"]
    assert after["pk_process_open_fds"] < after["pk_process_max_fds"]
    assert 10_000_000 < after["pk_process_resident_bytes"] < 10_000_000_000
    assert {"worker 0"} == {sample.labels["process"] for family in families for sample in family.samples}


def test_collections_are_counted_and_timed(rubbish: RubbishClock) -> None:
    gc.collect()
    gc.collect(1)

    [family] = [one for one in process_families("parent", rubbish) if one.name == "pk_gc_collections_total"]
    counted = {sample.labels["generation"]: sample.value for sample in family.samples}

    assert counted["2"] >= 1 and counted["1"] >= 1
    assert rubbish.seconds > 0


def test_the_parent_shows_the_kernel(tmp_path: Path, rubbish: RubbishClock) -> None:
    stalls = {"acme.crm": Stalls(3, "f.py:1 f"), "": Stalls(1, "g.py:1 g")}
    state = KernelState(tmp_path, "embedded", time.monotonic() - 60, 1, 2, 4, 5, 6, stalls)

    families = kernel_families(state, rubbish)

    found = values(families)
    assert (1, 2, 4, 5, 6) == tuple(
        found[f"pk_{name}"]
        for name in (
            "workers_ready",
            "workers",
            "worker_restarts_total",
            "worker_stalls_total",
            "server_restarts_total",
        )
    )
    assert 4 == found["pk_plugin_stalls_total"]
    assert 60 <= found["pk_uptime_seconds"] < 120
    assert abs(time.time() - 60 - found["pk_start_time_seconds"]) < 60
    assert 0 < found["pk_disk_free_bytes"] <= found["pk_disk_bytes"]
    [build] = [family.samples[0] for family in families if family.name == "pk_build_info"]
    assert {"version", "python", "profile"} == set(build.labels) and build.value == 1
