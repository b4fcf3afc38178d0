"""Valkey through redis-py: a bounded pool of connections, each logged in as the user of one part.

redis-py's own pool and client are passed by: they send a command again after a lost connection (a second increment), and
lose a place in the pool when a call is cancelled twice.

* A connection that did not get to the end of an answer is closed: it would give the answer to the next caller.
* Nothing is sent twice. The one exception is a script that the server does not know (`NOSCRIPT`): it has not run.
* A connection to a server that went away is found out before it is used, so a restart in a quiet hour fails no call.
* When nobody gets an answer any more, calls fail at once for AWAY_S, then one more is tried: no pile of waiting calls.
* The server itself keeps the parts apart: each connection has given up every key but its part's (ACL, `Confinement`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from hashlib import sha1
from typing import Any, Final, NamedTuple

from redis.asyncio import ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    ClusterDownError,
    NoPermissionError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TryAgainError,
)

from core_plugins.cache.drivers.valkey_confinement import Confinement, Warn
from plugin_api.errors import InvalidRequest, KernelBug, StoreUnavailable

AWAY_S: Final = 0.1
"""How long calls fail at once after one has found the server gone."""
WAITERS_MAX: Final = 1_024
"""Calls that may wait for a connection at once; a further one is told at once that the store is unavailable."""
SCRIPTS_MAX: Final = 256
_AWAY_REPLIES: Final = (ClusterDownError, OutOfMemoryError, ReadOnlyError, TryAgainError)
_AWAY_WORDS: Final = ("BUSY ", "MISCONF ", "NOREPLICAS ")
_AWAY_TEXT: Final = "the cache is away; it is tried again by itself"


Word = bytes | str | int


class Link(NamedTuple):
    """One connection and the part whose user it is logged in as."""

    part: str
    connection: Any
    """A `redis.asyncio.connection.AbstractConnection`, whose methods are only partly typed."""


class ValkeyStore:
    """The `Store` of the cache over one Valkey (or Redis) server, at a `redis://`, `rediss://` or `unix://` URL."""

    def __init__(self, url: str, *, size: int, timeout_s: float, warn: Warn) -> None:
        self._factory = _make_factory(url)
        self._confinement = Confinement(self._factory.connection_kwargs.get("password"), warn)
        self._timeout_s = timeout_s
        self._size = size
        self._places = asyncio.Semaphore(size)
        self._waiting = 0
        self._in_use = 0
        self._idle: list[Link] = []
        self._closed = False
        self._away_until = 0.0
        self._last_answer = 0.0
        self._digests: dict[str, str] = {}

    async def run(self, part: str, *words: Word) -> object:
        """One command; see `Store`."""
        return await self._bounded(part, words, self._timeout_s)

    async def script(self, part: str, source: str, keys: Sequence[bytes], arguments: Sequence[bytes]) -> object:
        """One script, by its digest; whole when the server does not know it (it restarted, say)."""
        rest: tuple[Word, ...] = (len(keys), *keys, *arguments)
        try:
            return await self._bounded(part, ("EVALSHA", self._digest(source), *rest), self._timeout_s)
        except _ScriptUnknown:
            return await self._bounded(part, ("EVAL", source, *rest), self._timeout_s)

    async def ping(self, timeout_s: float) -> None:
        """Return when the server answers; asks it even while calls fail at once."""
        await self._bounded("pk", ("PING",), timeout_s, always=True)

    async def close(self) -> None:
        """Close the connections; those in use close when they are given back."""
        self._closed = True
        await self._drop(self._idle)

    def figures(self) -> dict[str, int]:
        """How the pool is, for metrics."""
        return {"size": self._size, "in_use": self._in_use, "waiting": self._waiting}

    # ---------------------------------------------------------------------------------------- one call

    async def _bounded(self, part: str, words: Sequence[Word], timeout_s: float, *, always: bool = False) -> object:
        begun = time.monotonic()
        if self._closed or (begun < self._away_until and not always):
            raise StoreUnavailable(_AWAY_TEXT)
        try:
            async with asyncio.timeout(timeout_s):
                return await self._in_turn(part, words)
        except ResponseError as error:
            raise _refused(error) from error
        except (RedisError, OSError) as error:  # TimeoutError is an OSError
            await self._note_silence(begun)
            raise _away(error) from error

    async def _in_turn(self, part: str, words: Sequence[Word]) -> object:
        if self._places.locked() and self._waiting >= WAITERS_MAX:
            raise StoreUnavailable(f"{WAITERS_MAX} calls wait for the cache already; try again")
        self._waiting += 1
        try:
            await self._places.acquire()
        finally:
            self._waiting -= 1
        self._in_use += 1
        try:
            return await self._exchange(await self._take(part), words)
        finally:
            self._in_use -= 1
            self._places.release()

    async def _exchange(self, link: Link, words: Sequence[Word]) -> object:
        try:
            await link.connection.send_command(*words)
            reply = await link.connection.read_response()
        except ResponseError:
            self._last_answer = time.monotonic()
            await self._give(link)
            raise
        except BaseException:
            await _hang_up(link)
            raise
        self._last_answer = time.monotonic()
        await self._give(link)
        return reply

    async def _note_silence(self, begun: float) -> None:
        """Fail the next calls at once if nobody has had an answer since this call began."""
        if self._last_answer < begun:
            self._away_until = time.monotonic() + AWAY_S
            await self._drop(self._idle)

    # ------------------------------------------------------------------------------------- connections

    async def _take(self, part: str) -> Link:
        """An idle connection of the part that is still in step with the server, or a new one."""
        for place in range(len(self._idle) - 1, -1, -1):
            if self._idle[place].part == part:
                link = self._idle.pop(place)
                if await _is_fresh(link):
                    return link
                await _hang_up(link)
                break  # the others met the same fate; a new one tells
        if self._in_use + len(self._idle) > self._size:
            await self._drop([self._idle.pop(0)])
        return await self._open(part)

    async def _open(self, part: str) -> Link:
        make: Callable[[], Any] = self._factory.make_connection
        link = Link(part, make())
        try:
            await link.connection.connect()
            await self._confinement.enter(link.connection, part)
        except BaseException:
            await _hang_up(link)
            raise
        return link

    async def _give(self, link: Link) -> None:
        if self._closed:
            await _hang_up(link)
        else:
            self._idle.append(link)

    async def _drop(self, links: list[Link]) -> None:
        while links:
            await _hang_up(links.pop())

    def _digest(self, source: str) -> str:
        digest = self._digests.get(source)
        if digest is None:
            if len(self._digests) >= SCRIPTS_MAX:
                self._digests.clear()
            digest = self._digests[source] = sha1(source.encode(), usedforsecurity=False).hexdigest()
        return digest


def _make_factory(url: str) -> ConnectionPool:
    """What makes connections to `url`; nothing is ever borrowed from it as a pool.

    Raises:
        InvalidRequest: the URL cannot be one (its text is not told: it holds a password).
    """
    try:
        return ConnectionPool.from_url(
            url, protocol=2, driver_info=None, socket_timeout=None, retry=Retry(NoBackoff(), 0), decode_responses=False
        )
    except ValueError as error:
        raise InvalidRequest(
            "cache.url cannot be read; write redis://user:password@host:6379/0, rediss://... or unix:///path"
        ) from error


async def _is_fresh(link: Link) -> bool:
    """Whether nothing has arrived since the last answer: neither an end nor an answer that nobody took."""
    try:
        return not await link.connection.can_read()
    except (OSError, RedisError):
        return False


async def _hang_up(link: Link) -> None:
    """Close without waiting; never raises."""
    with suppress(OSError, RedisError):
        await link.connection.disconnect(nowait=True)


def _away(error: Exception) -> StoreUnavailable:
    if isinstance(error, AuthenticationError):
        return StoreUnavailable("the cache refuses our log-in; look at the user and password in cache.url")
    return StoreUnavailable(_AWAY_TEXT)


class _ScriptUnknown(Exception):
    """The server has not seen the script; it has not run."""


def _refused(error: ResponseError) -> Exception:
    """What the server's refusal means. Its own words are about commands and keys, never about values."""
    if isinstance(error, NoScriptError):
        return _ScriptUnknown()
    if isinstance(error, _AWAY_REPLIES) or str(error).startswith(_AWAY_WORDS):
        return StoreUnavailable("the cache cannot take the command now; try again")
    if isinstance(error, NoPermissionError):
        return KernelBug(f"a script reached for what is not its part's: {error}")
    return KernelBug(f"the cache refused a command: {error}")
