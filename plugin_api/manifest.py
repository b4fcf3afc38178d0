"""The manifest: who a plugin or module is and what it needs, readable without importing any of its code."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct, field

from plugin_api.errors import InvalidRequest
from plugin_api.limits import PLUGIN_ID_LENGTH_MAX

PluginId = Annotated[
    str,
    Meta(
        pattern=r"^[a-z][a-z0-9]*(\.[a-z][a-z0-9_]*)+\Z",
        max_length=PLUGIN_ID_LENGTH_MAX,
        description="Reverse-DNS-like name; `kernel.*` is the kernel's own; underscores only there.",
    ),
]
Text = str | dict[str, str]
"""A text, or one by language: `{ en = "...", de = "..." }`."""


class ManifestError(InvalidRequest):
    """A manifest, or what was registered under it, does not hold; the detail says where and what to change."""

    default_code = "manifest_invalid"


class EventsPart(Struct, frozen=True, forbid_unknown_fields=True):
    """`[events]`."""

    emits: list[str] = field(default_factory=list)
    consumes: list[str] = field(default_factory=list)


class HttpUse(Struct, frozen=True, forbid_unknown_fields=True):
    """One outside host that the code talks to."""

    host: str
    methods: list[str]
    why: str = ""
    optional: bool = False


class UsesPart(Struct, frozen=True, forbid_unknown_fields=True):
    """`[uses]`: what the code may touch; enforced for modules, shown for plugins."""

    kv: str | None = None
    blob: str | None = None
    http: list[HttpUse] = field(default_factory=list)
    operations: list[str] = field(default_factory=list)


class ConfigPart(Struct, frozen=True, forbid_unknown_fields=True):
    """`[config]`."""

    schema: str | None = None


class DataPart(Struct, frozen=True, forbid_unknown_fields=True):
    """`[data]`."""

    on_uninstall: list[Literal["keep", "export", "purge"]] = field(default_factory=lambda: ["keep", "export", "purge"])


class NavigationEntry(Struct, frozen=True, forbid_unknown_fields=True):
    """One entry of the shell's navigation."""

    title: Text
    route: str
    icon: str = ""


class UiPart(Struct, frozen=True, forbid_unknown_fields=True):
    """`[ui]`."""

    nav: list[NavigationEntry] = field(default_factory=list)
    slots: dict[str, str] = field(default_factory=dict)
    dir: str = "ui"


class Manifest(Struct, frozen=True, forbid_unknown_fields=True):
    """One manifest for plugins and modules."""

    id: PluginId
    version: str
    """Semantic version of the plugin."""
    api: str
    """Range of the plugin API, with an upper bound on the major: `>=1.0,<2`. Exact pins are refused."""
    summary: Text
    license: str = ""
    """SPDX expression."""
    requires: list[str] = field(default_factory=list)
    """Capabilities with a contract version, never plugin ids: `data >=1`."""
    after: list[str] = field(default_factory=list)
    """Capabilities to come after when they are present."""
    provides: list[str] = field(default_factory=list)
    """`acme.crm 1.2`; bare names are the kernel's."""
    servers: list[str] = field(default_factory=list)
    """Child servers that hook `pk_servers` declares; kernel plugins only."""
    permissions: dict[str, str] = field(default_factory=dict)
    """Relative name -> description: `lead.create`."""
    events: EventsPart = field(default_factory=EventsPart)
    uses: UsesPart = field(default_factory=UsesPart)
    config: ConfigPart = field(default_factory=ConfigPart)
    data: DataPart = field(default_factory=DataPart)
    ui: UiPart = field(default_factory=UiPart)
    module: dict[str, Any] | None = None
    operations: list[dict[str, Any]] = field(default_factory=list)
    jobs: list[dict[str, Any]] = field(default_factory=list)


class Names(Struct, frozen=True):
    """Everything that a plugin owns, derived from its id so that nothing can collide."""

    area: str
    """Prefix of permissions, events, settings, cache and blobs, and the capability's name."""
    rest_prefix: str
    schema: str
    """SQL schema and role."""
    grpc_package: str


def names_of(plugin_id: str) -> Names:
    """Derive every name of a plugin or module: `kernel.money` owns `money`, `acme.crm` owns `acme.crm`."""
    if plugin_id.startswith("kernel."):
        bare = plugin_id.removeprefix("kernel.")
        return Names(bare, f"/api/v1/{bare}", bare, f"pk.{bare}.v1")
    flat = plugin_id.replace(".", "_")
    return Names(plugin_id, f"/api/v1/x/{plugin_id}", f"x_{flat}", f"pk.x.{flat}.v1")
