"""The servers that ours is compared with. Usage: `references.py raw|fastapi|door N`; prints its port when it listens."""

from __future__ import annotations

import asyncio
import base64
import os
import socket
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import uvloop


def listening() -> socket.socket:
    """A socket on a free port, told to whoever started us."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    sys.stdout.write(f"{listener.getsockname()[1]}\n")
    sys.stdout.flush()
    return listener


async def raw() -> None:
    """aiohttp's low-level server saying hello: nothing of it can be left out."""
    from aiohttp import web

    async def hello(request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(text="hello")

    await asyncio.get_running_loop().create_server(web.Server(hello), sock=listening())
    await asyncio.Event().wait()


def fastapi(key: str) -> None:
    """The same job in FastAPI as it is usually written: pydantic in and out, a dependency that verifies the token."""
    import jwt
    import uvicorn
    from fastapi import Depends, FastAPI, HTTPException, Request
    from pydantic import BaseModel, Field

    class Invoice(BaseModel):
        title: str = Field(min_length=1, max_length=120)
        customer: str = Field(min_length=1, max_length=64)
        amount_minor: int = Field(gt=0, le=10**12)
        currency: str = Field(pattern=r"^[A-Z]{3}$")
        due_in_days: int = Field(ge=0, le=365)

    class Made(BaseModel):
        number: str
        title: str
        amount_minor: int
        currency: str
        is_large: bool

    public_key = base64.b64decode(key).decode()

    def current_user(request: Request) -> dict[str, Any]:
        token = request.headers.get("authorization", "").removeprefix("Bearer ")
        try:
            claims: dict[str, Any] = jwt.decode(token, public_key, algorithms=["ES256"], audience="bench")
        except jwt.PyJWTError:
            raise HTTPException(401) from None
        if "invoice.create" not in claims["permissions"]:
            raise HTTPException(403)
        return claims

    app = FastAPI()

    @app.post("/invoices", status_code=201, response_model=Made)
    async def create_invoice(invoice: Invoice, user: Annotated[dict[str, Any], Depends(current_user)]) -> Made:
        large = invoice.amount_minor > 100_000
        return Made(number="2026-0001", title=invoice.title, amount_minor=invoice.amount_minor, currency=invoice.currency, is_large=large)

    uvicorn.Server(uvicorn.Config(app, loop="uvloop", log_level="warning", access_log=False)).run(sockets=[listening()])


async def door(count: int) -> None:
    """Our own door over a table of `count` templated routes, no stores behind it."""
    from host.dispatch import Dispatch
    from host.http import RestDoor
    from host.kernel import Kernel, Place
    from host.observe import sink
    from host.own_operations import host_generation
    from host.stamps import FileStamps, create_stamps

    folder = Path(tempfile.mkdtemp())
    create_stamps(folder / "stamps")
    kernel = Kernel(Place(folder, "embedded", 0, {}), FileStamps(folder / "stamps"), b"k" * 32, _silent)
    kernel.publish(host_generation(kernel))
    target = kernel.table.operations[0]
    routes = [("GET", f"/api/v1/x/acme.plugin{n // 10}/things/{{thing_id}}/parts{n % 10}", target) for n in range(count)]
    table: Any = kernel.table
    object.__setattr__(table, "dispatch", Dispatch(routes))
    sink._descriptor = os.open(os.devnull, os.O_WRONLY)
    sink.use_loop(asyncio.get_running_loop())
    await asyncio.get_running_loop().create_server(RestDoor(kernel, {}).server, sock=listening())
    await asyncio.Event().wait()


def _silent(text: str) -> None:
    """Nobody listens to announcements here."""


if __name__ == "__main__":
    programs: dict[str, Callable[[], Any]] = {
        "raw": lambda: uvloop.run(raw()),
        "fastapi": lambda: fastapi(sys.argv[2]),
        "door": lambda: uvloop.run(door(int(sys.argv[2]))),
    }
    programs[sys.argv[1]]()
