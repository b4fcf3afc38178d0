"""What the plugin tells."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final
from uuid import UUID

from msgspec import Struct

from plugin_api import Event

ACCESS_CHANGED: Final = "iam.access.changed.v1"
"""The full type, as listeners name it."""


class AccessChanged(Struct, frozen=True):
    """Data of `access.changed.v1`: what somebody may do has changed, or who they are."""

    keys: list[str]
    """Keys of stamps: whatever was remembered under them is stale."""


EVENTS: Final[dict[str, type[Struct]]] = {"access.changed.v1": AccessChanged}
"""What the plugin declares."""


def access_changed(tenant_id: UUID, keys: Collection[str]) -> Event:
    """What is remembered under these keys is stale."""
    return Event("access.changed.v1", str(tenant_id), AccessChanged(list(keys)))


def stale_keys(data: Any) -> list[str]:
    """The keys of an event's data; none of one that is not ours."""
    keys = data.get("keys") if isinstance(data, dict) else None
    return [key for key in keys if isinstance(key, str)] if isinstance(keys, list) else []
