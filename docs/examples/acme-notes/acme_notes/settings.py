"""Settings of the notes."""

from __future__ import annotations

from msgspec import Meta, Struct

from plugin_api import Annotated
from plugin_api.settings import setting


class Settings(Struct, frozen=True, forbid_unknown_fields=True):
    """Operator's settings, section `acme.notes`."""

    notes_max: Annotated[int, Meta(ge=1, le=1_000_000), setting("Notes that one tenant may have.")] = 1_000
