"""The small HTTP doors of the parent: a table of pages, JSON in and out, problems as everywhere else.

Imported late: loading aiohttp takes as long as a warm start of the servers, and happens beside it.
"""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import msgspec
from aiohttp import web
from msgspec import Struct

from host import problems
from host.observe import PluginLog
from plugin_api.errors import KernelBug, KernelError, MethodNotAllowed, NotFound, PayloadTooLarge, Unreadable
from plugin_api.ids import uuid7
from plugin_api.limits import BODY_BYTES_MAX

JSON: Final = "application/json"
SHUTDOWN_S: Final = 1.0
_log = PluginLog("host")


class Asked(Struct, frozen=True):
    """One request."""

    method: str
    path: str
    query: dict[str, str]
    body: Any
    """The decoded JSON body; None without one."""


class Answer(Struct, frozen=True):
    """What is answered: a document, or text of another media type."""

    status: int
    body: Any
    content_type: str = JSON
    headers: dict[str, str] = {}


Page = Callable[[Asked], Awaitable[Answer]]
Guard = Callable[[web.BaseRequest], None]
"""Raises a KernelError for a peer that may not ask."""


class Listener:
    """One HTTP door: `(method, path) -> page`. GET pages answer HEAD as well."""

    def __init__(self, pages: Mapping[tuple[str, str], Page], guard: Guard | None = None) -> None:
        self._pages = pages
        self._guard = guard
        self._runner = web.ServerRunner(web.Server(self._handle), shutdown_timeout=SHUTDOWN_S)

    async def start(self, listener: socket.socket) -> None:
        """Serve on a socket that listens already."""
        await self._runner.setup()
        await web.SockSite(self._runner, listener).start()

    async def stop(self) -> None:
        """Serve no more, within SHUTDOWN_S."""
        await self._runner.cleanup()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        request_id = str(uuid7())
        try:
            answer = await self._answer(request)
        except KernelError as error:
            answer = _problem(error, request.path, request_id)
        except Exception:  # noqa: BLE001 - the caller is told with the id, and the log has the rest
            _log.error("a page of the parent failed", path=request.path, request_id=request_id)
            answer = _problem(KernelBug("see the log"), request.path, request_id)
        return _response(answer, request_id)

    async def _answer(self, request: web.BaseRequest) -> Answer:
        if self._guard is not None:
            self._guard(request)
        page = self._find(request.method, request.path)
        return await page(Asked(request.method, request.path, dict(request.query), await _read(request)))

    def _find(self, method: str, path: str) -> Page:
        page = self._pages.get(("GET" if method == "HEAD" else method, path))
        if page is not None:
            return page
        allowed = sorted(known for known, place in self._pages if place == path)
        if not allowed:
            raise NotFound(f"there is no page {path[:100]} here")
        raise MethodNotAllowed(f"{path} takes {', '.join(allowed)}", headers={"Allow": ", ".join(allowed)})


async def _read(request: web.BaseRequest) -> Any:
    try:
        content = await request.read()
    except web.HTTPRequestEntityTooLarge:
        raise PayloadTooLarge(f"the body is larger than {BODY_BYTES_MAX} bytes") from None
    if not content:
        return None
    try:
        return msgspec.json.decode(content)
    except msgspec.DecodeError as error:
        raise Unreadable(f"the body is not JSON: {error}", code="malformed_json") from error


def _problem(error: KernelError, path: str, request_id: str) -> Answer:
    document = msgspec.json.decode(problems.body(error, path, request_id))
    return Answer(error.status, document, problems.CONTENT_TYPE, dict(problems.headers(error)))


def _response(answer: Answer, request_id: str) -> web.Response:
    body = answer.body.encode() if isinstance(answer.body, str) else msgspec.json.encode(answer.body)
    headers = {**answer.headers, "Content-Type": answer.content_type, "X-Request-Id": request_id}
    return web.Response(status=answer.status, body=body, headers={**headers, "Cache-Control": "no-store"})
