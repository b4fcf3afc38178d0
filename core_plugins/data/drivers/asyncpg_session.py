"""How a connection of the pool begins: log-in, types, the session's counter and clock."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any, Final
from uuid import UUID, SafeUUID

import msgspec

from core_plugins.data import storage
from core_plugins.data.drivers.asyncpg_pool import Link
from core_plugins.data.drivers.asyncpg_types import Connection
from core_plugins.data.drivers.asyncpg_types import connect as open_connection

TURNS_PER_CONNECTION: Final = 262_000
"""Transactions of one connection; a little less than the block of `pk.turn` that its session draws."""


def connector(dsn: str, *, user: str, password: str) -> Callable[[float], Awaitable[Link]]:
    """Return a function that makes one connection within so many seconds; for `Pool`."""

    async def connect(timeout_s: float) -> Link:
        connection = await open_connection(
            dsn,
            user=user,
            password=password,
            timeout=timeout_s,
            statement_cache_size=10,
            server_settings={"application_name": "platform-kernel"},
        )
        try:
            await _set_codecs(connection)
            sent = time.monotonic()
            row = await connection.fetchrow(storage.OPEN_SESSION)
            received = time.monotonic()
        except BaseException:
            connection.terminate()
            raise
        assert row is not None
        offset = row["clock"] - (sent + received) / 2
        take_turn = f"call pk.take_turn({row['sequence']})"
        return Link(
            connection,
            turn=row["turn"],
            turns=TURNS_PER_CONNECTION,
            take_turn=take_turn,
            clock_offset_s=offset,
            is_discreet=row["is_discreet"],
        )

    return connect


_new = UUID.__new__
_set_int: Callable[[UUID, int], None] = UUID.__dict__["int"].__set__
_set_is_safe: Callable[[UUID, SafeUUID], None] = UUID.__dict__["is_safe"].__set__
_from_bytes = int.from_bytes


def _encode_uuid(value: Any) -> bytes:
    return value.bytes if isinstance(value, UUID) else UUID(value).bytes


def _decode_uuid(data: bytes) -> UUID:
    # asyncpg's own UUID is a subclass, which msgspec does not encode; UUID's constructor takes four times as long.
    value = _new(UUID)
    _set_int(value, _from_bytes(data))
    _set_is_safe(value, SafeUUID.unknown)
    return value


def _encode_jsonb(value: Any) -> bytes:
    return b"\x01" + msgspec.json.encode(value)


def _decode_jsonb(data: bytes) -> Any:
    return msgspec.json.decode(data[1:])


async def _set_codecs(connection: Connection) -> None:
    """Types that differ from asyncpg's own; known to PostgreSQL from birth, so nothing is asked of the server."""
    codecs: list[tuple[str, Callable[[Any], bytes], Callable[[bytes], Any]]] = [
        ("uuid", _encode_uuid, _decode_uuid),
        ("jsonb", _encode_jsonb, _decode_jsonb),
        ("json", msgspec.json.encode, msgspec.json.decode),
    ]
    for name, encoder, decoder in codecs:
        await connection.set_type_codec(name, schema="pg_catalog", encoder=encoder, decoder=decoder, format="binary")
