"""What was recognised of a caller, and a bounded memory of it that never outlives a change.

An entry is recalled only while every stamp that was read BEFORE its parts were loaded is still the current one. Whoever
changes one of those parts touches its key (`tenant_key`, `user_key`, `session_key`, `api_key_key`) after the commit and
before the answer: `call.after_commit(partial(stamps.touch, session_key(session_id)))`.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Final
from uuid import UUID

from msgspec import Struct

from plugin_api.call import Identity
from plugin_api.ports.stamps import Stamps

RECHECK_S: Final = 5.0
"""Stamps reach this machine alone, so whatever is recalled is looked up again after this."""
ENTRIES_MAX: Final = 10_000
"""Entries of one generation of the memory; it holds two."""
SIGNING_KEYS_KEY: Final = "iam:signing-keys"


def tenant_key(tenant_id: UUID) -> str:
    """The stamp key of what all people of a tenant share: its status, its roles and their grants."""
    return f"iam:{tenant_id}"


def user_key(tenant_id: UUID, user_id: UUID) -> str:
    """The stamp key of one person: status, roles, all sessions at once."""
    return f"iam:{tenant_id}:{user_id}"


def session_key(session_id: UUID) -> str:
    """The stamp key of one session."""
    return f"iam:session:{session_id}"


def api_key_key(key_id: UUID) -> str:
    """The stamp key of one API key."""
    return f"iam:api-key:{key_id}"


class StampWatch:
    """Collects the stamps that one look-up depends on; `on(key)` is called before `key`'s part is loaded."""

    __slots__ = ("_stamps", "seen")

    def __init__(self, stamps: Stamps) -> None:
        self._stamps = stamps
        self.seen: list[tuple[int, int]] = []
        """(slot, stamp), as they were."""

    def on(self, *keys: str) -> None:
        """Note the current stamps of `keys`."""
        for key in keys:
            slot = self._stamps.slot(key)
            self.seen.append((slot, self._stamps.read(slot)))

    def still_holds(self) -> bool:
        """Whether nothing that was noted has changed since."""
        read = self._stamps.read
        return all(read(slot) == stamp for slot, stamp in self.seen)


class Recognised(Struct, frozen=True):
    """Who was recognised by one credential, and until when the credential itself holds."""

    identity: Identity
    expires_at: datetime | None = None
    """None: it does not expire by itself."""
    csrf_token: bytes | None = None
    """What an unsafe call must show beside a cookie; None for credentials that no browser sends by itself."""


class LookUp(Struct, frozen=True):
    """One look-up that is under way: what the time, the stamps and the permissions were when it began."""

    watch: StampWatch
    now: datetime
    began: float
    epoch: int


class _Entry:
    """One recognised credential in memory."""

    __slots__ = ("epoch", "recognised", "seen", "until")

    def __init__(self, recognised: Recognised, until: float, epoch: int, seen: tuple[tuple[int, int], ...]) -> None:
        self.recognised = recognised
        self.until = until
        self.epoch = epoch
        self.seen = seen


class Recollection:
    """Remembers recognised credentials by their own text, in two generations of at most `entries_max` each.

    When the young generation is full it becomes the old one and the old one is forgotten: bounded, without bookkeeping
    on a hit. Used from the event loop's thread only.
    """

    def __init__(
        self,
        stamps: Stamps,
        monotonic: Callable[[], float],
        epoch: Callable[[], int],
        *,
        entries_max: int = ENTRIES_MAX,
        recheck_s: float = RECHECK_S,
    ) -> None:
        """`epoch` tells a number that grows when permission masks made before are no longer complete."""
        self._stamps = stamps
        self._read = stamps.read
        self._monotonic = monotonic
        self._epoch = epoch
        self._entries_max = entries_max
        self._recheck_s = recheck_s
        self._young: dict[str, _Entry] = {}
        self._old: dict[str, _Entry] = {}

    def recall(self, credential: str) -> Recognised | None:
        """What is known of a credential, or None when it must be looked up (again)."""
        entry = self._young.get(credential)
        if entry is None:
            entry = self._old.get(credential)
            if entry is None:
                return None
            self._keep(credential, entry)
        if self._monotonic() >= entry.until or entry.epoch != self._epoch():
            return None
        read = self._read
        for slot, stamp in entry.seen:
            if read(slot) != stamp:
                return None
        return entry.recognised

    def start(self, now: datetime) -> LookUp:
        """Begin a look-up; call it before anything is loaded."""
        return LookUp(StampWatch(self._stamps), now, self._monotonic(), self._epoch())

    def remember(self, credential: str, recognised: Recognised, look_up: LookUp) -> None:
        """Keep what a look-up found."""
        left_s = self._recheck_s
        if recognised.expires_at is not None:
            left_s = min(left_s, (recognised.expires_at - look_up.now).total_seconds())
        if left_s > 0:
            seen = tuple(dict.fromkeys(look_up.watch.seen))
            self._keep(credential, _Entry(recognised, look_up.began + left_s, look_up.epoch, seen))

    def forget(self, credential: str) -> None:
        """Drop one credential."""
        self._young.pop(credential, None)
        self._old.pop(credential, None)

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    def _keep(self, credential: str, entry: _Entry) -> None:
        if len(self._young) >= self._entries_max and credential not in self._young:
            self._old, self._young = self._young, {}
        self._young[credential] = entry
