"""What the parent and the workers say to one another about plugins."""

from __future__ import annotations

from typing import Any, Final, Literal

from msgspec import Struct

from plugin_api.ports.desired_state import DesiredPlugin, DesiredPlugins

PLUGINS: Final = "plugins"
"""The parent's order to a worker."""
CHANGE: Final = "change"
"""A worker's request to the parent: an operator wants a change."""

Data = Literal["keep", "export", "purge"]
"""What becomes of a removed plugin's data: it stays, is written into a folder and then destroyed, or is destroyed."""


class Blame(Struct, frozen=True):
    """A plugin whose code stopped a worker, or ended it."""

    plugin: str
    package: str
    """The version whose code it was, as the store names its folder; empty for a plugin of the environment."""
    reason: str
    """How, and where; a sentence about "it"."""


class Quarantine(Struct, frozen=True):
    """A version of a plugin that is kept out because it stopped a worker, or is on trial after that."""

    plugin: str
    reason: str
    until: float
    """Unix time; after it the plugin is tried again."""
    times: int = 1
    """How often in a row; each doubles the time."""
    package: str = ""
    """See `Blame`: another version of the plugin is not kept out."""
    forgiven: float = 0.0
    """Unix time; from `until` to then it is on trial, and another stall lasts longer."""


class Order(Struct, frozen=True, kw_only=True):
    """One step of a change, for one worker."""

    step: Literal["read", "stage", "discard", "commit", "converge", "dependents", "survey", "dispose", "contract"]
    plugin: DesiredPlugin | None = None
    """`stage`: what to bring up."""
    plugin_id: str = ""
    """`dependents`, `survey`, `dispose`, `contract`: whose."""
    change_id: str = ""
    expected: int = 0
    """`commit`: the number of the change that it follows."""
    put: list[DesiredPlugin] = []
    drop: list[str] = []
    uninstall: dict[str, Data] = {}
    """`converge`: which plugins leave for good, and what becomes of their data; for one worker of all."""
    quarantined: list[Quarantine] | None = None
    """`converge`: what is to be kept out, or on trial, from now on."""
    failed: dict[str, str] = {}
    """`discard`: what was tried, and why it was given up."""
    data: Data = "keep"
    """`dispose`: what to do."""


class Reply(Struct, frozen=True, kw_only=True):
    """What a worker has to say to it."""

    desired: DesiredPlugins | None = None
    failures: dict[str, str] = {}
    ids: list[str] = []
    survey: dict[str, Any] = {}


class Change(Struct, frozen=True, kw_only=True):
    """What an operator wants."""

    verb: Literal["install", "upgrade", "rollback", "enable", "disable", "remove"]
    plugin_id: str = ""
    what: str = ""
    """`install`, `upgrade`: a requirement, or the path of a wheel or folder; empty: the newest that there is."""
    cascade: bool = False
    data: Data = "keep"
    dry_run: bool = False


class Outcome(Struct, frozen=True, kw_only=True):
    """What came of it."""

    plugin_id: str
    verb: str
    version: str = ""
    former: str = ""
    """The version that served before; empty for none."""
    changed: bool = True
    """False: it was so already."""
    disabled: list[str] = []
    """Dependents that were disabled with it."""
    removed: dict[str, Any] = {}
    """`remove`: what went, or would go in a dry run."""
    warnings: list[str] = []
    """What an author should look at; of the checks of the package."""
