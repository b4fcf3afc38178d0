"""What plugin authors test with does what it says: a clock that only they move, signals, waiting."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from plugin_api.clock import Clock, SystemClock
from plugin_api.testing import FakeClock, Signal, until
from plugin_api.testing.processes import end, processes_within


def test_both_clocks_are_clocks(fake_clock: FakeClock) -> None:
    for clock in (fake_clock, SystemClock()):
        told: Clock = clock
        assert told.now().utcoffset() == timedelta(0)
        assert told.monotonic() <= told.monotonic()


def test_the_clock_stands_still_until_it_is_moved(fake_clock: FakeClock) -> None:
    now, monotonic = fake_clock.now(), fake_clock.monotonic()
    assert (fake_clock.now(), fake_clock.monotonic()) == (now, monotonic)
    fake_clock.advance(90.5)

    assert fake_clock.now() - now == timedelta(seconds=90.5)
    assert fake_clock.monotonic() - monotonic == 90.5
    with pytest.raises(ValueError, match="not by -1"):
        fake_clock.advance(-1)


async def test_sleepers_wake_in_order_when_their_time_has_come(fake_clock: FakeClock) -> None:
    woken: Signal[int] = Signal("woken")

    async def sleep(seconds: int) -> None:
        await fake_clock.sleep(seconds)
        woken.emit(seconds)

    async with asyncio.TaskGroup() as tasks:
        for seconds in (30, 10, 20):
            tasks.create_task(sleep(seconds))
        await fake_clock.let_pass(9)
        woken.require_empty()
        assert fake_clock.sleepers == 3
        fake_clock.advance(11)
        assert await woken.wait_for(2) == [10, 20]
        fake_clock.advance(10)
    assert await woken.wait() == 30


async def test_who_sleeps_again_wakes_as_often_as_in_real_life(fake_clock: FakeClock) -> None:
    woken = list[float]()

    async def every_minute() -> None:
        while True:
            await fake_clock.sleep(60)
            woken.append(fake_clock.monotonic())

    begin = fake_clock.monotonic()
    task = asyncio.create_task(every_minute())
    await fake_clock.let_pass(3_600)
    task.cancel()

    assert [at - begin for at in woken] == [60.0 * n for n in range(1, 61)]


async def test_a_sleeper_that_was_cancelled_is_no_trouble(fake_clock: FakeClock) -> None:
    task = asyncio.create_task(fake_clock.sleep(10))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)

    assert fake_clock.sleepers == 0
    fake_clock.advance(20)
    await asyncio.wait_for(fake_clock.sleep(0), 1)


async def test_a_signal_is_waited_for_before_and_after_the_fact() -> None:
    signal: Signal[str] = Signal()
    signal.emit("before")
    assert await signal.wait() == "before"
    asyncio.get_running_loop().call_later(0.01, signal.emit, "after")

    assert await signal.wait() == "after"
    signal.require_empty()


async def test_values_go_to_one_waiter_each() -> None:
    signal: Signal[int] = Signal()
    waiters = [asyncio.create_task(signal.wait()) for _ in range(3)]
    await asyncio.sleep(0)
    for value in (1, 2, 3):
        signal.emit(value)

    assert sorted(await asyncio.gather(*waiters)) == [1, 2, 3]


async def test_a_signal_that_does_not_come_fails_by_name() -> None:
    signal: Signal[int] = Signal("job finished")
    with pytest.raises(AssertionError, match=r"job finished: nothing was emitted within 0\.01 s"):
        await signal.wait(0.01)
    signal.emit(1)
    with pytest.raises(AssertionError, match="1 values were emitted and not waited for"):
        signal.require_empty()


def test_a_signal_that_nobody_takes_is_bounded() -> None:
    signal: Signal[int] = Signal()
    for value in range(1_000):
        signal.emit(value)
    with pytest.raises(AssertionError, match="none was waited for"):
        signal.emit(1_000)


async def test_until_gives_what_came_true() -> None:
    found = iter([None, 0, "yes"])

    async def look() -> object:
        return next(found)

    assert await until(look, "it is there") == "yes"
    assert await until(lambda: 7, "it is there") == 7
    with pytest.raises(AssertionError, match=r"not within 0\.03 s: it is there"):
        await until(lambda: False, "it is there", 0.03)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere no processes are seen")
async def test_a_process_that_changes_its_command_line_stays_the_same(tmp_path: Path) -> None:
    with subprocess.Popen(["sh", "-c", "read line; exec sleep 60"], stdin=subprocess.PIPE, cwd=tmp_path) as shell:
        [before] = processes_within(tmp_path)
        assert shell.stdin is not None
        shell.stdin.write(b"\n")
        shell.stdin.flush()
        [after] = await until(
            lambda: [p for p in processes_within(tmp_path) if p.command == "sleep 60"], "the shell has become a sleep"
        )

        assert after == before, "titles come and go; servers show in them what they do"
        assert end(before)
        await until(lambda: not processes_within(tmp_path), "it is gone")
    assert not end(before)
