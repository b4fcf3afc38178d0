"""Confinement: the server itself lets a connection touch the keys of one part alone, scripts included (ACL)."""

from __future__ import annotations

import hmac
from typing import Final, Protocol

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ResponseError

RULES: Final = (
    *("-@all", "+@string", "+@hash", "+@list", "+@set", "+@sortedset", "+@bitmap", "+@hyperloglog"),
    *("+del", "+unlink", "+exists", "+type", "+time", "+ping"),
    *("+expire", "+pexpire", "+expireat", "+pexpireat", "+persist", "+ttl", "+pttl"),
    *("+eval", "+evalsha", "-@dangerous", "-@admin", "-@blocking"),
)
"""Commands on single keys, and scripts of them: nothing that lists keys, empties the store, waits or configures."""


class Warn(Protocol):
    """Writes a line to the log."""

    def __call__(self, message: str, **fields: object) -> None: ...


class Confinement:
    """Makes a user for each part and gives up everything else.

    The user's password is derived from the server's own: whoever lacks that one cannot become any of the users, and all
    workers of all machines agree on it. Where a server lets nobody make users (some hosted ones do not), the parts are
    kept apart by their keys alone; that is told once.
    """

    def __init__(self, password: str | None, warn: Warn) -> None:
        self._key = (password or "").encode()
        self._warn = warn
        self._is_possible = True

    async def enter(self, connection: AbstractConnection, part: str) -> None:
        """Become the user of `part`, for as long as the connection lives."""
        if not self._is_possible:
            return
        user, password = f"pk.{part}", hmac.digest(self._key, f"platform-kernel:{part}".encode(), "sha256").hex()
        rules = ("reset", "on", f">{password}", f"~{part}:*", *RULES)
        try:
            await _ask(connection, "ACL", "SETUSER", user, *rules)
        except ResponseError as error:
            was_possible, self._is_possible = self._is_possible, False
            if was_possible:
                self._warn("Valkey makes no users for us: keys alone keep the parts apart", reason=str(error))
            return
        await _ask(connection, "AUTH", user, password)


async def _ask(connection: AbstractConnection, *words: str) -> None:
    await connection.send_command(*words)
    await connection.read_response()
