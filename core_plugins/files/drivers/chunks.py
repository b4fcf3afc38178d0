"""Bodies in pieces of one size, whatever pieces they came in."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator

from plugin_api.limits import BLOB_CHUNK_BYTES_MAX


async def chunks_of(body: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
    """All bytes of `body` in pieces of BLOB_CHUNK_BYTES_MAX, the last one shorter; no more than two are in memory."""
    held = bytearray()
    async for piece in body:
        for at in range(0, len(piece), BLOB_CHUNK_BYTES_MAX):
            held += piece[at : at + BLOB_CHUNK_BYTES_MAX]
            if len(held) >= BLOB_CHUNK_BYTES_MAX:
                yield bytes(held[:BLOB_CHUNK_BYTES_MAX])
                del held[:BLOB_CHUNK_BYTES_MAX]
    if held:
        yield bytes(held)
