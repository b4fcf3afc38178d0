"""Plugins that stopped a worker are kept out for a while, over restarts too; then they are tried again, and watched."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from host.changes.orders import Blame, Quarantine
from host.datafolder import write_whole
from host.observe import PluginLog

FIRST_S: Final = 300.0
LONGEST_S: Final = 86_400.0
TRIAL_S: Final = 3_600.0
DOUBLINGS_MAX: Final = 16
"""More make no difference: LONGEST_S is reached long before."""

_log = PluginLog("host")


class Quarantines:
    """Those of one data folder, in a file that only the parent writes.

    A plugin is kept out for `first_s`; one that does it again before it has served for `trial_s` after that, for twice
    as long as the last time, a day at most (or `first_s`, where that is longer).
    """

    def __init__(
        self,
        file: Path,
        now: Callable[[], float] = time.time,
        first_s: float = FIRST_S,
        trial_s: float = TRIAL_S,
    ) -> None:
        self._file = file
        self._now = now
        self._first_s = first_s
        self._trial_s = trial_s
        self._known = {(one.plugin, one.package): one for one in _read(file)}

    def add(self, blame: Blame) -> Quarantine:
        """Keep a version of a plugin out. Durable when this returns, unless the disk refuses, which is logged.

        One that is kept out already stays so for as long as it was told: several workers may have met it at once.
        """
        key = blame.plugin, blame.package
        before = self._known.get(key)
        if before is not None and self._now() < before.until:
            return before
        times = before.times + 1 if before is not None and self._now() < before.forgiven else 1
        most_s = max(LONGEST_S, self._first_s)
        lasts_s = min(self._first_s * 2 ** min(times - 1, DOUBLINGS_MAX), most_s)
        until = self._now() + lasts_s
        made = Quarantine(blame.plugin, blame.reason, until, times, blame.package, until + self._trial_s)
        self._known[key] = made
        self._write()
        _log.error("a plugin is quarantined", plugin=blame.plugin, for_s=int(lasts_s), why=blame.reason)
        return made

    def lift(self, plugin_id: str) -> None:
        """Let every version of a plugin serve again and forget what it did; unknown ones are no error."""
        kept = {key: one for key, one in self._known.items() if one.plugin != plugin_id}
        if kept != self._known:
            self._known = kept
            self._write()

    def known(self) -> list[Quarantine]:
        """Those that are to be kept out now, and those on trial after it."""
        return [one for _, one in sorted(self._known.items()) if one.forgiven > self._now()]

    def active(self, plugin_id: str) -> Quarantine | None:
        """Why a plugin is kept out now, in one of its versions."""
        return next((one for one in self.known() if one.plugin == plugin_id and one.until > self._now()), None)

    def next_change_s(self) -> float | None:
        """Seconds until the first of them comes on trial, or has passed it; None when there is none."""
        moments = [moment for one in self.known() for moment in (one.until, one.forgiven)]
        return min((moment - self._now() for moment in moments if moment > self._now()), default=None)

    def _write(self) -> None:
        try:
            write_whole(self._file, [msgspec.to_builtins(one) for one in self.known()])
        except OSError as error:
            _log.error("the quarantines cannot be written and last until the kernel ends", why=str(error))


def _read(file: Path) -> list[Quarantine]:
    try:
        return msgspec.json.decode(file.read_bytes(), type=list[Quarantine])
    except FileNotFoundError:
        return []
    except (OSError, msgspec.DecodeError) as error:
        _log.error("the quarantines cannot be read and are forgotten", file=str(file), why=str(error))
        return []
