"""Settings of identity and access."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from plugin_api.settings import Secret, setting


class Settings(Struct, frozen=True, forbid_unknown_fields=True):
    """Operator's settings, section `iam`."""

    signup: Annotated[
        Literal["open", "invite", "closed"] | None,
        setting(
            "Who may make a tenant: anybody, whoever has an operator's invitation, or nobody. By default `open` in the "
            "embedded profile and `closed` in the server profile."
        ),
    ] = None
    demo: Annotated[bool, setting("Whether the first start makes the tenant `demo`.")] = True
    operator_password: Annotated[
        Secret[str] | None,
        setting(
            "Password of operator@platform.localhost, used when the first start makes that account; later starts keep "
            "what is stored. Without it one is generated and printed once.",
            environment=["PK_OPERATOR_PASSWORD"],
        ),
    ] = None
    demo_password: Annotated[
        Secret[str] | None,
        setting("Password of owner@demo.localhost, likewise.", environment=["PK_DEMO_PASSWORD"]),
    ] = None
    issuer: Annotated[
        str, Meta(min_length=1, max_length=200), setting("`iss` of access tokens; changing it ends all of them.")
    ] = "platform-kernel"
    audience: Annotated[
        str, Meta(min_length=1, max_length=200), setting("`aud` of access tokens; changing it ends all of them.")
    ] = "platform-kernel"
    session_days: Annotated[
        int, Meta(ge=1, le=3650), setting("Days after which a session ends, however often it is refreshed.")
    ] = 90
    refresh_token_days: Annotated[
        int, Meta(ge=1, le=365), setting("Days within which a refresh token must be used.")
    ] = 30
    browser_session_days: Annotated[int, Meta(ge=1, le=400), setting("Days after which a browser's session ends.")] = 30
    sessions_per_user_max: Annotated[
        int, Meta(ge=1, le=10_000), setting("Living sessions of one person; a further log-in ends the oldest.")
    ] = 1_000
    cookie_secure: Annotated[
        bool | None,
        setting(
            "Whether cookies are for HTTPS alone. By default yes in the server profile, and in the embedded one no, so "
            "that every browser takes them from http://localhost."
        ),
    ] = None
    key_rotation_days: Annotated[
        int, Meta(ge=1, le=3650), setting("Days after which another key signs access tokens.")
    ] = 30
    key_lead_s: Annotated[
        int, Meta(ge=0, le=604_800), setting("Seconds for which a new key is published before it signs.")
    ] = 3_600
    hash_memory_kib: Annotated[
        int, Meta(ge=7_168, le=1_048_576), setting("Memory of one password hash in KiB (argon2id).")
    ] = 19_456
    hash_passes: Annotated[int, Meta(ge=1, le=20), setting("Passes of one password hash (argon2id).")] = 2
    hash_threads: Annotated[int, Meta(ge=1, le=64), setting("Passwords that one worker hashes at once.")] = 2
    hash_queue_max: Annotated[
        int,
        Meta(ge=0, le=10_000),
        setting("Passwords that may wait for a thread of one worker; a further one is refused."),
    ] = 64
