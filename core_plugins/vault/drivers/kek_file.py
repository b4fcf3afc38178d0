"""The key-encryption keys in one file of the data folder, readable by the kernel's account alone.

JSON: `{"format": 1, "keys": [{"id", "made_at", "key"}]}`, keys in base64, the current one last. An id is derived from its
key, so a key that was changed or put under another id is noticed. The file is only ever replaced whole: a reader, or a
kernel that is killed, sees the old or the new one. It is read again when another process has changed it.
"""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Collection, Generator
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import Final

import msgspec
from cryptography.hazmat.primitives.keywrap import (
    InvalidUnwrap,
    aes_key_unwrap_with_padding,
    aes_key_wrap_with_padding,
)
from msgspec import Struct

from plugin_api.clock import Clock
from plugin_api.errors import Conflict, InvalidRequest, KernelBug, StoreUnavailable
from plugin_api.ids import uuid7
from plugin_api.settings import Secret

FORMAT: Final = 1
KEK_BYTES: Final = 32
KEKS_MAX: Final = 100
FILE_BYTES_MAX: Final = 65_536
RETIRE_AFTER_S: Final = 3_600
"""How long a key stays after it was superseded: a process may have wrapped with it a moment before it learnt."""


class StoredKek(Struct, frozen=True, forbid_unknown_fields=True):
    """One key as it stands in the file."""

    id: str
    made_at: datetime
    key: bytes

    def __repr__(self) -> str:
        return f"StoredKek(id={self.id!r})"


class KekContent(Struct, frozen=True, forbid_unknown_fields=True):
    """The whole file."""

    format: int
    keys: list[StoredKek]


class KekFile:
    """Wraps data keys with AES-KWP (RFC 5649); the port `KeyEncryption`."""

    def __init__(self, path: Path, clock: Clock) -> None:
        self._path = path
        self._clock = clock
        self._keys: dict[str, Secret[bytes]] = {}
        self._current = ""
        self._made_at = clock.now()
        self._seen: tuple[int, int, int] | None = None

    @property
    def place(self) -> str:
        """Where the keys are, for operators."""
        return str(self._path)

    @property
    def current_id(self) -> str:
        """Id of the key that wraps."""
        return self._current

    @property
    def made_at(self) -> datetime:
        """When the current key was made."""
        return self._made_at

    async def open(self, *, create: bool) -> None:
        """Read the keys; make the first one if there is none and `create` says so.

        Of several processes that make it at once, one wins and all take its key.

        Raises:
            InvalidRequest: the file is missing, damaged, or others may read it; the detail has the remedy.
        """
        if create and not self._path.exists():
            self._make_first()
        self._read()

    async def ids(self) -> frozenset[str]:
        """Ids of all keys that there are now."""
        self._refresh()
        return frozenset(self._keys)

    async def wrap(self, content: Secret[bytes]) -> tuple[str, bytes]:
        """Wrap with the current key; (id of that key, wrapped)."""
        self._refresh()
        wrapped = aes_key_wrap_with_padding(self._keys[self._current].reveal(), content.reveal())
        return self._current, wrapped

    async def unwrap(self, kek_id: str, wrapped: bytes) -> Secret[bytes]:
        """Take out what `wrap` wrapped.

        Raises:
            StoreUnavailable: the key is not there (any more).
            KernelBug: what is wrapped was changed.
        """
        if kek_id not in self._keys:
            self._refresh()
        key = self._keys.get(kek_id)
        if key is None:
            raise StoreUnavailable(f"the key-encryption key {kek_id} is missing; the operator has to put it back")
        try:
            return Secret(aes_key_unwrap_with_padding(key.reveal(), wrapped))
        except InvalidUnwrap as error:
            raise KernelBug(f"a data key wrapped by {kek_id} was changed in the database") from error

    async def rotate(self) -> str:
        """Make a new key current, beside the old ones; its id. Other processes find it when they wrap next.

        Raises:
            Conflict: another process is changing the file.
            InvalidRequest: the file cannot be written, or has KEKS_MAX keys.
        """
        with self._locked():
            self._read()
            if len(self._keys) >= KEKS_MAX:
                raise InvalidRequest(f"{self._path} has {KEKS_MAX} keys; retire old ones first")
            made = self._generate()
            self._replace([*self._content().keys, made])
            self._read()
        return made.id

    async def retire(self, needed: Collection[str]) -> list[str]:
        """Forget keys that nothing needs and that were superseded RETIRE_AFTER_S ago; their ids."""
        with self._locked():
            self._read()
            keys = self._content().keys
            limit = self._clock.now() - timedelta(seconds=RETIRE_AFTER_S)
            superseded = {old.id for old, new in pairwise(keys) if new.made_at <= limit}
            gone = sorted(superseded - set(needed))
            if gone:
                self._replace([key for key in keys if key.id not in gone])
                self._read()
        return gone

    # ------------------------------------------------------------------------------------------- reading

    def _refresh(self) -> None:
        try:
            changed = _stamp(self._path.stat()) != self._seen
        except OSError as error:
            raise StoreUnavailable(
                "the file of the key-encryption keys cannot be read; the operator has to put it back"
            ) from error
        if changed:
            self._read()

    def _read(self) -> None:
        content = self._content()
        self._keys = {stored.id: Secret(stored.key) for stored in content.keys}
        self._current, self._made_at = content.keys[-1].id, content.keys[-1].made_at

    def _content(self) -> KekContent:
        try:
            with self._path.open("rb") as file:
                found = os.fstat(file.fileno())
                raw = file.read(FILE_BYTES_MAX + 1)
        except OSError as error:
            raise InvalidRequest(
                f"the key-encryption keys in {self._path} cannot be read ({error.strerror}); put the file back from a "
                "backup: without it nothing that was sealed can be opened"
            ) from error
        if stat.S_IMODE(found.st_mode) & 0o077:
            raise InvalidRequest(f"{self._path} can be read by other accounts; run: chmod 600 {self._path}")
        self._seen = _stamp(found)
        return self._checked(raw)

    def _checked(self, raw: bytes) -> KekContent:
        try:
            content = msgspec.json.decode(raw, type=KekContent)
        except msgspec.DecodeError as error:
            raise self._damaged(str(error)) from None
        if content.format != FORMAT:
            raise InvalidRequest(
                f"{self._path} has format {content.format} and this kernel knows {FORMAT}; start the kernel that wrote it"
            )
        if not content.keys:
            raise self._damaged("it has no key")
        for stored in content.keys:
            if len(stored.key) != KEK_BYTES or stored.id != kek_id_of(stored.key):
                raise self._damaged(f"the key under {stored.id[:16]!r} is not the one that was made")
        return content

    def _damaged(self, why: str) -> InvalidRequest:
        return InvalidRequest(f"{self._path} is damaged ({why}); put it back from a backup")

    # ------------------------------------------------------------------------------------------- writing

    def _generate(self) -> StoredKek:
        key = os.urandom(KEK_BYTES)
        return StoredKek(kek_id_of(key), self._clock.now(), key)

    def _make_first(self) -> None:
        draft = self._write_draft([self._generate()])
        try:
            os.link(draft, self._path)  # unlike a rename, it never takes the place of another's
        except FileExistsError:
            pass
        except OSError as error:
            raise self._unwritable(error) from error
        finally:
            draft.unlink()
        self._sync_folder()

    def _replace(self, keys: list[StoredKek]) -> None:
        draft = self._write_draft(keys)
        draft.replace(self._path)
        self._sync_folder()

    def _write_draft(self, keys: list[StoredKek]) -> Path:
        draft = self._path.with_name(f"{self._path.name}.{uuid7().hex}")
        content = msgspec.json.format(msgspec.json.encode(KekContent(FORMAT, keys)), indent=2)
        try:
            descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            with suppress(OSError):
                draft.unlink()
            raise self._unwritable(error) from error
        return draft

    def _unwritable(self, error: OSError) -> InvalidRequest:
        return InvalidRequest(
            f"{self._path} cannot be written ({error.strerror}); make its folder writable for the kernel"
        )

    def _sync_folder(self) -> None:
        descriptor = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    @contextmanager
    def _locked(self) -> Generator[None]:
        try:
            descriptor = os.open(
                self._path.with_name(f"{self._path.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
            )
        except OSError as error:
            raise self._unwritable(error) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
        except BlockingIOError:
            raise Conflict("another process is changing the key-encryption keys; try again when it is done") from None
        finally:
            os.close(descriptor)


def kek_id_of(key: bytes) -> str:
    """The id of a key: says which one it is and nothing about it."""
    return sha256(b"platform-kernel key-encryption key\0" + key).hexdigest()[:16]


def _stamp(found: os.stat_result) -> tuple[int, int, int]:
    return found.st_mtime_ns, found.st_ino, found.st_size
