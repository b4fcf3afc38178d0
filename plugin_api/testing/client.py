"""A small HTTP client on the standard library: one connection for each request, so that no test leaves any behind."""

from __future__ import annotations

import asyncio
import http.client
import io
import json as jsonlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, cast
from urllib.parse import urlsplit

LIMIT_S: Final = 20.0
ANSWER_BYTES_MAX: Final = 64 * 1_048_576
SHOWN_BYTES_MAX: Final = 300
ABSENT: Final[Any] = object()


class Unreachable(Exception):
    """No whole answer came back: refused, cut off, or silent past the limit. What was asked for may have happened."""


@dataclass(frozen=True)
class Answer:
    """What came back."""

    request: str
    """`GET /api/v1/iam/me`."""
    status: int
    headers: http.client.HTTPMessage
    """By name, in any case."""
    body: bytes

    @property
    def json(self) -> Any:
        """The body as JSON; None when it is none."""
        try:
            return jsonlib.loads(self.body)
        except ValueError:
            return None

    @property
    def code(self) -> str:
        """The stable code of a problem; empty for anything else."""
        document = self.json
        return str(document.get("code", "")) if isinstance(document, dict) else ""

    @property
    def etag(self) -> str:
        """The entity's version, for `If-Match`; empty without one."""
        return self.headers.get("ETag") or ""

    def __getitem__(self, name: str) -> Any:
        document = self.json
        if not isinstance(document, dict) or name not in document:
            raise AssertionError(f"no {name!r} in {self}")
        return document[name]

    def expect(self, *statuses: int) -> Answer:
        """Itself, when its status is one of these. AssertionError showing the answer otherwise."""
        assert self.status in statuses, f"expected {' or '.join(map(str, statuses))}, saw {self}"
        return self

    def __str__(self) -> str:
        return f"{self.status} for {self.request}: {self.body[:SHOWN_BYTES_MAX].decode(errors='replace')}"


class Client:
    """Asks one kernel, as the holder of a token or as nobody. Safe to use from many tasks and event loops at once."""

    def __init__(
        self, url: str, token: str | None = None, source_address: str | None = None, limit_s: float = LIMIT_S
    ) -> None:
        self.url = url
        self.token = token
        self.source_address = source_address
        """A loopback address (`127.x.y.1`): limits count by network, so tests that are throttled take one of their own."""
        self.limit_s = limit_s
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "127.0.0.1", parts.port or 80

    async def get(self, path: str, *, headers: Mapping[str, str] | None = None) -> Answer:
        """GET."""
        return await self.request("GET", path, headers=headers)

    async def post(self, path: str, json: Any = ABSENT, *, headers: Mapping[str, str] | None = None) -> Answer:
        """POST, with a JSON body if there is one."""
        return await self.request("POST", path, json, headers=headers)

    async def patch(
        self, path: str, json: Any, *, etag: str | None = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """PATCH with a merge patch; `etag` is the version that was read."""
        return await self.request("PATCH", path, json, headers=_with_version(headers, etag))

    async def delete(self, path: str, *, etag: str | None = None, headers: Mapping[str, str] | None = None) -> Answer:
        """DELETE; `etag` is the version that was read."""
        return await self.request("DELETE", path, headers=_with_version(headers, etag))

    async def request(
        self,
        method: str,
        path: str,
        json: Any = ABSENT,
        *,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Send one request, once.

        Raises:
            Unreachable: no whole answer came back within the client's `limit_s`.
        """
        sent = {"Host": f"{self._host}:{self._port}", "Connection": "close"}
        if self.token is not None:
            sent["Authorization"] = f"Bearer {self.token}"
        if json is not ABSENT:
            body = jsonlib.dumps(json).encode()
            sent["Content-Type"] = "application/json"
        if body or method not in ("GET", "DELETE"):
            sent["Content-Length"] = str(len(body))
        sent.update(headers or {})
        head = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in sent.items()), "", ""]
        label = f"{method} {path}"
        return _parse(label, method, await self._exchange(label, "\r\n".join(head).encode() + body))

    async def _exchange(self, label: str, request: bytes) -> bytes:
        source = (self.source_address, 0) if self.source_address else None
        try:
            async with asyncio.timeout(self.limit_s):
                reader, writer = await asyncio.open_connection(self._host, self._port, local_addr=source)
                try:
                    writer.write(request)
                    return await _read_all(reader)
                finally:
                    writer.close()
        except (OSError, EOFError) as error:  # TimeoutError is an OSError
            raise Unreachable(f"{label}: {type(error).__name__}") from error


async def _read_all(reader: asyncio.StreamReader) -> bytes:
    pieces = list[bytes]()
    while piece := await reader.read(65_536):
        pieces.append(piece)
        assert sum(map(len, pieces)) <= ANSWER_BYTES_MAX, f"an answer of more than {ANSWER_BYTES_MAX} bytes"
    return b"".join(pieces)


def _with_version(headers: Mapping[str, str] | None, etag: str | None) -> dict[str, str]:
    return {**(headers or {}), **({"If-Match": etag} if etag is not None else {})}


class _Received:
    """Received bytes in the place of a socket, for the standard library's parser."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def makefile(self, mode: str) -> io.BytesIO:
        """The bytes as a file."""
        return io.BytesIO(self._data)


def _parse(label: str, method: str, received: bytes) -> Answer:
    if b"\r\n\r\n" not in received:  # the parser would take what there is for a whole head
        raise Unreachable(f"{label}: the connection ended after {len(received)} bytes")
    response = http.client.HTTPResponse(cast("Any", _Received(received)), method=method)
    try:
        response.begin()
        return Answer(label, response.status, response.headers, response.read())
    except (http.client.HTTPException, ValueError) as error:
        raise Unreachable(f"{label}: {type(error).__name__} after {len(received)} bytes") from error
    finally:
        response.close()
