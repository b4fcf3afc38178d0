"""The servers that ours is compared with. Usage: `references.py raw|rpc|fastapi|door N`; prints its port when it listens."""

from __future__ import annotations

import asyncio
import base64
import os
import socket
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

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


async def rpc() -> None:
    """grpc.aio's server handing back the bytes that it got: nothing of it can be left out."""
    import grpc
    import grpc.aio

    class Echo(grpc.GenericRpcHandler):  # type: ignore[misc] # the library has no types
        def service(self, handler_call_details: Any) -> Any:
            return handler

    async def echo(data: bytes, context: Any) -> bytes:
        return data

    handler = grpc.unary_unary_rpc_method_handler(echo)
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((Echo(),))
    sys.stdout.write(f"{server.add_insecure_port('127.0.0.1:0')}\n")
    sys.stdout.flush()
    await server.start()
    await server.wait_for_termination()


def fastapi(key: str) -> None:
    """The same job in FastAPI, see fastapi_app.py."""
    import uvicorn

    sys.path.insert(0, str(Path(__file__).parent))
    from fastapi_app import make_app

    app = make_app(base64.b64decode(key).decode())
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
    routes = [
        ("GET", f"/api/v1/x/acme.plugin{n // 10}/things/{{thing_id}}/parts{n % 10}", target) for n in range(count)
    ]
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
        "rpc": lambda: uvloop.run(rpc()),
        "fastapi": lambda: fastapi(sys.argv[2]),
        "door": lambda: uvloop.run(door(int(sys.argv[2]))),
    }
    programs[sys.argv[1]]()
