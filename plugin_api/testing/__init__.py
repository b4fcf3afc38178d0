"""For the tests of plugins: a clock that tests turn, signals instead of sleeps, a real kernel as a pytest fixture."""

from __future__ import annotations

from plugin_api.testing.clock import FakeClock as FakeClock
from plugin_api.testing.signals import Signal as Signal
from plugin_api.testing.waiting import until as until

__all__ = ["FakeClock", "Signal", "until"]
