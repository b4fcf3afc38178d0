"""The manifest: who a plugin or module is and what it needs, readable without importing any of its code."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta, Struct, field

from plugin_api.errors import InvalidRequest, Violation
from plugin_api.limits import PLUGIN_ID_LENGTH_MAX
from plugin_api.manifest_rules import Finding, check_rules, check_shape, read_toml
from plugin_api.toml_lines import TomlLines

PluginId = Annotated[
    str,
    Meta(
        pattern=r"^(kernel\.[a-z][a-z0-9_]*|[a-z][a-z0-9]*(\.[a-z][a-z0-9]*)+)\Z",
        max_length=PLUGIN_ID_LENGTH_MAX,
        description="two or more words of lower-case letters and digits joined by dots, at most 60 characters, like "
        '"acme.crm" (underscores only in `kernel.*`)',
    ),
]
Version = Annotated[
    str,
    Meta(
        pattern=r"^(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(-[0-9A-Za-z-]+(\.[0-9A-Za-z-]+)*)?(\+[0-9A-Za-z-]+(\.[0-9A-Za-z-]+)*)?\Z",
        max_length=100,
        description='a semantic version of three numbers, like "1.2.0"',
    ),
]
ApiRange = Annotated[
    str,
    Meta(
        max_length=100,
        description='a range of the plugin API with an upper bound on the major, like ">=1.0,<2", never a pin',
    ),
]
Line = Annotated[str, Meta(min_length=1, max_length=500, description="a text of 1 to 500 characters")]
Language = Annotated[
    str,
    Meta(
        pattern=r"^[a-z]{2,3}(-[A-Za-z0-9]{2,8})*\Z",
        description='a language tag, like "en" or "pt-BR"',
    ),
]
Text = Line | Annotated[dict[Language, Line], Meta(min_length=1)]
"""A text, or one by language: `{ en = "...", de = "..." }`."""
Requirement = Annotated[
    str,
    Meta(
        pattern=r"^[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)*( .+)?\Z",
        max_length=120,
        description='a capability and, after a space, a range of its contract\'s version, like "data >=1"',
    ),
]
Provision = Annotated[
    str,
    Meta(
        pattern=r"^[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)* (0|[1-9]\d*)(\.(0|[1-9]\d*)){0,2}\Z",
        max_length=120,
        description='a capability and, after a space, its contract\'s version, like "acme.crm 1.2"',
    ),
]
ServerName = Annotated[str, Meta(pattern=r"^[a-z][a-z0-9-]{0,39}\Z", description='a lower-case word, like "postgres"')]
RelativePermission = Annotated[
    str,
    Meta(
        pattern=r"^[a-z][a-z0-9_]*\.[a-z][a-z0-9_]*\Z",
        max_length=100,
        description='entity and verb, relative to the plugin, like "lead.create"',
    ),
]
EmittedEvent = Annotated[
    str,
    Meta(
        pattern=r"^[a-z][a-z0-9_]*\.[a-z][a-z0-9_]*\.v[1-9][0-9]*\Z",
        max_length=100,
        description='entity, past verb and version, relative to the plugin, like "lead.created.v1"',
    ),
]
ConsumedEvent = Annotated[
    str,
    Meta(
        pattern=r"^[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*){2,}\.v[1-9][0-9]*\Z",
        max_length=160,
        description='the full type of an event, like "money.transfer.posted.v1"',
    ),
]
Size = Annotated[
    str,
    Meta(
        pattern=r"^[1-9][0-9]{0,5} (KiB|MiB|GiB)\Z",
        description='a size with its unit, like "4 MiB"',
    ),
]
HttpHost = Annotated[
    str,
    Meta(
        pattern=r"^(\*\.)?[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)+\Z",
        max_length=253,
        description='a lower-case host name, like "api.acme.example"',
    ),
]
OperationName = Annotated[
    str,
    Meta(
        pattern=r"^[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)*/[a-z][a-z0-9_]*\Z",
        max_length=160,
        description='a capability and its operation, like "money/create_hold"',
    ),
]
RelativeFile = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)*\Z",
        max_length=200,
        description='a file below the manifest\'s folder, like "schemas/config.json"',
    ),
]
Word = Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_]{0,62}\Z", description='a lower-case word, like "refresh"')]


class ManifestError(InvalidRequest):
    """A manifest, or what was registered under it, does not hold; the detail says where and what to change."""

    default_code = "manifest_invalid"


class EventsPart(Struct, frozen=True, forbid_unknown_fields=True):
    """`[events]`."""

    emits: list[EmittedEvent] = field(default_factory=list)
    consumes: list[ConsumedEvent] = field(default_factory=list)


class HttpUse(Struct, frozen=True, forbid_unknown_fields=True):
    """One outside host that the code talks to."""

    host: HttpHost
    methods: Annotated[list[Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]], Meta(min_length=1)]
    why: str = ""
    optional: bool = False


class UsesPart(Struct, frozen=True, forbid_unknown_fields=True):
    """`[uses]`: what the code may touch; enforced for modules, shown for plugins."""

    kv: Size | None = None
    blob: Size | None = None
    http: list[HttpUse] = field(default_factory=list)
    operations: list[OperationName] = field(default_factory=list)


class ConfigPart(Struct, frozen=True, forbid_unknown_fields=True):
    """`[config]`."""

    schema: RelativeFile | None = None
    """JSON Schema file for the settings of each tenant; secrets become handles."""


class DataPart(Struct, frozen=True, forbid_unknown_fields=True):
    """`[data]`."""

    on_uninstall: Annotated[list[Literal["keep", "export", "purge"]], Meta(min_length=1)] = field(
        default_factory=lambda: ["keep", "export", "purge"]
    )


class NavigationEntry(Struct, frozen=True, forbid_unknown_fields=True):
    """One entry of the shell's navigation."""

    title: Text
    route: Annotated[
        str,
        Meta(pattern=r"^/[A-Za-z0-9/_.-]*\Z", max_length=200, description='a path, like "/crm"'),
    ]
    icon: Annotated[str, Meta(pattern=r"^[a-z0-9-]{0,60}\Z", description='the name of an icon, like "users"')] = ""


class UiPart(Struct, frozen=True, forbid_unknown_fields=True):
    """`[ui]`."""

    nav: list[NavigationEntry] = field(default_factory=list)
    slots: dict[str, str] = field(default_factory=dict)
    dir: RelativeFile = "ui"


class ModuleLimits(Struct, frozen=True, forbid_unknown_fields=True):
    """`[module.limits]`."""

    memory_mib: Annotated[int, Meta(ge=1, le=64)] = 16
    deadline_ms: Annotated[int, Meta(ge=1, le=5_000)] = 500
    host_calls: Annotated[int, Meta(ge=0, le=1_000)] = 200
    concurrency: Annotated[int, Meta(ge=1, le=16)] = 4


class ModulePart(Struct, frozen=True, forbid_unknown_fields=True):
    """`[module]`: modules only; the trust tier is given by the registry, never claimed here."""

    publisher: Annotated[
        str,
        Meta(pattern=r"^[a-z][a-z0-9]*(\.[a-z][a-z0-9]*)*\Z", description='a namespace, like "acme"'),
    ]
    wasm: RelativeFile | None = None
    """None: a module of a user interface alone."""
    abi: Annotated[Literal["pk:module/1"], Meta(description='"pk:module/1"')] = "pk:module/1"
    build: str | None = None
    """Command that `pk module build` runs first, in the module's folder."""
    limits: ModuleLimits = field(default_factory=ModuleLimits)


class ModuleOperation(Struct, frozen=True, forbid_unknown_fields=True):
    """One of `[[operations]]`, modules only; its number towards the guest is its position, from 1."""

    id: Word
    rest: (
        Annotated[
            str,
            Meta(
                pattern=r"^(GET|POST|PUT|PATCH|DELETE) /[A-Za-z0-9_.~/{}-]*\Z",
                description='a route, like "POST /quote"',
            ),
        ]
        | None
    ) = None
    event: ConsumedEvent | None = None
    permission: RelativePermission | None = None
    input: RelativeFile | None = None
    output: RelativeFile | None = None


class ModuleJob(Struct, frozen=True, forbid_unknown_fields=True):
    """One of `[[jobs]]`, modules only."""

    operation: Word
    cron: Annotated[
        str,
        Meta(
            pattern=r"^\S+( \S+){4}\Z",
            max_length=120,
            description='five cron fields, like "*/15 * * * *"',
        ),
    ]


class Manifest(Struct, frozen=True, forbid_unknown_fields=True):
    """One manifest for plugins and modules."""

    id: PluginId
    version: Version
    """Semantic version of the plugin."""
    api: ApiRange
    """Range of the plugin API, with an upper bound on the major: `>=1.0,<2`. Exact pins are refused."""
    summary: Text
    license: Annotated[
        str,
        Meta(
            pattern=r"^[A-Za-z0-9.+() -]*\Z",
            max_length=200,
            description='an SPDX expression, like "Apache-2.0"',
        ),
    ] = ""
    """SPDX expression."""
    requires: list[Requirement] = field(default_factory=list)
    """Capabilities with a contract version, never plugin ids: `data >=1`."""
    after: list[Requirement] = field(default_factory=list)
    """Capabilities to come after when they are present."""
    provides: list[Provision] = field(default_factory=list)
    """`acme.crm 1.2`; bare names are the kernel's."""
    servers: list[ServerName] = field(default_factory=list)
    """Child servers that hook `pk_servers` declares; kernel plugins only."""
    permissions: dict[RelativePermission, Line] = field(default_factory=dict)
    """Relative name -> description: `lead.create`."""
    events: EventsPart = field(default_factory=EventsPart)
    uses: UsesPart = field(default_factory=UsesPart)
    config: ConfigPart = field(default_factory=ConfigPart)
    data: DataPart = field(default_factory=DataPart)
    ui: UiPart = field(default_factory=UiPart)
    module: ModulePart | None = None
    operations: list[ModuleOperation] = field(default_factory=list)
    """Modules only; a plugin's operations are its methods marked `@operation`."""
    jobs: list[ModuleJob] = field(default_factory=list)
    """Modules only; a plugin's jobs are its methods marked `@job`."""


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


def read_manifest(text: str, file: str) -> Manifest:
    """Read and check a manifest. `file` is its name in messages.

    Raises:
        ManifestError: with every violation at once: file, line, what was seen, the legal form and the remedy.
    """
    content, unreadable = read_toml(text)
    if unreadable is not None:
        raise _error(file, [(unreadable.line, unreadable)])
    findings = check_shape(content, Manifest)
    findings += check_rules(content, {finding.path[0] for finding in findings if finding.path})
    if findings:
        lines = TomlLines(text)
        raise _error(file, [(lines.line_of(f.path, f.seen), f) for f in findings])
    return msgspec.convert(content, Manifest)


def _error(file: str, placed: list[tuple[int, Finding]]) -> ManifestError:
    placed = sorted(placed, key=lambda pair: pair[0])
    told = [f"{file}:{line}: {finding.text}" for line, finding in placed]
    violations = [Violation(f.pointer, f.code, text) for text, (_, f) in zip(told, placed, strict=True)]
    return ManifestError("\n".join(told), violations=violations)


SCHEMA_ID: Final = "urn:platform-kernel:schema:manifest:1"


def manifest_schema() -> dict[str, Any]:
    """The published JSON Schema 2020-12 of the manifest, for editors; `read_manifest` checks more than it can say."""
    schema = msgspec.json.schema(Manifest)
    published = _map_patterns(schema, lambda pattern: pattern.replace(r"\Z", "$"))
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": SCHEMA_ID,
        **published,
    }


def _map_patterns(node: Any, change: Callable[[str], str]) -> Any:
    """JSON Schema speaks ECMA-262, where the end of a text is `$`."""
    if isinstance(node, dict):
        return {
            key: change(value) if key == "pattern" and isinstance(value, str) else _map_patterns(value, change)
            for key, value in node.items()
        }
    if isinstance(node, list):
        return [_map_patterns(entry, change) for entry in node]
    return node
