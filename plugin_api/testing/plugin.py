"""The pytest plugin, found by its entry point: fixtures for the tests of plugins."""

from __future__ import annotations

import pytest

from plugin_api.testing.clock import FakeClock


@pytest.fixture
def fake_clock() -> FakeClock:
    """A clock that the test moves."""
    return FakeClock()
