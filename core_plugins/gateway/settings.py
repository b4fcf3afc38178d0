"""Settings of the gateway."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from plugin_api.settings import setting


class Settings(Struct, frozen=True, forbid_unknown_fields=True):
    """Operator's settings, section `gateway`."""

    keep_answers_s: Annotated[
        int,
        Meta(ge=60, le=2_592_000),
        setting("Seconds that the answer of a call with an idempotency key is kept; by default a day."),
    ] = 86_400
