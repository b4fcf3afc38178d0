"""The host's own settings, section `host`."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from msgspec import Meta, Struct

from plugin_api.limits import DEADLINE_S
from plugin_api.settings import setting

SECTION: Final = "host"
WORKERS_MAX: Final = 256

Port = Annotated[int, Meta(ge=0, le=65_535)]


class HostSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """Operator's settings, section `host`. Options of `pk up` set most of them."""

    http_host: Annotated[
        str, Meta(min_length=1, max_length=255), setting("Address that REST listens on; 0.0.0.0 for every network.")
    ] = "127.0.0.1"
    http_port: Annotated[Port, setting("Port of REST; 0 for any free one.")] = 8080
    grpc_host: Annotated[
        str,
        Meta(min_length=1, max_length=255),
        setting("Address that gRPC listens on; without TLS it must be of this machine alone."),
    ] = "127.0.0.1"
    grpc_port: Annotated[Port, setting("Port of gRPC; 0 for any free one.")] = 50_051
    grpc_tls_cert: Annotated[
        str | None,
        setting("File with the certificate of gRPC and those above it (PEM); read anew when it changes."),
    ] = None
    grpc_tls_key: Annotated[
        str | None, setting("File with the private key of that certificate (PEM); read anew when it changes.")
    ] = None
    grpc_tls_client_ca: Annotated[
        str | None,
        setting(
            "File with the authorities whose certificates gRPC's clients must show (PEM); without it they need show none."
        ),
    ] = None
    management_port: Annotated[Port, setting("Port of health and metrics, on loopback; 0 for any free one.")] = 9_000
    workers: Annotated[int, Meta(ge=1, le=WORKERS_MAX), setting("Processes that serve requests.")] = 1
    profile: Annotated[
        Literal["embedded", "server"],
        setting("`embedded` runs its own PostgreSQL and Valkey in the data folder; `server` uses those that you name."),
    ] = "embedded"
    only: Annotated[
        list[str],
        setting("Plugins to start, with those that they require; empty for all. `iam` stands for `kernel.iam`."),
    ] = []
    disabled: Annotated[list[str], setting("Plugins to leave out. `iam` stands for `kernel.iam`.")] = []
    plugin_index: Annotated[
        str | None,
        setting("Package index that plugins come from; without it whatever pip is configured to use."),
    ] = None
    plugin_links: Annotated[
        list[str], setting("Folders (or pages) of wheels that plugins may come from, beside the index.")
    ] = []
    plugin_offline: Annotated[bool, setting("Take plugins from host.plugin_links alone and ask no index.")] = False
    retry_s: Annotated[
        float,
        Meta(ge=0.1, le=600),
        setting(
            "Seconds after which a plugin that could not be brought up is tried again; then twice as long, and so on."
        ),
    ] = 30.0
    contract_after_s: Annotated[
        float,
        Meta(ge=0),
        setting("Seconds after which an upgraded plugin's contract migrations run; until then it can be rolled back."),
    ] = 86_400.0
    envoy: Annotated[bool, setting("Whether Envoy is started as the edge, where it is installed.")] = True
    deadline_s: Annotated[
        float,
        Meta(gt=0, le=300),
        setting("Seconds that one call may take.", environment=["GRPC_CALL_TIMEOUT_MS"]),
    ] = DEADLINE_S
    start_limit_s: Annotated[
        float, Meta(gt=0, le=3_600), setting("Seconds that a worker has from its start until it serves.")
    ] = 120.0
    stall_limit_s: Annotated[
        float,
        Meta(ge=1, le=600),
        setting("Seconds without a heartbeat after which a worker counts as hung and is replaced."),
    ] = 10.0
    quarantine_s: Annotated[
        float,
        Meta(gt=0, le=2_592_000),
        setting("Seconds that a plugin is kept out after it stopped a worker; each time in a row twice as long."),
    ] = 300.0
    half_open_s: Annotated[
        float,
        Meta(gt=0, le=2_592_000),
        setting("Seconds that a plugin is on trial after its quarantine; what it does meanwhile counts as in a row."),
    ] = 3_600.0
    stop_limit_s: Annotated[
        float, Meta(gt=0, le=600), setting("Seconds that a worker has to finish its calls when it is told to stop.")
    ] = 10.0
