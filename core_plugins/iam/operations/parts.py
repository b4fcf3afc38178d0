"""What the operations of this plugin are given to work with: made once in `plugin.py`, the same for every group of them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from core_plugins.iam.events import access_changed
from core_plugins.iam.model.passwords import PasswordHasher
from core_plugins.iam.settings import Settings
from plugin_api.call import Call
from plugin_api.clock import Clock
from plugin_api.ports.cache import Cache
from plugin_api.ports.secrets import Secrets
from plugin_api.ports.stamps import Stamps
from plugin_api.registrar import Calls, Logger

if TYPE_CHECKING:
    from core_plugins.iam.operations.announce import Announcer
    from core_plugins.iam.operations.authorize import Access
    from core_plugins.iam.operations.keys import SigningKeys
    from core_plugins.iam.operations.providers import Providers
    from core_plugins.iam.operations.throttle import LogInThrottle


@dataclass(frozen=True)
class Parts:
    """Handles of the plugin and the objects that all operations share."""

    settings: Settings
    profile: str
    """`embedded` or `server`."""
    clock: Clock
    stamps: Stamps
    cache: Cache
    secrets: Secrets
    calls: Calls
    log: Logger
    hasher: PasswordHasher
    access: Access
    keys: SigningKeys
    throttle: LogInThrottle
    providers: Providers
    announcer: Announcer


class OperationGroup:
    """Base of the groups that `IamOperations` is composed of; none of them has a constructor of its own."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def _changed(self, call: Call, *keys: str) -> None:
        """What callers may do has changed: in this kernel it is felt with the answer, in others when they hear of it."""
        if not keys:
            return
        tx = await call.tx()
        tx.emit(access_changed(call.tenant_id, keys))
        for key in keys:
            call.after_commit(partial(self._parts.stamps.touch, key))
