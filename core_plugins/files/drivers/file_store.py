"""Blobs as files of the data folder.

A blob is written beside the others, synced, and put in place by one rename: whoever reads, and whoever looks after a kill
or a power failure, finds the old one or the new one. What is written under one condition is compared and renamed under the
tenant's lock, so that of many one wins.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterable, AsyncIterator, Sequence
from contextlib import ExitStack, asynccontextmanager, closing
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Final
from uuid import UUID, uuid4

from core_plugins.files.drivers import file_account, file_tree, file_uploads
from core_plugins.files.drivers.chunks import chunks_of
from core_plugins.files.drivers.file_draft import DRAFTS, Draft, sweep_drafts
from core_plugins.files.drivers.file_reader import FileReader
from core_plugins.files.drivers.file_threads import FileThreads
from core_plugins.files.drivers.file_uploads import About
from core_plugins.files.drivers.url_keys import UrlKeys
from core_plugins.files.model import names, urls
from core_plugins.files.model.content import Condition, Promise, check_quota
from core_plugins.files.model.file_format import Description
from core_plugins.files.model.names import Place
from core_plugins.files.model.urls import Grant
from plugin_api.clock import Clock
from plugin_api.errors import NotFound
from plugin_api.ports.blob_store import (
    BlobEntry,
    BlobInfo,
    BlobReader,
    ByteRange,
    Capability,
    UploadedPart,
)

ERASED: Final = b"erased"
URL_PATH: Final = "/api/v1/files/blobs"
AREA_DEPTH: Final = 3
"""Folders from the root to an area's blobs; they stay when they are empty."""
PART_TYPE: Final = "application/octet-stream"


class FileStore:
    """The `Driver` of the blobs over one folder."""

    capabilities: frozenset[Capability] = frozenset({"sha256_always", "quota_exact", "url_size_max"})

    def __init__(
        self, folder: Path, url_keys: UrlKeys, clock: Clock, *, quota: int, threads: int, public_url: str
    ) -> None:
        self._folder = folder
        self._url_keys = url_keys
        self._clock = clock
        self._quota = quota
        self._threads = FileThreads(threads)
        self._public_url = public_url.rstrip("/")
        self._opened = ExitStack()
        self._root = self._drafts = self._erased = -1
        self._boot = b""

    async def start(self) -> None:
        """Open the folder, make the signing key, and clear away what a killed kernel left."""
        await self._threads.run(self._open)
        await self._threads.run(self._url_keys.open)
        await self._threads.run(self._sweep_unfinished)

    def _open(self) -> None:
        self._folder.mkdir(mode=file_tree.FOLDER_MODE, parents=True, exist_ok=True)
        self._boot = file_account.boot_id()
        self._root = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._opened.callback(os.close, self._root)
        self._drafts, self._erased = map(self._open_inner, (DRAFTS, ERASED))

    def _open_inner(self, name: bytes) -> int:
        opened = file_tree.open_or_make_folder(name, self._root)
        self._opened.callback(os.close, opened)
        return opened

    async def stop(self) -> None:
        """Close the folder; nothing is under way any more."""
        self._threads.close()
        self._opened.close()

    # ------------------------------------------------------------------------------------------- writing

    async def put(
        self,
        place: Place,
        key: str,
        body: AsyncIterable[bytes],
        promise: Promise,
        content_type: str,
        condition: Condition,
    ) -> BlobInfo:
        """Keep a blob; see the port."""
        used = await self._threads.run(self._used_without, place, file_tree.objects_of(place), key)
        check_quota(used, promise.size or 0, self._quota)
        draft = Draft(self._drafts, promise)
        try:
            description = await self._receive(draft, body, used, content_type)
            await self._threads.run(self._commit, place, key, draft, description, condition)
        finally:
            await self._threads.run(draft.close)
        return info_of(key, description)

    async def _receive(self, draft: Draft, body: AsyncIterable[bytes], used: int, content_type: str) -> Description:
        await self._threads.run(draft.open)
        async for chunk in chunks_of(body):
            await self._threads.run(draft.write, chunk, used, self._quota)
        return await self._threads.run(draft.finish, Description(0, b"", content_type, self._clock.now()))

    def _used_without(self, place: Place, folders: list[bytes], key: str) -> int:
        """What the tenant keeps besides this key."""
        with file_account.locked(self._root, place.tenant.encode(), self._boot) as (_, account):
            old = self._find([*folders, *file_tree.folders_of(key)], file_tree.file_of(key))
            return account.used - (old.size if old is not None else 0)

    def _commit(
        self,
        place: Place,
        key: str,
        draft: Draft,
        description: Description,
        condition: Condition,
        upload_id: str | None = None,
    ) -> None:
        """Put a draft in place, and drop the upload that it was made of."""
        folders, name = [*file_tree.objects_of(place), *file_tree.folders_of(key)], file_tree.file_of(key)
        with file_account.locked(self._root, place.tenant.encode(), self._boot) as (tenant, account):
            freed = self._upload_bytes(place, upload_id) if upload_id is not None else 0
            old = self._find(folders, name)
            condition.check(old.etag if old is not None else None)
            grown = description.size - (old.size if old is not None else 0) - freed
            with account.changing(grown, self._quota), file_tree.folder(self._root, folders, create=True) as folder:
                draft.put_in_place(folder, name)
                os.fsync(folder)
                if upload_id is not None:
                    file_uploads.remove(tenant, place, upload_id)

    def _find(self, folders: list[bytes], name: bytes) -> Description | None:
        try:
            with file_tree.folder(self._root, folders) as folder:
                return file_tree.find(name, folder)
        except FileNotFoundError:
            return None

    async def delete(self, place: Place, key: str) -> None:
        """Delete a blob; see the port."""
        await self._threads.run(self._delete, place, key)

    def _delete(self, place: Place, key: str) -> None:
        folders, name = [*file_tree.objects_of(place), *file_tree.folders_of(key)], file_tree.file_of(key)
        if self._find(folders, name) is None:
            return
        with file_account.locked(self._root, place.tenant.encode(), self._boot) as (_, account):
            old = self._find(folders, name)
            if old is None:
                return
            with account.changing(-old.size):
                with file_tree.folder(self._root, folders) as folder:
                    os.unlink(name, dir_fd=folder)
                    os.fsync(folder)
                file_tree.prune(self._root, folders, AREA_DEPTH)

    # ------------------------------------------------------------------------------------------- reading

    @asynccontextmanager
    async def get(
        self, place: Place, key: str, byte_range: ByteRange | None, if_match: str | None, if_none_match: str | None
    ) -> AsyncIterator[BlobReader]:
        """Open a blob; see the port."""
        reader = FileReader(self._threads)
        try:
            await self._threads.run(self._open_blob, place, key, reader)
            reader.choose(key, byte_range, if_match, if_none_match)
            yield reader
        finally:
            await self._threads.run(reader.close)

    def _open_blob(self, place: Place, key: str, reader: FileReader) -> None:
        folders = [*file_tree.objects_of(place), *file_tree.folders_of(key)]
        try:
            with file_tree.folder(self._root, folders) as folder:
                reader.open(file_tree.file_of(key), folder)
        except FileNotFoundError:
            raise blob_not_found() from None

    async def head(self, place: Place, key: str) -> BlobInfo:
        """What is known of a blob; see the port."""
        folders = [*file_tree.objects_of(place), *file_tree.folders_of(key)]
        found = await self._threads.run(self._find, folders, file_tree.file_of(key))
        if found is None:
            raise blob_not_found()
        return info_of(key, found)

    async def list_page(self, place: Place, prefix: str, limit: int, after: str) -> tuple[list[BlobEntry], bool]:
        """(blobs whose key comes after `after`, whether there are more)."""
        return await self._threads.run(self._list_page, place, prefix, limit, after)

    def _list_page(self, place: Place, prefix: str, limit: int, after: str) -> tuple[list[BlobEntry], bool]:
        begin = names.stored_prefix(prefix).encode()
        past = names.stored_name(after).encode() if after else b""
        try:
            with (
                file_tree.folder(self._root, file_tree.objects_of(place)) as area,
                closing(file_tree.walk(area, begin, past)) as found,
            ):
                entries = [entry_of(names.key_of(name.decode()), one) for name, one in islice(found, limit + 1)]
        except FileNotFoundError:
            return [], False
        return entries[:limit], len(entries) > limit

    async def usage(self, tenant_id: UUID) -> int:
        """How many bytes the tenant keeps."""
        return await self._threads.run(self._usage, tenant_id.hex.encode())

    def _usage(self, tenant_name: bytes) -> int:
        with file_account.locked(self._root, tenant_name, self._boot) as (_, account):
            return account.used

    # ------------------------------------------------------------------------------------------- uploads

    async def begin_upload(self, place: Place, key: str, content_type: str) -> str:
        """Begin an upload; its id."""
        about = About(key, content_type, self._clock.now())
        return await self._threads.run(file_uploads.begin, self._root, place, about)

    async def put_part(
        self, place: Place, upload_id: str, number: int, body: AsyncIterable[bytes], promise: Promise
    ) -> UploadedPart:
        """Keep a part; see the port."""
        used = await self._threads.run(self._used_without_part, place, upload_id, number)
        check_quota(used, promise.size or 0, self._quota)
        draft = Draft(self._drafts, promise)
        try:
            description = await self._receive(draft, body, used, PART_TYPE)
            await self._threads.run(self._commit_part, place, upload_id, number, draft, description)
        finally:
            await self._threads.run(draft.close)
        return UploadedPart(number, description.size, description.etag)

    def _used_without_part(self, place: Place, upload_id: str, number: int) -> int:
        with file_uploads.upload_folder(self._root, place, upload_id) as upload:
            file_uploads.read_about(upload)
            old = file_tree.find(file_uploads.part_name(number), upload)
        return self._usage(place.tenant.encode()) - (old.size if old is not None else 0)

    def _commit_part(self, place: Place, upload_id: str, number: int, draft: Draft, description: Description) -> None:
        name = file_uploads.part_name(number)
        with (
            file_account.locked(self._root, place.tenant.encode(), self._boot) as (_, account),
            file_uploads.upload_folder(self._root, place, upload_id) as upload,
        ):
            old = file_tree.find(name, upload)
            grown = description.size - (old.size if old is not None else 0)
            with account.changing(grown, self._quota):
                draft.put_in_place(upload, name)
                os.fsync(upload)

    async def complete_upload(
        self, place: Place, upload_id: str, parts: Sequence[UploadedPart], bytes_max: int, condition: Condition
    ) -> BlobInfo:
        """Make one blob of parts; see the port. They are copied, so their bytes are on the disk twice meanwhile."""
        about = await self._threads.run(self._about, place, upload_id)
        draft = Draft(self._drafts, Promise(bytes_max, sum(part.size for part in parts)))
        try:
            description = await self._receive(draft, self._parts(place, upload_id, parts), 0, about.content_type)
            await self._threads.run(self._commit, place, about.key, draft, description, condition, upload_id)
        finally:
            await self._threads.run(draft.close)
        return info_of(about.key, description)

    def _about(self, place: Place, upload_id: str) -> About:
        with file_uploads.upload_folder(self._root, place, upload_id) as upload:
            return file_uploads.read_about(upload)

    async def _parts(self, place: Place, upload_id: str, parts: Sequence[UploadedPart]) -> AsyncIterator[bytes]:
        for part in parts:
            reader = FileReader(self._threads)
            try:
                await self._threads.run(self._open_part, place, upload_id, part, reader)
                async for chunk in reader.chunks():
                    yield chunk
            finally:
                await self._threads.run(reader.close)

    def _open_part(self, place: Place, upload_id: str, part: UploadedPart, reader: FileReader) -> None:
        with file_uploads.upload_folder(self._root, place, upload_id) as upload:
            file_uploads.open_part(upload, part, reader)

    def _upload_bytes(self, place: Place, upload_id: str) -> int:
        with file_uploads.upload_folder(self._root, place, upload_id) as upload:
            return file_tree.count_bytes(upload)

    async def abort_upload(self, place: Place, upload_id: str) -> None:
        """Drop an upload; see the port."""
        if names.check_upload_id(upload_id) is not None:
            await self._threads.run(self._abort, place, upload_id)

    def _abort(self, place: Place, upload_id: str) -> None:
        try:
            self._upload_bytes(place, upload_id)  # so that nothing is made for a tenant that has nothing
            with (
                file_account.locked(self._root, place.tenant.encode(), self._boot) as (tenant, account),
                account.changing(-self._upload_bytes(place, upload_id)),
            ):
                file_uploads.remove(tenant, place, upload_id)
        except NotFound:
            return

    # ----------------------------------------------------------------------------------------------- URLs

    async def sign_url(self, grant: Grant) -> str:
        """Make a signed URL."""
        token = await self._threads.run(self._url_keys.sign, grant)
        return f"{self._public_url}{URL_PATH}/{token}"

    async def open_url(self, token: str, method: str) -> Grant:
        """What a token allows.

        Raises:
            NotAllowed: code `signed_url_invalid` or `signed_url_expired`.
        """
        keys = await self._threads.run(self._url_keys.find, urls.key_id_of(token))
        return urls.open_token(token, keys, method, self._clock.now().timestamp())

    # ------------------------------------------------------------------------------------------- clearing

    async def erase(self, tenant_id: UUID) -> None:
        """Remove everything of a tenant; repeated after a kill, it goes on."""
        await self._threads.run(self._erase, tenant_id.hex.encode())

    def _erase(self, tenant_name: bytes) -> None:
        if tenant_name in file_tree.names_in(self._root):
            with file_account.locked(self._root, tenant_name, self._boot):
                gone = uuid4().hex.encode()
                os.rename(tenant_name, gone, src_dir_fd=self._root, dst_dir_fd=self._erased)
                os.fsync(self._root)
        self._sweep_erased()

    def _sweep_erased(self) -> None:
        for name in file_tree.names_in(self._erased):
            file_tree.remove_tree(name, self._erased)

    def _sweep_unfinished(self) -> int:
        self._sweep_erased()
        return sweep_drafts(self._drafts)

    async def sweep(self, begun_before: datetime) -> int:
        """Remove drafts that nobody writes and uploads that began before then; how many."""
        drafts = await self._threads.run(self._sweep_unfinished)
        uploads = 0
        for tenant_name in await self._threads.run(file_tree.names_in, self._root):
            uploads += await self._threads.run(self._sweep_uploads, tenant_name, begun_before)
        return drafts + uploads

    def _sweep_uploads(self, tenant_name: bytes, begun_before: datetime) -> int:
        if names.check_upload_id(tenant_name.decode(errors="replace")) is None:
            return 0  # not a tenant's folder, whose name looks like an upload's
        orphans = list(file_uploads.orphans(self._root, tenant_name, begun_before))
        for area, upload_id in orphans:
            self._abort(Place(area.decode(errors="replace"), UUID(tenant_name.decode())), upload_id)
        return len(orphans)


def info_of(key: str, found: Description) -> BlobInfo:
    """What a header tells, as the port says it."""
    return BlobInfo(key, found.size, found.etag, found.content_type, found.created_at, found.etag)


def entry_of(key: str, found: Description) -> BlobEntry:
    """The same for a list."""
    return BlobEntry(key, found.size, found.etag, found.created_at)


def blob_not_found() -> NotFound:
    """The error of a key without a blob."""
    return NotFound("there is no such blob")
