"""Settings of the records."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from plugin_api.settings import setting


class Settings(Struct, frozen=True, forbid_unknown_fields=True):
    """Operator's settings, section `audit`."""

    keep_days: Annotated[int, Meta(ge=1, le=36_525), setting("Days that records are kept; by default seven years.")] = (
        2_557
    )
