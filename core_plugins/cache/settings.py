"""Settings of the cache."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from plugin_api.settings import Secret, setting


class Settings(Struct, frozen=True, forbid_unknown_fields=True):
    """Operator's settings, section `cache`."""

    url: Annotated[
        Secret[str] | None,
        setting(
            "Address of Valkey (server profile): redis://user:password@host:6379/0, rediss://... for TLS, or unix://..."
        ),
    ] = None
    call_timeout_ms: Annotated[
        int, Meta(ge=10, le=250), setting("Milliseconds that one call may take, waiting for a connection included.")
    ] = 250
    pool_size: Annotated[int, Meta(ge=1, le=500), setting("Connections that one worker opens at most.")] = 32
    start_timeout_s: Annotated[
        float, Meta(gt=0, le=25), setting("Seconds that a worker waits for the first answer when it starts.")
    ] = 10.0
