"""Which third-party plugins a kernel is to run: durable truth, read by every worker at its start and after each change."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Final, Literal, Protocol

from msgspec import Meta, Struct

from plugin_api.limits import PLUGIN_ID_LENGTH_MAX
from plugin_api.services import ServiceKey

PLUGINS_MAX: Final = 1_000
"""Plugins that the desired state holds at most; also what one change puts, and drops, at most."""
CHANGES_KEPT: Final = 200
"""Changes that are remembered, the newest; as long as one is, its repetition is recognized."""

ThirdPartyId = Annotated[
    str,
    Meta(
        pattern=r"^(?!kernel\.)[a-z][a-z0-9]*(\.[a-z][a-z0-9]*)+\Z",
        max_length=PLUGIN_ID_LENGTH_MAX,
        description="the id of a plugin that is not the kernel's own, at most 60 characters",
    ),
]
ChangeId = Annotated[str, Meta(pattern=r"^[!-~]{1,100}\Z", description="1 to 100 printable ASCII characters, no space")]
PackageVersion = Annotated[
    str, Meta(pattern=r"^[!-~]{1,100}\Z", description="1 to 100 printable ASCII characters, no space")
]
PackageDigest = Annotated[
    str, Meta(pattern=r"^([0-9a-f]{64})?\Z", description="64 lower-case hexadecimal digits, or nothing")
]
DistributionName = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?\Z",
        max_length=200,
        description="the name of a distribution, at most 200 characters",
    ),
]
Target = Annotated[
    str,
    Meta(pattern=r"^[\w.]+:[\w.]+\Z", max_length=400, description='"package:attribute", at most 400 characters'),
]
RequirementText = Annotated[
    str,
    Meta(
        pattern=r"^[^\x00-\x1f\x7f\ud800-\udfff]*\Z",
        max_length=2_000,
        description="one line of at most 2000 characters",
    ),
]


class PreviousVersion(Struct, frozen=True):
    """What a rollback returns to."""

    version: PackageVersion
    digest: PackageDigest
    distribution: DistributionName
    target: Target
    requirement: RequirementText


class DesiredPlugin(Struct, frozen=True):
    """One plugin that is to be there, in one version."""

    id: ThirdPartyId
    version: PackageVersion
    digest: PackageDigest
    """SHA-256 of the package; empty for a plugin of the kernel's own environment, which has none."""
    distribution: DistributionName
    target: Target
    """Where its object is found: `acme_crm:plugin`."""
    requirement: RequirementText
    """What the operator asked for: `acme-crm>=1.2`; empty when nothing was named."""
    enabled: bool = True
    """False: the package stays, and nothing of it runs."""
    leaving: Literal["", "keep", "export", "purge"] = ""
    """It is being removed, and what becomes of its data; whoever finds it so finishes that."""
    previous: PreviousVersion | None = None
    changed_at: datetime | None = None
    """When it was last put, by the database's clock; given by `read`, not taken by `change`."""
    sequence: int = 0
    """The number of the change that last put it; likewise."""


class DesiredPlugins(Struct, frozen=True):
    """All of them, as one change left them."""

    sequence: int
    """The number of the last change; 0 before the first."""
    change_id: str
    """Of the last change; empty before the first."""
    plugins: tuple[DesiredPlugin, ...]
    """Sorted by id."""


class DesiredState(Protocol):
    """Reads and changes the desired state; provided by `kernel.data` as the capability `desired_state`. Only the host
    changes it: what it holds is code that every worker will run.

    Raises, both of them:
        StoreUnavailable: the database is away or does not answer; nothing was changed.
    """

    async def read(self) -> DesiredPlugins:
        """All plugins with the number of the last change, as of one moment."""
        ...

    async def change(
        self, change_id: str, expected_sequence: int, put: Sequence[DesiredPlugin] = (), drop: Sequence[str] = ()
    ) -> int:
        """Put and drop plugins, all or nothing, if the last change is still number `expected_sequence`; the number of this
        one, which is the next.

        A plugin that is put replaces the one of the same id whole. Dropping an absent one is no error. `change_id` is new
        for each change. After a lost answer repeat the call with the same one: if it was done, and is among the last
        CHANGES_KEPT, the answer is its number, and nothing is changed again.

        Raises:
            Conflict: code `plugins_changed`: another change came between; nothing was changed. Read, decide, try again.
            InvalidRequest: a text breaks its bound, or an id stands twice; `violations` lists every one.
            LimitReached: there would be more than PLUGINS_MAX plugins.
            Unavailable: another change holds the lock for too long.
            CommitUnknown: the answer to the commit was lost: it may or may not have happened; repeat the call.
        """
        ...


DESIRED_STATE: ServiceKey[DesiredState] = ServiceKey("desired_state")
