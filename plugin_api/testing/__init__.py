"""For the tests of plugins: a clock that tests turn, signals instead of sleeps, a real kernel as a pytest fixture."""

from __future__ import annotations

from plugin_api.testing.client import Answer as Answer
from plugin_api.testing.client import Client as Client
from plugin_api.testing.client import Unreachable as Unreachable
from plugin_api.testing.clock import FakeClock as FakeClock
from plugin_api.testing.kernel import KernelProcess as KernelProcess
from plugin_api.testing.people import Person as Person
from plugin_api.testing.people import Tenant as Tenant
from plugin_api.testing.people import unique as unique
from plugin_api.testing.signals import Signal as Signal
from plugin_api.testing.waiting import until as until

__all__ = [
    "Answer",
    "Client",
    "FakeClock",
    "KernelProcess",
    "Person",
    "Signal",
    "Tenant",
    "Unreachable",
    "unique",
    "until",
]
