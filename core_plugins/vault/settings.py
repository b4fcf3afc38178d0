"""Settings of the vault."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from plugin_api.settings import setting


class Settings(Struct, frozen=True, forbid_unknown_fields=True):
    """Operator's settings, section `vault`."""

    kek_file: Annotated[
        str | None, setting("File of the key-encryption keys, 0600; by default `secrets/kek` in the data folder.")
    ] = None
    kek_rotation_days: Annotated[
        int, Meta(ge=1, le=3_650), setting("Days after which health reminds of rotating the key-encryption key.")
    ] = 90
    data_keys_cached_max: Annotated[
        int, Meta(ge=1, le=1_000_000), setting("Tenants whose data keys one worker keeps in memory at most.")
    ] = 10_000
    data_key_cache_s: Annotated[
        int, Meta(ge=1, le=3_600), setting("Seconds that a worker keeps a data key in memory at most.")
    ] = 300
