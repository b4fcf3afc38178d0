"""The file of one blob: a header of 512 bytes, then the bytes themselves.

`magic (3) "PKB" | format (1) | CRC-32 of the rest (4) | length of the description (2) | description (MessagePack) | zeros`,
numbers big-endian. Description and bytes are one file, so one rename puts both in place.
"""

from __future__ import annotations

import zlib
from datetime import datetime
from typing import Final

import msgspec
from msgspec import Struct

from plugin_api.errors import KernelBug

MAGIC: Final = b"PKB"
FORMAT: Final = 1
HEADER_BYTES: Final = 512
_FIXED_BYTES: Final = 10


class Description(Struct, frozen=True, array_like=True):
    """What a header tells."""

    size: int
    sha256: bytes
    content_type: str
    created_at: datetime

    @property
    def etag(self) -> str:
        """The SHA-256 in hexadecimal: equal for equal content."""
        return self.sha256.hex()


def pack(description: Description) -> bytes:
    """Make a header."""
    encoded = msgspec.msgpack.encode(description)
    rest = (len(encoded).to_bytes(2, "big") + encoded).ljust(HEADER_BYTES - 8, b"\0")
    if len(rest) != HEADER_BYTES - 8:
        raise KernelBug(f"a blob's description has {len(encoded)} bytes; at most {HEADER_BYTES - _FIXED_BYTES}")
    return MAGIC + bytes((FORMAT,)) + zlib.crc32(rest).to_bytes(4, "big") + rest


def unpack(header: bytes, file_bytes: int) -> Description:
    """Read the header of a file of `file_bytes`.

    Raises:
        KernelBug: it is damaged, cut, or of a newer format; blobs are only ever put in place whole.
    """
    if len(header) != HEADER_BYTES or header[:3] != MAGIC:
        raise KernelBug("a file among the blobs is none of ours, or was cut; put it back from a backup")
    if header[3] != FORMAT:
        raise KernelBug(
            f"a blob's file has format {header[3]} and this kernel knows {FORMAT}; start the one that wrote it"
        )
    rest = header[8:]
    if zlib.crc32(rest) != int.from_bytes(header[4:8], "big"):
        raise KernelBug("the header of a blob's file was changed; put it back from a backup")
    length = int.from_bytes(rest[:2], "big")
    description = msgspec.msgpack.decode(rest[2 : 2 + length], type=Description)
    if file_bytes != HEADER_BYTES + description.size:
        raise KernelBug(
            f"a blob's file has {file_bytes} bytes instead of {HEADER_BYTES + description.size}; put it back from a backup"
        )
    return description
