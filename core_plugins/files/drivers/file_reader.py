"""One blob, open for reading."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator

from core_plugins.files.drivers import file_tree
from core_plugins.files.drivers.file_threads import FileThreads
from core_plugins.files.model.content import Condition, resolve_range, too_large
from core_plugins.files.model.file_format import HEADER_BYTES, Description
from plugin_api.errors import KernelBug
from plugin_api.limits import BLOB_CHUNK_BYTES_MAX
from plugin_api.ports.blob_store import BlobInfo, ByteRange


class FileReader:
    """The `BlobReader` of the filesystem; `open` and `close` block. What it has opened stays as it is, whatever takes its
    place."""

    info: BlobInfo

    def __init__(self, threads: FileThreads) -> None:
        self._threads = threads
        self._file: int | None = None
        self._found: Description | None = None
        self.first = 0
        self.length = 0
        self.is_unchanged = False

    def open(self, name: bytes, folder: int) -> Description:
        """Open the file and read its header; FileNotFoundError when it is not there."""
        self._file = file_tree.open_file(name, folder)
        self._found = file_tree.describe(self._file)
        self.length = self._found.size
        return self._found

    def choose(self, key: str, byte_range: ByteRange | None, if_match: str | None, if_none_match: str | None) -> None:
        """Say what is to be read, and on what condition; see the port."""
        assert self._found is not None
        found = self._found
        self.info = BlobInfo(key, found.size, found.etag, found.content_type, found.created_at, found.etag)
        Condition(if_match).check(found.etag)
        self.is_unchanged = if_none_match == found.etag
        self.first, self.length = (0, 0) if self.is_unchanged else resolve_range(byte_range, found.size)

    async def chunks(self) -> AsyncIterator[bytes]:
        """The bytes, in pieces; see the port."""
        end = self.first + self.length
        for at in range(self.first, end, BLOB_CHUNK_BYTES_MAX):
            yield await self._threads.run(self._read, at, min(BLOB_CHUNK_BYTES_MAX, end - at))

    def _read(self, at: int, length: int) -> bytes:
        if self._file is None:
            raise KernelBug("a blob was read after it was closed; read it inside `async with`")
        pieces, rest = [], length
        while rest:
            piece = os.pread(self._file, rest, HEADER_BYTES + at + length - rest)
            if not piece:
                raise KernelBug("a blob's file became shorter while it was read; put it back from a backup")
            pieces.append(piece)
            rest -= len(piece)
        return b"".join(pieces)

    async def read(self, bytes_max: int) -> bytes:
        """All bytes at once; see the port."""
        if self.length > bytes_max:
            raise too_large(bytes_max)
        return b"".join([chunk async for chunk in self.chunks()])

    def close(self) -> None:
        """Close the file."""
        file, self._file = self._file, None
        if file is not None:
            os.close(file)
