"""Settings of the database."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from plugin_api.settings import Secret, setting


class Settings(Struct, frozen=True, forbid_unknown_fields=True):
    """Operator's settings, section `data`."""

    dsn: Annotated[
        Secret[str] | None,
        setting(
            "Address of PostgreSQL with an administrator's log-in (server profile): postgresql://user:password@host/name"
        ),
    ] = None
    pool_size: Annotated[int, Meta(ge=1, le=500), setting("Connections that one worker opens at most.")] = 16
    connect_timeout_s: Annotated[float, Meta(gt=0, le=60), setting("Seconds that making one connection may take.")] = (
        5.0
    )
    start_timeout_s: Annotated[
        float, Meta(gt=0, le=300), setting("Seconds that a worker waits for the database when it starts.")
    ] = 20.0
    statements_max: Annotated[
        int, Meta(ge=10, le=10_000), setting("Prepared statements that one connection keeps at most.")
    ] = 500
    migration_lock_timeout_ms: Annotated[
        int,
        Meta(ge=1, le=60_000),
        setting("Milliseconds that a migration waits for a lock, so that others do not queue."),
    ] = 3_000
    migration_statement_timeout_s: Annotated[
        int, Meta(ge=1, le=86_400), setting("Seconds that one statement of a migration may run.")
    ] = 60
