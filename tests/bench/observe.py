"""What lines, metrics and traces cost a request: the same kernel with none of it, and with all of it."""

from __future__ import annotations

import sys
from pathlib import Path

from kernel import Kernel
from measure import Figure, HttpLoad, Side, interleaved
from run import COUNT, INVOICE, ROUNDS, http

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.host.collector import collecting


async def watched() -> Figure:
    """Neither line nor metric nor trace / a line, metrics, and 1 % of the requests sent to a collector as spans."""
    with collecting() as collector:
        tracing = {"PK_OBSERVE__OTLP_ENDPOINT": collector.url, "PK_OBSERVE__TRACE_RATIO": "0.01"}
        async with Kernel(environment={"BENCH_UNWATCHED": "1"}) as bare, Kernel(environment=tracing) as whole:
            sides = [Side([kernel.worker], await _load(kernel)) for kernel in (bare, whole)]
            without, with_all = await interleaved(sides, count=COUNT, rounds=ROUNDS)
            assert collector.spans, "some of the requests were traced"
    bare.remove()
    whole.remove()
    return Figure(
        "observe",
        [one / other for one, other in zip(without, with_all, strict=True)],
        0.85,
        "no log line, no metrics, no traces / line, metrics, 1 % of the requests sent as spans; POST with token, async operation",
    )


async def _load(kernel: Kernel) -> HttpLoad:
    await kernel.log_in()
    return HttpLoad(kernel.port, http("POST", "/api/v1/x/bench.invoice/invoices", INVOICE, kernel.token), 201)
