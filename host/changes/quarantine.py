"""Plugins that stopped a worker are kept out for a while, over restarts too; then they are tried again."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from host.changes.orders import Quarantine
from host.datafolder import write_whole
from host.observe import PluginLog

FIRST_S: Final = 300.0
LONGEST_S: Final = 86_400.0
FORGIVEN_S: Final = 3_600.0
"""A plugin that has served this long after its quarantine begins anew with FIRST_S."""

_log = PluginLog("host")


class Quarantines:
    """Those of one data folder, in a file that only the parent writes."""

    def __init__(self, file: Path, now: Callable[[], float] = time.time) -> None:
        self._file = file
        self._now = now
        self._known = _read(file)

    def add(self, plugin_id: str, reason: str) -> Quarantine:
        """Keep a plugin out; each time in a row for twice as long, a day at most. Durable when this returns."""
        before = self._known.get(plugin_id)
        is_again = before is not None and self._now() < before.until + FORGIVEN_S
        times = before.times + 1 if before is not None and is_again else 1
        lasts_s = min(FIRST_S * 2 ** (times - 1), LONGEST_S)
        made = self._known[plugin_id] = Quarantine(plugin_id, reason, self._now() + lasts_s, times)
        self._write()
        _log.error("a plugin is quarantined", plugin=plugin_id, for_s=int(lasts_s), why=reason)
        return made

    def lift(self, plugin_id: str) -> None:
        """Let a plugin serve again and forget what it did; unknown ones are no error."""
        if self._known.pop(plugin_id, None) is not None:
            self._write()

    def active(self) -> list[Quarantine]:
        """Those that are to be kept out now."""
        return [one for _, one in sorted(self._known.items()) if one.until > self._now()]

    def next_end_s(self) -> float | None:
        """Seconds until the first of them ends; None when there is none."""
        ends = [one.until - self._now() for one in self.active()]
        return min(ends) if ends else None

    def _write(self) -> None:
        write_whole(self._file, [msgspec.to_builtins(one) for _, one in sorted(self._known.items())])


def _read(file: Path) -> dict[str, Quarantine]:
    try:
        found = msgspec.json.decode(file.read_bytes(), type=list[Quarantine])
    except FileNotFoundError:
        return {}
    except (OSError, msgspec.DecodeError) as error:
        _log.error("the quarantines cannot be read and are forgotten", file=str(file), why=str(error))
        return {}
    return {one.plugin: one for one in found}
