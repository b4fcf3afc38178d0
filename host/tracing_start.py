"""Tracing as the settings want it: off, with nothing loaded for it, unless there is a collector."""

from __future__ import annotations

from typing import TYPE_CHECKING

from host.exporting import Counts, make_exporter
from host.tracing import Tracing
from host.version import kernel_version

if TYPE_CHECKING:
    from host.kernel import Kernel
    from host.settings import ObserveSettings


def start_tracing(kernel: Kernel, settings: ObserveSettings) -> None:
    """Let the kernel make spans from its next table on, if `observe.otlp_endpoint` is set."""
    counts = Counts(kernel.metrics)
    exporter = make_exporter(settings, counts, kernel.log, _place(kernel, settings)) if settings.otlp_endpoint else None
    is_on = float(exporter is not None)
    gauge = kernel.metrics.gauge
    gauge("pk_tracing_workers", "Workers that send spans to a collector.", (), lambda: {(): is_on}, "host")
    gauge(
        "pk_spans_waiting",
        "Spans that are not sent yet.",
        (),
        lambda: {(): exporter.waiting if exporter else 0},
        "host",
    )
    if exporter is not None:
        kernel.tracing = Tracing(exporter, ratio=settings.ratio, follow=settings.follow_sampled)


def _place(kernel: Kernel, settings: ObserveSettings) -> tuple[tuple[str, str], ...]:
    """Which process spans are of."""
    return (
        ("service.name", settings.service_name),
        ("service.version", kernel_version()),
        ("service.instance.id", f"worker-{kernel.state.worker}"),
    )
