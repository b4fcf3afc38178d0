"""`make bench [ONLY=name]`: each figure as a ratio against its reference in the same interleaved run, by CPU time.

Prints one line for each figure and writes build/bench.json; a missed goal is marked SHORT and is no failure.
"""

from __future__ import annotations

import asyncio
import base64
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from kernel import BARE, GUARDED, Kernel
from measure import Figure, HttpLoad, Side, interleaved

HERE = Path(__file__).parent
ROUNDS, COUNT = 7, 6_000
INVOICE = {
    "title": "Consulting in November",
    "customer": "acme-4711",
    "amount_minor": 125_000,
    "currency": "EUR",
    "due_in_days": 30,
}
INVOICES = "/api/v1/x/bench.invoice/invoices"
HELLO = "raw aiohttp web.Server hello"
INVOICED = "POST with token, five fields, async operation, log line, metrics; token cache hits 100 %"


@asynccontextmanager
async def reference(*arguments: str) -> AsyncIterator[tuple[int, int]]:
    """A reference server: (pid, port)."""
    process = subprocess.Popen(
        [sys.executable, str(HERE / "references.py"), *arguments], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        yield process.pid, int(process.stdout.readline())
    finally:
        process.kill()
        process.wait()


def http(method: str, path: str, body: dict[str, Any] | None = None, token: str = "") -> bytes:
    """One request as bytes."""
    payload = json.dumps(body).encode() if body is not None else b""
    head = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1"]
    head += [f"Authorization: Bearer {token}"] if token else []
    head += ["Content-Type: application/json", f"Content-Length: {len(payload)}"] if payload else []
    return "\r\n".join([*head, "", ""]).encode() + payload


def fastapi_token() -> tuple[str, str]:
    """(public key, token) for the FastAPI reference."""
    key = ec.generate_private_key(ec.SECP256R1())
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    claims = {"sub": "u", "tid": "t", "aud": "bench", "iat": int(time.time()), "exp": int(time.time()) + 3600}
    token = jwt.encode({**claims, "permissions": ["invoice.create", "invoice.read"]}, key, algorithm="ES256")
    return base64.b64encode(public).decode(), token


async def pipeline() -> list[Figure]:
    """The pipeline against aiohttp's hello, and against FastAPI doing the same job."""
    key, token = fastapi_token()
    async with (
        Kernel(only=BARE) as kernel,
        reference("raw") as (raw, raw_port),
        reference("fastapi", key) as (fast, fast_port),
    ):
        theirs = HttpLoad(fast_port, http("POST", "/invoices", INVOICE, token), 201)
        sides = [Side([raw], hello_load(raw_port)), await invoice_side(kernel), Side([fast], theirs)]
        hello, whole, usual = await interleaved(sides, count=COUNT, rounds=ROUNDS)
    kernel.remove()
    return [
        Figure("pipeline", [h / w for h, w in zip(hello, whole, strict=True)], 0.65, f"{HELLO} / {INVOICED}"),
        Figure("fastapi", [u / w for u, w in zip(usual, whole, strict=True)], 9.0,
               "the same job in FastAPI as usually written (PyJWT per request, pydantic in and out) / ours"),
    ]  # fmt: skip


async def pipeline_guarded() -> list[Figure]:
    """The same with breakers, limits and the slot of kept answers, against aiohttp's hello. Nobody sends a key."""
    async with Kernel(only=GUARDED) as kernel, reference("raw") as (raw, raw_port):
        sides = [Side([raw], hello_load(raw_port)), await invoice_side(kernel)]
        hello, whole = await interleaved(sides, count=COUNT, rounds=ROUNDS)
    kernel.remove()
    told = f"{HELLO} / {INVOICED}, breakers, limits, idempotency without a key"
    return [Figure("pipeline_guarded", [h / w for h, w in zip(hello, whole, strict=True)], 0.6, told)]


def hello_load(port: int) -> HttpLoad:
    """What aiohttp's hello is asked."""
    return HttpLoad(port, http("GET", "/"))


async def invoice_side(kernel: Kernel) -> Side:
    """The worker of a kernel, making invoices for the owner of a tenant."""
    await kernel.log_in()
    return Side([kernel.worker], HttpLoad(kernel.port, http("POST", INVOICES, INVOICE, kernel.token), 201))


async def routes() -> list[Figure]:
    """The cost of a request must not grow with the number of routes."""
    request = http("GET", "/api/v1/x/acme.plugin0/things/42/parts0")
    async with reference("door", "1") as (one, one_port), reference("door", "3000") as (many, many_port):
        sides = [Side([one], HttpLoad(one_port, request, 401)), Side([many], HttpLoad(many_port, request, 401))]
        alone, crowd = await interleaved(sides, count=COUNT, rounds=ROUNDS)
    return [Figure("routes", [a / c for a, c in zip(alone, crowd, strict=True)], 0.9, "1 route / 3000 routes")]


async def inprocess() -> list[Figure]:
    """Calling a colleague in-process against calling it over REST (client and server)."""
    async with Kernel(only=GUARDED) as kernel:
        await kernel.log_in()
        url = f"http://127.0.0.1:{kernel.port}{INVOICES}"
        client = await asyncio.create_subprocess_exec(
            sys.executable, str(HERE / "client.py"), url, kernel.token, json.dumps(INVOICE),
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip

        async def over_rest(count: int) -> None:
            assert client.stdin is not None and client.stdout is not None
            client.stdin.write(f"{count}\n".encode())
            assert await client.stdout.readline() == b"done\n"

        async def inside(count: int) -> None:
            for _ in range(10):
                await kernel.post("/api/v1/x/bench.invoice/spins", {"count": count})

        rest = await interleaved([Side([client.pid, kernel.worker], over_rest)], count=1_500, rounds=ROUNDS)
        inner = await interleaved([Side([kernel.worker], inside)], count=20_000, rounds=ROUNDS)
        client.kill()
        await client.wait()
    kernel.remove()
    ratios = [r / (i / 10) for r, i in zip(rest[0], inner[0], strict=True)]
    return [
        Figure(
            "inprocess", ratios, 50.0, "REST call, aiohttp client and server / in-process call, checked and validated"
        )
    ]


async def rpc() -> list[Figure]:
    """What a call of gRPC costs."""
    from rpc import rpc as measured

    return await measured()


async def transaction() -> list[Figure]:
    """A tenant's transaction against a plain one."""
    from database import figure  # beside us, like the others

    return [await figure()]


async def start() -> list[Figure]:
    """Starting the kernel against starting the two servers alone; wall time, as an operator feels it."""
    from start import first_and_warm

    return await first_and_warm()


async def observe() -> list[Figure]:
    """What being watched costs."""
    from observe import watched

    return [await watched()]


async def plugin_install() -> list[Figure]:
    """How long an operator waits for a plugin."""
    from plugins import install

    return [await install()]


async def plugin_swap_bytes() -> list[Figure]:
    """What a worker keeps of each version that has gone."""
    from plugins import swap_bytes

    return [await swap_bytes()]


async def plugin_storm() -> list[Figure]:
    """What callers lose while a plugin changes."""
    from plugins import storm

    return [await storm()]


async def event_write() -> list[Figure]:
    """What telling costs a business write."""
    from events import outbox

    return [await outbox()]


async def event_relay() -> list[Figure]:
    """What moving an event into the log costs."""
    from events import relay

    return [await relay()]


async def event_latency() -> list[Figure]:
    """How long an event takes to its consumer."""
    from events import latency

    return [await latency()]


async def blob() -> list[Figure]:
    """A large blob in and out / the same with plain files."""
    from blobs import blob as kept

    return [await kept()]


FIGURES: dict[str, Callable[[], Awaitable[list[Figure]]]] = {
    "pipeline": pipeline,
    "pipeline_guarded": pipeline_guarded,
    "routes": routes,
    "inprocess": inprocess,
    "rpc": rpc,
    "transaction": transaction,
    "start": start,
    "observe": observe,
    "plugin_install": plugin_install,
    "plugin_swap_bytes": plugin_swap_bytes,
    "plugin_storm": plugin_storm,
    "event_write": event_write,
    "event_relay": event_relay,
    "event_latency": event_latency,
    "blob": blob,
}


async def main(wanted: list[str]) -> int:
    """Measure and print."""
    unknown = set(wanted) - set(FIGURES)
    if unknown:
        sys.stderr.write(f"bench: no figure {', '.join(sorted(unknown))}; there are {', '.join(FIGURES)}\n")
        return 2
    found: list[Figure] = []
    for name in wanted or FIGURES:
        sys.stderr.write(f"measuring {name} ...\n")
        for figure in await FIGURES[name]():
            sys.stdout.write(f"{figure.line()}\n")
            sys.stdout.flush()
            found.append(figure)
    report = [
        {
            "name": f.name,
            "ratio": f.ratio,
            "ratios": list(f.ratios),
            "goal": f.goal,
            "met": f.met,
            "reference": f.reference,
        }
        for f in found
    ]
    build = HERE.parents[1] / "build"
    build.mkdir(exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=build, delete=False) as draft:
        json.dump(report, draft, indent=1)
    Path(draft.name).rename(build / "bench.json")
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main(sys.argv[1:])))
