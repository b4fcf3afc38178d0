"""Settings of the event log."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from plugin_api.settings import setting


class Settings(Struct, frozen=True, forbid_unknown_fields=True):
    """Operator's settings, section `eventbus`."""

    keep_days: Annotated[
        int, Meta(ge=1, le=365), setting("Days that events of all topics but audit are kept, and can be told again.")
    ] = 7
    keep_audit_days: Annotated[int, Meta(ge=1, le=3650), setting("Days that events of the audit topic are kept.")] = 30
    poll_s: Annotated[
        float,
        Meta(ge=0.05, le=10),
        setting("Seconds after which the log is looked at though nobody said that there is something new."),
    ] = 0.5
    lease_s: Annotated[
        float,
        Meta(ge=1, le=300),
        setting("Seconds after which the work of a process that has vanished is taken over."),
    ] = 10.0
    measure_s: Annotated[
        float, Meta(ge=0.05, le=300), setting("Seconds after which the leading process measures its metrics anew.")
    ] = 5.0
    handler_s: Annotated[
        float, Meta(ge=0.1, le=300), setting("Seconds that a plugin may take to handle one event.")
    ] = 30.0
    keep_jobs_hours: Annotated[
        int, Meta(ge=1, le=8_760), setting("Hours that jobs which were done or cancelled can still be asked for.")
    ] = 24
    keep_dead_jobs_days: Annotated[
        int, Meta(ge=1, le=3650), setting("Days that dead jobs are kept, and can be replayed.")
    ] = 30
