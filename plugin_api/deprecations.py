"""What of the plugin API is to go, announced before it goes: the only way in which a name, hook or argument may leave it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from msgspec import Struct


class Deprecation(Struct, frozen=True):
    """One thing that new code should use no more, and that leaves with a later major."""

    name: str
    """A hook (`pk_drain`), an argument of one (`pk_drain.reason`), or a name of the API in full (`plugin_api.pages.keyset`)."""
    since: str
    """The version of the API that announced it: `1.4`."""
    removed_in: str
    """The one that will be without it: `2.0`."""
    date: str
    """The day from which on a kernel without it may appear: `2027-06-30`."""
    replacement: str
    """What to write instead, as a sentence without its stop."""

    @property
    def told(self) -> str:
        """What its user is told."""
        return (
            f"{self.name} is deprecated since plugin API {self.since} and leaves with {self.removed_in}, "
            f"not before {self.date}; {self.replacement}"
        )


DEPRECATIONS: Final[tuple[Deprecation, ...]] = ()
"""All that are announced now. An entry leaves when what it names has left."""


def deprecated(names: Sequence[str], announced: Sequence[Deprecation]) -> Iterator[Deprecation]:
    """Those of these names that are announced; what lies below an announced name counts as that."""
    for entry in announced:
        if any(name == entry.name or name.startswith(f"{entry.name}.") for name in names):
            yield entry
