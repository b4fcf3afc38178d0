"""Settings of the gateway."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from plugin_api.settings import setting


BreakerMode = Literal["normal", "forced_open", "observe_only", "disabled"]
"""`forced_open` refuses everything, `observe_only` counts and refuses nothing, `disabled` does not count."""


class Settings(Struct, frozen=True, forbid_unknown_fields=True):
    """Operator's settings, section `gateway`."""

    keep_answers_s: Annotated[
        int,
        Meta(ge=60, le=2_592_000),
        setting("Seconds that the answer of a call with an idempotency key is kept; by default a day."),
    ] = 86_400
    service_breaker: Annotated[
        Literal["normal", "observe_only", "disabled"],
        setting("What breakers of services do where operators have not set anything else."),
    ] = "normal"
    tenant_breaker: Annotated[
        Literal["normal", "observe_only", "disabled"], setting("What breakers of tenants do.")
    ] = "normal"
    tenant_breaker_scope: Annotated[
        Literal["tenant", "tenant_service"],
        setting("Whether a tenant has one breaker, or one for each plugin that it calls."),
    ] = "tenant"
