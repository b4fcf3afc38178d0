"""Settings of what operators see, section `observe`."""

from __future__ import annotations

from typing import Annotated, Final

from msgspec import Meta, Struct

from plugin_api.settings import Secret, setting

OBSERVE: Final = "observe"
RATIO_WITH_EXPORTER: Final = 0.01


class ObserveSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """Operator's settings, section `observe`."""

    otlp_endpoint: Annotated[
        Annotated[str, Meta(pattern=r"^(https?://)?[^\s/@]+:[0-9]{1,5}/?\Z")] | None,
        setting(
            "Collector that spans are sent to by OTLP over gRPC, like `http://127.0.0.1:4317`; without it nothing is traced.",
            environment=["OTEL_EXPORTER_OTLP_ENDPOINT"],
        ),
    ] = None
    otlp_headers: Annotated[
        Secret[dict[str, str]] | None,
        setting('Metadata sent with each export, such as a key: a table, or JSON like `{"api-key": "..."}`.'),
    ] = None
    otlp_insecure: Annotated[
        bool,
        setting("Whether the collector is spoken to in the clear although its address does not begin with `http://`."),
    ] = False
    service_name: Annotated[
        str,
        Meta(min_length=1, max_length=200),
        setting("Name of this kernel among what is traced.", environment=["OTEL_SERVICE_NAME"]),
    ] = "platform-kernel"
    trace_ratio: Annotated[
        Annotated[float, Meta(ge=0, le=1)] | None,
        setting(
            "Share of the requests that are traced when their caller has not decided; by default 0.01, and 0 without a "
            "collector."
        ),
    ] = None
    follow_sampled: Annotated[
        bool,
        setting(
            "Whether a caller's `traceparent` decides if its request is traced; otherwise trace_ratio always does."
        ),
    ] = True

    @property
    def ratio(self) -> float:
        """The share that is traced when nobody has decided."""
        if self.otlp_endpoint is None:
            return 0.0
        return RATIO_WITH_EXPORTER if self.trace_ratio is None else self.trace_ratio
