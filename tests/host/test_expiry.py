"""One timer ends the calls of one task, each when its own time is up."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from host.expiry import Expiry, running_task
from plugin_api.errors import DeadlinePassed, KernelBug
from plugin_api.testing import FakeClock


@dataclass(eq=False)
class HandTimer:
    """A timer that fires when the time comes that a test lets pass."""

    at: float
    callback: Callable[[], None]
    timers: list[HandTimer]

    def cancel(self) -> None:
        self.timers.remove(self)


@dataclass
class Hours:
    """The time of one task's calls, moved by hand; its timers fire `early_s` too early, as an event loop's may."""

    clock: FakeClock
    early_s: float = 0.0
    timers: list[HandTimer] = field(default_factory=list)
    armed: int = 0
    """How many timers there have been."""

    def call_later(self, seconds: float, callback: Callable[[], None]) -> HandTimer:
        timer = HandTimer(self.clock.monotonic() + max(seconds - self.early_s, 0.0), callback, self.timers)
        self.timers.append(timer)
        self.armed += 1
        return timer

    def let_pass(self, seconds: float) -> None:
        """Move the clock, and fire on the way what is due."""
        end = self.clock.monotonic() + seconds
        while due := [timer for timer in self.timers if timer.at <= end]:
            timer = min(due, key=lambda one: one.at)
            self.timers.remove(timer)
            # At least a little: a timer that is armed for what is left must not be armed for ever at the same moment.
            self.clock.advance(max(timer.at - self.clock.monotonic(), 0.0001))
            timer.callback()
        self.clock.advance(max(end - self.clock.monotonic(), 0.0))

    def expiry(self) -> Expiry:
        return Expiry(running_task(), self.call_later, self.clock.monotonic)

    async def during(self, seconds: float) -> None:
        """Wait while so much time passes."""
        over = asyncio.Event()

        def passes() -> None:
            self.let_pass(seconds)
            over.set()

        asyncio.get_running_loop().call_soon(passes)
        await over.wait()

    async def call(self, expiry: Expiry, seconds: float, takes_s: float) -> None:
        """One call that may take `seconds` and would take `takes_s`."""
        expiry.start(seconds)
        try:
            await self.during(takes_s)
        except asyncio.CancelledError as error:
            raise expiry.translate(error) from None
        finally:
            expiry.stop()


@pytest.fixture
def hours(fake_clock: FakeClock) -> Hours:
    return Hours(fake_clock)


async def test_a_call_that_takes_too_long_is_ended_and_told_so(hours: Hours) -> None:
    with pytest.raises(DeadlinePassed, match=r"not done within 0\.05 s"):
        await hours.call(hours.expiry(), 0.05, 30)
    assert running_task().cancelling() == 0


async def test_a_call_in_time_is_left_alone(hours: Hours) -> None:
    expiry = hours.expiry()
    assert expiry.start(5) == hours.clock.monotonic() + 5
    expiry.stop()
    await hours.call(expiry, 5, 4.9)


async def test_a_call_begins_with_all_of_its_time_whatever_was_left_of_the_one_before(hours: Hours) -> None:
    expiry = hours.expiry()
    await hours.call(expiry, 5, 4)
    await hours.call(expiry, 5, 4)  # the timer of the first looks in the middle of this one
    with pytest.raises(DeadlinePassed):
        await hours.call(expiry, 5, 5)


async def test_calls_one_after_the_other_arm_one_timer(hours: Hours) -> None:
    expiry = hours.expiry()
    for _ in range(100):
        await hours.call(expiry, 5, 0.01)
    assert hours.armed == 1


async def test_a_shorter_call_does_not_wait_for_the_timer_of_a_longer_one(hours: Hours) -> None:
    expiry = hours.expiry()
    await hours.call(expiry, 30, 0)
    with pytest.raises(DeadlinePassed, match=r"0\.05 s"):
        await hours.call(expiry, 0.05, 1)
    assert not hours.timers, "the longer one's timer is gone"


async def test_a_timer_that_fires_early_ends_nothing_early(hours: Hours) -> None:
    hours.early_s = 0.001
    expiry = hours.expiry()
    await hours.call(expiry, 5, 4.9995)
    with pytest.raises(DeadlinePassed):
        await hours.call(expiry, 5, 5.001)


async def test_nothing_is_ended_between_calls(hours: Hours) -> None:
    expiry = hours.expiry()
    await hours.call(expiry, 5, 0)
    await hours.during(60)
    assert not hours.timers, "an idle connection keeps no timer"
    with pytest.raises(DeadlinePassed):
        await hours.call(expiry, 5, 30)


async def test_a_cancellation_by_somebody_else_stays_one(hours: Hours) -> None:
    begun = asyncio.Event()

    async def run() -> None:
        expiry = hours.expiry()
        expiry.start(5)
        try:
            begun.set()
            await asyncio.Event().wait()
        except asyncio.CancelledError as error:
            raise expiry.translate(error) from None

    task = asyncio.create_task(run())
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_cancellation_by_both_is_that_of_the_other(hours: Hours) -> None:
    async def run() -> None:
        expiry = hours.expiry()
        expiry.start(5)
        try:
            await hours.during(5)
        except asyncio.CancelledError as error:
            running_task().cancel()
            raise expiry.translate(error) from None

    with pytest.raises(asyncio.CancelledError):
        await asyncio.create_task(run())


async def test_a_swallowed_cancellation_does_not_hit_the_next_call(hours: Hours) -> None:
    expiry = hours.expiry()
    expiry.start(5)
    with pytest.raises(asyncio.CancelledError):
        await hours.during(30)
    expiry.stop()
    assert running_task().cancelling() == 0
    await hours.call(expiry, 5, 1)


async def test_a_closed_one_leaves_no_timer(hours: Hours) -> None:
    expiry = hours.expiry()
    expiry.start(5)
    expiry.close()
    assert not hours.timers


async def test_outside_a_task_there_is_nothing_to_end() -> None:
    seen: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    def look() -> None:
        with pytest.raises(KernelBug):
            running_task()
        seen.set_result(True)

    asyncio.get_running_loop().call_soon(look)
    assert await seen
