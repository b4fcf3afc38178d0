"""What lines, metrics and traces cost a request: the same kernel with none of it, and with all of it."""

from __future__ import annotations

import sys
from pathlib import Path

from kernel import BARE, Kernel
from measure import Figure, Side, interleaved
from run import COUNT, ROUNDS, invoice_side

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.host.collector import collecting


async def watched() -> Figure:
    """Neither line nor metric nor trace / a line, metrics, and 1 % of the requests sent to a collector as spans."""
    with collecting() as collector:
        tracing = {"PK_OBSERVE__OTLP_ENDPOINT": collector.url, "PK_OBSERVE__TRACE_RATIO": "0.01"}
        async with (
            Kernel(environment={"BENCH_UNWATCHED": "1"}, only=BARE) as bare,
            Kernel(environment=tracing, only=BARE) as whole,
        ):
            sides: list[Side] = [await invoice_side(kernel) for kernel in (bare, whole)]
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
