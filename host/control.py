"""The control door, `DIR/run/control.sock`: what the command line asks the running kernel.

HTTP with JSON over the Unix socket. Whoever may open it is the operator: the socket is 0600 in a 0700 folder, and the
peer must be this account or root. Most questions are handed to a worker that serves.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections.abc import Mapping
from typing import Any, Final, Protocol

import msgspec
from aiohttp import web

from host.changes.orders import Change, Outcome
from host.channel import ChannelClosed, ChannelFull, RemoteFailed
from host.listener import Answer, Asked, Listener, Page
from host.plugin_overview import overview, remarks_on
from host.problems import CONTENT_TYPE
from host.totals import Family
from host.vitals import read_vitals, vital_checks
from host.workers import Stalls, Worker, WorkerFailed
from plugin_api.errors import InvalidRequest, KernelBug, NotAllowed, Unavailable

FORWARD_LIMIT_S: Final = 60.0
MIGRATION_LIMIT_S: Final = 600.0
_LONG: Final = frozenset({"/migrations/up", "/migrations/down"})
_FORWARDED: Final = (
    ("GET", "/settings"),
    ("GET", "/openapi"),
    ("GET", "/migrations"),
    ("POST", "/migrations/up"),
    ("POST", "/migrations/down"),
    ("POST", "/demo"),
    ("POST", "/operation"),
)


class Controlled(Protocol):
    """What the parent lets the operator do."""

    def serving(self) -> list[Worker]:
        """The workers that serve now."""
        ...

    def processes(self) -> dict[str, Any]:
        """Every process: pid, state, uptime, restarts, stalls."""
        ...

    @property
    def doing(self) -> str:
        """What the change of plugins under way does now."""
        ...

    async def metrics(self) -> list[Family]:
        """What a scrape shows."""
        ...

    def stalls(self) -> Mapping[str, Stalls]:
        """How often each plugin has held up an event loop."""
        ...

    async def change(self, change: Change) -> Outcome:
        """Change the plugins. Raises a KernelError when that is refused or fails."""
        ...

    async def reload(self) -> None:
        """Replace every worker.

        Raises:
            WorkerFailed: a new one does not come up.
        """
        ...


class Control:
    """The pages of the control door."""

    def __init__(self, kernel: Controlled) -> None:
        self._kernel = kernel

    def listener(self) -> Listener:
        """The door, not started."""
        pages = dict.fromkeys(_FORWARDED, self._forward)
        own: dict[tuple[str, str], Page] = {
            ("GET", "/doctor"): self._doctor,
            ("POST", "/reload"): self._reload,
            ("GET", "/plugins"): self._plugins,
            ("POST", "/plugins"): self._change,
            ("GET", "/plugins/doing"): self._doing,
        }
        return Listener({**pages, **own}, check_peer)

    async def _change(self, asked: Asked) -> Answer:
        try:
            change = msgspec.convert(asked.body, Change)
        except msgspec.ValidationError as error:
            raise InvalidRequest(
                f"the command line asked for something that this kernel does not know: {error}"
            ) from error
        return Answer(200, msgspec.to_builtins(await self._kernel.change(change)))

    async def _doing(self, _: Asked) -> Answer:
        return Answer(200, {"doing": self._kernel.doing})

    async def _forward(self, asked: Asked) -> Answer:
        serving = self._kernel.serving()
        if not serving:
            raise Unavailable("no worker serves now; try again, and see the kernel's log if it stays so")
        return await self._ask(serving[0], asked)

    async def _ask(self, worker: Worker, asked: Asked) -> Answer:
        limit_s = MIGRATION_LIMIT_S if asked.path in _LONG else FORWARD_LIMIT_S
        question = {"method": asked.method, "path": asked.path, "query": asked.query, "body": asked.body}
        try:
            reply = await worker.channel.request("control", limit_s=limit_s, **question)
        except (ChannelClosed, ChannelFull, TimeoutError) as error:
            raise Unavailable("the worker that was asked does not answer; try again") from error
        except RemoteFailed as error:
            raise KernelBug(str(error)) from error
        status = int(reply["status"])
        kind = CONTENT_TYPE if status >= 400 else "application/json"
        return Answer(status, reply.get("body"), kind)

    async def _plugins(self, asked: Asked) -> Answer:
        """Every plugin with how it is in each worker."""
        first = await self._forward(asked)
        if not isinstance(first.body, dict) or first.status != 200:
            return first
        return Answer(200, {"items": overview(await self._views(), self._kernel.stalls())})

    async def _views(self) -> dict[int, list[dict[str, Any]]]:
        """What each worker that answers says of its plugins, by worker."""
        asked = Asked("GET", "/plugins", {}, None)
        workers = self._kernel.serving()
        answers = await asyncio.gather(*(self._ask(worker, asked) for worker in workers), return_exceptions=True)
        return {
            worker.index: answer.body["items"]
            for worker, answer in zip(workers, answers, strict=True)
            if isinstance(answer, Answer) and answer.status == 200
        }

    async def _doctor(self, asked: Asked) -> Answer:
        """What the workers know, with the processes; the processes alone when no worker serves."""
        own = self._kernel.processes()
        try:
            answer = await self._forward(asked)
        except Unavailable as error:
            return Answer(200, {"ok": False, "detail": error.detail, "processes": own})
        if not isinstance(answer.body, dict):
            return answer
        plugins = overview(await self._views(), self._kernel.stalls()) if "plugins" in answer.body else []
        body = {**answer.body, "processes": own, **({"plugins": plugins} if plugins else {})}
        body["vitals"] = vitals = read_vitals(await self._kernel.metrics())
        remarks = (*vital_checks(vitals), *(check for one in plugins for check in remarks_on(one)))
        body["checks"] = [*answer.body.get("checks", ()), *remarks]
        return Answer(answer.status, msgspec.to_builtins(body), answer.content_type)

    async def _reload(self, _: Asked) -> Answer:
        try:
            await self._kernel.reload()
        except WorkerFailed as error:
            raise Unavailable(f"the workers were not replaced: {error}", code="reload_failed") from error
        return Answer(200, {"workers": [worker.pid for worker in self._kernel.serving()]})


def check_peer(request: web.BaseRequest) -> None:
    """Let only this account and root ask; where the system cannot tell, the socket's mode decides alone.

    Raises:
        NotAllowed: the peer is another account.
    """
    transport = request.transport
    connection = transport.get_extra_info("socket") if transport is not None else None
    if connection is None:
        raise NotAllowed("the peer is gone")
    if not hasattr(socket, "SO_PEERCRED"):
        return
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    uid: int = struct.unpack("3i", credentials)[1]
    if uid not in (0, os.geteuid()):
        raise NotAllowed(f"uid {uid} is not the account of this kernel; ask as uid {os.geteuid()}")
