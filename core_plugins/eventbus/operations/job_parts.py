"""What everything about jobs shares."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from core_plugins.eventbus.operations.parts import Parts
from plugin_api.clock import Clock

JOBS: Final = "jobs"
"""Rings when jobs were put, or come back."""


def database_time() -> datetime | None:
    """Leave it to the database what time it is."""
    return None


@dataclass(frozen=True)
class JobParts:
    """What everything about jobs shares."""

    parts: Parts
    clock: Clock
    """For schedules, and for when to do things in this process."""
    at: Callable[[], datetime | None] = database_time
    """The moment for the database; tests turn it."""
    dice: Callable[[], float] = field(default=random.random)
    """From 0 to 1."""
