"""The keys that sign URLs, in one file of the data folder, readable by the kernel's account alone. Blocking.

JSON: `{"format": 1, "keys": [{"id", "key"}]}`, keys in base64, the current one last. The file is only ever replaced whole.
It is read again when it has changed, so a key that an operator adds signs from then on, and one that is taken out makes
the URLs that it signed worthless at once.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Final
from uuid import uuid4

import msgspec
from msgspec import Struct

from core_plugins.files.model.urls import Grant, make_token
from plugin_api.errors import InvalidRequest
from plugin_api.settings import Secret

FORMAT: Final = 1
KEY_BYTES: Final = 32
FILE_BYTES_MAX: Final = 65_536


class StoredKey(Struct, frozen=True, forbid_unknown_fields=True):
    """One key as it stands in the file."""

    id: str
    key: bytes

    def __repr__(self) -> str:
        return f"StoredKey(id={self.id!r})"


class KeyContent(Struct, frozen=True, forbid_unknown_fields=True):
    """The whole file."""

    format: int
    keys: list[StoredKey]


class UrlKeys:
    """Signs grants with the current key and finds the one that signed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._keys: dict[str, Secret[bytes]] = {}
        self._current = ""
        self._seen: tuple[int, int, int] | None = None

    def open(self) -> None:
        """Read the keys, the first one made now if there is none; of several processes that make it, one wins.

        Raises:
            InvalidRequest: the file is damaged, or others may read it; the detail has the remedy.
        """
        if not self._path.exists():
            self._write([_new_key()], new=True)
        self._refresh()

    def sign(self, grant: Grant) -> str:
        """Make a token."""
        self._refresh()
        return make_token(grant, self._current, self._keys[self._current])

    def find(self, key_id: str) -> Mapping[str, Secret[bytes]]:
        """The keys that there are now, by id; `key_id` is who is looked for."""
        self._refresh()
        return {key_id: self._keys[key_id]} if key_id in self._keys else {}

    def rotate(self) -> str:
        """Make a new key current; its id. The older ones go on proving what they signed: take them out of the file a week
        later, when all that is expired."""
        made = _new_key()
        self._write([*self._content().keys, made], new=False)
        return made.id

    def _refresh(self) -> None:
        found = self._path.stat()
        if _stamp(found) != self._seen:
            content = self._content()
            self._keys = {stored.id: Secret(stored.key) for stored in content.keys}
            self._current, self._seen = content.keys[-1].id, _stamp(found)

    def _content(self) -> KeyContent:
        with self._path.open("rb") as file:
            mode, raw = os.fstat(file.fileno()).st_mode, file.read(FILE_BYTES_MAX + 1)
        if stat.S_IMODE(mode) & 0o077:
            raise InvalidRequest(f"{self._path} can be read by other accounts; run: chmod 600 {self._path}")
        try:
            content = msgspec.json.decode(raw, type=KeyContent)
        except msgspec.DecodeError as error:
            raise self._damaged(str(error)) from None
        if content.format != FORMAT or not content.keys or any(len(k.key) != KEY_BYTES for k in content.keys):
            raise self._damaged("it has another format, or no key")
        return content

    def _damaged(self, why: str) -> InvalidRequest:
        return InvalidRequest(
            f"{self._path} is damaged ({why}); put it back from a backup, or remove it: then URLs that are signed end"
        )

    def _write(self, keys: list[StoredKey], *, new: bool) -> None:
        draft = self._path.with_name(f"{self._path.name}.{uuid4().hex}")
        raw = msgspec.json.format(msgspec.json.encode(KeyContent(FORMAT, keys)), indent=2)
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(raw)
                file.flush()
                os.fsync(file.fileno())
            if new:
                with suppress(FileExistsError):  # unlike a rename, a link never takes the place of another's
                    os.link(draft, self._path)
            else:
                draft.replace(self._path)
        finally:
            draft.unlink(missing_ok=True)
        self._sync_folder()

    def _sync_folder(self) -> None:
        descriptor = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _new_key() -> StoredKey:
    key = os.urandom(KEY_BYTES)
    return StoredKey(sha256(b"platform-kernel blob url key\0" + key).hexdigest()[:16], key)


def _stamp(found: os.stat_result) -> tuple[int, int, int]:
    return found.st_mtime_ns, found.st_ino, found.st_size
