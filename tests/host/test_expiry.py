"""One timer ends the calls of one task, each when its own time is up."""

from __future__ import annotations

import asyncio
import time

import pytest

from host.expiry import Expiry, running_task
from plugin_api.errors import DeadlinePassed, KernelBug


def expiry() -> Expiry:
    return Expiry(running_task(), asyncio.get_running_loop())


async def call(expiry: Expiry, seconds: float, wait_s: float) -> float:
    """One call that waits so long; how long it was let."""
    begun = time.monotonic()
    expiry.start(seconds)
    try:
        await asyncio.sleep(wait_s)
    except asyncio.CancelledError as error:
        raise expiry.translate(error) from None
    finally:
        expiry.stop()
    return time.monotonic() - begun


async def test_a_call_that_takes_too_long_is_ended_and_told_so() -> None:
    with pytest.raises(DeadlinePassed, match=r"not done within 0\.05 s"):
        await call(expiry(), 0.05, 30)
    assert running_task().cancelling() == 0


async def test_a_call_begins_with_all_of_its_time_whatever_was_left_of_the_one_before() -> None:
    ends = expiry()
    await call(ends, 0.3, 0)
    assert await call(ends, 30, 0.5) >= 0.5  # the timer of the first looks in the middle of this one
    begun = time.monotonic()
    with pytest.raises(DeadlinePassed):
        await call(ends, 0.2, 30)
    assert time.monotonic() - begun >= 0.2


async def test_a_shorter_call_does_not_wait_for_the_timer_of_a_longer_one() -> None:
    ends = expiry()
    await call(ends, 30, 0)
    with pytest.raises(DeadlinePassed, match=r"0\.05 s"):
        await call(ends, 0.05, 5)


async def test_nothing_is_ended_between_calls() -> None:
    ends = expiry()
    await call(ends, 0.3, 0)
    await asyncio.sleep(0.4)
    assert running_task().cancelling() == 0
    with pytest.raises(DeadlinePassed):
        await call(ends, 0.05, 30)


async def test_a_cancellation_by_somebody_else_stays_one() -> None:
    async def run() -> None:
        await call(expiry(), 30, 30)

    task = asyncio.create_task(run())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_cancellation_by_both_is_that_of_the_other() -> None:
    async def run() -> None:
        ends = expiry()
        ends.start(0.05)
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError as error:
            running_task().cancel()
            raise ends.translate(error) from None

    with pytest.raises(asyncio.CancelledError):
        await asyncio.create_task(run())


async def test_a_swallowed_cancellation_does_not_hit_the_next_call() -> None:
    ends = expiry()
    ends.start(0.02)
    with pytest.raises(asyncio.CancelledError):
        await asyncio.sleep(30)
    ends.stop()
    assert running_task().cancelling() == 0
    await call(ends, 30, 0.01)


async def test_a_closed_one_leaves_no_timer() -> None:
    ends = expiry()
    ends.start(0.02)
    ends.close()
    await asyncio.sleep(0.1)
    assert running_task().cancelling() == 0


def test_outside_a_task_there_is_nothing_to_end() -> None:
    async def in_callback() -> BaseException | None:
        loop, seen = asyncio.get_running_loop(), asyncio.get_running_loop().create_future()

        def look() -> None:
            try:
                running_task()
            except KernelBug as error:
                seen.set_result(error)

        loop.call_soon(look)
        return await seen

    assert isinstance(asyncio.run(in_callback()), KernelBug)
