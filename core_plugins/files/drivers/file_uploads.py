"""Blobs that come in parts: a folder for each upload, a file for each part. Blocking."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Final
from uuid import uuid4

import msgspec
from msgspec import Struct

from core_plugins.files.drivers import file_tree
from core_plugins.files.drivers.file_draft import write_all
from core_plugins.files.drivers.file_reader import FileReader
from core_plugins.files.drivers.file_tree import FILE_MODE, UPLOADS
from core_plugins.files.model.content import refuse_parts
from core_plugins.files.model.names import Place, check_upload_id
from plugin_api.errors import NotFound
from plugin_api.ports.blob_store import UploadedPart

_ABOUT: Final = b"about"
_DRAFT: Final = b"about.draft"
_ABOUT_BYTES_MAX: Final = 4_096
_FLAGS: Final = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC


class About(Struct, frozen=True, array_like=True):
    """What an upload is to become."""

    key: str
    content_type: str
    created_at: datetime
    format: int = 1


def upload_not_found() -> NotFound:
    """The error of an upload that is not there (any more)."""
    return NotFound("there is no such upload: it was completed or aborted; begin another", code="upload_not_found")


def part_name(number: int) -> bytes:
    """Name of a part's file."""
    return b"%05d.b" % number


def begin(root: int, place: Place, about: About) -> str:
    """Make an upload's folder; its id. One that a kill left without its description is swept as an orphan."""
    upload_id = uuid4().hex
    with file_tree.folder(root, [*file_tree.uploads_of(place), upload_id.encode()], create=True) as opened:
        file = os.open(_DRAFT, _FLAGS, FILE_MODE, dir_fd=opened)
        try:
            write_all(file, msgspec.msgpack.encode(about))
            os.fsync(file)
        finally:
            os.close(file)
        os.rename(_DRAFT, _ABOUT, src_dir_fd=opened, dst_dir_fd=opened)
        os.fsync(opened)
    return upload_id


@contextmanager
def upload_folder(root: int, place: Place, upload_id: str) -> Iterator[int]:
    """Open an upload's folder. NotFound, code `upload_not_found`, when there is none."""
    checked = check_upload_id(upload_id)
    if checked is None:
        raise upload_not_found()
    try:
        opening = file_tree.folder(root, [*file_tree.uploads_of(place), checked.encode()])
        opened = opening.__enter__()
    except FileNotFoundError:
        raise upload_not_found() from None
    try:
        yield opened
    finally:
        opening.__exit__(None, None, None)


def read_about(opened: int) -> About:
    """What the upload in an open folder is to become. NotFound when it has not begun whole."""
    try:
        file = file_tree.open_file(_ABOUT, opened)
    except FileNotFoundError:
        raise upload_not_found() from None
    try:
        return msgspec.msgpack.decode(os.pread(file, _ABOUT_BYTES_MAX, 0), type=About)
    finally:
        os.close(file)


def open_part(opened: int, part: UploadedPart, reader: FileReader) -> None:
    """Open a part for reading. InvalidRequest, code `parts_invalid`, when it is not there or is another."""
    try:
        found = reader.open(part_name(part.number), opened)
    except FileNotFoundError:
        refuse_parts(f"part {part.number} is not there")
    if (found.etag, found.size) != (part.etag, part.size):
        refuse_parts(f"part {part.number} has changed: its etag is {found.etag}, {found.size} bytes")


def remove(tenant: int, place: Place, upload_id: str) -> None:
    """Remove an upload; the tenant's lock is held."""
    with file_tree.folder(tenant, [UPLOADS, place.area.encode()]) as area:
        file_tree.remove_tree(upload_id.encode(), area)


def orphans(root: int, tenant_name: bytes, begun_before: datetime) -> Iterator[tuple[bytes, str]]:
    """(area, id) of the tenant's uploads that began before then, or never whole."""
    for area in _names(root, [tenant_name, UPLOADS]):
        for upload in _names(root, [tenant_name, UPLOADS, area]):
            if _is_orphan(root, [tenant_name, UPLOADS, area, upload], begun_before):
                yield area, upload.decode(errors="replace")


def _names(root: int, names: list[bytes]) -> list[bytes]:
    try:
        with file_tree.folder(root, names) as opened:
            return file_tree.names_in(opened)
    except FileNotFoundError:
        return []


def _is_orphan(root: int, names: list[bytes], begun_before: datetime) -> bool:
    try:
        with file_tree.folder(root, names) as opened:
            try:
                return read_about(opened).created_at < begun_before
            except NotFound:
                return os.fstat(opened).st_mtime < begun_before.timestamp()
    except FileNotFoundError:
        return False
