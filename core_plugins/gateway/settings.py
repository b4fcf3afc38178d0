"""Settings of the gateway."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct, field

from plugin_api.limits import BODY_BYTES_MAX, REQUESTS_IN_FLIGHT_MAX
from plugin_api.settings import setting

PerSecond = Annotated[int, Meta(ge=1, le=1_000_000)]
Burst = Annotated[int, Meta(ge=1, le=10_000_000)]

BreakerMode = Literal["normal", "forced_open", "observe_only", "disabled"]
"""`forced_open` refuses everything, `observe_only` counts and refuses nothing, `disabled` does not count."""


class Settings(Struct, frozen=True, forbid_unknown_fields=True):
    """Operator's settings, section `gateway`."""

    keep_answers_s: Annotated[
        int,
        Meta(ge=60, le=2_592_000),
        setting("Seconds that the answer of a call with an idempotency key is kept; by default a day."),
    ] = 86_400
    body_bytes_max: Annotated[
        int,
        Meta(ge=1_024, le=67_108_864),
        setting("Bytes of a request's body at most; a streamed route states its own."),
    ] = BODY_BYTES_MAX
    tenant_rate: Annotated[PerSecond, setting("Calls a second that a tenant may make, over all workers.")] = 2_000
    tenant_burst: Annotated[Burst, setting("Calls that a tenant may make at once.")] = 4_000
    actor_rate: Annotated[PerSecond, setting("Calls a second that a user or an API key may make.")] = 1_000
    actor_burst: Annotated[Burst, setting("Calls that a user or an API key may make at once.")] = 2_000
    address_rate: Annotated[
        PerSecond,
        setting(
            "Calls a second that may come from one address (IPv6: one /64) to one worker, before anything is read."
        ),
    ] = 2_000
    address_burst: Annotated[Burst, setting("Calls that may come from one address at once.")] = 4_000
    route_rates: Annotated[
        dict[str, PerSecond],
        setting("Calls a second that a tenant may make of one operation, by its id, like `money.create_hold`."),
    ] = {}
    denied_without_cache: Annotated[
        list[str],
        setting("Areas whose writes are refused while limits cannot be kept by all workers together."),
    ] = field(default_factory=lambda: ["iam", "money"])
    calls_max: Annotated[
        int,
        Meta(ge=8, le=REQUESTS_IN_FLIGHT_MAX),
        setting("Calls under way in one worker; from 70 % on it refuses what only reads, from 85 % on writes too."),
    ] = REQUESTS_IN_FLIGHT_MAX
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
